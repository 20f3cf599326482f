"""Figures of the kernel about processes and the machine: CPU, memory, sockets,
traffic."""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.loop import BenchError, Json

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cpu:
    """User and system time of some processes: by thread in ns, and in ticks,
    which include ended threads."""

    threads_ns: Mapping[str, int]
    ticks: int

    def since(self, before: Cpu) -> float:
        """Return the µs spent since ``before``."""
        if self.threads_ns and self.threads_ns.keys() == before.threads_ns.keys():
            return (
                sum(self.threads_ns.values()) - sum(before.threads_ns.values())
            ) / 1000
        return (self.ticks - before.ticks) * TICK_NS / 1000


def cpu(pids: Sequence[int]) -> Cpu:
    """Read the CPU time of ``pids``; raises BenchError when one does not
    exist."""
    threads: dict[str, int] = {}
    ticks = 0
    exact = True
    for pid in pids:
        fields = _read(pid, "stat").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                threads[task.name] = int((task / "schedstat").read_text().split()[0])
        except OSError:
            exact = False  # no schedstat, or a thread has ended meanwhile: use ticks
    return Cpu(threads if exact else {}, ticks)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except PermissionError:
        raise
    except OSError:
        raise BenchError(f"the process {pid} does not exist (any more)") from None


@dataclass(frozen=True)
class Memory:
    """Resident bytes of some processes: RSS, and PSS, in which shared pages are
    divided by their users."""

    rss_bytes: int
    pss_bytes: int


def memory(pids: Sequence[int]) -> Memory:
    """Read the memory of ``pids``; raises BenchError if one does not exist.

    For processes of another user only RSS can be read; it is used as PSS too.
    """
    totals = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            text = _read(pid, "smaps_rollup")
        except PermissionError:
            return Memory(*[quick_rss_bytes(pids)] * 2)
        for name, value in re.findall(r"^(Rss|Pss): +(\d+)", text, re.M):
            totals[name] += int(value) * 1024
    return Memory(totals["Rss"], totals["Pss"])


def quick_rss_bytes(pids: Sequence[int]) -> int:
    """Return the resident memory of ``pids`` in bytes; cheap, exact to a few
    pages."""
    return sum(int(_read(pid, "statm").split()[1]) for pid in pids) * PAGE_BYTES


class Growth:
    """How much more memory a process has than now."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.before = quick_rss_bytes((pid,))
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # reset the peak

    def peak_mb(self) -> float:
        peak_kb = int(_read(self.pid, "status").partition("VmHWM:")[2].split()[0])
        return max(0, peak_kb * 1024 - self.before) / 1e6

    def residue_mb(self) -> float:
        return max(0, quick_rss_bytes((self.pid,)) - self.before) / 1e6


def children(pid: int) -> tuple[int, ...]:
    """Return the pids of the child processes of ``pid``."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return tuple(sorted(found))


def available_bytes() -> int:
    """Return the memory that is still available to programs."""
    found = re.search(
        r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M
    )
    return int(found[1]) * 1024 if found else 0


def slab_bytes() -> int:
    """Return the memory that the kernel uses for its structures, sockets among
    them."""
    found = re.search(r"^Slab:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def files_left() -> int:
    """Return how many more files all processes together may open."""
    used, _unused, most = Path("/proc/sys/fs/file-nr").read_text().split()
    return int(most) - int(used)


def machine() -> Json:
    """Return cores, processor, kernel, Python and the limit of open files."""
    facts = os.uname()
    try:
        processor = re.search(
            r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M
        )
    except OSError:
        processor = None
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor[1].strip() if processor else "",
        "kernel": f"{facts.sysname} {facts.release}",
        "architecture": facts.machine,
        "python": platform.python_version(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    }
