"""The pipeline to Redis: the commands of one loop iteration leave together.

A pipeline is sent by a callback at the end of a turn. Another callback reads
its replies, answers the callers and sends the commands that were queued
meanwhile. A greenlet does the work that would block: it connects, and repeats
an exchange after a lost connection. When an exchange fails, all queued callers
get None, the circuit opens, and until a probe succeeds every call returns None
at once. If one master of a Redis Cluster does not answer, only callers with
commands for this master get None.

Each exchange has a time limit. After a failure its connection is dropped. An
exchange of the greenlet after a lost connection has its own time limit.
Commands must be harmless when executed twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.hub import Waiter, get_hub

from imserver.gateway.cluster.redis.connection import ErrorReply, RedisUnavailable
from imserver.gateway.cluster.redis.link import Command, RedisLink, words_of
from imserver.gateway.cluster.redis.scripts import EPOCH

log = logging.getLogger(__name__)

_PIPELINE_COMMANDS: Final = 1000
"""Commands after which a pipeline is full; commands of one call are never
split."""
_AT_ONCE: Final = 64
"""How many callers of a pipeline are switched to directly. Further callers get
their replies by a callback each."""
_POST_SECONDS: Final = 0.25
"""How long posted commands wait for a pipeline that is sent for other
commands."""
_MAX_POSTED: Final = 100_000
"""Limit of the waiting posted commands. Further ones are dropped."""
_USUAL: Final = frozenset((bytes, int, list, type(None)))
"""Types of replies that are not errors."""
_PROBE: Final = ("EXISTS", EPOCH)
"""The command of a probe. The link to a Redis Cluster sends it, with other
keys, to all masters."""


class Pipeline:
    """Sends the commands of all callers to Redis together, and answers the
    callers.

    ``may_send`` is called before each pipeline. If it returns False, because
    the lease of this node has expired, all callers get None. ``on_failure`` is
    called when the circuit opens, which means that no calls pass any more, and
    when a server was not reached. It must not switch greenlets.

    Owner of the queue, the circuit and the greenlet for exchanges that may
    block.
    """

    def __init__(
        self,
        link: RedisLink,
        may_send: Callable[[], bool],
        on_failure: Callable[[], None],
    ) -> None:
        """Prepare a pipeline over ``link``. It sends nothing before
        :meth:`start` and the first probe."""
        self.admits_calls = False
        """Whether calls may pass. No call may pass until the first probe has
        succeeded."""
        self._link = link
        self._counters = link.counters
        self._may_send = may_send
        self._on_failure = on_failure
        self._requests: deque[tuple[Sequence[Command], Waiter[Any]]] = deque()
        """The calls that wait for a pipeline."""
        self._posted: list[Command] = []
        """The posted commands that wait for a pipeline. Nobody waits for their
        replies."""
        self._busy = False
        """Whether a pipeline is under way, or will be sent at the end of this
        turn."""
        self._commands: list[Command] = []
        """The commands of the pipeline that is under way."""
        self._callers: list[tuple[int, int, Waiter[Any]]] = []
        """The callers that wait for the pipeline that is under way. Each has
        the index of its first command, the index after its last command, and
        the waiter to answer."""
        self._handed_over = False
        """Whether the greenlet has to exchange the pipeline."""
        self._idle: Waiter[None] | None = None
        """The waiter of the greenlet while it has nothing to do."""
        # Under load the next pipeline is sent at once, and the timer does not
        # fire. The timer repeats, because a one-shot timer that has fired would
        # fire at once when it is restarted.
        self._timer = get_hub().loop.timer(0.0, _POST_SECONDS)
        self._timer_runs = False
        self._post_due = False
        """Whether posted commands have waited long enough, so that they leave
        even without a call."""
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Start the greenlet."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Send posted commands if possible, and end.

        Waiting callers get None. Switches greenlets.
        """
        if self.admits_calls:
            # The posted commands are sent together with this probe.
            self._execute([_PROBE])
        self.admits_calls = False
        if self._greenlet is not None:
            self._greenlet.kill()
        self._timer.close()
        self._link.close()
        self._answer_all(replies=None)
        self._answer_none()

    def execute(self, commands: Sequence[Command]) -> list[Any] | None:
        """Send commands and wait for their replies.

        The reply to a command that failed is an exception. Returns None if
        Redis does not answer. Switches greenlets.
        """
        if not self.admits_calls:
            self._counters.unanswered += 1
            return None
        # The body of _execute() is repeated here, which saves a call or two for
        # each push.
        waiter: Waiter[Any] = Waiter()
        self._requests.append((commands, waiter))
        if not self._busy:
            self._wake()
        replies: list[Any] | None = waiter.get()
        return replies

    def execute_all(self, commands: Sequence[Command]) -> list[Any] | None:
        """Send commands and wait for their replies. Returns None if Redis does
        not answer, or if one command failed."""
        replies = self.execute(commands)
        if replies is None or any(isinstance(reply, Exception) for reply in replies):
            return None
        return replies

    def probe(self) -> bool:
        """Ask whether Redis answers. If so, calls may pass again.

        Switches greenlets.
        """
        if self._execute([_PROBE]) is None:
            return False
        self.admits_calls = True
        return True

    def post(self, command: Command) -> None:
        """Send a command with a later pipeline, without waiting for its reply.

        The command is dropped if Redis is unavailable. Never switches
        greenlets.
        """
        if self.admits_calls and len(self._posted) < _MAX_POSTED:
            self._posted.append(command)
            if not self._timer_runs:
                self._timer_runs = True
                self._timer.again(self._post_now)

    def _post_now(self) -> None:
        """Callback of the timer: posted commands have waited long enough."""
        self._timer.stop()
        self._post_due = True
        self._wake()

    def _execute(self, commands: Sequence[Command]) -> list[Any] | None:
        """Send commands and wait for their replies, also while no calls may
        pass."""
        waiter: Waiter[Any] = Waiter()
        self._requests.append((commands, waiter))
        self._wake()
        replies: list[Any] | None = waiter.get()
        return replies

    def _wake(self) -> None:
        """Send at the end of this turn, with all commands of the turn.

        If a pipeline is under way, its end sends the next one.
        """
        if not self._busy:
            self._busy = True
            get_hub().loop.run_callback(self._send)

    def _send(self) -> None:
        """Send the queued commands. Callback: never switches greenlets.

        A caller is the index of its first command, the index after its last
        command, and the waiter to answer.
        """
        commands = self._posted[:_PIPELINE_COMMANDS]
        self._posted = self._posted[_PIPELINE_COMMANDS:]
        has_more_posted = bool(self._posted)
        self._post_due = has_more_posted
        self._timer_runs = has_more_posted
        self._timer.stop()

        callers = []
        while self._requests and len(commands) < _PIPELINE_COMMANDS:
            call, waiter = self._requests.popleft()
            callers.append((len(commands), len(commands) + len(call), waiter))
            commands += call
        self._callers = callers
        self._commands = commands

        if not commands:
            self._finish([])  # the timer has fired, but no commands wait
        elif not self._may_send():
            self._finish(replies=None)
        else:
            try:
                if not self._link.begin(commands, self._received):
                    self._hand_over()
            except Exception:
                # A bug in one call must not stop the pipelines that all callers
                # need.
                log.exception("a pipeline to Redis failed")
                self._finish(replies=None)

    def _received(self, result: list[Any] | RedisUnavailable | None) -> None:
        """Take the result of the link's exchange. Callback: never switches
        greenlets.

        None means that the greenlet has to repeat the exchange.
        """
        if result is None:
            self._hand_over()
        elif isinstance(result, RedisUnavailable):
            self._fail(result)
            self._finish(replies=None)
        else:
            self._finish(result)

    def _hand_over(self) -> None:
        """Let the greenlet exchange the pipeline, because that may block."""
        self._handed_over = True
        if self._idle is not None:
            idle = self._idle
            self._idle = None
            idle.switch(None)

    def _finish(self, replies: list[Any] | None) -> None:
        """Answer the callers of the pipeline, and send the next one at the end
        of the turn.

        If ``replies`` is None, all callers get None. Callback.
        """
        # Errors among the replies are rare.
        if replies is not None and not _USUAL.issuperset(map(type, replies)):
            self._handle_errors(replies)

        # This is set before the callers run, because they may queue commands
        # for the next pipeline.
        self._busy = False
        self._commands = []
        if replies is not None:
            # The first callers are switched to directly. Beyond a few, callers
            # share the turns with the sockets.
            callers = self._callers[:_AT_ONCE]
            self._callers = self._callers[_AT_ONCE:]
            for first, last, waiter in callers:
                waiter.switch(replies[first:last])
        self._answer_all(replies)
        if self._requests or self._post_due:
            self._wake()

    def _handle_errors(self, replies: Sequence[Any]) -> None:
        """Log the refused commands, and answer the callers whose server was not
        reached."""
        for command, reply in zip(self._commands, replies, strict=True):
            if isinstance(reply, ErrorReply):
                log.error("Redis refused %s: %s", words_of(command)[0], reply)
        if RedisUnavailable in map(type, replies):
            self._answer_unreached(replies)

    def _answer_unreached(self, replies: Sequence[Any]) -> None:
        """Answer None to each caller with a command for a server that does not
        answer.

        The other callers stay in ``_callers``.
        """
        self._on_failure()
        others = []
        for caller in self._callers:
            first, last, waiter = caller
            # One command without a reply is enough.
            if RedisUnavailable in map(type, replies[first:last]):
                self._answer(waiter, replies=None)
            else:
                others.append(caller)
        self._callers = others

    def _run(self) -> None:
        """Greenlet: exchange the pipelines that were handed over."""
        while True:
            if not self._handed_over:
                idle: Waiter[None] = Waiter()
                self._idle = idle
                idle.get()
            self._handed_over = False
            replies = None
            try:
                replies = self._link.exchange(self._commands)
            except RedisUnavailable as error:
                self._fail(error)
            except Exception:
                log.exception("a pipeline to Redis failed")
            # A callback calls it, because it switches to the callers.
            get_hub().loop.run_callback(self._finish, replies)

    def _fail(self, error: RedisUnavailable) -> None:
        """Open the circuit: no calls may pass until a probe succeeds.

        Drops posted commands, and answers None to the queued callers.
        """
        if self.admits_calls:
            self.admits_calls = False
            log.warning("Redis is unavailable: %s", error)
            self._on_failure()
        self._posted.clear()
        self._answer_none()

    def _answer_none(self) -> None:
        """Answer None to all callers that wait for a later pipeline."""
        while self._requests:
            _, waiter = self._requests.popleft()
            self._answer(waiter, replies=None)

    def _answer_all(self, replies: list[Any] | None) -> None:
        """Answer all callers of the pipeline, each by a callback of its own."""
        callers = self._callers
        self._callers = []
        for first, last, waiter in callers:
            if replies is None:
                self._answer(waiter, replies=None)
            else:
                self._answer(waiter, replies[first:last])

    def _answer(self, waiter: Waiter[Any], replies: list[Any] | None) -> None:
        """Answer one caller by a callback; None means that Redis did not
        answer."""
        if replies is None:
            self._counters.unanswered += 1
        get_hub().loop.run_callback(waiter.switch, replies)
