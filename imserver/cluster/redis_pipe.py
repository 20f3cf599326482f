"""The pipe: everything that this node asks Redis in one turn of the loop leaves in one pipeline.

One greenlet sends a pipeline, waits for its replies, hands them out, and goes on with what has gathered
meanwhile. Who asks waits for at most the time of one exchange: when one fails, all that wait behind it
are told so too, the *circuit* opens, and until a probe succeeds every question is answered with None at
once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.event import Event as Signal
from gevent.hub import Waiter, get_hub

from imserver.cluster.contract import Counters
from imserver.cluster.redis_scripts import EPOCH
from imserver.cluster.redis_wire import Away, Command, Wire

log = logging.getLogger(__name__)

_PIPELINE_COMMANDS: Final = 1000
"""Commands after which a pipeline is full; what is asked together is never torn apart."""
_TOLD_SECONDS: Final = 0.25
"""How long what nobody waits for may wait for a pipeline to ride in. Under load the next leaves at once."""
_TOLD_LIMIT: Final = 100_000
_PROBE: Final = ("EXISTS", EPOCH)
"""Something with a key, so that a Redis Cluster knows whom to ask."""


class Pipe:
    """Owner of the queue, the circuit and the wire's greenlet.

    ``may_send`` is asked before each pipeline: False (the lease has run out) answers all that wait with None.
    ``on_failure`` is called, and must not switch, when the circuit opens.
    """

    def __init__(
        self,
        wire: Wire,
        counters: Counters,
        may_send: Callable[[], bool],
        on_failure: Callable[[], None],
    ) -> None:
        self.closed = False
        """Whether questions may pass: the circuit. Open until the first probe has succeeded."""
        self._wire = wire
        self._counters = counters
        self._may_send = may_send
        self._on_failure = on_failure
        self._asked: deque[tuple[Sequence[Command], Waiter[Any]]] = deque()
        self._told: deque[Command] = deque()
        self._wake = Signal()
        # Repeating: a timer that has fired once would fire at once when it is started again.
        self._timer = get_hub().loop.timer(0.0, _TOLD_SECONDS)
        self._timer_runs = False
        self._told_due = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Send what nobody waits for, as far as Redis takes it, and end. Who still waits gets None.
        Switches."""
        if self.closed:
            self._ask([_PROBE])
        self.closed = False
        if self._greenlet is not None:
            self._greenlet.kill()
        self._timer.close()
        self._answer_none()
        self._wire.close()

    def ask(self, commands: Sequence[Command]) -> list[Any] | None:
        """The replies to ``commands``, errors of single ones among them; None: no answer. Switches."""
        if not self.closed:
            self._counters.unanswered += 1
            return None
        return self._ask(commands)

    def probe(self) -> bool:
        """Whether Redis answers here; if it does the circuit is closed. Switches."""
        if self._ask([_PROBE]) is None:
            return False
        self.closed = True
        return True

    def tell(self, command: Command) -> None:
        """Send a command soon, with the next pipeline; nobody waits for its reply. Never switches."""
        if self.closed and len(self._told) < _TOLD_LIMIT:
            self._told.append(command)
            if not self._timer_runs:
                self._timer_runs = True
                self._timer.again(self._tell_now)

    def _tell_now(self) -> None:
        """Callback of the timer."""
        self._timer.stop()
        self._told_due = True
        self._wake.set()

    def _ask(self, commands: Sequence[Command]) -> list[Any] | None:
        waiter: Waiter[Any] = Waiter()
        self._asked.append((commands, waiter))
        self._wake.set()
        replies: list[Any] | None = waiter.get()
        return replies

    def _run(self) -> None:
        """Greenlet: one pipeline after the other."""
        while True:
            if not self._asked and not self._told_due:
                self._wake.clear()
                self._wake.wait()
            asked, commands = self._gather()
            try:
                replies = self._exchange(commands) if commands else []
            except Exception:
                # A fault of ours in one question must not end the greenlet that all wait for.
                log.exception("a pipeline to Redis failed")
                replies = None
            self._hand_out(asked, replies)

    def _gather(self) -> tuple[list[tuple[int, int, Waiter[Any]]], list[Command]]:
        """All commands of the next pipeline, and who waits for which of them."""
        commands: list[Command] = []
        while self._told and len(commands) < _PIPELINE_COMMANDS:
            commands.append(self._told.popleft())
        self._told_due = self._timer_runs = bool(self._told)
        self._timer.stop()
        asked = []
        while self._asked and len(commands) < _PIPELINE_COMMANDS:
            wanted, waiter = self._asked.popleft()
            asked.append((len(commands), len(commands) + len(wanted), waiter))
            commands += wanted
        return asked, commands

    def _exchange(self, commands: Sequence[Command]) -> list[Any] | None:
        if not self._may_send():
            return None
        try:
            replies = self._wire.exchange(commands)
        except Away as away:
            self._fail(away)
            return None
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                log.error("Redis refused %s: %s", command[0], reply)
        return replies

    def _fail(self, away: Away) -> None:
        if self.closed:
            self.closed = False
            log.warning("Redis is away: %s", away)
            self._on_failure()
        self._told.clear()
        self._answer_none()

    def _answer_none(self) -> None:
        while self._asked:
            self._answer(self._asked.popleft()[1], None)

    def _hand_out(self, asked: Sequence[tuple[int, int, Waiter[Any]]], replies: list[Any] | None) -> None:
        for first, last, waiter in asked:
            self._answer(waiter, None if replies is None else replies[first:last])

    def _answer(self, waiter: Waiter[Any], replies: list[Any] | None) -> None:
        if replies is None:
            self._counters.unanswered += 1
        get_hub().loop.run_callback(waiter.switch, replies)
