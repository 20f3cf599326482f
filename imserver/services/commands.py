"""The commands of clients: one table for all dialects, and the dispatcher that runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from imserver import errors, model
from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.model import BadFrame, Reply, Request
from imserver.services.channels.commands import ChannelCommands
from imserver.services.dialects.action_service import ActionService
from imserver.services.dialects.centrifuge_service import CentrifugeService
from imserver.services.dialects.protobuf_service import ProtobufService
from imserver.services.dialects.protobuf_uplink import ProtobufUplink
from imserver.services.dialects.pusher_service import PusherService
from imserver.services.messages.annotations import AnnotationCommands
from imserver.services.messages.messaging import MessageCommands
from imserver.services.messages.receipts import Receipts, Signals
from imserver.services.messages.streamed_answers import AnswerCommands
from imserver.services.people.bots import Bots
from imserver.services.people.groups import GROUP_REFUSALS, GroupCommands
from imserver.services.sessions.sessions import Sessions
from imserver.transport.connection import Connection, Serve

log = logging.getLogger(__name__)

_OK: Final = Reply(errors.REPLY_OK)
_PONG: Final = Reply(errors.REPLY_OK, "pong")
_NOT_LOGGED_IN: Final = Reply(errors.REPLY_NOT_LOGGED_IN)
_FAILED: Final = Reply(errors.REPLY_SYSTEM)
_NOT_STORED: Final = Reply(errors.REPLY_NOT_STORED)


class CommandRow(Struct, frozen=True):
    """One command: its function, and whether it needs a session. ``without_user``: it may have no user.

    ``run`` is called with the connection and the command. With ``answers`` it is also called with a function
    that sends the reply. If it returns None, it calls that function once, possibly later. Such replies may
    arrive after the replies to later requests. None without ``answers``: the command has no reply.
    ``refusals``: the exceptions of ``run`` that are replies with a code.
    """

    run: Callable[..., Reply | None]
    needs_session: bool = True
    answers: bool = False
    without_user: bool = False
    refusals: dict[type[Exception], int] = {}


CommandTable = Mapping[type, CommandRow]


def command_table(
    sessions: Sessions,
    messages: MessageCommands,
    annotations: AnnotationCommands,
    receipts: Receipts,
    signals: Signals,
    groups: GroupCommands,
    answers: AnswerCommands,
    bots: Bots,
    action: ActionService,
    protobuf: ProtobufService,
    uplink: ProtobufUplink,
    centrifuge: CentrifugeService,
    pusher: PusherService,
    channels: ChannelCommands,
) -> CommandTable:
    """Every command of every dialect."""

    def login(connection: Connection, command: model.Login) -> Reply:
        code = sessions.login(connection, command)
        if log.isEnabledFor(logging.DEBUG):
            ids = {"connection": connection.peer}
            log.debug("login of %r in %r: %d", command.user, command.app, code, extra=ids)
        return _OK if code == errors.REPLY_OK else Reply(code)

    def heartbeat(connection: Connection, _command: model.Heartbeat) -> Reply:
        sessions.heartbeat(connection)
        return _OK

    return {
        # sessions
        model.Login: CommandRow(login, needs_session=False),
        model.Resume: CommandRow(messages.resume, needs_session=False, answers=True),
        model.ActionLogin: CommandRow(action.login, needs_session=False),
        model.ChatLogin: CommandRow(protobuf.login, needs_session=False, answers=True),
        model.Heartbeat: CommandRow(heartbeat),
        model.Ping: CommandRow(_ping, needs_session=False),
        # stored messages
        model.Send: CommandRow(messages.send, answers=True),
        model.Sync: CommandRow(messages.sync, answers=True),
        model.Ack: CommandRow(messages.ack),
        model.React: CommandRow(annotations.react),
        model.Pin: CommandRow(annotations.pin),
        model.History: CommandRow(messages.history),
        model.AskPins: CommandRow(annotations.pins),
        model.Conversations: CommandRow(messages.conversations),
        model.Search: CommandRow(messages.search),
        model.Read: CommandRow(receipts.read),
        model.Received: CommandRow(receipts.received),
        model.Hide: CommandRow(receipts.hide),
        model.AskReceipts: CommandRow(receipts.ask),
        model.AskMarks: CommandRow(receipts.ask_marks),
        model.Typing: CommandRow(signals.typing),
        # bots
        model.OpenAnswer: CommandRow(answers.open),
        model.AppendAnswer: CommandRow(answers.append),
        model.CloseAnswer: CommandRow(answers.close),
        model.AskBotCommands: CommandRow(bots.ask_commands),
        # groups
        model.CreateGroup: CommandRow(groups.create, refusals=GROUP_REFUSALS),
        model.AskGroups: CommandRow(groups.ask),
        model.AskGroupMembers: CommandRow(groups.ask_members, refusals=GROUP_REFUSALS),
        model.InviteToGroup: CommandRow(groups.invite, refusals=GROUP_REFUSALS),
        model.JoinGroup: CommandRow(groups.join, refusals=GROUP_REFUSALS),
        model.LeaveGroup: CommandRow(groups.leave, refusals=GROUP_REFUSALS),
        # the action dialect
        model.Say: CommandRow(action.send, answers=True),
        model.AckNumber: CommandRow(action.ack),
        # the protobuf dialect
        model.ChatMessage: CommandRow(uplink.send),
        model.ChatSync: CommandRow(protobuf.sync),
        # channels; connections of the centrifuge dialect may have no user
        model.Subscribe: CommandRow(channels.subscribe, without_user=True, answers=True),
        model.Unsubscribe: CommandRow(channels.unsubscribe, without_user=True),
        model.Publish: CommandRow(channels.publish, without_user=True),
        model.AskPresence: CommandRow(channels.presence, without_user=True),
        model.AskHistory: CommandRow(channels.history, without_user=True),
        # the centrifuge dialect
        model.CentrifugeLogin: CommandRow(centrifuge.login, needs_session=False, answers=True),
        model.RefreshLogin: CommandRow(centrifuge.refresh, without_user=True),
        model.RefreshSubscription: CommandRow(centrifuge.refresh_subscription, without_user=True),
        model.AskBackEnd: CommandRow(centrifuge.ask_back_end, without_user=True),
        model.AskPresenceStats: CommandRow(centrifuge.presence_stats, without_user=True),
        # the pusher dialect, whose connections are sessions without a user at first
        model.PusherSubscribe: CommandRow(pusher.subscribe, without_user=True),
        model.PusherUnsubscribe: CommandRow(pusher.unsubscribe, without_user=True),
        model.ClientEvent: CommandRow(pusher.send, without_user=True),
        model.SignIn: CommandRow(pusher.sign_in, without_user=True),
    }


def _ping(_connection: Connection, _command: model.Ping) -> Reply:
    return _PONG


class Dispatcher:
    """Runs the commands of all dialects from one table."""

    def __init__(self, table: CommandTable, metrics: Metrics) -> None:
        self.table = table
        self._metrics = metrics

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Answer one message. If the database does not answer, the client gets code 1008. Any other exception
        that is not a refusal of the command is logged with its traceback, and the client gets code 1004.
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
        command = request.command
        reply: Reply | None
        if command is None:
            reply = Reply(request.code)
        else:
            row = self.table[type(command)]
            if row.needs_session and not (connection.user or (row.without_user and connection.app)):
                reply = _NOT_LOGGED_IN
            else:
                try:
                    if row.answers:
                        reply = row.run(connection, command, partial(_reply, connection, request))
                    else:
                        reply = row.run(connection, command)
                except StorageUnavailable:
                    reply = _NOT_STORED
                except Exception as error:
                    code = row.refusals.get(type(error))
                    if code is None:
                        log.exception("%s failed", request.name, extra={"connection": connection.peer})
                    reply = _FAILED if code is None else Reply(code)
        if reply is not None:
            _reply(connection, request, reply)


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


def _reply(connection: Connection, request: Request, reply: Reply) -> None:
    payload = connection.encoding.dialect.encode_reply(request, reply)
    if payload is not None:
        connection.send(payload)
