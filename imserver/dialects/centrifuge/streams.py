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
from collections.abc import Callable, Mapping
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
"""Error code of a refused login → the close code of the stream. After these
codes, a client that only receives connects again."""


class UniDialect(CentrifugeDialect):
    """The encoder of unidirectional streams, whose clients only receive.

    A push is not wrapped in a field ``push``: a client gets, for example,
    ``{"channel":"news","pub":{"data":1}}``.
    """

    def __init__(self) -> None:
        super().__init__(streamed=True)

    def connected(self, result: ConnectResult) -> bytes:
        """The first push of a stream, which says that the client is connected.

        The push has no secret, because the client sends no commands. It asks
        for no pongs.
        """
        return self._write_push("", "connect", replace(result, session="", pong=False))

    def _write_push(self, channel: str, kind: str, content: Content) -> bytes:
        """Encode a push: ``{"channel":"news","join":{…}}`` for a ``kind`` of
        ``join``.

        The push has no channel if ``channel`` is ``""``.
        """
        if channel:
            name = b'"channel":%b,' % msgspec.json.encode(channel)
        else:
            name = b""
        return b'{%b"%b":%b}' % (name, kind.encode(), self._write_content(content))

    def _write_personal(self, content: bytes, user: str) -> bytes:
        """Encode the push of a publication to the own channel of a user."""
        return b'{"channel":%b,"pub":%b}' % (
            msgspec.json.encode(f"{ALIAS}{user}"),
            content,
        )


class CentrifugeStreams:
    """Opens the streams of Centrifugo's clients: SSE and HTTP streams.

    ``service`` carries out the commands that come with the request.
    """

    def __init__(self, core: Core, service: CentrifugeService) -> None:
        self._core = core
        self._service = service
        self._message_bytes = core.limits.message_bytes
        self._uni = UniDialect()

    def paths(
        self, serve: Callable[[Connection, bytes, bool], None]
    ) -> dict[str, StreamPath]:
        """The paths at which streams begin, each with its :class:`StreamPath`.

        ``/connection/*/sse`` is a pattern: the second segment names the app.
        ``serve`` carries out commands. Its arguments are the connection, the
        bytes of the commands, and whether these are text.
        """
        # The codecs of streams, which end with a push and not a close frame.
        json = self._core.codec(CentrifugeDialect(streamed=True))
        protobuf = self._core.codec(CentrifugeProtobufDialect(streamed=True))
        limit = self._message_bytes
        # A server-sent event is written between "data: " and an empty line. In
        # an HTTP stream, a push in JSON is one line, and a push in protobuf
        # begins with its length.
        events = StreamEncoding(json, serve, limit, b"data: ", b"\n\n")
        lines = StreamEncoding(json, serve, limit, b"", b"\n")
        frames = StreamEncoding(protobuf, serve, limit)
        uni_events = StreamEncoding(self._uni, before=b"data: ", behind=b"\n\n")
        uni_lines = StreamEncoding(self._uni, behind=b"\n")

        path = self._path
        receive = self._begin_receiving
        rows = {
            "sse": path("GET", events, events, self._begin),
            "http_stream": path("POST", lines, frames, self._begin),
            "uni_sse": path("GET", uni_events, uni_events, receive),
            "uni_http_stream": path("POST", uni_lines, uni_lines, receive),
        }
        return _with_names_of_apps(rows)

    def _path(
        self,
        method: str,
        encoding: StreamEncoding,
        as_protobuf: StreamEncoding,
        begin: Callable[[Stream, StreamEncoding, bytes], None],
    ) -> StreamPath:
        """Make the :class:`StreamPath` of one path.

        ``as_protobuf``: the encoding for requests with protobuf. It is
        ``encoding`` if the path has no protobuf. ``begin`` is called with the
        content of the request when the stream has begun.
        """
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
            chosen_encoding, content_type = encoding_of(head)
            answer = stream_head(request_log, head, host_of(stream.peer), content_type)
            stream.begin(chosen_encoding, answer)
            self._service.opened(stream, head)
            if method == "GET":
                # An EventSource of a browser cannot send a body.
                content = head.params().get("cf_connect", "").encode()
            else:
                content = head.body
            begin(stream, chosen_encoding, content)

        def refuse(head: Head, host: str, code: int) -> bytes:
            """Encode a stream that ends at once with a close code. A browser
            can read this code, but not the status of a refused request."""
            chosen_encoding, content_type = encoding_of(head)
            answer = stream_head(request_log, head, host, content_type)
            return answer + chosen_encoding.close_frames(code)

        return StreamPath(method, open_stream, refuse)

    def _begin(self, stream: Stream, encoding: StreamEncoding, data: bytes) -> None:
        """Carry out the commands in the request that opens a stream.

        A request that is empty, too long or not UTF-8 ends the stream. May
        switch greenlets.
        """
        is_text = encoding.dialect.text
        try:
            if is_text:
                data.decode()
        except UnicodeDecodeError:
            data = b""  # an empty request is refused below
        if 0 < len(data) <= encoding.limit_bytes:
            encoding.serve(stream, data, is_text)
        else:
            stream.close(CloseCode.BAD_PAYLOAD)

    def _begin_receiving(
        self, stream: Stream, _encoding: StreamEncoding, data: bytes
    ) -> None:
        """Log in a client that only receives.

        A refused login ends the stream with a close code, because such a client
        reads no error replies. May switch greenlets.
        """

        def send_connected(reply: Reply) -> None:
            """Send the result of the login as the first push."""
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
            # Close codes tell such a client whether to come back.
            if refused is not None:
                stream.close(_CLOSE_OF.get(refused.code, CloseCode.NOT_ALLOWED))


def _with_names_of_apps(rows: Mapping[str, StreamPath]) -> dict[str, StreamPath]:
    """The given paths of streams such as ``sse``, each once with the name of an
    app in front of it, and once without."""
    paths: dict[str, StreamPath] = {}
    for name, row in rows.items():
        paths[f"/connection/{name}"] = row
        paths[f"/connection/*/{name}"] = row
    return paths


def _is_protobuf(content_type: str) -> bool:
    """Whether the header ``Content-Type`` says that a body is protobuf."""
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
    """Carries out the commands that the client of a stream sends in requests.

    A client cannot write to its stream, so it *emulates* a connection: it sends
    each command in a request to any node, with the secret of its stream. This
    service finds the stream and queues the commands on its node. The replies go
    out on the stream.
    """

    def __init__(self, core: Core) -> None:
        self._table = core.connection_table
        self._others = core.others
        self._waiting: dict[Connection, deque[bytes]] = {}
        """Stream → the requests whose commands are not carried out yet."""
        core.queries.add("emulate", EmulatedCommands, self._queue_here)

    def serve(self, session: str, data: bytes) -> Emulated:
        """Queue commands for the client whose secret is ``session``.

        Does not wait until the commands are carried out. May switch greenlets,
        because the stream may belong to another node.
        """
        address = self._table.secrets.read(session)
        if address is None:
            return Emulated.UNKNOWN
        commands = EmulatedCommands(address.number, data)
        # A table of connections gets a new birth whenever its node starts. So
        # the same birth means that the stream is on this node.
        if address.birth == self._table.secrets.birth:
            return self._queue_here(commands)

        return self._queue_there(address.birth, commands)

    def _queue_there(self, birth: int, commands: EmulatedCommands) -> Emulated:
        """Queue commands for a stream of the node with this birth. May switch
        greenlets."""
        others = self._others
        if others is None:
            return Emulated.UNKNOWN
        lease = others.born(birth)
        if lease is None:
            return Emulated.UNKNOWN
        answer: Emulated | None = others.query_behind(
            lease, "emulate", commands, Emulated
        )
        if answer is None:
            return Emulated.FAILED
        return answer

    def _queue_here(self, commands: EmulatedCommands) -> Emulated:
        """Queue commands for a stream of this node.

        The commands of a stream are carried out in order, by one greenlet that
        ends when none are left. A client with too many of them loses its
        stream. Never switches greenlets.
        """
        stream = self._table.at(commands.number)
        if not isinstance(stream, Stream):
            return Emulated.UNKNOWN
        if len(commands.data) > stream.encoding.limit_bytes:
            return Emulated.TOO_LARGE
        stream.pinged_at = 0.0  # a request proves that the client is there
        # The first request begins a greenlet, and later ones only join its
        # queue.
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
        """Carry out the queued commands of a stream, one after the other. This
        is a greenlet of its own."""
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
    """The body of an emulation request in JSON. ``data`` has the commands as
    text."""

    session: str
    data: str


def _read(_emulation: Emulation, call: Call) -> None:
    """Decode the body of an emulation request, and put the session and the
    commands into ``call.input``. Raises BadBody."""
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
    """Queue the commands in a request, and answer.

    After 404 and 5xx, clients close their stream and reconnect. May switch
    greenlets. Raises ApiProblem.
    """
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
