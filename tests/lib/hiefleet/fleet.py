"""The fleet itself: servers, dispatcher, workers, and what tests ask of them."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import uuid

import yaml

from .clients import Http, Mllp
from .process import ROOT, Process, free_port, wait_until
from .servers import Postgres, Redis
from .wire import Wire

DISPATCHER = pathlib.Path(os.environ.get("HIE_DISPATCHER") or ROOT / "build/dispatcher/hie-dispatcher")
WORKER = pathlib.Path(os.environ.get("HIE_WORKER") or ROOT / "build/worker/hie-worker")

END_EVENTS = ("completed", "dead_lettered", "expired", "cancelled")
ENDED = END_EVENTS
# What a sanitizer or a broken invariant leaves in a log; `bug` is base/bug.h's line.
CRASHES = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:|\bBUG\b|Assertion|event=bug")


class Dumper(yaml.SafeDumper):
    """Writes equal values out instead of naming them by anchors, which production files do not have."""

    def ignore_aliases(self, data):
        return True


# ---- productions ---------------------------------------------------------------------------------------------


def item(id_, class_, settings=None, **over):
    """An item as the production file has it; keyword arguments are its keys."""
    entry = {"id": id_, "class": class_, "messaging_pattern": "async_reliable", "execution_mode": "async",
             "concurrency": 16, "queue_type": "unordered", "queue_size": 100000, **over}
    if settings:
        entry["settings"] = settings
    return entry


def echo_item(id_="Echo", delay=0, fail_attempts=0, reject_matching="", **over):
    settings = {"delay": delay, "fail_attempts": fail_attempts, "reject_matching": reject_matching}
    return item(id_, "Echo", settings, **over)


def file_item(id_, folder, name="${MSH-10}-${correlation_id}.hl7", **over):
    return item(id_, "FileWriter", {"folder": str(folder), "name": name}, **over)


def router_item(id_, rules, default=None, **over):
    settings = {"rules": rules}
    if default:
        settings["default"] = default
    return item(id_, "HL7RoutingEngine", settings, **over)


def production(*items, mllp=(), http=None, worker=None):
    """A production of these items; `mllp` names the items that get a listener (or gives whole listeners)."""
    listeners = [{"item": entry} if isinstance(entry, str) else dict(entry) for entry in mllp]
    return {
        "production": {"name": "e2e"},
        "redis": {"url": "redis://127.0.0.1:1/0", "key_prefix": "hie"},  # the fleet's environment has the real ones
        "postgres": {"url": "postgresql://hie@127.0.0.1:1/hie"},
        "dispatcher": {"http": {"listen": "127.0.0.1:8080", **(http or {})}, "mllp": listeners},
        "worker": {"listen": "127.0.0.1:9090", "drain_timeout": 10000, **(worker or {})},
        "items": list(items),
    }


# ---- the fleet -----------------------------------------------------------------------------------------------


class Fleet:
    """Starts everything on entry, stops it on exit and then fails if a program crashed or leaked.

    `config` is a production (a dictionary) or a path. `env` goes to the programs. With `start=False` only the
    folders, addresses and files are made, and the test starts what it wants.
    """

    def __init__(self, config, workers=2, env=None, start=True):
        # Not pytest's tmp_path: PostgreSQL runs as another user, who must get in.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hie-e2e-"))
        self.folder.chmod(0o711)
        (self.folder / "log").mkdir()
        self.redis = Redis(self.folder)
        self.postgres = Postgres(self.folder)
        self.http_port = free_port()
        self.env = dict(env or {})
        self.config_path = self.folder / "production.yaml"
        self.listeners = {}
        self.write(config)
        self.http = Http("127.0.0.1", self.http_port)
        self.dispatcher = self.make_dispatcher()
        self.workers = []
        self.retired = []
        for _ in range(workers):
            self.add_worker()
        self.begin = start

    # -- life

    def __enter__(self):
        if self.begin:
            try:
                self.start()
            except BaseException:
                self.close(check=False)
                raise
        return self

    def __exit__(self, kind, *_):
        self.close(check=kind is None)

    def start(self):
        self.start_servers()
        self.start_programs()
        self.wait_ready()

    def start_servers(self):
        self.redis.start()
        self.postgres.start()

    def start_programs(self):
        self.dispatcher.start()
        for worker in self.workers:
            worker.start()

    def wait_ready(self, timeout=30):
        for program in [self.dispatcher] + self.workers:
            if program.alive:
                self.wait_program_ready(program, timeout)

    def wait_program_ready(self, program, timeout=30):
        def ready():
            if not program.alive:
                raise RuntimeError(f"{program.name} ended with {program.popen.returncode}\n{program.tail()}")
            return program.http.get("/readyz").status == 200

        wait_until(ready, f"{program.name} is ready", timeout)

    def close(self, check=True):
        """Stops what runs, servers last. Says what went wrong with the programs, by the exit codes and logs."""
        faults = []
        programs = [self.dispatcher] + self.workers + self.retired
        running = [program for program in programs if program.alive]
        for program in running:
            program.send(signal.SIGTERM)
            program.resume()
        for program in running:
            try:
                code = program.wait(30)
                if code != 0:
                    faults.append(f"{program.name} ended with {code} after SIGTERM\n{program.tail()}")
            except AssertionError as error:
                faults.append(str(error))
                program.kill()
        for program in programs:
            if CRASHES.search(program.text()):
                faults.append(f"{program.name} crashed\n{program.tail(60)}")
        for server in (self.postgres, self.redis):
            server.resume()
            server.kill()
        if os.environ.get("HIE_KEEP"):
            print(f"kept: {self.folder}")
        else:
            # Tens of thousands of files take a while; nobody waits for that.
            subprocess.Popen(["rm", "-rf", self.folder], start_new_session=True)
        if check and faults:
            raise AssertionError("\n".join(faults))

    # -- programs

    def write(self, config):
        """Writes the production file; listeners get ports, kept by item."""
        if isinstance(config, (str, os.PathLike)):
            config = yaml.safe_load(pathlib.Path(config).read_text(encoding="utf-8"))
        for number, listener in enumerate(config["dispatcher"].get("mllp", [])):
            key = (number, listener["item"])
            if key not in self.listeners:
                self.listeners[key] = free_port()
            listener["listen"] = f"${{HIE_E2E_MLLP_{number}:-127.0.0.1:{self.listeners[key]}}}"
        self.config = config
        temporary = self.config_path.with_suffix(".new")
        temporary.write_text(yaml.dump(config, Dumper=Dumper, sort_keys=False), encoding="utf-8")
        temporary.rename(self.config_path)

    def program_env(self, **over):
        return {"HIE_REDIS_URL": self.redis.url, "HIE_POSTGRES_URL": self.postgres.url, **self.env, **over}

    def program(self, name, path, port, *arguments, **env):
        program = Process(name, [path, "--config", self.config_path, *arguments], self.folder,
                          self.folder / f"log/{name}.log", self.program_env(**env))
        program.http = Http("127.0.0.1", port)
        return program

    def make_dispatcher(self, name="dispatcher", port=None, **env):
        port = port or self.http_port
        env = {"HIE_HTTP_LISTEN": f"127.0.0.1:{port}", **env}
        return self.program(name, DISPATCHER, port, **env)

    def add_worker(self, *arguments, **env):
        """Makes another worker and gives it, not started."""
        port = free_port()
        name = f"worker-{len(self.workers) + len(self.retired) + 1}"
        env = {"HIE_WORKER_LISTEN": f"127.0.0.1:{port}", **env}
        worker = self.program(name, WORKER, port, *arguments, **env)
        self.workers.append(worker)
        return worker

    def add_dispatcher(self, name="dispatcher-2"):
        """A further dispatcher, ready; `.mllp_ports` has its listeners' ports in the file's order."""
        ports = [free_port() for _ in self.config["dispatcher"].get("mllp", [])]
        env = {f"HIE_E2E_MLLP_{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports)}
        dispatcher = self.make_dispatcher(name, port=free_port(), **env)
        dispatcher.mllp_ports = ports
        self.retired.append(dispatcher)
        dispatcher.start()
        self.wait_program_ready(dispatcher)
        return dispatcher

    def start_worker(self, *arguments, **env):
        """One more, ready."""
        worker = self.add_worker(*arguments, **env)
        worker.start()
        self.wait_program_ready(worker)
        return worker

    def replace_worker(self, worker):
        """A new worker in the place of one that the test ended; ready when this returns."""
        self.workers.remove(worker)
        self.retired.append(worker)
        return self.start_worker()

    def restart_dispatcher(self):
        self.dispatcher.start()
        for client in (self.http, self.dispatcher.http):
            client.close()
        self.wait_program_ready(self.dispatcher)

    # -- senders

    def mllp(self, item_id=None, timeout=30):
        """A connection to the item's listener, or to the first one."""
        for number, listener in enumerate(self.config["dispatcher"].get("mllp", [])):
            if item_id in (None, listener["item"]):
                return Mllp("127.0.0.1", self.listeners[number, listener["item"]], timeout)
        raise KeyError(item_id)

    def post(self, item_id, body, headers=None):
        return self.http.request("POST", f"/v1/items/{item_id}/messages", body, headers)

    def accept(self, item_id, body, headers=None):
        """Posts, insists on 202 and gives the correlation id."""
        answer = self.post(item_id, body, headers)
        assert answer.status == 202, (answer.status, answer.body[:500])
        status = answer.json()
        assert status["status"] == "accepted" and status["correlation_id"] == answer.id, status
        assert uuid.UUID(answer.id).version == 7
        return answer.id

    def message(self, id_, wait=None):
        """What GET /v1/messages/{id} says; None for 404."""
        answer = self.http.get(f"/v1/messages/{id_}" + (f"?wait={wait}" if wait is not None else ""))
        if answer.status == 404:
            return None
        assert answer.status == 200, (answer.status, answer.body[:500])
        return answer.json()

    def wait_end(self, id_, timeout=30):
        """Long-polls for the message's end and gives its status."""
        end = time.monotonic() + timeout
        while True:
            status = self.message(id_, wait=2000)
            if status and status["status"] in ENDED:
                return status
            if time.monotonic() > end:
                raise AssertionError(f"{id_} has no end within {timeout} s: {status}")

    def wait_completed(self, id_, timeout=30):
        """The message and, below it, all its children; gives its status."""
        status = self.wait_end(id_, timeout)
        assert status["status"] == "completed", status
        for child in status.get("children") or []:
            self.wait_completed(child, timeout)
        return status

    def metric(self, program, name, item=None, **labels):
        """The sum of a metric's series with these labels; 0 when there is none."""
        wanted = [f'{label}="{value}"' for label, value in {**({"item": item} if item else {}), **labels}.items()]
        total = 0.0
        for line in program.http.get("/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(text in series for text in wanted):
                total += float(value)
        return total

    def wire(self, timeout=120):
        """A connection to the dispatcher by hand."""
        return Wire(self.http_port, timeout)

    def item(self, id_):
        answer = self.http.get(f"/v1/items/{id_}")
        assert answer.status == 200, (answer.status, answer.body[:500])
        return answer.json()

    # -- truth and queue

    def sql(self, statement, *values):
        return self.postgres.query(statement, values or None)

    def scalar(self, statement, *values):
        return self.sql(statement, *values)[0][0]

    def streams(self):
        """Every stream of an item's queue."""
        keys = [key.decode() for key in self.redis.client.scan_iter("hie:{*", count=1000)]
        dead = re.compile(r":(dead|delayed)$|:reply:")
        return [key for key in keys if not dead.search(key) and self.redis.client.type(key) == b"stream"]

    def backlog(self):
        """Entries that Redis holds: in streams, in hand, delayed."""
        client = self.redis.client
        streams = self.streams()
        in_hand = 0
        for stream in streams:
            for group in client.xinfo_groups(stream):
                in_hand += group["pending"]
        delayed = sum(client.zcard(key) for key in client.scan_iter("hie:{*}:delayed"))
        return {"waiting": sum(client.xlen(stream) for stream in streams), "in_hand": in_hand, "delayed": delayed}

    def wait_empty(self, timeout=60):
        """Until nothing is unfinished, in the truth and in the queue."""
        wait_until(lambda: self.scalar("select count(*) from hie.wal") == 0, "hie.wal is empty", timeout, 0.2)
        wait_until(lambda: not any(self.backlog().values()), "Redis holds no entry", timeout, 0.2)

    def ends(self, id_):
        """The events that end this message, in their order."""
        rows = self.sql("select event from hie.audit where correlation_id = %s and event = any(%s) order by at", id_,
                        list(END_EVENTS))
        return [row[0] for row in rows]

    def check_settled(self, *, completed, dead_lettered=0):
        """Every message of this fleet has exactly one end, and so many of each kind."""
        twice = self.sql("select correlation_id, count(*) from hie.audit where event = any(%s) group by 1 having count(*) > 1"
                         " limit 5", list(END_EVENTS))
        assert not twice, f"more than one end: {twice}"
        states = dict(self.sql("select state, count(*) from hie.messages group by 1"))
        wanted = {"completed": completed, "dead_lettered": dead_lettered}
        assert states == {state: count for state, count in wanted.items() if count}, states
        without = self.scalar("select count(*) from hie.messages m where not exists (select 1 from hie.audit a"
                              " where a.correlation_id = m.correlation_id and a.event = any(%s))", list(END_EVENTS))
        assert without == 0, f"{without} messages have no end in hie.audit"

    def logs(self):
        """Everything that was written to any log."""
        return "\n".join(path.read_text(encoding="utf-8", errors="replace")
                         for path in sorted((self.folder / "log").iterdir()))

    def files(self, folder):
        """The contents of a folder's finished files, hidden and temporary ones left out."""
        path = self.folder / folder
        return [entry.read_bytes() for entry in path.glob("*.hl7")] if path.is_dir() else []
