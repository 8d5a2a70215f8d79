"""CPU time and memory of process trees, and facts about the machine, from /proc."""

import os
import platform
import resource
import socket
import statistics
import time

TICK = os.sysconf("SC_CLK_TCK")


def _stat(pid):
    """(parent, own CPU seconds, CPU seconds of children that ended), or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    own = int(fields[11]) + int(fields[12])
    ended = int(fields[13]) + int(fields[14])
    return int(fields[1]), own / TICK, ended / TICK


def tree(roots):
    """These processes and everything below them: {pid: stat}."""
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(int(name))
            if stat:
                stats[int(name)] = stat
    found = {pid: stats[pid] for pid in roots if pid in stats}
    grown = True
    while grown:
        grown = False
        for pid, stat in stats.items():
            if pid not in found and stat[0] in found:
                found[pid] = stat
                grown = True
    return found


def cpu_seconds(roots):
    """Of the whole tree since it began; also that of its members that ended meanwhile."""
    return sum(stat[1] + stat[2] for stat in tree(roots).values())


def _thread_ns(pid):
    used = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                used += int(file.read().split()[0])
    except OSError:
        pass  # it ended meanwhile
    return used


def cpu_ns(roots):
    """Of the living threads of these trees, to the nanosecond: for spans too short for clock ticks."""
    return sum(_thread_ns(pid) for pid in tree(roots))


def busy_seconds():
    """Of all cores together, in programs and in the kernel for them; without interrupts, which nobody is charged."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system = file.readline().split()[1:4]
    return (int(user) + int(nice) + int(system)) / TICK


def _kib(path, key):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(key):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def memory_mib(roots):
    """`rss` and `peak` are the largest single process's (a limit holds for each one), `total` counts what processes
    share once where the kernel lets us read it (Pss), and is the sum of rss elsewhere."""
    pids = tree(roots)
    rss = [_kib(f"/proc/{pid}/status", "VmRSS:") or 0 for pid in pids]
    peak = [_kib(f"/proc/{pid}/status", "VmHWM:") or 0 for pid in pids]
    pss = [_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids]
    total = sum(rss) if None in pss else sum(pss)
    return {
        "processes": len(pids),
        "rss": max(rss, default=0) / 1024,
        "peak": max(peak, default=0) / 1024,
        "total": total / 1024,
    }


def fdatasync_us(folder, times=200):
    """The median of writing 4 KiB into a file that has its length, and syncing it: what a WAL does."""
    path = os.path.join(folder, "fdatasync.probe")
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    took = []
    try:
        os.write(fd, b"\1" * (4096 * times))
        os.fsync(fd)
        for number in range(times):
            begin = time.monotonic()
            os.pwrite(fd, b"\2" * 4096, 4096 * number)
            os.fdatasync(fd)
            took.append(time.monotonic() - begin)
    finally:
        os.close(fd)
        os.unlink(path)
    return statistics.median(took) * 1e6


def machine(folder):
    model = ""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "kernel": platform.release(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "fdatasync_us": round(fdatasync_us(folder)),
        "load_before": os.getloadavg()[0],
    }


def raise_descriptors():
    """As many as the hard limit allows; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def _answer(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise OSError("the connection was closed")
        data += piece
    return data.split(b" ", 2)[1]


def idle_connections(host, port, count):
    """Opens connections that each made one request and then wait; the caller closes them."""
    request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    opened = []
    try:
        for _ in range(count):
            sock = socket.create_connection((host, port), timeout=10)
            opened.append(sock)
            sock.sendall(request)
            if _answer(sock) != b"200":
                raise OSError("/healthz did not answer 200")
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened
