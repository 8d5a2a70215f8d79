"""Checks against the targets, the table, and the comparison of two results."""

import targets

OTHERS_SHARE = 0.10  # of all cores; above it a note


def checks(result, target):
    """[{kind, name, value, limit, unit, ok}]; kind "spec" decides the exit code."""
    rows = []

    def check(kind, name, value, limit, unit, at_least=False):
        ok = value is not None and (value >= limit if at_least else value <= limit)
        rows.append(
            {"kind": kind, "name": name, "value": value, "limit": limit, "unit": unit, "at_least": at_least, "ok": ok}
        )

    for kind, wanted, run in (("spec", target.spec, "paced"), ("goal", target.goal, "half")):
        for key in ("http", "mllp"):
            name = f"sustained, {key.upper()}, {result[key]['connections']} connections"
            check(kind, name, result[key]["sustained"], wanted.rate, "/s", True)
        at = f"{result[run]['wanted_rate']:,}/s"
        check(kind, f"answer p50 at {at}", result[run]["answer_ms"]["p50"], wanted.p50, "ms")
        check(kind, f"answer p99 at {at}", result[run]["answer_ms"]["p99"], wanted.p99, "ms")
        if run == "paced":
            # The answers are quick only if the rate is kept up.
            check(kind, f"completed at {at}", result[run]["completed_rate"], wanted.rate * 0.98, "/s", True)
    idle = result.get("idle")
    if idle and idle["connections"] == targets.IDLE_CONNECTIONS:
        check(
            "goal",
            f"dispatcher with {idle['connections']:,} idle connections",
            idle["rss_mib"],
            targets.DISPATCHER_IDLE_MIB,
            "MiB",
        )
    check("goal", "worker process, peak", result["memory"]["worker"]["peak"], targets.WORKER_MIB, "MiB")
    return rows


def backlog_checks(backlog):
    rows = []
    for queue_type, result in backlog.items():
        few, many = result["few"]["cpu_us"]["total"], result["many"]["cpu_us"]["total"]
        name = f"{queue_type}: CPU a message, {result['many']['backlog']:,} queued over {result['few']['backlog']:,}"
        ok = many <= few * targets.BACKLOG_RATIO
        rows.append({"kind": "goal", "name": name, "value": many / few, "limit": targets.BACKLOG_RATIO, "unit": "×", "ok": ok})
    return rows


def number(value, digits=1):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or digits == 0 else f"{value:,.{digits}f}"


def table(head, rows):
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.insert(1, "  " + "-" * (len(lines[0]) - 2 if len(lines[0]) > 2 else 1))
    return "\n".join(lines)


def runs_of(result):
    named = [
        (f"{result[key]['protocol'].upper()} {result[key]['connections']}, {label}", result[key])
        for key, label in (
            ("http", "closed loop"),
            ("mllp", "closed loop"),
            ("paced", "paced"),
            ("half", "half rate"),
        )
    ]
    return named + [(f"beside: {label}", run) for label, run in result["beside"].items()]


def show_pattern(name, result):
    print(f"\n{name}\n")
    rows = []
    for label, run in runs_of(result):
        answer, completion = run["answer_ms"], run["completion_ms"]
        rows.append(
            [
                label,
                number(run["accepted_rate"], 0),
                number(run["completed_rate"], 0),
                number(run.get("sustained"), 0),
                f"{number(run['backlog'][0], 0)} > {number(run['backlog'][1], 0)}",
                *(number(answer[p]) for p in ("p50", "p99", "p99.9", "max")),
                *(number(completion[p]) for p in ("p50", "p99", "p99.9")),
            ]
        )
    print(
        table(
            [
                "",
                "accepted/s",
                "completed/s",
                "sustained/s",
                "backlog",
                "answer p50",
                "p99",
                "p99.9",
                "max ms",
                "completion p50",
                "p99",
                "p99.9 ms",
            ],
            rows,
        )
    )
    groups = ["dispatcher", "worker", "redis", "postgres", "load", "total"]
    rows = []
    for label, run in runs_of(result):
        used = [number(run["cpu_us"][group]) for group in groups]
        rows.append([label, *used, f"{number(run['others_share'] * 100, 0)} %"])
    print("\n  CPU, µs a message; and how much of the machine programs used that are not ours")
    print(table(["", *groups, "others"], rows))
    if any(run["others_share"] > OTHERS_SHARE for _, run in runs_of(result)):
        print("\n  NOTE  the machine was busy with other programs: rates and latencies are worse than they would be")
    print("\n  memory, MiB")
    print(
        table(
            ["", "processes", "resident", "peak", "all together"],
            [
                [group, row["processes"], number(row["rss"]), number(row["peak"]), number(row["total"])]
                for group, row in result["memory"].items()
            ],
        )
    )
    idle = result.get("idle")
    if idle:
        print(
            f"\n  {idle['connections']:,} idle connections: dispatcher {number(idle['rss_before_mib'])} > {number(idle['rss_mib'])} MiB, "
            f"{number(idle['kib_each'], 2)} KiB each, {number(idle['idle_cpu_share'] * 100)} % of a core"
        )
    print()
    verdicts = {
        ("spec", True): "ok",
        ("spec", False): "MISSED",
        ("goal", True): "ok",
        ("goal", False): "below our goal",
    }
    print(
        table(
            ["target", "kind", "measured", "wanted", ""],
            [
                [
                    row["name"],
                    row["kind"],
                    f"{number(row['value'])} {row['unit']}",
                    f"{'≥' if row['at_least'] else '≤'} {number(row['limit'], 0)} {row['unit']}",
                    verdicts[row["kind"], row["ok"]],
                ]
                for row in result["checks"]
            ],
        )
    )
    for problem in result["problems"]:
        print(f"\n  PROBLEM  {problem}")


def show_backlog(backlog):
    print("\nclaiming from a long queue; CPU, µs a message\n")
    rows = []
    for queue_type, result in backlog.items():
        for run in (result["few"], result["many"]):
            used = [number(run["cpu_us"][group]) for group in ("worker", "redis", "postgres", "total")]
            rows.append([queue_type, f"{run['backlog']:,}", *used])
    print(table(["queue_type", "queued", "worker", "redis", "postgres", "total"], rows))
    print()
    rows = [
        [row["name"], f"{row['value']:.2f} ×", f"≤ {row['limit']:.2f} ×", "ok" if row["ok"] else "below our goal"]
        for row in backlog_checks(backlog)
    ]
    print(table(["target", "measured", "wanted", ""], rows))


def show(document):
    print(document["dispatcher_version"])
    if document["patterns"]:
        show_setting(document)
    for name, result in document["patterns"].items():
        show_pattern(name, result)
    if document.get("backlog"):
        show_backlog(document["backlog"])


def show_setting(document):
    machine, servers = document["machine"], document["servers"]
    print(
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, "
        f"fdatasync {machine['fdatasync_us']} µs, PostgreSQL {servers['postgres']}, Redis {servers['redis']}, "
        f"load before {machine['load_before']:.1f}"
    )
    print(
        f"{document['options']['workers']} worker(s), {document['options']['mode']}, concurrency {document['options']['concurrency']}, "
        f"{document['options']['seconds']} s a run, 700-byte ADT, full persistence; everything shares these cores"
    )


def show_markdown(document):
    """The tables of the README's section on speed."""

    def pair(run):
        return f"{number(run['answer_ms']['p50'])} / {number(run['answer_ms']['p99'])} ms"

    def row(*cells):
        print("| " + " | ".join(cells) + " |")

    row("pattern", "sustained over HTTP", "over MLLP", "answer p50 / p99, paced", "at half of the sustained rate", "CPU a message")
    row(*["---"] * 6)
    for name, result in document["patterns"].items():
        http, mllp, paced, half = (result[key] for key in ("http", "mllp", "paced", "half"))
        row(
            f"`{name}`",
            f"{number(http['sustained'], 0)}/s",
            f"{number(mllp['sustained'], 0)}/s",
            f"{pair(paced)} at {number(paced['wanted_rate'], 0)}/s",
            f"{pair(half)} at {number(half['wanted_rate'], 0)}/s",
            f"{number(http['cpu_us']['total'], 0)} µs",
        )
    print()
    row("beside it", "sustained over HTTP", "answer p50 / p99", "CPU a message")
    row(*["---"] * 4)
    for name, result in document["patterns"].items():
        for label, run in result["beside"].items():
            row(
                f"`{name}`, {label}",
                f"{number(run['sustained'], 0)}/s",
                pair(run),
                f"{number(run['cpu_us']['total'], 0)} µs",
            )
    if document.get("backlog"):
        print()
        row("claiming, CPU a message", "with few queued", "with many")
        row(*["---"] * 3)
    for queue_type, result in document.get("backlog", {}).items():
        cells = [f"{number(run['cpu_us']['total'])} µs at {run['backlog']:,}" for run in (result["few"], result["many"])]
        row(f"`{queue_type}`", *cells)


def failures(document):
    """What makes the benchmark fail."""
    found = []
    for name, result in document["patterns"].items():
        found += [f"{name}: {row['name']}" for row in result["checks"] if row["kind"] == "spec" and not row["ok"]]
        found += [f"{name}: {problem}" for problem in result["problems"]]
    return found


def figures(result):
    """{label: (value, more is better)} of what two results are compared by."""
    found = {}
    for label, run in runs_of(result):
        if "sustained" in run:
            found[f"{label}: sustained /s"] = (run["sustained"], True)
        else:
            found[f"{label}: completed /s"] = (run["completed_rate"], True)
        for p in ("p50", "p99", "p99.9"):
            found[f"{label}: answer {p} ms"] = (run["answer_ms"][p], False)
            found[f"{label}: completion {p} ms"] = (run["completion_ms"][p], False)
        for group, value in run["cpu_us"].items():
            found[f"{label}: CPU {group} µs"] = (value, False)
    for group, row in result["memory"].items():
        found[f"memory {group}, peak MiB"] = (row["peak"], False)
    if result.get("idle"):
        found["idle connection KiB"] = (result["idle"]["kib_each"], False)
    return found


def compare(old, new):
    print(f"\nagainst {old['at']} ({old['dispatcher_version']}, fdatasync {old['machine']['fdatasync_us']} µs)")
    if old["options"] != new["options"]:
        differing = {
            key
            for key in old["options"].keys() | new["options"].keys()
            if old["options"].get(key) != new["options"].get(key)
        }
        print(f"  different options: {', '.join(sorted(differing))}")
    shared = [name for name in new["patterns"] if name in old["patterns"]]
    for name in shared:
        before, after = figures(old["patterns"][name]), figures(new["patterns"][name])
        rows = []
        for label in after:
            if label not in before or before[label][0] is None or after[label][0] is None:
                continue
            was, now, more_is_better = before[label][0], after[label][0], after[label][1]
            change = (now - was) / was * 100 if was else 0.0
            verdict = "" if abs(change) < 5 else "better" if (change > 0) == more_is_better else "worse"
            rows.append([label, number(was, 2), number(now, 2), f"{change:+.1f} %" if was else "-", verdict])
        print(f"\n{name}\n")
        print(table(["", "was", "is", "change", ""], rows))
    if not shared:
        print("  no pattern in common")
