"""The ``action`` dialect: JSON text frames on ``/ws?uid=``
(docs/reference/action-dialect.md).

A user sends messages to one other user, or to a room. The login names the
receiver. Pushed frames name their receiver. Decoding has two paths, as in
:mod:`imserver.gateway.dialects.cmd.wire`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count
from time import time, time_ns
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw, Struct, field
from msgspec.json import encode

from imserver.plugin.errors import ReplyCode, reply_text
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import (
    BadFrame,
    Command,
    Dialect,
    Event,
    Fields,
    Heartbeat,
    Limit,
    Login,
    Refused,
    Reply,
    Request,
    has_nul,
)

if TYPE_CHECKING:
    from imserver.plugin.messages import Message

NOBODY = "null"
"""The receiver that a page sends if it was opened without the id of a user."""
_SECOND_MS: Final = 1000
_MILLISECOND_NS: Final = 1_000_000


class ActionLogin(Login, frozen=True, gc=False):
    """A login that names the receiver of its messages.

    The receiver is the user ``peer`` or the ``room``. Both are ``""`` if the
    login names nobody. ``acks``: whether the client acknowledges messages.
    """

    peer: str = ""
    room: str = ""
    acks: bool = False


class Say(Command, frozen=True, gc=False):
    """Send a message to the receiver that the login has named.

    ``type``: the kind of ``text``, for example ``text`` or ``image``. ``id``:
    an id that the client has made, or ``""``.
    """

    type: str
    text: str
    id: str = ""


class AckNumber(Command, frozen=True, gc=False):
    """Acknowledge the messages up to a number of this connection."""

    number: int


class _Frame(Struct, forbid_unknown_fields=True):
    """A frame from a client: ``{"seq":"1","action":"login","data":{…}}``."""

    seq: str | None = None
    action: str | None = None
    data: Raw = Raw(b"null")


class _SayData(Struct, forbid_unknown_fields=True, gc=False):
    """The data of a message from a client. Only the first two fields are
    used."""

    type: str = field(default="", name="msgType")
    text: str = field(default="", name="message")
    user: str = field(default="", name="userId")
    app: int = field(default=0, name="appId")
    peer: str = field(default="", name="toUid")
    room: str = field(default="", name="groupsId")


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_say = msgspec.json.Decoder(_SayData).decode


def _login(data: bytes, _seq: str) -> ActionLogin:
    """Decode the data of a login:
    ``{"userid":"1","touid":"2","groupsid":"0",…}``.

    If the login has no room (``""`` or ``"0"``), its messages go to the user in
    ``touid``. Raises Refused.
    """
    fields = Fields.of(data)
    user = fields.text("userid")
    peer = fields.text("touid")
    room = fields.text("groupsid")
    token = fields.text("token")
    app = fields.number("appid")
    acks = fields.values.get("acks") is True
    if user == NOBODY or not 0 < len(user.encode()) <= MAX_USER_BYTES:
        raise Refused(ReplyCode.BAD_USER)
    if len(room.encode()) > Limit.ROOM_BYTES:
        raise Refused(ReplyCode.BAD_PARAMETER)
    if room not in ("", "0"):
        return ActionLogin(f"action:{app}", user, token, room=room, acks=acks)
    # No user can have such an id, so the messages of this login go to nobody.
    if peer == NOBODY or len(peer.encode()) > MAX_USER_BYTES:
        peer = ""
    return ActionLogin(f"action:{app}", user, token, peer=peer, acks=acks)


def _heartbeat(data: bytes, _seq: str) -> Heartbeat:
    """Decode the data of a heartbeat. Raises Refused if its user is not a
    text."""
    # Clients send one of these two texts. All other texts take the slow path.
    if data != b"{}" and data != b"null":
        Fields.of(data).text("userid")
    return Heartbeat()


def _say(data: bytes, seq: str) -> Say:
    """Decode the data of a message: ``{"msgType":"text","message":"hello",…}``.

    The usual frame takes one step. Another spelling of the field names takes a
    slower path. Raises Refused.
    """
    try:
        request = _decode_say(data)
        if 0 <= request.app <= Limit.NUMBER:
            return Say(request.type, request.text, seq)
    except (ValueError, RecursionError):
        pass
    fields = Fields.of(data)
    # These fields are not used, but must have the right type.
    for key in ("userid", "touid", "groupsid"):
        fields.text(key)
    fields.number("appid")
    return Say(fields.text("msgtype"), fields.text("message"), seq)


def _ack(data: bytes, _seq: str) -> AckNumber:
    """Decode the data of an acknowledgement: ``{"ackId":7}``. Raises
    Refused."""
    return AckNumber(Fields.of(data).number("ackid"))


ACTIONS: dict[str, Callable[[bytes, str], Command]] = {
    "login": _login,
    "heartbeat": _heartbeat,
    "sendmsg": _say,
    "ack": _ack,
}
"""Name of a command on the wire → the function that decodes its ``data``,
called with its ``seq``."""
PUSHED = {"msg": "sendmsg", "left": "exit"}
"""Kind of event → its name on the wire. Enter and exit events of an app are not
sent."""
# In the frame, the id of the receiver follows these bytes.
_BEFORE = b'{"code":200,"msg":"success","data":{"action":%b,"msgId":%b,"msgType":%b,"content":%b,"from":%b,"to":'


@cache
def _text_of(code: int) -> bytes:
    """The text for the code of a reply, as JSON. It is made only once for each
    code."""
    if code == ReplyCode.BAD_USER:
        return encode("非法的用户Id")
    return encode(reply_text(code))


class ActionDialect(Dialect):
    """The codec of the action dialect, with JSON text frames."""

    name = "action"
    path = "/ws"
    chosen_by = "uid"
    personal = True

    def __init__(self) -> None:
        self._digits = count(time_ns() // _MILLISECOND_NS)

    def decode(self, payload: bytes) -> Request:
        """Read one request, for example
        ``{"seq":"1","action":"sendmsg","data":{…}}``.

        If the request is wrong or unknown, the result has the code of an error
        and no command. Raises BadFrame if the bytes are not a frame.
        """
        if not payload:
            raise BadFrame(BadFrame.TEXT)
        # A frame is decoded on one of two paths. The usual frame takes one
        # step. A frame with another spelling of the field names takes a slower
        # path.
        try:
            frame = _decode_frame(payload)
            seq = frame.seq or ""
            name = frame.action or ""
            data = bytes(frame.data)
        except (ValueError, RecursionError):
            try:
                seq, name, data = Fields.frame(payload, "action")
            except (ValueError, RecursionError):
                raise BadFrame(BadFrame.TEXT) from None

        row = ACTIONS.get(name)
        if row is None:
            return Request(seq, name, None, ReplyCode.NO_ROUTE)
        try:
            if has_nul(data):
                return Request(seq, name, None, ReplyCode.BAD_PARAMETER)
            return Request(seq, name, row(data, seq))
        except Refused as refused:
            return Request(seq, name, None, refused.code)

    def encode_reply(self, request: Request, reply: Reply) -> bytes:
        """Encode the reply to a request.

        Its form is ``{"seq":"1","action":"login","response":{…}}``. The
        response has a ``code``, its text in ``msg``, and ``data`` or null.
        """
        data = b"null" if reply.data is None else encode(reply.data)
        return b'{"seq":%b,"action":%b,"response":{"code":%d,"msg":%b,"data":%b}}' % (
            encode(request.seq),
            encode(request.name),
            reply.code,
            _text_of(reply.code),
            data,
        )

    def encode_event(self, event: Event) -> bytes | None:
        """Encode the push of an event, with ``""`` as the receiver. Returns
        None for an event that is not sent."""
        halves = self.encode_for(event)
        if halves is None:
            return None
        # The receiver stands between the two halves, as a JSON string.
        return b'%b""%b' % halves

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """Encode the push of an event as the bytes before and after its
        receiver.

        So the frame is encoded once, and the id of each receiver is put between
        the two halves. Returns None for enter and exit events of an app, which
        are not sent.
        """
        name = PUSHED.get(event.kind)
        if name is None:
            return None
        return self._halves(name, event)

    def encode_message_for(self, message: Message) -> tuple[bytes, bytes] | None:
        """Encode a stored message as the bytes before and after its receiver.

        The id of the message is the id that its sender gave it. If the sender
        gave no id, the number of the message in the log is used.
        Returns None for entries of other kinds, which are not sent.
        """
        if message.kind != "message":
            return None
        seq = message.message_meta().seq
        text = message.body.decode("utf-8", "replace")
        name = seq or str(message.id)
        event = Event(
            "msg",
            message.sender,
            text,
            name,
            message.type,
            time=message.time_ms // _SECOND_MS,
        )
        return self._halves("sendmsg", event)

    def greet(self) -> bytes:
        """The first payload of a new connection."""
        return b'%b""%b' % self._halves("enter", Event("enter", "", "连接成功"))

    def _halves(self, name: str, event: Event) -> tuple[bytes, bytes]:
        """Encode a push as the bytes before and after the id of its receiver.

        For example, ``{"code":200,…,"to":`` and
        ``,"msgTimestamp":"1700000000"}}``: the first half opens two objects,
        and the second closes them. An event without an id gets one, except a
        message.
        """
        id = event.id
        # A message keeps the id of its sender, even an empty one.
        if not id and event.kind != "msg":
            id = str(next(self._digits))
        text = event.data.decode() if event.data else event.text
        before = _BEFORE % (
            encode(name),
            encode(id),
            encode(event.type),
            encode(text),
            encode(event.sender),
        )
        return before, b',"msgTimestamp":"%d"}}' % (event.time or int(time()))


DIALECT: Final = ActionDialect()
"""The codec of all connections whose clients do not acknowledge messages."""


class AckedActionDialect(ActionDialect):
    """The codec of connections whose clients acknowledge messages."""

    numbered = True

    def add_number(self, payload: bytes, number: int) -> bytes:
        """Add its number to an encoded push:
        ``{"code":200,"data":{…,"ackId":7}}``."""
        # The payload ends with "}}". The number becomes the last field of
        # "data".
        return b'%b,"ackId":%d}}' % (payload[:-2], number)
