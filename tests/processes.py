"""Processes that tests start: each one is ended, whatever happens to its
test."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

END_SECONDS: Final = 60.0

_started: set["subprocess.Popen[Any]"] = set()
"""All that have been started and not been ended by :func:`end`."""


def die_with_parent() -> None:
    """Call it in a child before its program runs: the child ends with the
    tests, even if they are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spawn(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Start a process as ``subprocess.Popen`` does. :func:`end` it; the session
    ends it at the latest."""
    process = subprocess.Popen(command, **options)
    adopt(process)
    return process


def adopt(process: "subprocess.Popen[Any]") -> None:
    """The session ends this process at the latest."""
    _started.add(process)


def end(
    process: "subprocess.Popen[Any]",
    number: int = signal.SIGTERM,
    seconds: float = END_SECONDS,
) -> int:
    """Signal a process, wait, kill it if it does not end in time, and close its
    pipes.

    Returns the exit status. Harmless when the process has ended.
    """
    try:
        if process.poll() is None:
            process.send_signal(number)
            process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()  # nothing if it has ended; a stopped process ends too
        status = process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still to be written
                    pipe.close()
        _started.discard(process)
    return status


def pause(pid: int) -> None:
    """Stop a process with SIGSTOP. Returns when none of its threads runs any
    more."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + END_SECONDS
    while any(
        _state(thread) not in "TtZX"
        for thread in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:  # the thread has ended
        return "X"


@contextmanager
def ended_on_failure(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """For constructors: kill the process if what follows its start fails, also
    by the test's timeout."""
    try:
        yield
    except BaseException:
        end(process, signal.SIGKILL)
        raise


@contextmanager
def running(
    command: Sequence[str], **options: Any
) -> Iterator["subprocess.Popen[Any]"]:
    """A process that runs while this is entered."""
    process = spawn(command, **options)
    try:
        yield process
    finally:
        end(process)


class ProcessOfTests:
    """What tests add to a server of the load tool
    (``bench.servers.ServerProcess``)."""

    process: "subprocess.Popen[bytes]"
    pids: Sequence[int]
    kill_signal: int

    def start(self) -> None:
        """Start it; the session ends it at the latest."""
        super().start()  # type: ignore[misc]
        adopt(self.process)

    def kill(self) -> None:
        """End it at once; what it had in memory is gone."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            end(self.process, self.kill_signal)

    def pause(self) -> None:
        """Let it stand still, connections and all."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                pause(pid)

    def resume(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def end_all() -> None:
    """Kill all that still run: a last resort at the end of the session."""
    for process in tuple(_started):
        end(process, signal.SIGKILL)
