"""The ``pusher`` dialect: versions 4 to 7 of Pusher's protocol on
``/app/{key}``.

See docs/reference/pusher-dialect.md.

A frame is a JSON object with ``event``, ``data`` and ``channel``. In frames of
the server, ``data`` is a string with JSON text, except in errors.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field
from msgspec.json import encode

from imserver.plugin.errors import CloseCode, ReplyCode
from imserver.plugin.wire import (
    BadFrame,
    Command,
    Dialect,
    Event,
    Reply,
    Request,
    payload_of,
)

_FIRST_OWN_CODE: Final = 4000
"""The first close code that Pusher's protocol defines itself."""
VERSIONS: Final = (4, 5, 6, 7)
"""Supported versions of the protocol: every version that Pusher supports. They
have the same frames."""
MAX_EVENT_NAME: Final = 200
"""Longest name of an event, in characters."""
RESERVED_EVENTS: Final = ("pusher:", "pusher_internal:")
"""Beginnings of the names of the protocol's own events."""
PRESENCE: Final = "presence-"
PRIVATE: Final = "private-"
ENCRYPTED: Final = "private-encrypted-"
CACHED: Final = (
    "cache-",
    "private-cache-",
    "presence-cache-",
    "private-encrypted-cache-",
)
USER_CHANNEL: Final = "#server-to-user-"
"""Beginning of the name of the channel of a user."""
DOTNET: Final = "pusher-dotnet-client"
"""Client name of Pusher's library for .NET. It expects another event for a
refused subscription."""

CODE_CLIENT_EVENT: Final = 4301
"""The server has refused a client event."""
CODE_BAD_FRAME: Final = 4302
"""The server did not understand a frame."""

KINDS: Final = {
    "member_added": b"pusher_internal:member_added",
    "member_removed": b"pusher_internal:member_removed",
    "subscription_count": b"pusher_internal:subscription_count",
}
"""Notices of a channel: kind of the event → its name on the wire."""

STREAM: Final = b"imserver:stream"
"""The event for pieces and the end of a streamed message."""
CLOSE_CODES: Final = {
    # Clients of Pusher do not reconnect after 4000 to 4099, reconnect later
    # after 4100 to 4199, and at once after 4200 to 4299. They read any other
    # code from 4300 on as "do not reconnect".
    CloseCode.GOING_AWAY: 4200,
    CloseCode.UNSUPPORTED_DATA: 4007,  # the version of the protocol
    CloseCode.INTERNAL_ERROR: 4100,
    CloseCode.SLOW_READER: 4100,
    CloseCode.HEARTBEAT_EXPIRED: 4201,
    CloseCode.LOGIN_TIMEOUT: 4100,
    CloseCode.RATE_LIMIT: 4100,
    CloseCode.ACK_TIMEOUT: 4100,
    CloseCode.NODE_FULL: 4100,
    CloseCode.REPLACED: 4009,
    CloseCode.REFUSED: 4009,
    CloseCode.KICKED: 4009,
    CloseCode.BANNED: 4009,
    CloseCode.TOKEN_INVALID: 4009,
    CloseCode.NOT_ALLOWED: 4009,
    CloseCode.APP_DELETED: 4001,
    CloseCode.WRONG_DIALECT: 4009,
}
"""Our close code → Pusher's close code."""
_decode_raw = msgspec.json.Decoder(Raw).decode


class _Frame(Struct, gc=False):
    """A frame of a client:
    ``{"event":"client-typing","data":…,"channel":"private-a"}``."""

    event: str
    data: Raw = Raw(b"null")
    channel: str = ""


class PusherSubscribe(Command, frozen=True, gc=False):
    """Subscribe to a channel of the pusher dialect.

    ``auth``: the signature of the back end. None and ``""`` mean that the
    command has no signature. ``data``: JSON text about the subscriber, which is
    signed too.
    """

    channel: str
    auth: str | None = ""
    data: str | None = field(default="", name="channel_data")


class PusherUnsubscribe(Command, frozen=True, gc=False):
    """End a subscription of the pusher dialect."""

    channel: str


class ClientEvent(Command, frozen=True, gc=False):
    """Send an event to the other subscribers of a channel.

    The payload of the event is ``data``, which is JSON. If ``data`` is empty,
    the payload is ``text``.
    """

    channel: str
    name: str
    data: bytes = b""
    text: str = ""


class SignIn(Command, frozen=True, gc=False):
    """Make the connection a session of the user in ``user_data`` (JSON text),
    signed by ``auth``."""

    auth: str
    user_data: str


_decode_frame = msgspec.json.Decoder(_Frame).decode


def frame(event: bytes, data: bytes, channel: str = "") -> bytes:
    """Encode a frame of the server, for example
    ``{"event":"pusher:pong","data":"{}"}``.

    ``data`` is JSON, which the protocol sends inside a string. ``channel`` is
    left out if it is ``""``.
    """
    if channel:
        channel_field = b',"channel":%b' % encode(channel)
    else:
        channel_field = b""
    return b'{"event":"%b"%b,"data":%b}' % (event, channel_field, encode(data.decode()))


def established(socket_id: str, activity_seconds: int) -> bytes:
    """Encode the first frame to a client.

    It has the id of the connection, and the number of seconds that the client
    may be silent before it must send a ping.
    """
    about = {"socket_id": socket_id, "activity_timeout": activity_seconds}
    return frame(b"pusher:connection_established", encode(about))


def error(code: int, message: str) -> bytes:
    """Encode an error about the connection, or about a frame of it."""
    # In errors the data are no string, unlike in all other frames.
    return b'{"event":"pusher:error","data":%b}' % encode(
        {"code": code, "message": message}
    )


def subscribed(channel: str, members: Mapping[str, Raw] | None = None) -> bytes:
    """Encode the answer to a subscription.

    ``members``: the id of each member of a presence channel → the data that the
    member has sent about itself. None means that the channel is not a presence
    channel.
    """
    about: dict[str, Any] = {}
    if members is not None:
        about["presence"] = {
            "count": len(members),
            "ids": list(members),
            "hash": members,
        }
    return frame(b"pusher_internal:subscription_succeeded", encode(about), channel)


def not_subscribed(
    channel: str, kind: str, text: str, status: int, dotnet: bool = False
) -> bytes:
    """Encode the answer to a refused subscription.

    ``kind`` and ``status`` tell the library of the client what to do.
    ``dotnet``: the client is :data:`DOTNET`, which expects another event.
    """
    about = {"type": kind, "error": text, "status": status}
    if dotnet:
        name = b"pusher_internal:subscription_error"
    else:
        name = b"pusher:subscription_error"
    return frame(name, encode(about), channel)


def cache_miss(channel: str) -> bytes:
    """Encode the notice that a cache channel has no event yet."""
    return b'{"event":"pusher:cache_miss","channel":%b}' % encode(channel)


def signed_in(user_data: str) -> bytes:
    """Encode the answer to a sign-in."""
    return frame(b"pusher:signin_success", encode({"user_data": user_data}))


PONG: Final = frame(b"pusher:pong", b"{}")


def as_payload(data: str) -> tuple[bytes, str]:
    """The payload of an event whose data was sent as a string.

    Returns JSON and text. One of the two is empty: ``(b'{"a":1}', "")`` for
    ``'{"a":1}'``, and ``(b"", "hello")`` for ``"hello"``.
    """
    try:
        _decode_raw(data)
    except (ValueError, RecursionError):
        return b"", data
    return data.encode(), ""


def data_of(event: Event) -> str:
    """The data of an event in the form of the protocol: JSON as text, or a text
    that is not JSON."""
    if event.data:
        return event.data.decode()
    if as_payload(event.text)[0]:
        # The sender has sent a text that is also valid JSON. So the text is
        # encoded: otherwise a client would read the text "5" as a number.
        return encode(event.text).decode()
    return event.text


COMMANDS: Final[dict[str, Callable[[bytes], Command]]] = {
    "pusher:subscribe": msgspec.json.Decoder(PusherSubscribe).decode,
    "pusher:unsubscribe": msgspec.json.Decoder(PusherUnsubscribe).decode,
    "pusher:signin": msgspec.json.Decoder(SignIn).decode,
}
"""The commands, except pings and client events: name on the wire → the function
that decodes ``data``."""
CLIENT_PREFIX: Final = "client-"


class PusherDialect(Dialect):
    """The codec of the ``pusher`` dialect, with JSON text frames."""

    name = "pusher"
    path = "/app/*"
    any_origin = True
    pinged = True
    close_codes = CLOSE_CODES

    def decode(self, payload: bytes) -> Request:
        """Read one request, for example
        ``{"event":"pusher:subscribe","data":{"channel":"news"}}``.

        For a ping or a pong, raises a BadFrame without an error that contains
        the answer. Bytes that are not a frame raise BadFrame with an error for
        the client.
        """
        try:
            client_frame = _decode_frame(payload)
            name = client_frame.event
            data = bytes(client_frame.data)
            if name.startswith(CLIENT_PREFIX):
                # Libraries send the data of an event as JSON, or as a string
                # with JSON.
                content = msgspec.json.decode(data)
                if isinstance(content, str):
                    body = as_payload(content)
                else:
                    body = (data, "")
                return Request("", name, ClientEvent(client_frame.channel, name, *body))
            decode_command = COMMANDS.get(name)
            if decode_command is not None:
                return Request("", name, decode_command(data))
        except (ValueError, RecursionError):
            raise BadFrame(error(CODE_BAD_FRAME, "The frame cannot be read")) from None
        if name == "pusher:ping":
            raise BadFrame(PONG)
        if name == "pusher:pong":
            raise BadFrame(None)
        return Request("", name, None, ReplyCode.NO_ROUTE)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Encode the error of a request. Returns None for a request that has
        succeeded, because its service has sent the answer."""
        if reply.code == ReplyCode.OK:
            return None
        if reply.code == ReplyCode.NO_ROUTE:
            return error(CODE_BAD_FRAME, "No such event")
        return error(CODE_BAD_FRAME, "The request failed")

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Encode the error that some clients read in place of the close code.
        Returns None for codes that are not of Pusher's protocol."""
        if code < _FIRST_OWN_CODE:
            return None
        return error(code, reason)

    def encode_event(self, event: Event) -> bytes | None:
        r"""Encode a push, a publication, or a notice of a channel.

        For example: ``{"event":"sold","channel":"news","data":"{\"id\":7}"}``.
        The type of a message is the name of its event. Returns None for names
        that only the protocol's own events may have, and for kinds of events
        that the dialect does not have.
        """
        if event.channel is None:
            channel = ""
        else:
            channel = event.channel.name
        if event.channel is not None and event.channel.stream is not None:
            return frame(STREAM, payload_of(event), channel)
        if event.kind == "unsubscribed":
            return not_subscribed(channel, "Ended", event.text, status=403)
        if event.kind in KINDS:
            return frame(KINDS[event.kind], event.data, channel)
        if event.kind != "msg" or event.type.startswith(RESERVED_EVENTS):
            return None

        # This is a message. For speed, its frame is joined by hand and not
        # encoded.
        if channel:
            channel_field = b',"channel":%b' % encode(channel)
        else:
            channel_field = b""
        # In presence channels, clients learn who has sent a client event.
        user_field = b""
        if (
            event.sender
            and channel.startswith(PRESENCE)
            and event.type.startswith(CLIENT_PREFIX)
        ):
            user_field = b',"user_id":%b' % encode(event.sender)
        return b'{"event":%b%b,"data":%b%b}' % (
            encode(event.type),
            channel_field,
            encode(data_of(event)),
            user_field,
        )
