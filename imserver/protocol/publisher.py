"""What publisher connections are to the transport: text frames of back ends, which hear no events.

Their commands are routes' bodies, so :mod:`imserver.api.v1.publisher` reads them.
"""

from __future__ import annotations

from imserver.model import BadFrame, Event, Reply, Request


class PublisherDialect:
    """See :class:`imserver.protocol.dialect.Dialect`; its messages never come this way."""

    name = "publisher"
    path = "/api/v1/publisher"
    text = True
    any_origin = True
    message_bytes = 0
    pinged = True
    personal = False

    def decode(self, payload: bytes) -> Request:
        """Nothing is a request here."""
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Nothing is answered."""

    def encode_event(self, event: Event) -> bytes | None:
        """Nothing is told."""

    def encode_for(self, event: Event) -> None:
        """Nothing is told."""
