"""The contract of a dialect: its codec, and the rules in which the
re-implemented servers differ.

To add a dialect, add a subclass of :class:`Dialect` to the row of a feature.
Every dialect must pass the suite ``CodecContract`` of
``imserver.plugin.testing``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from imserver.gateway.errors import StartError
from imserver.gateway.model import (
    BadFrame,
    Command,
    DialectState,
    Event,
    Reply,
    Request,
)

Payload = bytes | Callable[[str, DialectState | None], bytes]
"""A payload for all connections of a dialect, or a function that makes the
payload for the user and the state of one connection. ``b""`` means that the
connection gets nothing."""

Reader = Callable[[bytes], Command]
"""Makes a command from the data of a client. Raises
:class:`imserver.gateway.protocol.forgiving.Refused`."""
Readers = Mapping[str, Reader]
"""Name of a command in a dialect → its reader."""

StoredMessage = Any
"""A message of the log. The messenger makes it, and gives it to dialects; the
gateway does not read it."""


class Dialect:
    """A codec and its session rules, for one protocol of clients.

    It is stateless except for counters: one instance serves all connections.
    This base class reads no command and encodes nothing. Subclasses override
    what they support.
    """

    name: str = ""
    """The name of the dialect, as in the glossary."""
    path: str = ""
    """The WebSocket path of the dialect; ``""`` if it has only streams over
    HTTP."""
    chosen_by: str = ""
    """The parameter of the query by which a client chooses this dialect on a
    path of several dialects. ``""`` means that clients get this dialect if they
    choose no dialect and their listener has no setting ``ws_dialect``."""
    app_path: str = ""
    """The pattern of the path with a segment that names the app; ``""`` if the
    dialect has no such path."""
    subprotocol: str = ""
    """The subprotocol by which a client chooses this codec of the dialect on
    :attr:`app_path`. The first codec serves clients that offer no
    subprotocol."""
    logs_in: bool = True
    """Whether clients log in. If not, their connections belong to an app from
    the start."""
    bare_tokens: bool = False
    """Whether tokens of clients need neither ``app`` nor ``exp``, because the
    path of the connection names the app."""
    text: bool = True
    """Whether frames are text frames. If not, they are binary frames."""
    any_origin: bool = False
    """Whether pages of any host may connect."""
    message_bytes: int = 0
    """The size of the longest accepted message; 0: ``limits.message_bytes``."""
    pinged: bool = False
    """Whether the server pings clients, because they have no heartbeat command.
    Then any received data is a sign of life."""
    personal: bool = False
    """Whether a pushed frame names its receiver. Then ``encode_for`` and
    ``encode_message_for`` replace ``encode_event`` and ``encode_message``. A
    stored message does not reach the sender's other connections, except in a
    room."""
    numbered: bool = False
    """Whether messages have a number (``add_number``), which the client
    acknowledges. Only a ``personal`` dialect may set it."""
    several: bool = False
    """Whether a frame of a client may contain several requests
    (:meth:`split`)."""
    batches: bool = False
    """Whether one frame may contain several payloads, one after the other."""
    ping: bytes = b""
    """The payload with which the server pings a client. Any answer is a sign of
    life. ``b""``: the server sends a WebSocket ping, and on a stream
    :meth:`encode_ping`."""
    close_codes_of_back_ends: bool = False
    """Whether clients get the code and reason with which a back end ends their
    connection. Clients of other dialects get 4502."""
    close_codes: Mapping[int, int] = {}
    """Our close code → the code with the same meaning in this protocol. Other
    codes are sent unchanged."""
    close_reasons: Mapping[int, str] = {}
    """Our close code → the reason that this protocol gives, in place of our
    name for the code."""

    readers: Readers | None = None
    """The commands that are read by name, from the codec and from features.
    None means that features cannot add commands."""

    def joined(self, readers: Readers) -> Self:
        """Return a copy of this codec with more commands.

        A feature of one node adds them. Raises StartError if the codec takes no
        commands of features.
        """
        if self.readers is None:
            raise StartError(f"the dialect {self.name} takes no commands of features")
        codec = object.__new__(type(self))
        for name, value in vars(self).items():
            # The attributes are copied one by one. If copy() made the codec,
            # each look-up of an attribute would take 0.03 µs more.
            setattr(codec, name, value)
        codec.readers = {**self.readers, **readers}
        return codec

    def split(self, payload: bytes) -> Sequence[bytes]:
        """Split a frame of a client into the requests in it.

        It is called only if the dialect has :attr:`several`. Raises BadFrame
        with a close code.
        """
        return (payload,)

    def decode(self, payload: bytes) -> Request:
        """Decode the payload of a client's frame into a request.

        Raises only :class:`imserver.gateway.model.BadFrame`, for any bytes.
        """
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Encode the answer to a request.

        Returns None if the dialect sends no answer.
        """
        return None

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Encode a payload that is sent before the close frame with this code.

        Returns None if nothing is sent before it.
        """
        return None

    def encode_ping(self, state: DialectState | None) -> bytes:
        """Encode the payload with which the server pings a client on a stream.

        A dialect without :attr:`ping` overrides this method. Returns ``b""`` if
        the client is not pinged.
        """
        return b""

    def encode_event(self, event: Event) -> Payload | None:
        """Encode an event. Returns None if the dialect cannot express it."""
        return None

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """Encode an event without its receiver.

        Returns the parts before and after the receiver's id, which is a JSON
        string. Returns None if the dialect cannot express the event.
        """
        return None

    def encode_message(self, message: StoredMessage) -> Payload | None:
        """Encode a stored message. Returns None if the dialect cannot express
        it."""
        return None

    def encode_message_for(self, message: StoredMessage) -> tuple[bytes, bytes] | None:
        """Encode a stored message without its receiver.

        Returns the parts before and after the receiver's id. Returns None if
        the dialect cannot express the message.
        """
        return None

    def add_number(self, payload: bytes, number: int) -> bytes:
        """Add the number of a message to its payload."""
        return payload


class EchoDialect(Dialect):
    """The path for test suites on which messages are sent back undecoded.

    It exists only if a setting enables it.
    """

    name = "echo"
    any_origin = True

    def __init__(self, path: str) -> None:
        """Serve the path that the setting names."""
        self.path = path

    def decode(self, payload: bytes) -> Request:
        """Reject every frame: the dialect has no requests."""
        raise BadFrame(payload)


class PublisherDialect(Dialect):
    """The connections of back ends that push over a WebSocket.

    They get text frames and no events. Commands are the bodies of routes:
    :mod:`imserver.gateway.api.v1.publisher` decodes them.
    """

    name = "publisher"
    path = "/api/v1/publisher"
    any_origin = True
    pinged = True
