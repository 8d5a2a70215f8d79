"""scripts/up and scripts/down as a user runs them, and the gates that scripts/test relies on."""

import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import time

import psycopg2
import pytest
import redis

from hiefleet import Http, Mllp, free_port, hl7, wait_until
from hiefleet.fleet import DISPATCHER, WORKER
from hiefleet.process import ROOT

ENV = {**os.environ, "HIE_DISPATCHER": str(DISPATCHER), "HIE_WORKER": str(WORKER)}


def run(*command, timeout=120, cwd=ROOT, **env):
    return subprocess.run([str(word) for word in command], cwd=cwd, env={**ENV, **env}, capture_output=True, text=True,
                          timeout=timeout, stdin=subprocess.DEVNULL, check=False)


def up(folder, *options, **more):
    return run(ROOT / "scripts/up", "--detach", "--dir", folder, *options, **more)


def down(folder, **more):
    return run(ROOT / "scripts/down", "--dir", folder, **more)


def read_env(folder):
    """DIR/env, as a shell would read it."""
    values = {}
    for word in shlex.split((pathlib.Path(folder) / "env").read_text()):
        name, _, value = word.partition("=")
        values[name] = value
    return values


def http_of(env):
    host, port = env["HIE_HTTP_URL"].removeprefix("http://").split(":")
    return Http(host, int(port))


def alive(pids):
    return [pid for pid in pids.split() if pathlib.Path(f"/proc/{pid}").exists()
            and pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]


@pytest.fixture
def folder(tmp_path_factory):
    """A folder with a blank in its name, reachable for the servers' users; stopped at the end whatever happened."""
    base = pathlib.Path(f"/tmp/hie-e2e-up-{os.getpid()}-{time.time_ns()}")
    base.mkdir(mode=0o755)
    folder = base / "a fleet"
    yield folder
    result = down(folder)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(base)


def test_up_down_and_up_again(folder):
    result = up(folder, "--workers", 3, "--http", port := free_port(), "--mllp", mllp := free_port())
    assert result.returncode == 0, result.stderr
    env = read_env(folder)
    assert env["HIE_HTTP_URL"] == f"http://127.0.0.1:{port}"
    assert env["HIE_MLLP"] == f"127.0.0.1:{mllp}"
    assert len(env["HIE_DISPATCHER_PIDS"].split()) == 1
    assert len(env["HIE_WORKER_PIDS"].split()) == 3
    for value in (env["HIE_HTTP_URL"], env["HIE_MLLP"], env["HIE_REDIS_URL"], env["HIE_POSTGRES_URL"]):
        assert value in result.stdout
    logs = {path.name for path in (folder / "log").iterdir()}
    assert {"dispatcher.log", "worker-1.log", "worker-2.log", "worker-3.log", "redis.log", "postgres.log"} <= logs
    for pid in (env["HIE_DISPATCHER_PIDS"] + " " + env["HIE_WORKER_PIDS"]).split():
        assert os.readlink(f"/proc/{pid}/cwd") == str(folder)

    # The commands that it suggests work as they are printed.
    tries = result.stdout.partition("Try:\n")[2].partition("\n\n")[0].splitlines()
    assert len(tries) == 3
    outputs = [run("bash", "-c", command.strip(), cwd="/") for command in tries]
    assert [output.returncode for output in outputs] == [0, 0, 0], outputs
    assert "202" in outputs[0].stdout and "MSA|AA" in outputs[1].stdout and "HL7_Router" in outputs[2].stdout

    with Mllp("127.0.0.1", mllp) as peer:
        message = hl7.adt()
        assert peer.ack(message).code == "AA"
    wait_until(lambda: any(path.read_bytes() == message for path in (folder / "out/adt").glob("*.hl7")),
               "the file lies below the folder")
    connection = psycopg2.connect(env["HIE_POSTGRES_URL"])
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from hie.messages")
        count = cursor.fetchone()[0]
    connection.close()
    client = redis.Redis.from_url(env["HIE_REDIS_URL"])
    assert client.config_get("appendonly")["appendonly"] == "yes"

    second = up(folder)
    assert second.returncode != 0 and "running" in second.stderr
    assert alive(env["HIE_DISPATCHER_PIDS"]), "the first goes on"

    result = down(folder)
    assert result.returncode == 0, result.stderr
    pids = " ".join(env[name] for name in env if name.endswith("_PIDS"))
    assert not alive(pids)
    assert not (folder / "env").exists()
    assert down(folder).returncode == 0, "again is fine"

    result = up(folder, "--workers", 1, "--http", port)
    assert result.returncode == 0, result.stderr
    env = read_env(folder)
    connection = psycopg2.connect(env["HIE_POSTGRES_URL"])
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from hie.messages")
        assert cursor.fetchone()[0] == count, "the data is still there"
    connection.close()
    answer = http_of(env).request("POST", "/v1/items/Echo/messages", b"once more")
    assert answer.status == 202


def test_another_file_is_reloaded(folder, tmp_path):
    """Started again in the same folder, the file that is named is the one in force."""
    result = up(folder, "--workers", 1)
    assert result.returncode == 0, result.stderr
    version = http_of(read_env(folder)).request("GET", "/v1/items").json()["version"]
    assert down(folder).returncode == 0
    other = tmp_path / "other.yaml"
    other.write_text("items:\n  - {id: Only, class: Echo}\n")
    for _ in range(2):
        result = up(folder, "--workers", 1, "--config", other)
        assert result.returncode == 0, result.stderr
        items = http_of(read_env(folder)).request("GET", "/v1/items").json()
        assert [item["id"] for item in items["items"]] == ["Only"] and items["version"] == version + 1
        assert down(folder).returncode == 0
    assert "another production was in force" not in result.stdout


def test_down_lets_workers_finish(folder):
    config = folder.parent / "slow.yaml"
    config.write_text("""
production: {name: slow}
dispatcher: {http: {listen: "127.0.0.1:8080"}}
worker: {listen: "127.0.0.1:9090", drain_timeout: 10000}
items:
  - {id: Slow, class: Echo, messaging_pattern: async_reliable, execution_mode: async, queue_type: unordered,
     settings: {delay: 1500}}
""")
    assert (result := up(folder, "--config", config, "--http", free_port(), "--workers", 1)).returncode == 0, result.stderr
    env = read_env(folder)
    assert env["HIE_MLLP"] == ""
    http = http_of(env)
    ids = [http.request("POST", "/v1/items/Slow/messages", b"x").id for _ in range(3)]
    wait_until(lambda: redis.Redis.from_url(env["HIE_REDIS_URL"]).xpending("hie:{Slow}:async_reliable", "workers")["pending"],
               "a worker has them in hand")
    assert down(folder).returncode == 0
    assert (result := up(folder, "--config", config, "--http", free_port(), "--workers", 0)).returncode == 0, result.stderr
    http = http_of(read_env(folder))
    for id_ in ids:
        status = http.get(f"/v1/messages/{id_}").json()
        assert (status["status"], status["attempts"]) == ("completed", 1)


def test_foreground_stops_on_ctrl_c(folder):
    log = folder.parent / "up.log"
    with open(log, "wb") as stream:
        process = subprocess.Popen([ROOT / "scripts/up", "--dir", folder, "--http", str(free_port()), "--mllp",
                                    str(free_port())], env=ENV, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                                   start_new_session=True)
    try:
        wait_until(lambda: (folder / "env").exists() or process.poll() is not None, "it is ready", 60)
        assert process.poll() is None, log.read_text()
        env = read_env(folder)
        victim = int(env["HIE_WORKER_PIDS"].split()[0])
        os.kill(victim, signal.SIGKILL)
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        wait_until(lambda: process.poll() is not None, "it ends", 100)
    finally:
        output = log.read_text()
        print(output)
        if process.poll() is None:
            process.terminate()
            process.wait(90)
    assert process.returncode == 0, output
    assert "SIGKILL" in output and str(victim) in output, "a process that dies is reported"
    assert not alive(" ".join(env[name] for name in env if name.endswith("_PIDS")))


def test_given_servers_are_used_and_left_alone(folder):
    first = folder.parent / "first"
    assert (result := up(first, "--http", free_port(), "--mllp", free_port(), "--workers", 0)).returncode == 0, result.stderr
    try:
        env = read_env(first)
        result = up(folder, "--redis", env["HIE_REDIS_URL"], "--postgres", env["HIE_POSTGRES_URL"], "--http", free_port(),
                    "--mllp", free_port(), "--workers", 1)
        assert result.returncode == 0, result.stderr
        assert not (folder / "redis").exists() and not (folder / "postgres").exists()
        assert read_env(folder)["HIE_REDIS_URL"] == env["HIE_REDIS_URL"]
        assert down(folder).returncode == 0
        assert alive(env["HIE_REDIS_PIDS"]) and alive(env["HIE_POSTGRES_PIDS"])
    finally:
        assert down(first).returncode == 0


def test_taken_port_is_refused_and_configured_one_is_replaced(folder):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        taken = sock.getsockname()[1]
        result = up(folder, "--http", taken)
        assert result.returncode != 0 and str(taken) in result.stderr
        result = up(folder, "--mllp", free_port(), HIE_HTTP_LISTEN=f"127.0.0.1:{taken}")
        assert result.returncode == 0, result.stderr
        assert read_env(folder)["HIE_HTTP_URL"] != f"http://127.0.0.1:{taken}"


def test_errors_are_said_and_leave_nothing_running(folder):
    broken = folder.parent / "broken.yaml"
    broken.write_text("items: [{id: A, class: Nonsense}]\n")
    result = up(folder, "--config", broken)
    assert result.returncode != 0 and f"{broken}:1:" in result.stdout + result.stderr
    result = up(folder, "--postgres", "postgresql://hie:wrong@127.0.0.1:1/hie", "--http", free_port(), "--mllp", free_port(),
                HIE_WORKER="/bin/false")
    assert result.returncode != 0 and result.stderr.strip()
    assert not (folder / "processes").exists()
    for options in (["--workers", "many"], ["--nonsense"], ["--http"], ["--http", "99999"], ["--config", "/nonexistent"]):
        result = up(folder, *options)
        assert result.returncode != 0 and result.stderr.strip(), options
    assert down(folder, cwd="/").returncode == 0


def test_reused_pid_is_not_signalled(folder):
    """A record whose start time does not fit names another process."""
    folder.mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (folder / "processes").write_text(f"worker {sleeper.pid} 1\n")
        assert down(folder).returncode == 0
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


# ---- the gates -----------------------------------------------------------------------------------------------


def make_tree(base, **files):
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return base


@pytest.mark.parametrize("name, text", [
    ("common/hl7/bad.c", '#include "store/store.h"\n'),
    ("common/base/bad.c", '#include "hl7/path.h"\n'),
    ("dispatcher/bad.c", '#include "../worker/lane.h"\n'),
    ("dispatcher/bad.c", '#include "lane.h"\n'),
    ("common/queue/bad.c", "#include <hiredis/hiredis.h>\n"),
    ("dispatcher/bad.c", "#  include <libpq-fe.h>\n"),
    ("common/extra/bad.c", "int x;\n"),
])
def test_layer_check_can_fail(tmp_path, name, text):
    tree = make_tree(tmp_path, **{"common/base/ok.c": "#include <stdio.h>\n", "common/store/store.h": "\n",
                                  "common/hl7/path.h": '#include "base/ok.c"\n', "worker/lane.h": "\n"})
    assert run(ROOT / "scripts/check-layers", tree).returncode == 0
    make_tree(tree, **{name: text})
    result = run(ROOT / "scripts/check-layers", tree)
    assert result.returncode == 1 and name in result.stdout


def test_layer_check_fails_on_nothing(tmp_path):
    assert run(ROOT / "scripts/check-layers", tmp_path).returncode == 1


def test_hardening_check_can_fail(tmp_path):
    source = tmp_path / "soft.c"
    source.write_text("int main(void) { return 0; }\n")
    soft = tmp_path / "soft"
    subprocess.run(["gcc", "-no-pie", "-fno-stack-protector", "-Wl,-z,norelro,-z,lazy,-z,execstack", "-o", soft, source],
                   check=True)
    result = run(ROOT / "scripts/check-hardening", soft)
    assert result.returncode == 1
    assert result.stdout.count(": no ") >= 5, result.stdout
