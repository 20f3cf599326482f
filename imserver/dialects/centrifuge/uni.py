"""The unidirectional transports of Centrifugo: streams whose clients only receive.

``GET /connection/uni_sse`` has the request to connect in the parameter ``cf_connect``, and
``POST /connection/uni_http_stream`` in its body. Both answer with a stream of pushes. The first one says that
the client is connected. Its channels are those of its token, or of the back end.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.service import CentrifugeService
from imserver.dialects.centrifuge.wire import ALIAS, CentrifugeDialect, ConnectResult, read_login
from imserver.plugin.errors import CloseCode, StorageUnavailable
from imserver.plugin.http import stream_head
from imserver.plugin.services import Core
from imserver.plugin.wire import Head, Refused, Reply, Stream, StreamEncoding, StreamPath, host_of

_JSON: Final = "application/json; charset=utf-8"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_CLOSE_OF: Final = {
    codes.TOKEN_EXPIRED: CloseCode.TOKEN_INVALID,
    codes.INTERNAL: CloseCode.INTERNAL_ERROR,
}
"""Error of a login → the close code of the stream; any other: 4505. Clients come back after these two."""


class UniDialect(CentrifugeDialect):
    """Codec of these streams: a push is not in a field ``push``."""

    def __init__(self) -> None:
        super().__init__(streamed=True)

    def connected(self, result: ConnectResult) -> bytes:
        """The first push. The client sends nothing, so it gets no secret, and answers no pings."""
        return self._write_push("", "connect", replace(result, session="", pong=False))

    def _write_push(self, channel: str, kind: str, content: Struct) -> bytes:
        name = b'"channel":%b,' % msgspec.json.encode(channel) if channel else b""
        return b'{%b"%b":%b}' % (name, kind.encode(), self._write_content(content))

    def _write_personal(self, content: bytes, user: str) -> bytes:
        return b'{"channel":%b,"pub":%b}' % (msgspec.json.encode(f"{ALIAS}{user}"), content)


class UniStreams:
    """Opens such streams for ``service``."""

    def __init__(self, core: Core, service: CentrifugeService) -> None:
        self._log = core.node.request_log
        self._service = service
        self._message_bytes = core.config.limits.message_bytes
        self._dialect = UniDialect()
        self._events = StreamEncoding(self._dialect, before=b"data: ", behind=b"\n\n")
        self._lines = StreamEncoding(self._dialect, behind=b"\n")

    def paths(self) -> dict[str, StreamPath]:
        """Path, or its pattern → how it is served. The second segment may name the app."""
        events = StreamPath("GET", self._open, self._refuse)
        lines = StreamPath("POST", self._open, self._refuse)
        return {
            "/connection/uni_sse": events,
            "/connection/*/uni_sse": events,
            "/connection/uni_http_stream": lines,
            "/connection/*/uni_http_stream": lines,
        }

    def _open(self, stream: Stream, head: Head) -> None:
        """Begin a stream, and log its client in. May switch."""
        encoding, kind = self._encoding(head)
        stream.begin(encoding, stream_head(self._log, head, host_of(stream.peer), kind))
        self._service.opened(stream, head)
        data = head.params().get("cf_connect", "").encode() if head.method == "GET" else head.body
        try:
            if len(data) > self._message_bytes:
                raise ValueError("the request to connect is too long")
            refused = self._service.login(stream, read_login(data), lambda reply: self._answer(stream, reply))
        except (ValueError, RecursionError, Refused):
            stream.close(CloseCode.BAD_PAYLOAD)
        except StorageUnavailable:
            stream.close(CloseCode.INTERNAL_ERROR)
        else:
            if refused is not None:
                stream.close(_CLOSE_OF.get(refused.code, CloseCode.NOT_ALLOWED))

    def _answer(self, stream: Stream, reply: Reply) -> None:
        if isinstance(reply.data, ConnectResult):
            stream.send(self._dialect.connected(reply.data))

    def _encoding(self, head: Head) -> tuple[StreamEncoding, str]:
        return (self._events, _EVENTS) if head.method == "GET" else (self._lines, _JSON)

    def _refuse(self, head: Head, host: str, code: int) -> bytes:
        """The response to a request that is refused before its stream has begun: one that ends at once."""
        encoding, kind = self._encoding(head)
        return stream_head(self._log, head, host, kind) + encoding.close_frames(code)
