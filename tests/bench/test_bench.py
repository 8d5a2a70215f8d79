"""What scripts/bench computes from rows and answers, without a fleet. Run by ctest."""

import os
import types

import backlog
import fleet as fleets
import measure
import procs
import pytest
import report
import targets

TARGET = targets.Pattern(targets.Target(5000, 10, 50), targets.Target(20000, 3, 15), "unordered", {})


def steady(rate, seconds, latency, completed_share=1.0):
    """Messages at even distances; a share of them is never completed."""
    rows = []
    for number in range(int(rate * seconds)):
        came = 1000 + number / rate
        rows.append((came, came + latency if (number * completed_share) % 1 < completed_share else None))
    return rows


def test_steady_load_has_its_rate_and_no_growth():
    result = measure.throughput(steady(1000, 10, 0.05), 1001, 1009)
    assert abs(result["completed_rate"] - 1000) < 2
    assert abs(result["accepted_rate"] - 1000) < 2
    assert 45 <= result["backlog"][0] <= 55 and 45 <= result["backlog"][1] <= 55
    assert not result["growing"]
    assert all(abs(value - 1000) <= 1 for value in result["per_second"].values())


def test_growing_backlog_is_seen():
    rows = [(1000 + n / 1000, 1000 + n / 800) for n in range(10000)]  # 1,000/s in, 800/s out
    result = measure.throughput(rows, 1001, 1009)
    assert result["growing"]
    assert abs(result["completed_rate"] - 800) < 2


def test_a_short_stall_at_the_end_is_no_growth():
    rows = [(came, done if done < 1003.8 else 1004.1) for came, done in steady(1000, 5, 0.05)]
    assert not measure.throughput(rows, 1001, 1004)["growing"]
    rows = [(came, done if done < 1003.5 else 1004.1) for came, done in steady(1000, 5, 0.05)]
    assert measure.throughput(rows, 1001, 1004)["growing"]


def test_messages_without_an_end_count_as_backlog():
    result = measure.throughput(steady(1000, 10, 0.01, completed_share=0.5), 1001, 1009)
    assert result["growing"]
    assert abs(result["completed_rate"] - 500) < 5


def test_what_falls_outside_the_window_does_not_count():
    result = measure.throughput([(1.0, 1.5), (2.0, 2.5), (2.1, 3.5), (3.0, 3.1)], 2, 3)
    assert (result["accepted_rate"], result["completed_rate"], result["backlog"]) == (2, 1, [0, 1])


def test_percentiles():
    assert measure.percentiles(range(1, 1001)) == {"p50": 500, "p99": 990, "p99.9": 999, "max": 1000}
    assert measure.percentiles([7]) == {"p50": 7, "p99": 7, "p99.9": 7, "max": 7}
    assert measure.percentiles([])["p99"] is None


def searching(capacity):
    """A Bench whose fleet completes at most `capacity` a second and accepts 30,000."""
    bench = measure.Bench(fleet=None, seconds=10)
    asked = []

    def run(name, protocol, item, connections, seconds, rate=0):
        asked.append(rate)
        offered = rate or 30000
        completed = min(offered, capacity)
        return {
            "accepted_rate": offered,
            "completed_rate": completed,
            "growing": offered > capacity * 1.001,
            "completed": completed * 10,
            "per_second": {"min": completed, "median": completed, "max": completed},
        }

    bench.run = run
    return bench, asked


def test_no_search_when_the_backlog_stays():
    bench, asked = searching(40000)
    assert bench.sustained("HTTP", "http", "Echo", 64, 10)["sustained"] == 30000
    assert asked == [0]


def test_the_search_finds_a_rate_that_lasts():
    bench, asked = searching(20000)
    result = bench.sustained("HTTP", "http", "Echo", 64, 10)
    assert result["growing"] and 17000 <= result["sustained"] <= 20000
    assert len(asked) == 1 + len(result["search"]) <= 1 + measure.SEARCH_PASSES


def test_a_backlog_that_always_grows_is_no_sustained_rate():
    bench, _ = searching(20000)
    plain = bench.run
    bench.run = lambda *args: {**plain(*args), "growing": True}
    result = bench.sustained("HTTP", "http", "Echo", 64, 10)
    assert result["sustained"] is None
    assert len(result["search"]) == measure.SEARCH_PASSES


def test_no_search_where_nothing_is_completed():
    bench, asked = searching(0)
    assert bench.sustained("HTTP", "http", "Echo", 64, 10)["sustained"] is None
    assert asked == [0]


def load(**changed):
    return {"accepted": 100, "rejected": 0, "lost": 0, "unsent": 0, "codes": {"202": 100}, "errors": {}, **changed}


def test_problems_are_noticed():
    bench = measure.Bench(fleet=None, seconds=10)
    bench.check("fine", load(), 0.1, 100)
    bench.check("an answer was lost, the message was not", load(lost=0), 0.1, 101)
    assert bench.problems == []
    for changed, drained, completed in (
        ({}, 0.1, 99),
        ({}, None, 100),
        ({"accepted": 0}, 0.1, 0),
        ({"rejected": 1}, 0.1, 100),
        ({"lost": 1}, 0.1, 100),
        ({"unsent": 1}, 0.1, 100),
    ):
        before = len(bench.problems)
        bench.check("wrong", load(**changed), drained, completed)
        assert len(bench.problems) == before + 1, changed


def measured(sustained=30000.0, p50=1.0, p99=5.0, completed=5000.0, worker=10.0, others=0.0):
    run = {
        "sustained": sustained,
        "wanted_rate": 5000,
        "completed_rate": completed,
        "accepted_rate": 5000.0,
        "backlog": [1, 2],
        "answer_ms": {"p50": p50, "p99": p99, "p99.9": 9.0, "max": 20.0},
        "completion_ms": {"p50": 2.0, "p99": 8.0, "p99.9": None},
        "others_share": others,
        "cpu_us": {group: 10.0 for group in ("dispatcher", "worker", "redis", "postgres", "load", "total")},
    }
    memory = {"processes": 1, "rss": 10.0, "peak": worker, "total": 10.0}
    idle = {
        "connections": targets.IDLE_CONNECTIONS,
        "wanted": targets.IDLE_CONNECTIONS,
        "rss_before_mib": 10.0,
        "rss_mib": 50.0,
        "kib_each": 4.0,
        "idle_cpu_share": 0.0,
    }
    run |= {"protocol": "http", "connections": measure.CALLERS}
    result = {
        "http": run,
        "mllp": {**run, "protocol": "mllp", "connections": measure.MLLP_SENDERS},
        "paced": run,
        "half": run,
        "beside": {"another setting": run},
        "memory": {"worker": memory},
        "idle": idle,
        "problems": [],
    }
    return {**result, "checks": report.checks(result, TARGET)}


def document(**values):
    options = {"seconds": 10, "workers": 1, "mode": "async", "concurrency": 256}
    machine = {"cores": 2, "cpu": "x", "kernel": "6", "fdatasync_us": 100, "load_before": 0.0}
    return {
        "at": "2026-01-01",
        "dispatcher_version": "hie-dispatcher 0",
        "machine": machine,
        "options": options,
        "servers": {"postgres": "15", "redis": "7"},
        "patterns": {"async_reliable": measured(**values)},
    }


def test_all_targets_met():
    assert report.failures(document()) == []
    assert all(row["ok"] for row in document()["patterns"]["async_reliable"]["checks"])


def test_each_missed_specification_target_fails():
    for values, word, count in (
        ({"sustained": 4999.0}, "sustained", 2),
        ({"sustained": None}, "sustained", 2),
        ({"p50": 10.1}, "p50", 1),
        ({"p99": 50.1}, "p99", 1),
        ({"completed": 4000.0}, "completed", 1),
    ):
        failed = report.failures(document(**values))
        assert len(failed) == count and all(word in line for line in failed), failed


def test_a_goal_below_does_not_fail(capsys):
    doc = document(sustained=6000.0, worker=100.0)
    assert report.failures(doc) == []
    report.show(doc)
    shown = capsys.readouterr().out
    assert shown.count("below our goal") == 3 and "MISSED" not in shown


def test_the_table_is_complete_when_something_is_missed(capsys):
    doc = document(sustained=None)
    doc["patterns"]["async_reliable"]["problems"].append("something")
    report.show(doc)
    shown = capsys.readouterr().out
    assert shown.count("MISSED") == 2 and "PROBLEM  something" in shown and "worker process, peak" in shown
    assert len(report.failures(doc)) == 3


def test_the_tables_of_the_readme(capsys):
    report.show_markdown(document())
    lines = capsys.readouterr().out.splitlines()
    assert "| `async_reliable` | 30,000/s | 30,000/s | 1.0 / 5.0 ms at 5,000/s | 1.0 / 5.0 ms at 5,000/s | 10 µs |" in lines
    assert "| `async_reliable`, another setting | 30,000/s | 1.0 / 5.0 ms | 10 µs |" in lines
    report.show_markdown(document(sustained=None))
    assert "| `async_reliable` | -/s |" in capsys.readouterr().out


def test_a_busy_machine_is_noted(capsys):
    report.show(document(others=0.05))
    assert "NOTE" not in capsys.readouterr().out
    report.show(document(others=0.3))
    assert "NOTE" in capsys.readouterr().out and report.failures(document(others=0.3)) == []


def test_compare_says_what_got_better_and_worse(capsys):
    report.compare(document(), document(sustained=40000.0, p50=2.0, p99=5.1))
    lines = {line.split("  ")[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  HTTP 64")}
    assert "+33.3 %" in lines["HTTP 64, closed loop: sustained /s"] and lines[
        "HTTP 64, closed loop: sustained /s"
    ].endswith("better")
    assert "+100.0 %" in lines["HTTP 64, paced: answer p50 ms"] and lines["HTTP 64, paced: answer p50 ms"].endswith(
        "worse"
    )
    assert lines["HTTP 64, paced: answer p99 ms"].endswith("+2.0 %")


def test_production_file_is_what_the_fleet_reads():
    import fleet

    options = types.SimpleNamespace(mode="async", concurrency=256, queue_size=1000)
    target = targets.PATTERNS["async_reliable"]
    made = fleet.production(fleet.pattern_items("async_reliable", target, options), [1, 2, 3])
    ids = [item["id"] for item in made["items"]]
    router = made["items"][ids.index(fleet.ROUTER)]
    assert len(set(ids)) == 4 + len(target.beside) and made["dispatcher"]["mllp"][0]["item"] == fleet.ECHO
    assert set(router["settings"]["rules"][0]["to"] + router["settings"]["default"]) <= set(ids)
    assert all(item["messaging_pattern"] == "async_reliable" for item in made["items"])


def test_every_pattern_is_sent_to_as_its_items_want_it():
    import fleet

    options = types.SimpleNamespace(mode="async", concurrency=256, queue_size=1000)
    for name, target in targets.PATTERNS.items():
        items = {item["id"]: item for item in fleet.pattern_items(name, target, options)}
        assert (fleet.ROUTER in items) == (name not in targets.SYNC)
        for settings in items.values():
            assert None not in settings.values()
            for protocol in ("http", "mllp"):
                sent = fleet.sending(settings, protocol)
                assert ("--reply" in sent) == (name in targets.SYNC)
                assert ("--patients" in sent) == ("ordering_key" in settings)
                assert ("X-Ordering-Key: {key}" in sent) == ("ordering_key" in settings and protocol == "http")
                assert ("X-Priority: {priority}" in sent) == (settings["queue_type"] == "priority" and protocol == "http")
    echo = fleet.pattern_items("concurrent_async", targets.PATTERNS["concurrent_async"], options)
    modes = {item["execution_mode"]: item["concurrency"] for item in echo if item["id"].startswith(fleet.BESIDE)}
    assert modes == {"async": 256, "multi_process": 16, "thread_pool": 32}


class FakeRedis:
    def config_set(self, name, value):
        assert (name, value) == ("auto-aof-rewrite-percentage", 0)


class FakeFleet:
    """Whose worker finishes 1,010 messages a turn, at 20 µs of worker, 30 of Redis, 50 of PostgreSQL each."""

    def __init__(self):
        self.items = {"Backlog": {}}
        self.redis = FakeRedis()
        self.pids = {group: [group] for group in backlog.GROUPS}
        self.queued = 0
        self.finished = 0
        self.runs = False

    def query(self, text):
        assert "hie-worker" in text
        return [("postgres",)]

    def depth(self):
        if self.runs:
            self.queued -= 505
            self.finished += 505
        return self.queued


def backlog_of(monkeypatch, fleet):
    costs = {"worker": 20, "redis": 30, "postgres": 50}

    def kill(pid, number):
        assert pid == "worker"
        fleet.runs = number == backlog.signal.SIGCONT

    def fill(_, count):
        fleet.queued += count

    monkeypatch.setattr(backlog.os, "kill", kill)
    monkeypatch.setattr(backlog.time, "sleep", lambda _: None)
    monkeypatch.setattr(backlog.procs, "cpu_ns", lambda pids: costs[pids[0]] * 1000 * fleet.finished)
    monkeypatch.setattr(backlog.Backlog, "fill", fill)
    return backlog.Backlog(fleet)


def test_claiming_is_measured_in_turns(monkeypatch):
    fleet = FakeFleet()
    turns = backlog_of(monkeypatch, fleet)
    few = turns.turns(3, 2000)
    assert few == {"backlog": 2000, "messages": 3030, "cpu_us": {"worker": 20, "redis": 30, "postgres": 50, "total": 100}}
    assert fleet.queued == 990 and fleet.finished == 5050
    fleet.queued = 100000
    many = turns.turns(3)
    assert many["cpu_us"] == few["cpu_us"] and many["backlog"] == 100000 - 2 * 1010
    assert fleet.queued == 100000 - 5 * 1010 and not fleet.runs


def test_a_worker_that_stands_still_ends_the_measurement(monkeypatch):
    turns = backlog_of(monkeypatch, FakeFleet())
    monkeypatch.setattr(backlog, "TURN_S", -1)
    with pytest.raises(fleets.Failed):
        turns.turns(1, 2000)


def test_what_a_backlog_costs_is_shown(capsys):
    def cost(total):
        return {"backlog": 5, "messages": 9, "cpu_us": {"worker": 1.0, "redis": 1.0, "postgres": 1.0, "total": total}}

    doc = document()
    doc["backlog"] = {"fifo": {"few": cost(40.0), "many": cost(49.0)}, "lifo": {"few": cost(40.0), "many": cost(60.0)}}
    report.show(doc)
    shown = capsys.readouterr().out
    assert "1.23 ×" in shown and "1.50 ×" in shown and shown.count("below our goal") == 1
    assert report.failures(doc) == []


def test_cpu_time_of_threads_counts_what_was_used():
    before = procs.cpu_ns([os.getpid()])
    sum(range(1000000))
    used = procs.cpu_ns([os.getpid()]) - before
    assert used > 1000000
    assert procs.cpu_ns([]) == 0
