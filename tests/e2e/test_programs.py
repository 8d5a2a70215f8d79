"""The programs' own manners: options, --check, exit codes, signals, limits of addresses."""

import json
import signal
import subprocess

import pytest
import yaml

from hiefleet import Fleet, echo_item, free_port, production, wait_until
from hiefleet.fleet import DISPATCHER, WORKER
from hiefleet.process import ROOT

PROGRAMS = pytest.mark.parametrize("program", [DISPATCHER, WORKER], ids=["dispatcher", "worker"])


def run(program, *arguments, **env):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=False,
                          stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", **env})


@PROGRAMS
def test_version_and_help(program):
    result = run(program, "--version")
    assert result.returncode == 0 and program.name in result.stdout and not result.stderr
    result = run(program, "--help")
    assert result.returncode == 0 and "--config" in result.stdout and "--check" in result.stdout


@PROGRAMS
@pytest.mark.parametrize("arguments", [(), ("--config",), ("--nonsense",), ("--check",), ("a-word",)])
def test_bad_usage_is_2(program, arguments):
    result = run(program, *arguments)
    assert result.returncode == 2
    assert result.stderr.strip()


@PROGRAMS
def test_check_accepts_the_shipped_files(program):
    files = [ROOT / "compose/production.yaml", *sorted((ROOT / "compose/examples").glob("*.yaml"))]
    for path in files:
        result = run(program, "--config", str(path), "--check")
        assert result.returncode == 0, f"{path}\n{result.stderr}"


BROKEN = """production: {name: broken}
items:
  - id: One
    class: Ecko
    messaging_pattern: async_reliable
    queue_type: unordered
    concurency: 4
  - id: One
    class: Echo
    queue_type: unordered
    concurrency: many
  - id: Two
    class: HL7RoutingEngine
    queue_type: unordered
    settings:
      rules: [{name: r, when: {MSH-9.1: ADT}, to: [Nowhere]}]
"""


@PROGRAMS
def test_check_says_every_error_with_its_line(program, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    for more in (("--check",), ()):
        result = run(program, "--config", str(path), *more)
        assert result.returncode == 2
        lines = (result.stdout + result.stderr).splitlines()
        for number, word in ((4, "Echo"), (7, "concurrency"), (8, "One"), (11, "concurrency"), (16, "Nowhere")):
            assert any(line.startswith(f"{path}:{number}: ") and word in line for line in lines), (number, lines)


@PROGRAMS
@pytest.mark.parametrize("text", ["", "a: [", "\t- x", "{}", "- a\n- b\n", "\0\1\2", "production: {name: " + "x" * 100000])
def test_check_survives_anything(program, tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    result = run(program, "--config", str(path), "--check")
    assert result.returncode == 2 and str(path) in result.stdout + result.stderr


@PROGRAMS
def test_missing_file(program):
    assert run(program, "--config", "/nonexistent/file.yaml").returncode == 2


def test_check_uses_the_environment(tmp_path):
    config = production(echo_item())
    config["items"][0]["concurrency"] = "${COUNT:-8}"
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(WORKER, "--config", str(path), "--check").returncode == 0
    assert run(WORKER, "--config", str(path), "--check", COUNT="16").returncode == 0
    assert run(WORKER, "--config", str(path), "--check", COUNT="none").returncode == 2
    assert run(DISPATCHER, "--config", str(path), "--check", HIE_HTTP_LISTEN="no address").returncode == 2


def test_listener_beyond_loopback_needs_insecure(tmp_path):
    path = tmp_path / "open.yaml"
    for insecure, code in ((False, 2), (True, 0)):
        config = production(echo_item(), http={"listen": "0.0.0.0:8080", **({"insecure": True} if insecure else {})})
        path.write_text(yaml.safe_dump(config))
        result = run(DISPATCHER, "--config", str(path), "--check")
        assert result.returncode == code, result.stderr


def test_insecure_is_said_at_start_and_in_readyz():
    config = production(echo_item(), worker={"insecure": True})
    with Fleet(config, workers=0, start=False) as fleet:
        fleet.start_servers()
        port = free_port()
        worker = fleet.add_worker(HIE_WORKER_LISTEN=f"0.0.0.0:{port}")
        worker.http.port = port
        worker.start()
        fleet.wait_program_ready(worker)
        assert "insecure" in worker.http.get("/readyz").body.decode()
        assert "insecure" in worker.text()


# ---- running -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet():
    config = production(echo_item("One"), echo_item("Two"), mllp=["One"])
    with Fleet(config, workers=1) as fleet:
        yield fleet


@pytest.mark.parametrize("kind", ["dispatcher", "worker"])
def test_sighup_does_not_end_it(fleet, kind):
    program = fleet.dispatcher if kind == "dispatcher" else fleet.workers[0]
    program.send(signal.SIGHUP)
    wait_until(lambda: "reload" in program.text(), "it says what became of the reload")
    fleet.wait_completed(fleet.accept("One", b"after SIGHUP"))
    assert program.alive


def test_taken_port_is_a_temporary_failure(fleet):
    second = fleet.make_dispatcher("second")
    second.start()
    assert second.wait(20) == 111
    assert "listen" in second.text() or "port" in second.text() or "address" in second.text()


def test_worker_claims_only_its_items(fleet):
    fleet.workers[0].stop()
    fleet.retired.append(fleet.workers.pop())
    only_two = fleet.add_worker("--items", "Two")
    only_two.start()
    fleet.wait_program_ready(only_two)
    waiting = fleet.accept("One", b"nobody does One")
    fleet.wait_completed(fleet.accept("Two", b"Two is done"))
    assert fleet.message(waiting)["status"] == "accepted"
    fleet.add_worker().start()
    fleet.wait_ready()
    fleet.wait_completed(waiting)


def test_unknown_item_for_a_worker(fleet):
    stray = fleet.add_worker("--items", "Two,Three")
    fleet.workers.remove(stray)
    stray.start()
    assert stray.wait(20) == 2
    assert "Three" in stray.text()


def test_logs_are_logfmt_or_json(fleet):
    for line in fleet.dispatcher.text().splitlines():
        assert "level=" in line and "event=" in line, line
    other = fleet.make_dispatcher("json", port=free_port(), HIE_LOG_FORMAT="json",
                                  HIE_MLLP_LISTEN=f"127.0.0.1:{free_port()}")
    other.start()
    fleet.wait_program_ready(other)
    assert other.stop() == 0
    events = [json.loads(line)["event"] for line in other.text().splitlines()]
    assert "listening" in events


def test_stops_on_sigint_too(fleet):
    other = fleet.make_dispatcher("sigint", port=free_port(), HIE_MLLP_LISTEN=f"127.0.0.1:{free_port()}")
    other.start()
    fleet.wait_program_ready(other)
    assert other.stop(signal.SIGINT) == 0
