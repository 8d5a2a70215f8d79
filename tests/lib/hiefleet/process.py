"""Child processes with a log each, and waiting with a bound."""

import itertools
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]


def wait_until(probe, what, timeout=30.0, interval=0.05):
    """Calls `probe` until it gives something true, and gives that. AssertionError after `timeout` seconds, with the
    last value or exception."""
    end = time.monotonic() + timeout
    while True:
        last = None
        try:
            last = probe()
            if last:
                return last
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout} s: {what}; last seen: {last!r}")
        time.sleep(interval)


# Below those that connections get, so that none takes one before its server does; from somewhere else in each process.
FIRST_PORT = random.randrange(10000, 32000)
PORTS = itertools.cycle([*range(FIRST_PORT, 32000), *range(10000, FIRST_PORT)])


def free_port():
    """A loopback port that nobody listens on now, and that this process was not told before."""
    for port in PORTS:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """One program. `start` may be called again after its end; the log is appended to."""

    def __init__(self, name, command, folder, log, env=None, user=None):
        self.name = name
        self.command = [str(word) for word in command]
        self.folder = folder
        self.log = pathlib.Path(log)
        self.env = env or {}
        self.user = user if os.geteuid() == 0 else None
        self.popen = None
        self.killed = False  # by the test: its exit code says nothing

    def start(self):
        assert not self.alive, f"{self.name} runs already"
        self.killed = False
        extra = {}
        if self.user:
            entry = pwd.getpwnam(self.user)
            extra = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **extra,
            )
        return self

    @property
    def pid(self):
        return self.popen.pid

    @property
    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def send(self, number):
        if self.alive:
            self.popen.send_signal(number)

    def pause(self):
        """It stands still when this returns."""
        self.send(signal.SIGSTOP)
        if self.alive:
            wait_until(lambda: self.state() in "TZ", f"{self.name} stands still", interval=0.001)

    def resume(self):
        """Only one that is stopped: a stray SIGCONT takes the SIGSTOP away by which LeakSanitizer holds a process at its
        exit, and both wait for ever."""
        if self.alive and self.state() == "T":
            self.send(signal.SIGCONT)

    def state(self):
        stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[0]

    def kill(self):
        """SIGKILL, with whatever it forked."""
        if self.popen is None:
            return
        self.killed = True
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait(30)

    def wait(self, timeout=60):
        """Its exit code; negative for a signal."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s\n{self.where()}\n{self.tail()}") from None

    def where(self):
        """What its threads do, for a process that should have ended; with gdb installed also from where."""
        lines = []
        for task in pathlib.Path(f"/proc/{self.pid}/task").glob("*"):
            try:
                state = (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
                lines.append(f"thread {task.name}: {state} in {(task / 'wchan').read_text(encoding='ascii')}")
            except OSError:
                continue
        if shutil.which("gdb"):
            command = ["gdb", "-p", str(self.pid), "-batch", "-ex", "thread apply all bt 25"]
            try:
                lines.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                                            stdin=subprocess.DEVNULL).stdout)
            except subprocess.TimeoutExpired:
                lines.append("gdb did not end either")
        return "\n".join(lines)

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Asks it to end and gives its exit code."""
        self.send(number)
        self.resume()
        return self.wait(timeout)

    def text(self):
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def tail(self, lines=15):
        return "\n".join(self.text().splitlines()[-lines:])
