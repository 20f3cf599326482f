"""Permits to write broadcasts: in order, bounded in time, and free when their
process ends."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gevent.hub import get_hub

from imserver.gateway.transport.bulk_permits import BulkPermit, BulkPermits
from tests.gateway.transport.harness import look, until
from tests.processes import pause, running

NODE = """
import _socket, gevent, sys
from imserver.gateway.transport.bulk_permits import BulkPermit
line = _socket.socket(fileno=int(sys.argv[1]))
permit = BulkPermit(line, gevent.get_hub().loop, lambda: print("granted", flush=True), 600, 600, 600)
permit.request()
print("asked", flush=True)
gevent.sleep(600)
"""
"""A process that asks once and never returns its permit."""
LONG = 600.0


class Supervisor:
    """Serves nodes in this process and in others. ``granted``: names of those
    in this one, by time."""

    def __init__(
        self, folder: Path, stack: ExitStack, hold_seconds: float = LONG
    ) -> None:
        self.permits = BulkPermits(1, hold_seconds)
        self.granted: list[str] = []
        self._folder = folder
        self._stack = stack
        self._signals, writing = os.pipe()
        for file in (self._signals, writing):
            stack.callback(os.close, file)
        stack.callback(self.permits.close)

    def serve_until(self, condition: Callable[[], object]) -> None:
        def served() -> object:
            assert not self.permits.wait(self._signals, 0.0)
            look()
            return condition()

        until(served)

    def node(
        self, name: str, write_seconds: float = LONG, wait_seconds: float = LONG
    ) -> BulkPermit:
        line = self._stack.enter_context(self.permits.line())
        assert line is not None

        def granted() -> None:
            self.granted.append(name)

        permit = BulkPermit(
            line, get_hub().loop, granted, write_seconds, LONG, wait_seconds
        )
        self._stack.callback(permit.close)
        return permit

    def process(self, name: str) -> int:
        """Start one, and wait until it has asked; its id."""
        with self.permits.line() as line, (self._folder / name).open("wb") as output:
            assert line is not None
            command = [sys.executable, "-c", NODE, str(line.fileno())]
            process = self._stack.enter_context(
                running(command, stdout=output, pass_fds=[line.fileno()])
            )
        self.serve_until(lambda: "asked" in self.output(name))
        return process.pid

    def output(self, name: str) -> str:
        """The output of a process: ``granted`` when it may write."""
        return (self._folder / name).read_text()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_the_permit_of_a_killed_process_goes_to_the_one_that_waits_longest(
    tmp_path: Path, stack: ExitStack
) -> None:
    supervisor = Supervisor(tmp_path, stack)
    first, second, _ = (supervisor.process(name) for name in "abc")
    supervisor.serve_until(lambda: "granted" in supervisor.output("a"))
    for pid, following, last in ((first, "b", "c"), (second, "c", "")):
        assert "granted" not in supervisor.output(following)
        os.kill(pid, signal.SIGKILL)
        supervisor.serve_until(
            lambda following=following: "granted" in supervisor.output(following)
        )
        assert not last or "granted" not in supervisor.output(last)


def test_a_stopped_process_delays_the_others_for_a_bounded_time(
    tmp_path: Path, stack: ExitStack
) -> None:
    supervisor = Supervisor(tmp_path, stack, hold_seconds=0.05)
    stopped = supervisor.process("a")
    supervisor.serve_until(lambda: "granted" in supervisor.output("a"))
    pause(stopped)
    other = supervisor.node("b")
    assert not other.request()
    supervisor.serve_until(other.request)
    os.kill(stopped, signal.SIGKILL)  # it would not end in another way


def test_nodes_write_in_turn_and_one_with_much_to_write_goes_behind_all_who_wait(
    tmp_path: Path, stack: ExitStack
) -> None:
    supervisor = Supervisor(tmp_path, stack)
    large, *others = (supervisor.node(name, write_seconds=0.0) for name in "abc")
    for node in (large, *others):
        assert not node.request()
    for count in range(1, 7):
        supervisor.serve_until(lambda count=count: len(supervisor.granted) == count)
        node = (large, *others)[(count - 1) % 3]
        assert not node.request(), "its time is over"
    assert supervisor.granted == [*"abcabc"]
    supervisor.serve_until(lambda: len(supervisor.granted) == 7)
    large.extend()
    assert large.request(), "an answer waits for it"
    lone = Supervisor(tmp_path, stack)
    node = lone.node("a")
    lone.serve_until(node.request)
    assert lone.granted == ["a"]
    late = lone.node("b")
    assert not late.request()
    node.release()
    lone.serve_until(late.request)


def test_a_node_writes_when_the_supervisor_is_stopped_for_long_or_has_ended(
    tmp_path: Path, stack: ExitStack
) -> None:
    supervisor = Supervisor(tmp_path, stack)
    node = supervisor.node("a", wait_seconds=0.05)
    assert not node.request()
    until(lambda: look() or node.request())
    other = supervisor.node("b", write_seconds=0.0)
    assert not other.request()
    supervisor.permits.close()
    until(lambda: look() or other.request())
    other.release()
    assert other.request(), "from now on always"


def test_few_nodes_need_no_permits() -> None:
    with BulkPermits(0, LONG).line() as line:
        assert line is None
