"""Lines of the log and traces around requests and commands, while they are
watched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from random import random
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import ReplyCode, StorageUnavailable
from imserver.plugin.http import Api, Call, Route
from imserver.plugin.services import Core
from imserver.plugin.wire import Command, CommandRow, Connection, Reply

if TYPE_CHECKING:
    from imserver.operate.watch.tracing import Tracer

log: Final = logging.getLogger("imserver.command")
log.setLevel(logging.INFO)  # as lines of requests, whatever the level

_SECOND_MS: Final = 1000
OWN_LEVEL: Final[ContextVar[bool]] = ContextVar("own_level", default=False)
"""Whether this greenlet runs a call that has its own log level."""


class CallRule(Struct, frozen=True):
    """The rule by which calls are watched.

    ``own_level`` says that they have another log level. ``lines`` is the share
    of commands that get a log line, from 0 to 1. ``trace`` is the share of
    calls with a trace, unless their caller decides; None means that no call has
    one.
    """

    own_level: bool = False
    lines: float = 0.0
    trace: float | None = None


class Calls:
    """Wraps the functions of routes and commands to watch them.

    Without a rule they are not wrapped, so that nothing costs time. ``tracer``
    is None if traces are off.
    """

    def __init__(self, core: Core, tracer: Tracer | None) -> None:
        """Begin without a rule, so that no call is watched."""
        self._tracer = tracer
        self.api: Api | None = None
        """The API; None until its routes exist."""
        self._table = core.dispatcher.table
        self._routes: dict[tuple[str, str], Route] = {}
        """(method, path) → the original route, for each wrapped one."""
        self._rows: dict[type, CommandRow] = {}
        """Command → its original row, for each wrapped one."""

    def has(self, name: str) -> bool:
        """Whether a route has this path, or a command of clients this name."""
        if self.api is not None and any(path == name for _, path in self.api.endpoints):
            return True
        return any(command.__name__ == name for command in self._table)

    def apply(self, name: str, rule: CallRule, others: CallRule) -> None:
        """Apply a rule to calls with this name, and the rule ``others`` to all
        other calls.

        ``""`` is the name of all calls. An earlier rule ends. Never switches
        greenlets.
        """

        def rule_of(call_name: str) -> CallRule:
            """The rule for the calls with this name."""
            if name in ("", call_name):
                return rule
            return others

        if self._tracer is not None:
            # A request to another server for which no call waits has no name.
            self._tracer.share = rule_of("").trace or 0.0
        self._apply_to_routes(rule_of)
        self._apply_to_commands(rule_of)

    def _apply_to_routes(self, rule_of: Callable[[str], CallRule]) -> None:
        """Wrap the functions of the routes that the rule watches.

        All routes are restored first, so that none is wrapped twice.
        """
        if self.api is None:
            return
        endpoints = self.api.endpoints
        for key, route in self._routes.items():
            endpoints[key].route = route
        self._routes = {}
        for key, endpoint in endpoints.items():
            _, path = key
            rule = rule_of(path)
            if rule.own_level or rule.trace is not None:
                route = endpoint.route
                self._routes[key] = route
                function = partial(self._answer, rule, route)
                endpoint.route = replace(route, function=function)

    def _apply_to_commands(self, rule_of: Callable[[str], CallRule]) -> None:
        """Wrap the commands that the rule watches.

        All commands are restored first, so that none is wrapped twice.
        """
        self._table.update(self._rows)
        self._rows = {}
        for command, row in tuple(self._table.items()):
            rule = rule_of(command.__name__)
            if rule.own_level or rule.lines or rule.trace:
                self._rows[command] = row
                watched = partial(self._run, rule, row)
                self._table[command] = replace(row, run=watched)

    def _answer(
        self, rule: CallRule, route: Route, service: object, call: Call, *read: object
    ) -> Any:
        """Call the function of a route, and apply a rule to it.

        ``read`` are the arguments of the function that the API has read from
        the request. The result is the result of the function.
        """
        assert route.function is not None
        run = partial(route.function, service, call, *read)
        if self._tracer is not None and rule.trace is not None:
            run = partial(self._tracer.answer, route, rule.trace, call, run)
        if not rule.own_level:
            return run()
        token = OWN_LEVEL.set(True)
        try:
            return run()
        finally:
            OWN_LEVEL.reset(token)

    def _run(
        self,
        rule: CallRule,
        row: CommandRow,
        connection: Connection,
        command: Command,
        *answers: Callable[[Reply], None],
    ) -> Reply | None:
        """Call :attr:`CommandRow.run` of a command, and apply a rule to it.

        The result is the reply. It is None if the command answers later, or has
        no reply. A command that answers later gets one argument in ``answers``:
        the function that it is to call with its reply.
        """
        watched = self._begin(rule, connection, command)

        def reply_later(reply: Reply) -> None:
            """Finish, and pass the reply on."""
            watched.finish(reply.code)
            answers[0](reply)

        wrapped_answers: tuple[Callable[[Reply], None], ...] = ()
        if answers:
            wrapped_answers = (reply_later,)
        token = OWN_LEVEL.set(rule.own_level)
        try:
            with watched.within():
                reply = row.run(connection, command, *wrapped_answers)
        except StorageUnavailable:
            # The dispatcher makes a reply with this code of the error.
            watched.finish(ReplyCode.NOT_STORED)
            raise
        except Exception as error:
            watched.finish(row.code_of(error) or ReplyCode.SYSTEM)
            raise
        finally:
            OWN_LEVEL.reset(token)
        if reply is not None:
            watched.finish(reply.code)
        elif not answers:
            # The command has no reply. One that answers later is not finished
            # yet.
            watched.finish(ReplyCode.OK)
        return reply

    def _begin(
        self, rule: CallRule, connection: Connection, command: Command
    ) -> _WatchedCommand:
        """Decide by chance whether a command gets a line of the log and a span,
        and begin the span."""
        watched = _WatchedCommand(
            connection,
            type(command).__name__,
            began=perf_counter(),
            has_line=random() < rule.lines,
            tracer=self._tracer,
        )
        if self._tracer is not None and random() < (rule.trace or 0.0):
            watched.span = self._tracer.begin(watched.name)
        return watched


class _WatchedCommand(Struct):
    """A command that runs now, with its line of the log and its span.

    ``began`` is the time of the performance counter. ``has_line`` says that the
    log gets a line. ``span`` is None if the command has no trace.
    """

    connection: Connection
    name: str
    began: float
    has_line: bool
    tracer: Tracer | None
    span: Any = None

    def within(self) -> AbstractContextManager[object]:
        """A context in which the span of the command is the current one."""
        if self.tracer is None or self.span is None:
            return nullcontext()
        return self.tracer.within(self.span)

    def finish(self, code: int) -> None:
        """Write the line, and end the span, with the code of the reply."""
        if self.has_line:
            log.info(
                "%s %s %d %.2fms app=%s user=%r",
                self.connection.peer,
                self.name,
                code,
                (perf_counter() - self.began) * _SECOND_MS,
                self.connection.app,
                self.connection.user,
            )
        if self.tracer is not None and self.span is not None:
            self.tracer.replied(self.span, self.connection, code)


class LevelFilter(logging.Filter):
    """A filter of log lines for calls with a log level of their own.

    Lines of such calls pass from ``level`` on. Lines of other code pass from
    the level ``others`` on. The filter applies to lines of one ``part`` of the
    server; all other lines pass.
    """

    def __init__(self, part: str, level: int, others: int) -> None:
        super().__init__()
        self._part = part
        self._level = level
        self._others = others

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line passes. Lines about watched commands always do."""
        if OWN_LEVEL.get():
            least = self._level
        else:
            least = self._others
        if record.levelno >= least or record.name == log.name:
            return True
        return not record.name.startswith(self._part)
