"""Private Redis and PostgreSQL with the project's own settings, on loopback ports that stay the same over restarts."""

import os
import pathlib
import shutil
import signal
import subprocess

import psycopg2
import redis

from .process import ROOT, Process, free_port, wait_until


class Redis(Process):
    def __init__(self, folder):
        self.data = pathlib.Path(folder) / "redis"
        self.data.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        settings = self.data / "redis.conf"
        shipped = (ROOT / "compose/redis.conf").read_text(encoding="utf-8")
        settings.write_text(f'{shipped}\nbind 127.0.0.1\nport {self.port}\ndir "{self.data}"\n', encoding="utf-8")
        super().__init__("redis", ["redis-server", settings], self.data, pathlib.Path(folder) / "log/redis.log")
        self.client = redis.Redis(port=self.port, socket_timeout=10)

    def start(self):
        super().start()
        wait_until(self.answers, "Redis answers")
        return self

    def answers(self):
        assert self.alive, f"Redis ended\n{self.tail()}"
        try:
            return self.client.ping()
        except redis.RedisError:
            return False


class Postgres(Process):
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.data = folder / "postgres"
        self.port = free_port()
        self.password = "e2e-secret"
        self.url = self.url_for("hie", self.password)
        newest = max(pathlib.Path("/usr/lib/postgresql").iterdir(), key=lambda path: float(path.name))
        self.bin = newest / "bin"
        command = [
            self.bin / "postgres",
            "-D",
            self.data,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"port={self.port}",
            "-c",
            "unix_socket_directories=",
        ]
        super().__init__("postgres", command, "/", folder / "log/postgres.log", user="postgres")
        self.create()

    def url_for(self, user, password, database="hie"):
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self):
        self.data.mkdir(mode=0o700)
        if self.user:
            shutil.chown(self.data, self.user, self.user)
        self.run(["initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"])
        hba = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        for name, text in (
            ("pg_hba.conf", hba),
            ("postgresql.conf", (ROOT / "compose/postgresql.conf").read_text(encoding="utf-8")),
        ):
            (self.data / name).write_text(text, encoding="utf-8")
        self.run(
            ["postgres", "--single", "-D", self.data, "postgres"],
            f"CREATE ROLE hie LOGIN PASSWORD '{self.password}'\nCREATE DATABASE hie OWNER hie\n",
        )

    def run(self, command, text=""):
        command = [str(self.bin / command[0])] + [str(word) for word in command[1:]]
        extra = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        subprocess.run(
            command,
            input=text,
            text=True,
            check=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **extra,
        )

    def start(self):
        super().start()
        wait_until(self.answers, "PostgreSQL answers")
        return self

    def answers(self):
        assert self.alive, f"PostgreSQL ended\n{self.tail()}"
        try:
            self.connect().close()
            return True
        except psycopg2.OperationalError:
            return False

    def connect(self):
        connection = psycopg2.connect(self.url, connect_timeout=5, application_name="e2e-test")
        connection.autocommit = True
        return connection

    def query(self, statement, values=None):
        """All rows, as tuples."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def backends(self):
        """The server's children, which have process groups of their own."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.pid:
                    found.append(int(entry.name))
        return found

    def send_all(self, number):
        for pid in [self.pid] + self.backends():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def pause(self):
        self.send_all(signal.SIGSTOP)

    def resume(self):
        if self.alive:
            self.send_all(signal.SIGCONT)

    def kill(self):
        """As if the machine had lost its power, less the unsynced pages."""
        if self.alive:
            self.send_all(signal.SIGKILL)
        super().kill()

    def stop(self, number=signal.SIGINT, timeout=60):
        """SIGINT is its fast shutdown."""
        return super().stop(number, timeout)
