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
import targets

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECHO, ROUTER, CHILD, BESIDE = "Echo", "Router", "Routed_Echo", "Beside"
PARTITIONS = 16  # of a fifo item with an ordering key


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


def item(name, handler_class, pattern, options, *settings):
    """One item; later settings win, None takes a key out."""
    merged = {
        "id": name,
        "class": handler_class,
        "messaging_pattern": pattern,
        "execution_mode": options.mode,
        "concurrency": options.concurrency,
        "queue_size": options.queue_size,
        "persistence": {"mode": "wal_and_store"},
    }
    for setting in settings:
        merged |= setting
    return {key: value for key, value in merged.items() if value is not None}


def production(items, ports):
    """The first item also takes MLLP."""
    return {
        "production": {"name": "hie-bench"},
        "dispatcher": {
            "http": {"listen": f"127.0.0.1:{ports[0]}"},
            "mllp": [{"listen": f"127.0.0.1:{ports[1]}", "item": items[0]["id"]}],
        },
        "worker": {"listen": f"127.0.0.1:{ports[2]}"},
        "items": items,
    }


def pattern_items(pattern, target, options):
    """The measured Echo item, one for each setting beside it, and for async patterns a router that sends every message
    on to one of two more."""
    items = [item(ECHO, "Echo", pattern, options, target.item)]
    for number, setting in enumerate(target.beside.values(), 1):
        items.append(item(f"{BESIDE}_{number}", "Echo", pattern, options, target.item, setting))
    if pattern not in targets.SYNC:
        rules = [{"name": "admissions", "when": {"MSH-9.1": "ADT"}, "to": [f"{CHILD}_1"]}]
        settings = {"rules": rules, "default": [f"{CHILD}_2"]}
        items += [item(f"{CHILD}_{number}", "Echo", pattern, options, target.item) for number in (1, 2)]
        items.append(item(ROUTER, "HL7RoutingEngine", pattern, options, target.item, {"settings": settings}))
    return items


def sending(settings, protocol):
    """The load generator's options that an item's messages need."""
    options = ["--reply"] if settings["messaging_pattern"] in targets.SYNC else []
    if settings.get("ordering_key"):
        options += ["--patients", str(targets.KEYS)]
        if protocol == "http":
            options += ["--keys", str(targets.KEYS), "--header", "X-Ordering-Key: {key}"]
    if settings["queue_type"] == "priority" and protocol == "http":
        options += ["--header", "X-Priority: {priority}"]
    return options


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
    def __init__(self, name, items, workers, paths):
        self.name = name
        self.items = {settings["id"]: settings for settings in items}
        self.load_program = paths["load"]
        # On a disk (/tmp may be memory), and where the servers' users can enter.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="hie-bench-", dir="/var/tmp"))
        self.dir.chmod(0o711)
        try:
            self._start(workers, paths)
        except BaseException:
            self.stop(keep_logs=True)
            raise

    def _start(self, workers, paths):
        config = self.dir / "production.yaml"
        made = production(list(self.items.values()), free_ports(3))
        config.write_text(json.dumps(made, indent=2))  # which is YAML, too
        command = [
            ROOT / "scripts/up",
            "--detach",
            "--dir",
            self.dir,
            "--config",
            config,
            "--workers",
            str(workers),
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
            kept = ROOT / ".bench" / f"log-{self.name}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for log in [*self.dir.glob("log/*"), *self.dir.glob("up.log"), *self.dir.glob("production.yaml")]:
                shutil.copy(log, kept)
        shutil.rmtree(self.dir, ignore_errors=True)

    def target(self, protocol, item):
        options = sending(self.items[item], protocol)
        if protocol == "mllp":
            return ["--mllp", self.env["HIE_MLLP"], *options]
        return ["--http", self.env["HIE_HTTP_URL"], "--item", item, *options]

    def http_address(self):
        host, _, port = self.env["HIE_HTTP_URL"].rpartition("//")[2].rpartition(":")
        return host.strip("[]"), int(port)

    def depth(self):
        """Entries of all items' streams: accepted and not finished."""
        pipe = self.redis.pipeline(transaction=False)
        for name, settings in self.items.items():
            partitions = PARTITIONS if settings.get("ordering_key") else 1
            for partition in range(partitions):
                tag = f"{name}/{partition}" if partition else name
                pipe.xlen(f"hie:{{{tag}}}:{settings['messaging_pattern']}")
        return sum(pipe.execute())

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
