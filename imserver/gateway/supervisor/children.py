"""Child processes: fork, monitor, drain, reap and restart. Also the signals of
the supervisor process.

The supervisor has no gevent loop: a loop that exists at a fork would run in the
child too.
"""

from __future__ import annotations

import _socket
import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

import gevent
from gevent import monkey

from imserver.gateway.clock import until_beat
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.model import Service
from imserver.gateway.node import serve as serving
from imserver.gateway.node.http_servers import Listeners, close_all
from imserver.gateway.node.node import Node
from imserver.gateway.process import take_signals
from imserver.gateway.supervisor.slot import (
    NodeMarks,
    Slot,
    SlotState,
    StatusPage,
    for_child,
)
from imserver.gateway.transport.bulk_permits import (
    HOLD_SECONDS,
    WAIT_SECONDS,
    WRITE_SECONDS,
    BulkPermit,
    BulkPermits,
)
from imserver.gateway.transport.listener import wrapped

_OBSERVE_SECONDS: Final = 1.0
"""Longest time between two checks of the children."""
_OBSERVATIONS_PER_HANG: Final = 4
"""How often the children are checked within ``server.hang_seconds``."""
_STACK_SECONDS: Final = 1.0
"""How long a hung child may write its stack before it is killed."""
_DRAIN_SECONDS: Final = 30.0
"""A draining node may take this much longer than its settings allow. Then it is
killed."""
_SHORT_DRAIN_SECONDS: Final = 5.0
"""Time limit of a drain after a second signal."""
_SIGNALS_READ: Final = 4096
"""How many signals are read at once; each is one byte in the pipe."""

# The patched versions would start a gevent loop.
_fork: Final = monkey.get_original("os", "fork")
_waitpid: Final = monkey.get_original("os", "waitpid")


class Children(Service, dict=True):
    """Starts, monitors and ends the child process in each slot.

    A slot is the place of one child, with its listening sockets and state.
    ``report(level, text)`` logs for operators. ``read_config`` reads the
    settings again. ``close_inherited`` runs in each child, and closes files
    that only the supervisor needs. Owner of the slots' processes.
    """

    config: Config
    """Settings for children that start from now on."""
    read_config: Callable[[], Config]
    slots: Sequence[Slot]
    signals: SignalQueue
    permits: BulkPermits
    report: Callable[[int, str], None]
    close_inherited: Callable[[], None]

    def __post_init__(self) -> None:
        """Start with no child. The first :meth:`tick` forks some."""
        self.generation = 0
        """How many rolling restarts have begun."""
        self.settled = False
        """Whether all children have served once. From then on a failed child is
        restarted."""
        self.ending = False
        """Whether all children drain, and no child is started any more."""
        self.failure: StartError | None = None
        """The reason why the first start failed; None if it has not failed."""
        self.bad_ends = 0
        """Number of children that failed while they drained at the end."""
        self._lifeline = os.pipe()
        """A pipe whose writing end only the supervisor has. So its reading end
        becomes readable in the children when the supervisor ends."""
        self._starting_at_once = max(os.cpu_count() or 1, 2)
        self._observed_at = time.monotonic()
        """When the children were checked last."""

    @property
    def starting(self) -> int:
        """Number of children that are starting."""
        return sum(slot.state is SlotState.STARTING for slot in self.slots)

    def tick(self, now: float) -> None:
        """Look after the children: one turn of the supervisor's main loop.

        Reaps ended children, checks the running ones, and starts the children
        that are due.
        """
        self._reap(now)
        self._observe(now)
        for slot in self.slots:
            # If too many children started at once, they would be slow and look
            # like children that hang.
            if self.ending or self.starting >= self._starting_at_once:
                break
            if slot.state is SlotState.DOWN and slot.due <= now:
                self._start(slot, now)
        # ``settled`` never becomes false again: a later failure is not a failed
        # start.
        if not self.settled and not self.ending:
            self.settled = all(slot.state is SlotState.SERVING for slot in self.slots)

    def next_tick_seconds(self, now: float) -> float:
        """Return the seconds until the next tick is due if no signal arrives."""
        next_tick = now + self._observe_seconds
        for slot in self.slots:
            if slot.pid:
                next_tick = min(next_tick, slot.deadline)
            elif not self.ending:
                next_tick = min(next_tick, slot.due)
        return max(next_tick - now, 0.0)

    @property
    def _observe_seconds(self) -> float:
        """Longest time between two checks of the children, and between two
        heartbeats."""
        hang_seconds = self.config.server.hang_seconds
        return min(_OBSERVE_SECONDS, hang_seconds / _OBSERVATIONS_PER_HANG)

    # --- life -----------------------------------------------------------------

    def _start(self, slot: Slot, now: float) -> None:
        """Fork the child of a slot. A fork that fails counts as a failed child."""
        slot.status.clear()
        _flush_streams()

        # Until the child has its own handlers, a signal to it would go into the
        # pipe of the supervisor. So signals are blocked around the fork.
        with self.signals.blocked(), self.permits.line() as line:
            run = self._child_of(slot, line)
            try:
                pid = _fork()
            except OSError as error:
                slot.since = now
                self._failed(slot, now, f"fork failed: {error.strerror}")
                return
            if pid == 0:  # this process is the child
                run()
        slot.forked(pid, now, self.generation)

    def _child_of(
        self, slot: Slot, line: _socket.socket | None
    ) -> Callable[[], NoReturn]:
        """Return the function that the child of a slot runs, which never
        returns.

        The function is made before the fork, so that the child has nothing else
        to do. ``line`` is the child's end of the socket by which it asks for
        bulk permits: the permission to write a broadcast to very many
        connections. None if nodes need no permits.
        """
        reading, writing = self._lifeline
        foreign = [other.listeners for other in self.slots if other is not slot]

        # A child inherits all files of the supervisor. It keeps its own
        # listeners and the reading end of the lifeline.
        return partial(
            run_child,
            slot=slot,
            config=for_child(self.config, slot.number),
            read_config=partial(self._read_config_of, slot),
            lifeline=reading,
            line=line,
            close_inherited=partial(self._close_in_child, writing, foreign),
            beat_seconds=self._observe_seconds,
        )

    def _close_in_child(self, lifeline: int, foreign: Sequence[Listeners]) -> None:
        """Close the files that a child has inherited and does not need.

        ``lifeline`` is the writing end of the lifeline, and ``foreign`` has the
        listeners of the other children.
        """
        self.signals.release()
        os.close(lifeline)
        self.permits.close()
        for listeners in foreign:
            close_all(listeners)
        self.close_inherited()

    def _read_config_of(self, slot: Slot) -> Config:
        """Read the settings again, for the child of a slot."""
        return for_child(self.read_config(), slot.number)

    def _reap(self, now: float) -> None:
        """Handle all children that have ended since the last call."""
        while True:
            try:
                pid, status = _waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return  # the supervisor has no child at all
            if not pid:
                return  # no other child has ended
            code = os.waitstatus_to_exitcode(status)
            for slot in self.slots:
                if slot.pid == pid:
                    self._ended(slot, code, now)

    def _ended(self, slot: Slot, code: int, now: float) -> None:
        """Handle the end of the child of a slot.

        ``code`` is its exit status, or the negative number of the signal that
        ended it. If the supervisor has not ordered the end, it counts as a
        failure, whatever the status is.
        """
        how_it_ended = _how_it_ended(slot, code)
        if slot.state is not SlotState.DRAINING:
            self._failed(slot, now, how_it_ended)
            return

        # A child that does not serve yet has no handler, so the drain signal
        # itself ends it. That is not a failure.
        if code and slot.status.marks.started:
            self.bad_ends += self.ending
            self.report(
                logging.WARNING,
                f"node {slot.name} (pid {slot.pid}): drain {how_it_ended}",
            )
        slot.ended(now, planned=True)

    def _failed(self, slot: Slot, now: float, how_it_ended: str) -> None:
        """Handle the failure of a child, which has ended by itself or could not
        be forked.

        The child is started again after a pause. During the first start, all
        children are ended instead. ``how_it_ended`` is for the log, for example
        "ended by SIGKILL".
        """
        if not self.settled:
            self._end_first_start(slot, now, how_it_ended)
            return

        name = f"node {slot.name} (pid {slot.pid})"
        lived = now - slot.since
        pause = slot.ended(now, planned=False)
        self.report(
            logging.ERROR,
            f"{name} {how_it_ended}, after {lived:.1f} s; restarting in {pause:.1f} s",
        )

    def _end_first_start(self, slot: Slot, now: float, how_it_ended: str) -> None:
        """End all children, because one has failed in the first start.

        The cause usually concerns all nodes. So the first start succeeds for
        all nodes or for none.
        """
        reason = slot.status.text(failed=True) or how_it_ended
        self.failure = StartError(f"node {slot.name}: {reason}")
        slot.ended(now, planned=True)
        self.drain_all()

    # --- looking after them ---------------------------------------------------

    def _observe(self, now: float) -> None:
        """Check the running children, and kill children that hang.

        A child hangs if its event loop has written no heartbeat for
        ``server.hang_seconds``. A child that has passed its deadline, such as
        the deadline of a drain, is killed, too.
        """
        # If this process was paused, it has not seen the heartbeats meanwhile.
        # So the time of the pause does not count as silence of the children.
        missed = max(now - self._observed_at - 2 * self._observe_seconds, 0.0)
        self._observed_at = now
        for slot in self.slots:
            if not slot.pid:
                continue
            if slot.observe(now, missed):
                self._serves(slot)
            if not slot.hangs:
                self._check_silence(slot, now)
            if now >= slot.deadline:
                os.kill(slot.pid, signal.SIGKILL)
                # The deadline is set to a later time, because the child is
                # reaped at a later tick.
                slot.deadline = now + _OBSERVE_SECONDS

    def _serves(self, slot: Slot) -> None:
        """Handle a child that has begun to serve. From now on it can take
        signals."""
        self.report(logging.INFO, f"node {slot.name} (pid {slot.pid}) is serving")
        for number in slot.waiting_signals:
            os.kill(slot.pid, number)
        slot.waiting_signals.clear()

    def _check_silence(self, slot: Slot, now: float) -> None:
        """Begin to end a child whose event loop has been blocked for too long.

        First it gets a signal to write its stack, which shows what blocks it. It is
        killed when the time for that is over.
        """
        silent_seconds = slot.silent_seconds(now)
        if silent_seconds < self.config.server.hang_seconds:
            return
        slot.hangs = True
        self.report(
            logging.ERROR,
            f"node {slot.name} (pid {slot.pid}): event loop blocked for "
            f"{silent_seconds:.0f} s, killing it; the stack follows on standard error",
        )
        # The handler of this signal writes the stack even if the loop is
        # blocked.
        os.kill(slot.pid, STACK_SIGNAL)
        slot.deadline = min(slot.deadline, now + _STACK_SECONDS)

    # --- orders ---------------------------------------------------------------

    def forward(self, number: int) -> None:
        """Send a signal to all nodes. A node that is starting receives it when
        it serves."""
        for slot in self.slots:
            if slot.state is SlotState.STARTING:
                slot.waiting_signals.append(number)
            elif slot.pid:
                os.kill(slot.pid, number)

    def drain(self, slot: Slot) -> None:
        """Let one child close its connections and end. It is killed if it takes
        too long."""
        slot.state = SlotState.DRAINING
        drain = self.config.drain
        # The child may take as long as its settings allow, and some time more.
        seconds = drain.delay_seconds + drain.close_seconds
        seconds += self.config.websocket.close_seconds + _DRAIN_SECONDS
        slot.deadline = min(slot.deadline, time.monotonic() + seconds)
        os.kill(slot.pid, signal.SIGTERM)

    def drain_all(self) -> None:
        """Drain all children and close their listeners. From now on no child is
        started."""
        self.ending = True
        # All listeners are closed first, so that no child gets another
        # connection.
        for slot in self.slots:
            close_all(slot.listeners)
        for slot in self.slots:
            if slot.pid and slot.state is not SlotState.DRAINING:
                self.drain(slot)

    def end_at_once(self) -> None:
        """Shorten the drain of all children, after a second signal."""
        latest = time.monotonic() + _SHORT_DRAIN_SECONDS
        for slot in self.slots:
            if slot.pid:
                slot.deadline = min(slot.deadline, latest)
                os.kill(slot.pid, signal.SIGTERM)


#: Makes a child write its Python stack to standard error. It is sent before a
#: hung child is killed.
STACK_SIGNAL: Final = signal.SIGQUIT


def _how_it_ended(slot: Slot, code: int) -> str:
    """Describe the end of a child, such as "ended by SIGKILL".

    ``code`` is its exit status, or the negative number of the signal.
    """
    if code < 0:
        text = f"ended by {signal.Signals(-code).name}"
    else:
        text = f"ended with status {code}"
    failure = slot.status.text(failed=True)
    if failure:
        return f"{text}: {failure}"
    return text


def run_child(
    slot: Slot,
    config: Config,
    read_config: Callable[[], Config],
    *,
    lifeline: int,
    line: _socket.socket | None,
    close_inherited: Callable[[], None],
    beat_seconds: float,
) -> NoReturn:
    """Run a node in this forked process, and end the process.

    The function never returns, so no code of the supervisor runs in the child.
    The exit status is 0 if the node has ended as it should.

    ``lifeline`` is a pipe that becomes readable when the supervisor has ended.
    ``line`` is the child's socket to the bulk permits of the supervisor; None
    if nodes need no permits. ``close_inherited`` closes the files that belong
    to other processes. ``beat_seconds`` is the time between two heartbeats.
    """
    status = 1
    try:
        _leave_supervisor()
        close_inherited()
        faulthandler.register(STACK_SIGNAL, file=sys.__stderr__ or 2, all_threads=False)
        heartbeat = _Heartbeat(slot.status, beat_seconds)
        watcher = gevent.get_hub().loop.io(lifeline, 1, ref=False)
        watcher.start(_supervisor_gone, watcher)
        listeners = {name: wrapped(sock) for name, sock in slot.listeners.items()}

        try:
            started = partial(_node_started, heartbeat, line)
            serving.serve(config, read_config, started, listeners, slot.name)
            status = 0
        except StartError as error:
            slot.status.report(str(error), failed=True)
    except BaseException:
        traceback.print_exc()
    finally:
        # sys.exit() would run the code of the supervisor above this call, so it
        # is not used.
        os._exit(status)


def _node_started(
    heartbeat: _Heartbeat, line: _socket.socket | None, node: Node
) -> None:
    """Begin the work that a child does for its supervisor once its node
    serves."""
    heartbeat.started(node)
    if line is not None:
        _ask_for_permits(node, line)


def _flush_streams() -> None:
    """Write the buffers of the console before a fork.

    Otherwise the child would write its copy of the buffers, too.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the stream has no reader any more
            stream.flush()


def _leave_supervisor() -> None:
    """Make this forked process independent of the supervisor's loop and
    terminal."""
    # The hub and the loop of gevent do not survive a fork.
    gevent.reinit()
    # In a group of its own, the child gets no Ctrl-C of the terminal. The
    # supervisor drains it instead.
    os.setpgid(0, 0)


def _ask_for_permits(node: Node, line: _socket.socket) -> None:
    """Let a node ask the supervisor before it writes a broadcast to very many
    connections.

    If there are many nodes on one machine, only a few of them may write such
    broadcasts at a time.
    """
    flusher = node.core.network.flusher
    flusher.permit = BulkPermit(
        line=line,
        loop=gevent.get_hub().loop,
        granted=flusher.schedule,
        write_seconds=WRITE_SECONDS,
        hold_seconds=HOLD_SECONDS,
        wait_seconds=WAIT_SECONDS,
    )


class _Heartbeat:
    """Writes the state of this node to its status page, again and again.

    A timer of the event loop writes it. If the loop is blocked, the heartbeats
    stop, and the supervisor notices that.
    """

    def __init__(self, status: StatusPage, seconds: float) -> None:
        """Begin to write a heartbeat every ``seconds``. Until :meth:`started`
        is called, the page says that the node is starting."""
        self._page = status
        self._node: Node | None = None
        self._beat()
        loop = gevent.get_hub().loop
        # The imports took time, so the time that the loop has stored is old.
        # With it the timer would fire too early.
        loop.update_now()
        self._timer: Any = loop.timer(until_beat(seconds), seconds, ref=False)
        self._timer.start(self._beat)

    def started(self, node: Node) -> None:
        """Report the state of ``node`` from now on."""
        self._node = node
        self._page.report("\n".join(serving.banner_notes(node)))
        self._beat()

    def _beat(self) -> None:
        """Callback of the timer: write the state of the node, and count the
        heartbeat."""
        node = self._node
        if node is None:  # the node is still starting
            marks = NodeMarks(started=False, ready=False, connections=0, room=0)
        else:
            connections = len(node.core.network.context.connections)
            room = max(node.core.node.max_connections - connections, 0)
            is_ready = node.core.status.ready()
            marks = NodeMarks(
                started=True, ready=is_ready, connections=connections, room=room
            )
        self._page.beat(marks)


def _supervisor_gone(watcher: Any) -> None:
    """Drain this node, because its supervisor is gone and nobody else could
    restart or end the node."""
    watcher.stop()
    logging.getLogger(__name__).error("the supervisor process has ended")
    os.kill(os.getpid(), signal.SIGTERM)


#: Rolling restart. A process without a handler ignores SIGURG.
ROLL: Final = signal.SIGURG
#: Drains all nodes; a second signal ends them at once.
DRAIN: Final = (signal.SIGTERM, signal.SIGINT)
#: Forwarded to all nodes.
FORWARDED: Final = (signal.SIGUSR1, signal.SIGUSR2)

_HANDLED: Final = (*DRAIN, signal.SIGHUP, *FORWARDED, ROLL, signal.SIGCHLD)

# The patched version would start a gevent loop.
_set_handler: Final = monkey.get_original("signal", "signal")


def _do_nothing(*_: Any) -> None:
    """Do nothing with a signal. The interpreter has already written its number
    to the pipe."""


class SignalQueue:
    """The signals that have arrived and were not read yet.

    The interpreter writes the number of each signal into a pipe, on which the
    supervisor can wait together with other files. A process has only one queue.
    Owner: the supervisor.
    """

    def __init__(self) -> None:
        """Let Python write the number of each signal into a pipe, which
        :meth:`wait` reads."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        for number in _HANDLED:
            _set_handler(number, _do_nothing)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        take_signals()

    def wait(self, seconds: float, permits: BulkPermits) -> list[int]:
        """Wait up to ``seconds`` for signals, and return their numbers in
        order.

        During the wait, nodes that ask for ``permits`` get answers. The list is
        empty if no signal has come.
        """
        if permits.wait(self._reading, seconds):
            return list(os.read(self._reading, _SIGNALS_READ))
        return []

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Block signals around a fork, so that the child does not write them
        into the pipe of the supervisor.

        In the child, :meth:`release` unblocks the signals.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def release(self) -> None:
        """In a child: give up the supervisor's handling of signals.

        Until the node has its own handlers, a drain signal (:data:`DRAIN`) ends
        the child at once, and other signals are ignored.
        """
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)
        for number in _HANDLED:
            # The action of each signal is set only once. If a signal were
            # ignored even for a moment, a pending signal would be lost.
            if number in DRAIN or number == signal.SIGCHLD:
                _set_handler(number, signal.SIG_DFL)
            else:
                _set_handler(number, signal.SIG_IGN)
        # A child in the background may still write to the terminal.
        _set_handler(signal.SIGTTOU, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
