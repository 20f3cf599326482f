"""The commands of clients: a row for each, and the dispatcher that runs
them."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Final

from msgspec import Struct

from imserver.gateway.errors import (
    ReplyCode,
    ServiceRefused,
    StartError,
    StorageUnavailable,
    Unavailable,
)
from imserver.gateway.metrics import SLOW_SECONDS, Metrics
from imserver.gateway.model import BadFrame, Command, Reply, Request
from imserver.gateway.transport.connection import Connection, Serve

log = logging.getLogger(__name__)

_OK: Final = ReplyCode.OK
_NOT_LOGGED_IN: Final = Reply(ReplyCode.NOT_LOGGED_IN)
_NO_ROUTE: Final = Reply(ReplyCode.NO_ROUTE)


class CommandRow(Struct, frozen=True):
    """One command: its function, and whether it needs a session.
    ``without_user``: it may have no user.

    ``run`` is called with the connection and the command. With ``answers`` it
    is also called with a function that sends the reply. If it returns None, it
    calls that function once, possibly later. Such replies may arrive after the
    replies to later requests. None without ``answers``: the command has no
    reply. A ServiceRefused of ``run`` is a reply with its code; ``refusals``:
    other exceptions that are replies, and other codes. ``act``: the name under
    which observers get each command that has succeeded, before its reply.
    ``""``: it changes nothing, or users do it all day. A command with an act
    cannot have ``answers``.
    """

    run: Callable[..., Reply | None]
    needs_session: bool = True
    answers: bool = False
    without_user: bool = False
    refusals: dict[type[Exception], int] = {}
    act: str = ""

    def code_of(self, error: Exception) -> int:
        """The reply code of a command that ends with this exception; 0: the
        server has failed."""
        code = self.refusals.get(type(error), 0)
        if (
            code
            or not isinstance(error, ServiceRefused)
            or isinstance(error, Unavailable)
        ):
            return code
        return error.reply_code


CommandTable = Mapping[type, CommandRow]
"""Command → its row."""


OnActed = Callable[[Connection, str, Command], None]
OnRefused = Callable[[Connection, Request, Reply, Exception | None], None]


def _report_to_nobody(*_: object) -> None:
    """Do nothing, in place of an observer that nobody has set."""


class Dispatcher:
    """Runs the commands of all dialects from one table.

    The functions given to :meth:`report_to` get each command that has changed
    something, and each reply that refuses a command.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.table: dict[type, CommandRow] = {}
        self._metrics = metrics
        self._fast = metrics.commands.fast
        self._acted: OnActed = _report_to_nobody
        self._refused: OnRefused = _report_to_nobody

    def report_to(
        self, acted: OnActed | None = None, refused: OnRefused | None = None
    ) -> None:
        """From now on call these functions, in place of earlier ones.

        ``acted(connection, act, command)`` is called for rows with an ``act``,
        and may switch greenlets. ``refused(connection, request, reply, error)``
        is called with each reply that refuses a command, and the exception that
        is the reason.
        """
        if acted is not None:
            self._acted = acted
        if refused is not None:
            self._refused = refused

    def add(self, rows: CommandTable) -> None:
        """Add the commands of a service. Raises StartError if another service
        has one of them."""
        for command in self.table.keys() & rows.keys():
            raise StartError(f"the command {command.__name__} has a row already")
        self.table.update(rows)

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Answer one message. If the database does not answer, the client gets
        code 1008. Any other exception that is not a refusal of the command is
        logged with its traceback, and the client gets code 1004. A command
        without a row belongs to a feature that this node does not have: code
        1010.
        """
        self._metrics.messages_in += 1
        dialect = connection.encoding.dialect
        try:
            request = dialect.decode(payload)
        except BadFrame as bad:
            if bad.reply is not None:
                connection.send(bad.reply)
            if bad.close:
                connection.close(bad.close)
            return

        # Each command of a client passes here, so that :meth:`run` is written
        # out, with the time of the command.
        command = request.command
        reply: Reply | None
        reason: Exception | None = None
        began = 0.0
        if command is None:
            reply = Reply(request.code)
        else:
            row = self.table.get(type(command))
            if row is None:
                reply = _NO_ROUTE
            elif row.needs_session and not (
                connection.user or (row.without_user and connection.app)
            ):
                reply = _NOT_LOGGED_IN
            else:
                began = perf_counter()
                try:
                    if row.answers:
                        answer = partial(self._reply, connection, request, began)
                        reply = row.run(connection, command, answer)
                    else:
                        reply = row.run(connection, command)
                        if row.act:
                            self._report_act(connection, row.act, command, reply)
                except StorageUnavailable:
                    reply = Reply(ReplyCode.NOT_STORED)
                except Exception as error:
                    code = row.code_of(error)
                    if not code:
                        log.exception(
                            "%s failed",
                            request.name,
                            extra={"connection": connection.peer},
                        )
                    reply = Reply(code or ReplyCode.SYSTEM)
                    reason = error

        # None: the command has no reply, or answers later.
        if reply is not None:
            self._reply(connection, request, began, reply, reason)

    def _reply(
        self,
        connection: Connection,
        request: Request,
        began: float,
        reply: Reply,
        reason: Exception | None = None,
    ) -> None:
        if began:
            seconds = perf_counter() - began
            if seconds < SLOW_SECONDS:
                self._fast[type(request.command)].append(seconds)
            else:
                name = type(request.command).__name__
                self._metrics.commands.took(name, seconds, connection.peer)

        if reply.code != _OK:
            self._refused(connection, request, reply, reason)
        payload = connection.encoding.dialect.encode_reply(request, reply)
        if payload is not None:
            connection.send(payload)

    def run(
        self, connection: Connection, command: Command, answer: Callable[[Reply], None]
    ) -> Reply | None:
        """Run a command that another command is translated into. Arguments and
        result are as in :attr:`CommandRow.run` with ``answers``. Refusals are
        replies; other exceptions are raised."""
        row = self.table.get(type(command))
        if row is None:
            return _NO_ROUTE
        if row.needs_session and not (
            connection.user or (row.without_user and connection.app)
        ):
            return _NOT_LOGGED_IN

        try:
            if row.answers:
                return row.run(connection, command, answer)
            reply = row.run(connection, command)
            if row.act:
                self._report_act(connection, row.act, command, reply)
            return reply
        except Exception as error:
            code = row.code_of(error)
            if not code:
                raise
            return Reply(code)

    def _report_act(
        self, connection: Connection, act: str, command: Command, reply: Reply | None
    ) -> None:
        if reply is not None and reply.code == ReplyCode.OK:
            self._acted(connection, act, command)


def serve_each(serve: Serve) -> Serve:
    """Wrap ``serve`` for dialects whose frames contain several requests."""

    def serve_requests(connection: Connection, payload: bytes, text: bool) -> None:
        try:
            requests = connection.encoding.dialect.split(payload)
        except BadFrame as bad:
            connection.close(bad.close)
            return
        for number, request in enumerate(requests):
            if number and not connection.may_continue():
                return
            serve(connection, request, text)

    return serve_requests
