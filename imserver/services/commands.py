"""The commands of clients: one table for all dialects, and the dispatcher that serves messages by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.model import (
    Ack,
    AskMarks,
    AskReceipts,
    BadFrame,
    ChatLogin,
    ChatMessage,
    ChatSync,
    Command,
    Conversations,
    Heartbeat,
    Hide,
    History,
    Login,
    Ping,
    Read,
    Received,
    Reply,
    Request,
    Resume,
    Say,
    Search,
    Send,
    Sync,
    TalkLogin,
    Typing,
)
from imserver.services.dialects.action_service import ActionService
from imserver.services.dialects.protobuf_service import ProtobufService
from imserver.services.dialects.protobuf_uplink import ProtobufUplink
from imserver.services.messages.message_commands import MessageCommands
from imserver.services.messages.receipts import Receipts, Signals
from imserver.services.sessions.sessions import Sessions
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)

_OK: Final = Reply(errors.REPLY_OK)
_PONG: Final = Reply(errors.REPLY_OK, "pong")
_NOT_LOGGED_IN: Final = Reply(errors.REPLY_NOT_LOGGED_IN)
_FAILED: Final = Reply(errors.REPLY_SYSTEM)
_NOT_STORED: Final = Reply(errors.REPLY_NOT_STORED)


class CommandRow(Struct, frozen=True):
    """One command: the function that carries it out, and whether it needs a session.

    ``run`` gets the connection and the command. ``answers``: it gets a third argument too, and where it
    returns None it calls that with the reply, once, possibly later. Then replies to later requests may
    overtake it.
    """

    run: Callable[..., Reply | None]
    needs_session: bool = True
    answers: bool = False


CommandTable = Mapping[type, CommandRow]


def command_table(
    sessions: Sessions,
    messages: MessageCommands,
    receipts: Receipts,
    signals: Signals,
    action: ActionService,
    protobuf: ProtobufService,
    uplink: ProtobufUplink,
) -> CommandTable:
    """Every command of every dialect."""

    def login(connection: Connection, command: Login) -> Reply:
        code = sessions.login(connection, command)
        if log.isEnabledFor(logging.DEBUG):
            ids = {"connection": connection.peer}
            log.debug("login of %s in %s: %d", command.user, command.app, code, extra=ids)
        return _OK if code == errors.REPLY_OK else Reply(code)

    def heartbeat(connection: Connection, _command: Heartbeat) -> Reply:
        sessions.heartbeat(connection)
        return _OK

    return {
        # sessions
        Login: CommandRow(login, needs_session=False),
        Resume: CommandRow(messages.resume, needs_session=False, answers=True),
        TalkLogin: CommandRow(action.login, needs_session=False),
        ChatLogin: CommandRow(protobuf.login, needs_session=False, answers=True),
        Heartbeat: CommandRow(heartbeat),
        Ping: CommandRow(_ping, needs_session=False),
        # stored messages
        Send: CommandRow(messages.send, answers=True),
        Sync: CommandRow(messages.sync, answers=True),
        Ack: CommandRow(messages.ack),
        History: CommandRow(messages.history),
        Conversations: CommandRow(messages.conversations),
        Search: CommandRow(messages.search),
        Read: CommandRow(receipts.read),
        Received: CommandRow(receipts.received),
        Hide: CommandRow(receipts.hide),
        AskReceipts: CommandRow(receipts.ask),
        AskMarks: CommandRow(receipts.ask_marks),
        Typing: CommandRow(signals.typing),
        # the action dialect
        Say: CommandRow(action.send, answers=True),
        # the protobuf dialect
        ChatMessage: CommandRow(uplink.send),
        ChatSync: CommandRow(protobuf.sync),
    }


def _ping(_connection: Connection, _command: Ping) -> Reply:
    return _PONG


class Dispatcher:
    """Serves the messages of all dialects by a table of commands."""

    def __init__(self, table: CommandTable, metrics: Metrics) -> None:
        self.table = table
        self._metrics = metrics

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Answer one message. A database that does not answer is code 1008; any other exception of a command
        is code 1004 to its client, and a traceback in the log."""
        self._metrics.messages_in += 1
        dialect = connection.encoding.dialect
        try:
            request = dialect.decode(payload)
        except BadFrame as bad:
            if bad.reply is not None:
                connection.send(bad.reply)
            return
        command = request.command
        reply: Reply | None
        if command is None:
            reply = Reply(request.code)
        else:
            row = self.table[type(command)]
            if row.needs_session and connection.user is None:
                reply = _NOT_LOGGED_IN
            else:
                try:
                    reply = _run(row, connection, request, command)
                except StorageUnavailable:
                    reply = _NOT_STORED
                except Exception:
                    log.exception("%s failed", request.name, extra={"connection": connection.peer})
                    reply = _FAILED
        if reply is not None:
            _reply(connection, request, reply)


def _run(row: CommandRow, connection: Connection, request: Request, command: Command) -> Reply | None:
    if not row.answers:
        return row.run(connection, command)
    return row.run(connection, command, lambda reply: _reply(connection, request, reply))


def _reply(connection: Connection, request: Request, reply: Reply) -> None:
    payload = connection.encoding.dialect.encode_reply(request, reply)
    if payload is not None:
        connection.send(payload)
