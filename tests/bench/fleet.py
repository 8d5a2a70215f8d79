"""A fleet for measuring: a production file of its own, scripts/up in a folder of its own, and gone afterwards."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile

import psycopg2
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECHO, ROUTER, CHILD = "Echo", "Router", "Routed_Echo"


class Failed(Exception):
    """The benchmark cannot go on; the text says why."""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def production(pattern, target, options, ports):
    """One Echo item, and beside it a router that sends every message on to one of two more."""
    common = {
        "messaging_pattern": pattern,
        "execution_mode": options.mode,
        "concurrency": options.concurrency,
        "queue_type": target.queue_type,
        "queue_size": options.queue_size,
        "persistence": {"mode": "wal_and_store"},
        **target.item,
    }
    rules = [{"name": "admissions", "when": {"MSH-9.1": "ADT"}, "to": [f"{CHILD}_1"]}]
    items = [{"id": name, "class": "Echo", **common} for name in (ECHO, f"{CHILD}_1", f"{CHILD}_2")]
    settings = {"rules": rules, "default": [f"{CHILD}_2"]}
    items.append({"id": ROUTER, "class": "HL7RoutingEngine", **common, "settings": settings})
    return {
        "production": {"name": "hie-bench"},
        "dispatcher": {
            "http": {"listen": f"127.0.0.1:{ports[0]}"},
            "mllp": [{"listen": f"127.0.0.1:{ports[1]}", "item": ECHO}],
        },
        "worker": {"listen": f"127.0.0.1:{ports[2]}"},
        "items": items,
    }


def programs():
    """Where the programs are; builds them unless the environment names others."""
    named = {name: os.environ.get(name) for name in ("HIE_DISPATCHER", "HIE_WORKER", "HIE_BENCH_LOAD")}
    if not all(named.values()):
        command = f". {shlex.quote(str(ROOT / 'scripts/lib.sh'))} && build_release hie-dispatcher hie-worker bench_load"
        if subprocess.run(["bash", "-c", command], check=False).returncode:
            raise Failed("the programs could not be built")
    build = ROOT / "build"
    return {
        "dispatcher": named["HIE_DISPATCHER"] or str(build / "dispatcher/hie-dispatcher"),
        "worker": named["HIE_WORKER"] or str(build / "worker/hie-worker"),
        "load": named["HIE_BENCH_LOAD"] or str(build / "tests/bench/bench_load"),
    }


class Fleet:
    def __init__(self, pattern, target, options, paths):
        self.pattern = pattern
        self.load_program = paths["load"]
        # On a disk (/tmp may be memory), and where the servers' users can enter.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="hie-bench-", dir="/var/tmp"))
        self.dir.chmod(0o711)
        try:
            self._start(target, options, paths)
        except BaseException:
            self.stop(keep_logs=True)
            raise

    def _start(self, target, options, paths):
        config = self.dir / "production.yaml"
        made = production(self.pattern, target, options, free_ports(3))
        config.write_text(json.dumps(made, indent=2))  # which is YAML, too
        command = [
            ROOT / "scripts/up",
            "--detach",
            "--dir",
            self.dir,
            "--config",
            config,
            "--workers",
            str(options.workers),
        ]
        # Its own session, so that a Ctrl-C here stops it in order, by us.
        environment = {**os.environ, "HIE_DISPATCHER": paths["dispatcher"], "HIE_WORKER": paths["worker"]}
        with open(self.dir / "up.log", "w", encoding="utf-8") as log:
            up = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            try:
                status = up.wait(timeout=300)
            except BaseException:
                up.send_signal(signal.SIGTERM)
                up.wait(timeout=120)
                raise
        if status:
            raise Failed("scripts/up did not start the fleet:\n" + (self.dir / "up.log").read_text()[-3000:])
        self.env = dict(line.split("=", 1) for line in shlex.split((self.dir / "env").read_text()))
        self.pids = {
            name: [int(pid) for pid in self.env[f"HIE_{name.upper()}_PIDS"].split()]
            for name in ("dispatcher", "worker", "redis", "postgres")
        }
        self.redis = redis.Redis.from_url(self.env["HIE_REDIS_URL"])
        self.database = psycopg2.connect(self.env["HIE_POSTGRES_URL"])
        self.database.autocommit = True

    def stop(self, keep_logs=False):
        subprocess.run([ROOT / "scripts/down", "--dir", self.dir], check=False, stdout=subprocess.DEVNULL, timeout=400)
        if keep_logs:
            kept = ROOT / ".bench" / f"log-{self.pattern}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for log in [*self.dir.glob("log/*"), *self.dir.glob("up.log"), *self.dir.glob("production.yaml")]:
                shutil.copy(log, kept)
        shutil.rmtree(self.dir, ignore_errors=True)

    def target(self, protocol, item):
        if protocol == "mllp":
            return ["--mllp", self.env["HIE_MLLP"]]
        return ["--http", self.env["HIE_HTTP_URL"], "--item", item]

    def http_address(self):
        host, _, port = self.env["HIE_HTTP_URL"].rpartition("//")[2].rpartition(":")
        return host.strip("[]"), int(port)

    def depth(self):
        """Entries of all items' streams: accepted and not finished."""
        keys = [f"hie:{{{item}}}:{self.pattern}" for item in (ECHO, ROUTER, f"{CHILD}_1", f"{CHILD}_2")]
        return sum(self.redis.xlen(key) for key in keys)

    def query(self, text, *values):
        with self.database.cursor() as cursor:
            cursor.execute(text, values)
            return cursor.fetchall()

    def persistence(self):
        """The servers' versions and durability, and what is wrong with the latter."""
        settings = {
            name: self.query(f"show {name}")[0][0]
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        }
        info = self.redis.info("server")
        aof = self.redis.config_get("appendonly").get("appendonly")
        wrong = [
            f"PostgreSQL: {name} is {settings[name]}"
            for name in ("fsync", "full_page_writes")
            if settings[name] != "on"
        ]
        if settings["synchronous_commit"] not in ("on", "remote_apply", "remote_write", "local"):
            wrong.append(f"PostgreSQL: synchronous_commit is {settings['synchronous_commit']}")
        if aof != "yes":
            wrong.append("Redis: appendonly is off")
        return {
            "postgres": settings["server_version"],
            "redis": info["redis_version"],
            "redis_appendonly": aof,
            "postgres_fsync": settings["fsync"],
            "postgres_synchronous_commit": settings["synchronous_commit"],
        }, wrong
