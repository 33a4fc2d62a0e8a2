"""What the kernel knows about a group of processes: CPU time and memory. Linux only."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    cpu_us: float
    """User and system time of all its threads, and of the children it has reaped."""


def processes_of(session: int) -> list[Process]:
    """Every process of a session. A server is started in a session of its own, which its children share."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                process = _read(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if process.session == session:
                found.append(process)
    return found


def _read(pid: int) -> Process:
    # The name in parentheses may hold anything; what follows the last one is numbers.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    reaped = (int(fields[13]) + int(fields[14])) / TICK * 1e6
    return Process(pid, int(fields[1]), int(fields[3]), _own_us(pid) + reaped)


def _own_us(pid: int) -> float:
    # utime + stime in /proc/PID/stat are this same sum cut to clock ticks (10 ms): too coarse for
    # a round of some seconds over several processes. schedstat has nanoseconds for each thread.
    total = 0
    for task in os.scandir(f"/proc/{pid}/task"):
        try:
            total += int(Path(task.path, "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass
    return total / 1e3


def cpu_us(sessions: list[int]) -> float:
    return sum(process.cpu_us for session in sessions for process in processes_of(session))


def pss_kib(pids: list[int]) -> int:
    """Proportional set size: each shared page is split among those who map it."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def description() -> str:
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // (1 << 20)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux") if hasattr(platform, "freedesktop_os_release") else "Linux"
    return f"{os.cpu_count()} × {model}, {memory} GiB, {system}, kernel {platform.release()}"
