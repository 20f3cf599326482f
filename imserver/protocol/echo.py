"""The echo path: what comes goes back. For conformance suites, and only where a setting asks for it."""

from __future__ import annotations

from imserver.model import BadFrame, Event, Reply, Request


class EchoDialect:
    """A path whose messages are never decoded; see :class:`imserver.protocol.dialect.Dialect`."""

    name = "echo"
    text = True
    any_origin = True
    message_bytes = 0
    pinged = False
    personal = False

    def __init__(self, path: str) -> None:
        self.path = path

    def decode(self, payload: bytes) -> Request:
        """Nothing is a request here."""
        raise BadFrame(payload)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Nothing is answered."""

    def encode_event(self, event: Event) -> bytes | None:
        """Nothing is told."""

    def encode_for(self, event: Event) -> None:
        """Nothing is told."""
