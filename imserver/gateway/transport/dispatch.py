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
    """A command of clients, as the dispatcher runs it.

    ``run(connection, command)`` runs the command and returns the reply, or None
    if the command has no reply.

    ``needs_session`` says whether the client must have logged in.
    ``without_user`` says whether a session without a user is enough.

    ``answers`` says whether ``run`` gets a third argument, a function that
    sends the reply. Then None means that ``run`` calls this function once,
    possibly later. Such a reply may arrive after the replies to later requests.

    ``refusals`` are exceptions of ``run`` that are replies, with their codes. A
    ServiceRefused that is not among them is a reply with its own code.

    ``act`` is the name under which observers get each command that has
    succeeded, before its reply. ``""`` means that observers do not get the
    command, because it changes nothing, or because users send it very often. A
    command with an act cannot have ``answers``.
    """

    run: Callable[..., Reply | None]
    needs_session: bool = True
    answers: bool = False
    without_user: bool = False
    refusals: dict[type[Exception], int] = {}
    act: str = ""

    def code_of(self, error: Exception) -> int:
        """Return the reply code of a command that ends with an exception.

        Returns 0 if the exception is a failure of the server, and no refusal.
        """
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
"""An observer of commands, see :meth:`Dispatcher.report_to`."""
OnRefused = Callable[[Connection, Request, Reply, Exception | None], None]
"""An observer of refusals, see :meth:`Dispatcher.report_to`."""


def _report_to_nobody(*_: object) -> None:
    """Do nothing, in place of an observer that nobody has set."""


class Dispatcher:
    """Runs the commands of all dialects from one table.

    Observers get each command that has changed something, and each reply that
    refuses a command (:meth:`report_to`).
    """

    def __init__(self, metrics: Metrics) -> None:
        """Begin with an empty table."""
        self.table: dict[type, CommandRow] = {}
        self._metrics = metrics
        self._fast = metrics.commands.fast
        self._acted: OnActed = _report_to_nobody
        self._refused: OnRefused = _report_to_nobody

    def report_to(
        self, acted: OnActed | None = None, refused: OnRefused | None = None
    ) -> None:
        """Set the observers, in place of earlier ones. None changes nothing.

        ``acted(connection, act, command)`` is called for each command with an
        ``act`` that has succeeded, and may switch greenlets.
        ``refused(connection, request, reply, error)`` is called for each reply
        that refuses a command. Its ``error`` is the exception that is the
        reason, or None.
        """
        if acted is not None:
            self._acted = acted
        if refused is not None:
            self._refused = refused

    def add(self, rows: CommandTable) -> None:
        """Add the commands of a service.

        Raises StartError if another service has one of these commands.
        """
        for command in self.table.keys() & rows.keys():
            raise StartError(f"the command {command.__name__} has a row already")
        self.table.update(rows)

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Decode one message, run its command and send the reply.

        The client gets code 1008 if the database does not answer. It gets code
        1010 if the command has no row, because it belongs to a feature that
        this node does not have. Any other exception that is not a refusal of
        the command is logged with its traceback, and the client gets code 1004.
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

        # This repeats the code of run(), and also measures the time of the
        # command. run() is not called, because the call would take time for
        # each command of a client.
        command = request.command
        reply: Reply | None
        reason: Exception | None = None
        started_at = 0.0  # 0: no command was run
        if command is None:  # the dialect has refused it
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
                started_at = perf_counter()
                try:
                    if row.answers:
                        # The command may send its reply later, by a function.
                        answer = partial(self._reply, connection, request, started_at)
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

        # If there is no reply, the command never replies, or it replies later.
        if reply is not None:
            self._reply(connection, request, started_at, reply, reason)

    def _reply(
        self,
        connection: Connection,
        request: Request,
        started_at: float,
        reply: Reply,
        reason: Exception | None = None,
    ) -> None:
        """Send the reply to a request, and count it.

        ``started_at`` is the time at which its command began
        (``perf_counter``). 0 means that no command was run. ``reason`` is the
        exception that is the reason of a refusal.
        """
        if started_at:
            seconds = perf_counter() - started_at
            if seconds < SLOW_SECONDS:
                self._fast[type(request.command)].append(seconds)
            else:
                name = type(request.command).__name__
                self._metrics.commands.took(name, seconds, connection.peer)

        if reply.code != _OK:
            self._refused(connection, request, reply, reason)
        # Some dialects have no answer to some commands.
        payload = connection.encoding.dialect.encode_reply(request, reply)
        if payload is not None:
            connection.send(payload)

    def run(
        self, connection: Connection, command: Command, answer: Callable[[Reply], None]
    ) -> Reply | None:
        """Run a command for a feature, which has translated another command
        into it.

        Returns its reply, or None if it has no reply or passes it to ``answer``
        later. A refusal is a reply. Other exceptions are raised.
        """
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
            # Observers get the command before its reply is sent.
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
        """Report a command with an ``act`` to the observers, if it has
        succeeded."""
        if reply is not None and reply.code == ReplyCode.OK:
            self._acted(connection, act, command)


def serve_each(serve: Serve) -> Serve:
    """Wrap ``serve`` for dialects whose frames contain several requests.

    The result splits a frame, and calls ``serve`` for each request in it.
    """

    def serve_requests(connection: Connection, payload: bytes, text: bool) -> None:
        """Serve the requests in a frame, until the connection closes."""
        try:
            requests = connection.encoding.dialect.split(payload)
        except BadFrame as bad:
            connection.close(bad.close)
            return
        for number, request in enumerate(requests):
            # Between two requests others may be served, and the connection may
            # end.
            if number and not connection.may_continue():
                return
            serve(connection, request, text)

    return serve_requests
