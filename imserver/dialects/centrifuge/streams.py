"""The fallback transports of clients of Centrifugo: streams, and the requests with their commands.

``GET /connection/sse`` has the first command in the parameter ``cf_connect``, and
``POST /connection/http_stream`` in its body. Both answer with a stream of replies and pushes. Later commands
come with ``POST /emulation``, whose ``session`` is that of the reply to ``connect``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from imserver.dialects.centrifuge.emulation import Emulated, Emulation
from imserver.dialects.centrifuge.service import CentrifugeService
from imserver.dialects.centrifuge.wire import CentrifugeDialect, CentrifugeProtobufDialect, read_emulation
from imserver.plugin.errors import CloseCode, Problems
from imserver.plugin.http import PROBLEM, ApiProblem, BadBody, Call, HttpResponse, Route, stream_head
from imserver.plugin.identity import Needs
from imserver.plugin.services import Core
from imserver.plugin.wire import Connection, Head, Stream, StreamEncoding, StreamPath, host_of

_PROTOBUF: Final = "application/octet-stream"
_JSON: Final = "application/json; charset=utf-8"
_EVENTS: Final = "text/event-stream; charset=utf-8"


class FallbackStreams:
    """Opens streams for ``service``. Owner of their encodings."""

    def __init__(self, core: Core, service: CentrifugeService) -> None:
        self._log = core.node.request_log
        self._as_json = core.codec(CentrifugeDialect(streamed=True))
        self._as_protobuf = core.codec(CentrifugeProtobufDialect(streamed=True))
        self._service = service
        self._message_bytes = core.config.limits.message_bytes
        self._events: StreamEncoding
        self._lines: StreamEncoding
        self._frames: StreamEncoding

    def paths(self, serve: Callable[[Connection, bytes, bool], None]) -> dict[str, StreamPath]:
        """Path, or its pattern → how it is served. The second segment may name the app. ``serve``: serves
        messages."""
        message_bytes = self._message_bytes
        self._events = StreamEncoding(self._as_json, serve, message_bytes, b"data: ", b"\n\n")
        self._lines = StreamEncoding(self._as_json, serve, message_bytes, b"", b"\n")
        self._frames = StreamEncoding(self._as_protobuf, serve, message_bytes)
        events = StreamPath("GET", self._open, self._refuse)
        lines = StreamPath("POST", self._open, self._refuse)
        return {
            "/connection/sse": events,
            "/connection/*/sse": events,
            "/connection/http_stream": lines,
            "/connection/*/http_stream": lines,
        }

    def _encoding(self, head: Head) -> tuple[StreamEncoding, str]:
        """The encoding that a request asks for, and the type of its response."""
        if head.method == "GET":
            return self._events, _EVENTS
        if _is_protobuf(head.headers.get("content-type", "")):
            return self._frames, _PROTOBUF
        return self._lines, _JSON

    def _open(self, stream: Stream, head: Head) -> None:
        """Begin a stream, and serve the commands in its request. May switch."""
        encoding, kind = self._encoding(head)
        stream.begin(encoding, stream_head(self._log, head, host_of(stream.peer), kind))
        self._service.opened(stream, head)
        data = head.params().get("cf_connect", "").encode() if head.method == "GET" else head.body
        text = encoding.dialect.text
        if 0 < len(data) <= encoding.limit_bytes and not (text and not _is_utf8(data)):
            encoding.serve(stream, data, text)
        else:
            stream.close(CloseCode.BAD_PAYLOAD)

    def _refuse(self, head: Head, host: str, code: int) -> bytes:
        """The response to a request that is refused before its stream has begun: a stream that ends at once.

        A browser can read its close code, but not the status of a refused request.
        """
        encoding, kind = self._encoding(head)
        return stream_head(self._log, head, host, kind) + encoding.close_frames(code)


def _is_protobuf(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _PROTOBUF


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- commands -----------------------------------------------------------------------------------------------


class _Emulation(Struct):
    session: str
    data: str


def _read(_emulation: Emulation, call: Call) -> None:
    """Decode the request: its session, and the commands."""
    try:
        if _is_protobuf(call.request.headers.get("content-type", "")):
            call.input = read_emulation(call.body)
        else:
            emulation = msgspec.json.decode(call.body, type=_Emulation)
            call.input = emulation.session, emulation.data.encode()
    except (ValueError, RecursionError) as error:
        raise BadBody(str(error)) from None


_PROBLEMS: Final = {
    Emulated.UNKNOWN: Problems.UNKNOWN_CONNECTION,
    Emulated.TOO_LARGE: Problems.BODY_TOO_LARGE,
    Emulated.FAILED: Problems.NOT_READY,
}
_ACCEPTED: Final = HttpResponse(200, b"{}")


def _emulate(emulation: Emulation, call: Call) -> HttpResponse:
    """Serve commands of a stream. After 404 and 5xx clients close their stream and reconnect. May switch."""
    session, data = call.input
    problem = _PROBLEMS.get(emulation.serve(session, data))
    if problem is not None:
        raise ApiProblem(problem)
    return _ACCEPTED


ROUTES: Final = (
    Route(
        "POST",
        "/emulation",
        Needs.ANYONE,
        _emulate,
        hot=True,
        read=_read,
        style=PROBLEM,
        service=lambda core, _: core.service(Emulation),
    ),
)
"""The session is the proof: only the client of a stream knows it."""
