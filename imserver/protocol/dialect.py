"""The contract of a dialect: one codec and the few rules that differ between the servers we re-implement.

Adding a dialect means adding one module with a subclass of :class:`Dialect` and naming it in
``protocol/registry.py``. ``tests/protocol/contract.py`` is the suite that every dialect has to pass.
"""

from __future__ import annotations

from imserver.model import BadFrame, Event, Message, Reply, Request


class Dialect:
    """A codec and its session rules. Stateless but for counters: one instance serves all connections.

    This one reads no command and encodes nothing; subclasses override what they support.
    """

    name: str = ""
    """The glossary's name of the dialect."""
    path: str = ""
    """The WebSocket path that it answers on."""
    text: bool = True
    """Its frames are text frames."""
    any_origin: bool = False
    """Browsers of any host may connect."""
    message_bytes: int = 0
    """The longest message that it accepts; 0: ``limits.message_bytes``."""
    pinged: bool = False
    """Its clients have no heartbeat command: the server pings them, and any sign of life keeps them open."""
    personal: bool = False
    """A pushed frame names its receiver: ``encode_for`` and ``encode_message_for`` are used in place of
    ``encode_event`` and ``encode_message``. The sender's other connections do not receive a stored message,
    except in a room."""
    batches: bool = False
    """One frame may hold several payloads, one behind the other."""

    def decode(self, payload: bytes) -> Request:
        """Turn the payload of a client's frame into a request.

        Raises :class:`imserver.model.BadFrame`, and nothing else, whatever the bytes are.
        """
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """The payload that answers ``request``; None where the dialect answers nothing."""
        return None

    def encode_event(self, event: Event) -> bytes | None:
        """The payload of an event; None where the dialect cannot express it."""
        return None

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """The payload of an event without its receiver: what stands before and behind the receiver's id (a
        JSON string). None where the dialect cannot express the event."""
        return None

    def encode_message(self, message: Message) -> bytes | None:
        """The payload of a stored message; None where the dialect cannot express it."""
        return None

    def encode_message_for(self, message: Message) -> tuple[bytes, bytes] | None:
        """The same, before and behind the receiver's id."""
        return None


class EchoDialect(Dialect):
    """The echo path: messages go back as they came, without being decoded. For conformance suites, and only
    where a setting asks for it."""

    name = "echo"
    any_origin = True

    def __init__(self, path: str) -> None:
        self.path = path

    def decode(self, payload: bytes) -> Request:
        """Nothing is a request here."""
        raise BadFrame(payload)


class PublisherDialect(Dialect):
    """Publisher connections: text frames of back ends, which receive no events. Their commands are bodies of
    routes, so :mod:`imserver.api.v1.publisher` reads them."""

    name = "publisher"
    path = "/api/v1/publisher"
    any_origin = True
    pinged = True
