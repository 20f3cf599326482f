"""The streams of Centrifugo's clients, and the requests that bring their
commands.

``GET /connection/sse`` has the first command in the parameter ``cf_connect``,
and ``POST /connection/http_stream`` in its body. Both answer with a stream of
replies and pushes. Later commands come with ``POST /emulation``, to any node.
The ``session`` in such a request comes from the reply to ``connect``.

On the unidirectional streams, ``GET /connection/uni_sse`` and ``POST
/connection/uni_http_stream``, clients only receive: the answer to a request to
connect is a stream of pushes. The first push says that the client is connected.
The token or the back end names its channels.
"""

import logging
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import gevent
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.service import CentrifugeService
from imserver.dialects.centrifuge.wire import (
    ALIAS,
    CentrifugeDialect,
    CentrifugeProtobufDialect,
    ConnectResult,
    Content,
    read_emulation,
    read_login,
)
from imserver.plugin.errors import CloseCode, Problems, StorageUnavailable
from imserver.plugin.http import (
    PROBLEM,
    ApiProblem,
    BadBody,
    Call,
    HttpResponse,
    Route,
    stream_head,
)
from imserver.plugin.identity import Needs
from imserver.plugin.services import Core
from imserver.plugin.wire import (
    Connection,
    Head,
    Refused,
    Reply,
    Stream,
    StreamEncoding,
    StreamPath,
    host_of,
)

_PROTOBUF: Final = "application/octet-stream"
_CLOSE_OF: Final = {
    codes.TOKEN_EXPIRED: CloseCode.TOKEN_INVALID,
    codes.INTERNAL: CloseCode.INTERNAL_ERROR,
}
"""Refusal of a login after which a client that only receives comes back → the
close code of its stream."""


class UniDialect(CentrifugeDialect):
    """Codec of streams whose clients only receive. A push is not wrapped in a
    field ``push``."""

    def __init__(self) -> None:
        super().__init__(streamed=True)

    def connected(self, result: ConnectResult) -> bytes:
        """The first push. It has no secret, because the client sends nothing,
        and it asks for no pongs."""
        return self._write_push("", "connect", replace(result, session="", pong=False))

    def _write_push(self, channel: str, kind: str, content: Content) -> bytes:
        if channel:
            name = b'"channel":%b,' % msgspec.json.encode(channel)
        else:
            name = b""
        return b'{%b"%b":%b}' % (name, kind.encode(), self._write_content(content))

    def _write_personal(self, content: bytes, user: str) -> bytes:
        return b'{"channel":%b,"pub":%b}' % (
            msgspec.json.encode(f"{ALIAS}{user}"),
            content,
        )


class CentrifugeStreams:
    """Opens streams for ``service``."""

    def __init__(self, core: Core, service: CentrifugeService) -> None:
        self._core = core
        self._service = service
        self._message_bytes = core.limits.message_bytes
        self._uni = UniDialect()

    def paths(
        self, serve: Callable[[Connection, bytes, bool], None]
    ) -> dict[str, StreamPath]:
        """Path, or its pattern → the way to serve it. The second segment may
        name the app."""
        json = self._core.codec(CentrifugeDialect(streamed=True))
        protobuf = self._core.codec(CentrifugeProtobufDialect(streamed=True))
        limit = self._message_bytes
        events = StreamEncoding(json, serve, limit, b"data: ", b"\n\n")
        lines = StreamEncoding(json, serve, limit, b"", b"\n")
        frames = StreamEncoding(protobuf, serve, limit)
        uni_events = StreamEncoding(self._uni, before=b"data: ", behind=b"\n\n")
        uni_lines = StreamEncoding(self._uni, behind=b"\n")

        rows = {
            "sse": self._path("GET", events, events, self._begin),
            "http_stream": self._path("POST", lines, frames, self._begin),
            "uni_sse": self._path("GET", uni_events, uni_events, self._begin_receiving),
            "uni_http_stream": self._path(
                "POST", uni_lines, uni_lines, self._begin_receiving
            ),
        }

        paths: dict[str, StreamPath] = {}
        for name, row in rows.items():
            paths[f"/connection/{name}"] = row
            paths[f"/connection/*/{name}"] = row
        return paths

    def _path(
        self,
        method: str,
        encoding: StreamEncoding,
        as_protobuf: StreamEncoding,
        begin: Callable[[Stream, StreamEncoding, bytes], None],
    ) -> StreamPath:
        """The row of a path. ``as_protobuf``: the encoding for requests whose
        content is protobuf; the same as ``encoding`` if the path has none.
        ``begin`` is called with the content of the request when the stream has
        begun."""
        request_log = self._core.node.request_log

        def encoding_of(head: Head) -> tuple[StreamEncoding, str]:
            """The encoding that a request wants, and the type of its
            response."""
            if method == "GET":
                return encoding, "text/event-stream; charset=utf-8"
            kind = head.headers.get("content-type", "")
            if as_protobuf is not encoding and _is_protobuf(kind):
                return as_protobuf, _PROTOBUF
            return encoding, "application/json; charset=utf-8"

        def open_stream(stream: Stream, head: Head) -> None:
            """Begin a stream, and carry out the commands of its request."""
            chosen, kind = encoding_of(head)
            answer = stream_head(request_log, head, host_of(stream.peer), kind)
            stream.begin(chosen, answer)
            self._service.opened(stream, head)
            if method == "GET":
                content = head.params().get("cf_connect", "").encode()
            else:
                content = head.body
            begin(stream, chosen, content)

        def refuse(head: Head, host: str, code: int) -> bytes:
            # Open a stream that ends at once: a browser can read its close
            # code, but not the status of a refused request.
            chosen, kind = encoding_of(head)
            answer = stream_head(request_log, head, host, kind)
            return answer + chosen.close_frames(code)

        return StreamPath(method, open_stream, refuse)

    def _begin(self, stream: Stream, encoding: StreamEncoding, data: bytes) -> None:
        """Carry out the commands in the request that opens a stream. May switch
        greenlets."""
        text = encoding.dialect.text
        try:
            if text:
                data.decode()
        except UnicodeDecodeError:
            data = b""  # an empty request is refused below
        if 0 < len(data) <= encoding.limit_bytes:
            encoding.serve(stream, data, text)
        else:
            stream.close(CloseCode.BAD_PAYLOAD)

    def _begin_receiving(
        self, stream: Stream, _encoding: StreamEncoding, data: bytes
    ) -> None:
        """Log in a client that only receives. May switch greenlets."""

        def send_connected(reply: Reply) -> None:
            if isinstance(reply.data, ConnectResult):
                stream.send(self._uni.connected(reply.data))

        try:
            if len(data) > self._message_bytes:
                raise ValueError("the request to connect is too long")
            refused = self._service.login(stream, read_login(data), send_connected)
        except (ValueError, RecursionError, Refused):
            stream.close(CloseCode.BAD_PAYLOAD)
        except StorageUnavailable:
            stream.close(CloseCode.INTERNAL_ERROR)
        else:
            if refused is not None:
                stream.close(_CLOSE_OF.get(refused.code, CloseCode.NOT_ALLOWED))


def _is_protobuf(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _PROTOBUF


# --- commands -----------------------------------------------------------------

MAX_WAITING: Final = 100
"""The most requests of one client that wait for earlier ones."""


class Emulated(StrEnum):
    """The result for the commands in a request."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """No stream belongs to this session."""
    TOO_LARGE = "too_large"
    FAILED = "failed"
    """The node of the stream does not answer."""


class EmulatedCommands(Struct, frozen=True, array_like=True):
    """Carry out commands of the client whose stream has this number on the
    queried node."""

    number: int
    data: bytes


class Emulation:
    """Finds the stream of a request, on any node. Owner of the requests that
    wait. Answers go out on the stream."""

    def __init__(self, core: Core) -> None:
        self._table = core.connection_table
        self._others = core.others
        self._waiting: dict[Connection, deque[bytes]] = {}
        """Stream → the requests whose commands are not carried out yet."""
        core.queries.add("emulate", EmulatedCommands, self._queue_here)

    def serve(self, session: str, data: bytes) -> Emulated:
        """Carry out the commands of the client whose secret is ``session``,
        without waiting for their end. May switch greenlets."""
        address = self._table.secrets.read(session)
        if address is None:
            return Emulated.UNKNOWN
        commands = EmulatedCommands(address.number, data)
        if address.birth == self._table.secrets.birth:
            return self._queue_here(commands)

        others = self._others
        if others is None:
            return Emulated.UNKNOWN
        lease = others.born(address.birth)
        if lease is None:
            return Emulated.UNKNOWN
        answer: Emulated | None = others.query_behind(
            lease, "emulate", commands, Emulated
        )
        if answer is None:
            return Emulated.FAILED
        return answer

    def _queue_here(self, commands: EmulatedCommands) -> Emulated:
        """Queue commands of a stream of this node. The commands of a stream are
        carried out in order. Never switches greenlets."""
        stream = self._table.at(commands.number)
        if not isinstance(stream, Stream):
            return Emulated.UNKNOWN
        if len(commands.data) > stream.encoding.limit_bytes:
            return Emulated.TOO_LARGE
        stream.pinged_at = 0.0  # a request proves that the client is there
        waiting = self._waiting.get(stream)
        if waiting is None:
            self._waiting[stream] = deque((commands.data,))
            gevent.spawn(self._run_queued_commands, stream)
        elif len(waiting) < MAX_WAITING:
            waiting.append(commands.data)
        else:
            stream.close(CloseCode.RATE_LIMIT)
        return Emulated.ACCEPTED

    def _run_queued_commands(self, stream: Connection) -> None:
        """Greenlet: carry out the queued commands of a stream, one after the
        other."""
        waiting = self._waiting[stream]
        try:
            while waiting and stream.is_open:
                stream.encoding.serve(
                    stream, waiting.popleft(), stream.encoding.dialect.text
                )
        except Exception:
            logging.getLogger(__name__).exception(
                "serving failed", extra={"connection": stream.peer}
            )
            stream.lost()
        finally:
            del self._waiting[stream]


class _Emulation(Struct):
    session: str
    data: str


def _read(_emulation: Emulation, call: Call) -> None:
    """Decode a request into ``call.input``: its session, and its commands."""
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


def _emulate(emulation: Emulation, call: Call) -> HttpResponse:
    """Queue commands of a stream. After 404 and 5xx, clients close their stream
    and reconnect. May switch greenlets."""
    session, data = call.input
    problem = _PROBLEMS.get(emulation.serve(session, data))
    if problem is not None:
        raise ApiProblem(problem)
    return HttpResponse(200, b"{}")


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
"""The session is the only proof: nobody but the client of a stream knows it."""
