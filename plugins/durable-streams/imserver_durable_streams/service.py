"""Serves the requests of streams on one node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from hashlib import blake2b
from secrets import token_hex
from time import monotonic, time
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

import gevent
import msgspec
from gevent.event import AsyncResult
from gevent.event import Event as Flag
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from imserver.plugin.errors import CloseCode, Problems, Unavailable
from imserver.plugin.http import (
    Api,
    ApiProblem,
    Call,
    HttpRequest,
    HttpResponse,
    RequestRefused,
    Route,
    stream_head,
    stream_refused,
)
from imserver.plugin.identity import Need, Needs, Principal
from imserver.plugin.messages import Appended, Draft, Entry, Messaging, Rejected
from imserver.plugin.services import ChannelRefused, Core
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import (
    Dialect,
    DialectState,
    Event,
    Head,
    Stream,
    StreamEncoding,
    StreamPath,
    host_of,
)

from . import protocol
from .protocol import (
    CLOSED,
    CURSOR,
    END,
    NEXT,
    STYLE,
    UP_TO_DATE,
    Content,
    Offset,
    Wish,
    refusal,
    respond,
)
from .reading import MOST_BYTES, Page, StreamReader
from .rows import GONE, STORED, Append, StreamRow, StreamRows, Verdict

log = logging.getLogger(__name__)

NAME: Final = "durable_streams"
PATH: Final = "/durable/*/stream/*"
READ: Final = Need("read", frozenset({"nobody", "account", "guest", "bot", "session"}))
WRITE: Final = Needs.ANYONE_OR_PUSH
_CODES: Final = {
    "name": 400,
    "unknown": 404,
    "limit": 413,
    "full": 429,
    "rate": 429,
    "unavailable": 503,
}
"""Reason why a channel refuses → status. For any other reason: 401 without a
key or token, else 403."""
_SECOND_MS: Final = 1000
_MOST_TTL_SECONDS: Final = 10**10
_MOST_TIME_CHARACTERS: Final = 64
_ETAG_BYTES: Final = 8
"""Length of the hash that names a stream in an ETag, in bytes."""
_DEVICE_BYTES: Final = 4
"""Number of random bytes that tell the readers of streams apart."""


class DurableStreamSettings(Struct, frozen=True):
    """The section ``durable_streams``. ``long_poll_seconds``: how long a long
    poll waits. ``sse_seconds``: after this time a stream of events ends, and
    its client asks again, which lets caches share it."""

    long_poll_seconds: Annotated[float, Meta(ge=0.1, le=300)] = 20.0
    sse_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 60.0


class Reader(DialectState, kw_only=True):
    """The state of a connection that waits for new entries."""

    news: Any = field(default_factory=Flag)
    """Is set when the stream may have a new entry, or the connection has
    ended."""
    is_begun: bool = False
    """Whether its answer has begun."""

    def reconnects(self, channel: str) -> bool:
        """Always true: the client comes back with a new connection."""
        return True


class DurableDialect(Dialect):
    """The codec of live reads.

    A publication only wakes the readers, and they read it from the log. So each
    reader gets all entries in their order.

    ``is_chunked``: the body is sent in the chunks of HTTP/1.1. If the last
    chunk is missing, the client knows that the answer was cut off.
    """

    name = NAME
    logs_in = False
    pinged = True

    def __init__(self, is_chunked: bool = False) -> None:
        self._is_chunked = is_chunked

    def part(self, content: bytes) -> bytes:
        """Return bytes of a body as they are sent."""
        if self._is_chunked:
            return b"%x\r\n%b\r\n" % (len(content), content)
        return content

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Return the end of a body. Everything before it is complete."""
        if self._is_chunked:
            return b"0\r\n\r\n"
        return None

    def encode_event(
        self, event: Event
    ) -> Callable[[str, DialectState | None], bytes] | None:
        """Return the function that wakes a reader. It sends nothing.

        None for events that are no publication.
        """

        def wake(_user: str, state: DialectState | None) -> bytes:
            if isinstance(state, Reader):
                state.news.set()
            return b""

        if event.kind == "msg":
            return wake
        return None

    def encode_ping(self, state: DialectState | None) -> bytes:
        """Return a comment that keeps proxies from closing a stream of events.

        ``b""`` before the answer has begun.
        """
        if isinstance(state, Reader) and state.is_begun:
            return self.part(b":\n\n")
        return b""


DIALECT: Final = DurableDialect()
_EVENTS: Final = DurableDialect(is_chunked=True)
_ENCODINGS: Final = {dialect: StreamEncoding(dialect) for dialect in (DIALECT, _EVENTS)}


class Target(Struct, frozen=True):
    """The app and the stream that a request names."""

    app: str
    name: str


class DurableStreams:
    """Serves the requests of streams on one node.

    A stream is the content of a stored channel. Clients append to it by POST,
    and read it by GET from any offset on.
    """

    def __init__(self, core: Core, messaging: Messaging) -> None:
        """Take the services of the node. The routes come later."""
        self._core = core
        self._channels = core.channels
        self._settings = settings_of(core.config, DurableStreamSettings)
        self._messaging = messaging
        self._rows = StreamRows(core.store)
        self._reader = StreamReader(self._rows)
        self._api: Api | None = None

    def attach(self, api: Api) -> DurableStreams:
        """Take the routes of the node, which are known now."""
        self._api = api
        return self

    def ended(self, connection: Any, _code: int) -> None:
        """Wake the reader of a connection that has ended."""
        if isinstance(connection.dialect_state, Reader):
            connection.dialect_state.news.set()

    # --- reading --------------------------------------------------------------

    def serve(self, stream: Stream, head: Head) -> None:
        """Answer a GET. If it waits for new entries, a greenlet of its own
        answers it.

        May switch greenlets.
        """
        if "live=" in head.query:
            gevent.spawn(self._answer_get, stream, head)
        else:
            self._answer_get(stream, head)

    def _answer_get(self, stream: Stream, head: Head) -> None:
        """Answer a GET, and every error of it. May switch greenlets."""
        query = head.query.encode("latin-1")
        host = host_of(stream.peer)
        request = HttpRequest(head.method, head.path, query, b"", head.headers, host)
        answer = self._answer_or_refuse(request, stream, head)
        if answer is None:
            return
        state = stream.dialect_state
        if isinstance(state, Reader) and state.is_begun:
            # A stream of events cannot have another answer. The client asks
            # again and gets it then.
            stream.close(CloseCode.GOING_AWAY)
        elif stream.is_open:
            self._send_answer(answer, request, stream, head)

    def _send_answer(
        self, answer: HttpResponse, request: HttpRequest, stream: Stream, head: Head
    ) -> None:
        """Send the answer to a GET.

        A stream that is refused has an ordinary response, of any status.
        """
        requests = self._core.node.request_log
        why = ApiProblem(Problems.BAD_REQUEST)
        style = replace(STYLE, refuse=lambda *_: answer)
        stream.refuse(
            stream_refused(requests, head, request.host, why, style, request.by),
            CloseCode.NORMAL,
        )

    def _answer_or_refuse(
        self, request: HttpRequest, stream: Stream, head: Head
    ) -> HttpResponse | None:
        """Return the answer to a GET, which may tell an error.

        None if the answer is a stream of events, which was sent. May switch
        greenlets.
        """
        assert self._api is not None
        try:
            call = self._api.call_of(self._api.endpoints["GET", PATH], request)
            return self._read_stream(call, stream, head)
        except RequestRefused as refused:
            return refused.answer
        except ApiProblem as refused:
            answer = STYLE.refuse(refused.problem, request, refused.detail)
            return answer.with_headers(refused.headers)
        except ChannelRefused as refused:
            problem = _problem(refused, call.principal)
            return STYLE.refuse(problem.problem, request, problem.detail)
        except Unavailable as error:
            return STYLE.refuse(error.problem, request)
        except Exception:
            log.exception("reading %s failed", head.path, extra={"request": request.id})
            return STYLE.refuse(Problems.INTERNAL_ERROR, request)

    def _read_stream(
        self, call: Call, stream: Stream, head: Head
    ) -> HttpResponse | None:
        """Return the answer to a GET, which may wait for new entries.

        None if the answer is a stream of events, which was sent, or if the
        connection was closed. May switch greenlets. Raises ApiProblem and
        others.
        """
        target = call.input
        wish = Wish.read(head.query)
        self._require_permission(call.principal, target, "subscribe")
        row = self._reader.find(target.app, target.name)
        offset = wish.offset
        if offset is None:
            offset = self._reader.tail(row)

        if wish.live == "sse":
            self._send_events(call, stream, head, row, offset, wish)
            return None
        if wish.offset is None and not wish.live:
            return self._answer_with_end(row, offset)

        page = self._reader.read(row, offset)
        self._rows.renew(row)
        if not wish.live:
            return self._answer_page(call.request, row, page, wish)

        if page.chunks or row.is_closed:
            return self._answer_long_poll(row, page, wish)
        return self._wait_and_answer(call, stream, row, offset, wish)

    def _answer_with_end(self, row: StreamRow, offset: Offset) -> HttpResponse:
        """Return the answer to a reader who only asks where the end is."""
        self._rows.renew(row)
        page = Page([], next=offset, is_last=True)
        return self._answer_with_page(row, page, "no-store")

    def _wait_and_answer(
        self, call: Call, stream: Stream, row: StreamRow, offset: Offset, wish: Wish
    ) -> HttpResponse | None:
        """Wait for an entry after an offset, and return the answer with it.

        None if the connection was closed. Switches greenlets. Raises
        ChannelRefused.
        """
        state = self._subscribe(call, stream, call.input)
        if state is None:
            return None
        seconds = self._settings.long_poll_seconds
        row, page = self._wait_for_entries(row, stream, state, offset, seconds)
        return self._answer_long_poll(row, page, wish)

    def _answer_long_poll(self, row: StreamRow, page: Page, wish: Wish) -> HttpResponse:
        """Return the answer to a read that has waited. 204 if no entry has
        come."""
        cursor = (CURSOR, wish.next_cursor())
        if page.chunks:
            answer = self._answer_with_page(row, page, "no-store")
            return answer.with_headers((cursor,))
        return respond(
            204, *self._headers(row, page), cursor, ("Cache-Control", "no-store")
        )

    def _answer_page(
        self, request: HttpRequest, row: StreamRow, page: Page, wish: Wish
    ) -> HttpResponse:
        """Return the answer to a read that does not wait.

        304 if the client has the same answer already, which its ETag tells.
        """
        is_end = row.is_closed and page.is_last
        etag = _etag_of(row, page, wish)
        if request.headers.get("if-none-match") == etag:
            return respond(304, ("ETag", etag))
        # Content before the end never changes, so caches may keep it.
        if page.is_last and not is_end:
            cache = "private, no-cache"
        else:
            cache = "private, max-age=60"
        answer = self._answer_with_page(row, page, cache)
        return answer.with_headers((("ETag", etag),))

    def _answer_with_page(self, row: StreamRow, page: Page, cache: str) -> HttpResponse:
        """Return the answer with the content of a page.

        ``cache``: the header ``Cache-Control``.
        """
        chunks = [chunk.data for chunk in page.chunks]
        body = protocol.joined(chunks, row.content_type)
        headers = *self._headers(row, page), ("Cache-Control", cache)
        return respond(200, *headers, body=body, kind=row.content_type)

    def _headers(self, row: StreamRow, page: Page) -> protocol.Headers:
        """Return the headers that tell the reader its position.

        They also tell whether it is at the end, and whether more can come.
        """
        headers = [(NEXT, protocol.text_of_offset(page.next))]
        if page.is_last:
            headers.append((UP_TO_DATE, "true"))
            if row.is_closed:
                headers.append((CLOSED, "true"))
        return tuple(headers)

    def sweep(self) -> None:
        """Remove expired streams for which nobody has asked.

        May switch greenlets. Raises StorageUnavailable.
        """
        if self._core.store.has_database:
            self._rows.sweep()

    # --- waiting --------------------------------------------------------------

    def _subscribe(
        self,
        call: Call,
        stream: Stream,
        target: Target,
        dialect: DurableDialect = DIALECT,
    ) -> Reader | None:
        """Subscribe a connection to the channel of a stream.

        From now on each publication wakes it. Returns its state, or None if the
        connection was closed. May switch greenlets. Raises ChannelRefused.
        """
        # A device of its own, so that it does not replace the session of
        # another reader.
        device = f"{NAME}/{token_hex(_DEVICE_BYTES)}"
        if not self._core.sessions.begin_for(
            stream, target.app, call.principal, call.credential, NAME, device
        ):
            return None
        stream.begin(_ENCODINGS[dialect], b"")
        state = Reader()
        stream.dialect_state = state
        if call.principal.kind == "key":
            # The connection ends when somebody revokes the key.
            self._core.keys.hold(call.principal.key, stream)
        self._channels.subscriptions.join(target.app, target.name, stream)
        return state

    def _wait_for_entries(
        self,
        row: StreamRow,
        stream: Stream,
        state: Reader,
        offset: Offset,
        seconds: float,
    ) -> tuple[StreamRow, Page]:
        """Wait until the stream has an entry after an offset, or is closed.

        The wait ends after ``seconds``. Returns the stream and the page after
        the offset, which may be empty. Switches greenlets.
        """
        until = monotonic() + seconds
        while True:
            # Cleared before the read, so that no entry is missed after it.
            state.news.clear()
            row = self._reader.find(row.app, row.name)
            page = self._reader.read(row, offset)
            seconds_left = until - monotonic()
            if page.chunks or row.is_closed:
                return row, page
            if seconds_left <= 0 or not stream.is_open:
                return row, page
            state.news.wait(seconds_left)

    def _send_events(
        self,
        call: Call,
        stream: Stream,
        head: Head,
        row: StreamRow,
        offset: Offset,
        wish: Wish,
    ) -> None:
        """Send the entries of a stream from an offset on as events, as they
        come.

        Ends after the setting ``sse_seconds``, or at the end of a closed
        stream. Switches greenlets.
        """
        dialect = _EVENTS
        if head.version == "1.0":
            dialect = DIALECT
        state = self._subscribe(call, stream, Target(row.app, row.name), dialect)
        if state is None:
            return

        self._begin_events(call, stream, head, row, dialect)
        state.is_begun = True
        until = monotonic() + self._settings.sse_seconds
        page = self._reader.read(row, offset)
        while stream.is_open:
            self._rows.renew(row)
            events = self._events(row, page, wish)
            stream.send(dialect.part(events))
            is_end = row.is_closed and page.is_last
            if is_end or monotonic() > until:
                stream.close(CloseCode.NORMAL)
                return

            # The pages of a slow client must not fill the memory.
            stream.wait_until_sent()
            if page.is_last:
                seconds = until - monotonic()
                row, page = self._wait_for_entries(
                    row, stream, state, page.next, seconds
                )
            else:
                page = self._reader.read(row, page.next)

    def _begin_events(
        self,
        call: Call,
        stream: Stream,
        head: Head,
        row: StreamRow,
        dialect: DurableDialect,
    ) -> None:
        """Send the head of an answer that is a stream of events."""
        requests = self._core.node.request_log
        opening = stream_head(
            requests, head, call.request.host, "text/event-stream", call.principal.label
        )
        # Headers follow the last line of the head, and caches may keep a stream
        # of events.
        opening = opening.removesuffix(b"\r\n").replace(b"no-store", b"no-cache")
        more = _headers_of_events(row, dialect)
        lines = "".join(f"{name}: {text}\r\n" for name, text in more)
        stream.send_frame(opening + lines.encode() + b"\r\n")

    def _events(self, row: StreamRow, page: Page, wish: Wish) -> bytes:
        """Return the events of a page.

        After each chunk comes an event ``control`` with the position of the
        reader. The last one also tells whether more can come.
        """
        frames = []
        for chunk in page.chunks:
            frames.append(protocol.data_event(chunk.data, row.content_type))
            if chunk is not page.chunks[-1]:
                frames.append(_control(chunk.end, {}, wish))

        state: dict[str, bool] = {}
        if page.is_last and row.is_closed:
            state["streamClosed"] = True
        elif page.is_last:
            state["upToDate"] = True
        frames.append(_control(page.next, state, wish))
        return b"".join(frames)

    # --- writing --------------------------------------------------------------

    def create(self, call: Call) -> HttpResponse:
        """Answer a PUT. May switch greenlets. Raises ApiProblem."""
        target = call.input
        body = call.body
        self._require_permission(call.principal, target, "publish")
        wish = self._wish_of(call)
        head = self._rows.log.extent(target.app).head
        self._require_short(target, body)
        outcome, row, offset = self._create(call, wish, head)
        if outcome == "other":
            raise refusal(
                409,
                "the stream is there with other settings, or forks still read what it was",
            )
        return self._answer_create(call, row, offset, is_new=outcome == "new")

    def _create(
        self, call: Call, wish: StreamRow, head: int
    ) -> tuple[Literal["new", "same", "other"], StreamRow, Offset]:
        """Create a stream, with the body of the PUT as its first entry if it
        has one.

        Returns the outcome as :func:`rows.create` does, the row, and the end of
        the stream. May switch greenlets. Raises ApiProblem.
        """
        content = None
        if call.body:
            content = protocol.content_of(call.body, wish.content_type, is_new=True)
        if content is not None:
            return self._create_with_content(call, wish, head, content)
        outcome, row = self._rows.create(wish, head)
        return outcome, row, self._reader.tail(row)

    def _answer_create(
        self, call: Call, row: StreamRow, offset: Offset, is_new: bool
    ) -> HttpResponse:
        """Return the answer to a PUT whose stream exists now.

        ``offset``: the end of the stream. ``is_new``: the PUT has created it.
        """
        more = [(NEXT, protocol.text_of_offset(offset))]
        if row.is_closed:
            more.append((CLOSED, "true"))
        if is_new:
            more.append(("Location", self._address(call.request)))
            return respond(201, *more, kind=row.content_type)
        # Nothing was created, so the audit log gets no act.
        call.act = ""
        return respond(200, *more, kind=row.content_type)

    def _wish_of(self, call: Call) -> StreamRow:
        """Return the stream or the fork that a PUT describes.

        May switch greenlets. Raises ApiProblem.
        """
        target = call.input
        headers = call.request.headers
        wish = self._stream_of_request(target, headers)
        source = headers.get("stream-forked-from")
        existing = self._rows.get(target.app, target.name)
        exists = existing is not None and self._rows.state(existing) != GONE
        if source is not None:
            return self._fork(call, wish, source, exists)
        if "stream-fork-sub-offset" in headers:
            raise refusal(400, "Stream-Fork-Sub-Offset needs Stream-Forked-From")
        return wish

    def _create_with_content(
        self, call: Call, wish: StreamRow, head: int, content: Content
    ) -> tuple[Literal["new", "same", "other"], StreamRow, Offset]:
        """Create a stream, and store its first entry in the same transaction.

        Returns the outcome as :func:`rows.create` does, the row, and the end of
        the stream. May switch greenlets. Raises ApiProblem.
        """
        append = Append(wish.app, wish.name, ends=wish.is_closed, wish=wish, head=head)
        verdict, entry = self._store(call, append, content)
        row = verdict.row or wish
        if entry is not None:
            offset = (entry.id, 0)
        else:
            offset = self._reader.tail(row)
        if verdict.status == STORED:
            return "new", row, offset
        if verdict.status == 200:
            return "same", row, offset
        return "other", row, offset

    def _address(self, request: HttpRequest) -> str:
        """Return the address of a stream for its client.

        The setting of the server's address comes first. Otherwise the request
        tells the host, and a proxy tells whether the client uses HTTPS.
        """
        base = self._core.config.address
        if base:
            return base + request.path

        headers = request.headers
        host = headers.get("host", "localhost")
        if headers.get("x-forwarded-proto", "").startswith("https"):
            return f"https://{host}{request.path}"
        return f"http://{host}{request.path}"

    def _stream_of_request(self, target: Target, headers: Any) -> StreamRow:
        """Return the stream that a PUT describes, without a source.

        Raises ApiProblem.
        """
        ttl = protocol.number_in(headers, "Stream-TTL")
        expires_at = headers.get("stream-expires-at", "")
        if ttl >= 0 and expires_at:
            raise refusal(400, "Stream-TTL and Stream-Expires-At: only one of them")
        if ttl > _MOST_TTL_SECONDS:
            raise refusal(400, "Stream-TTL: it is too long")
        expires_ms = 0
        if expires_at:
            expires_ms = _read_expiry(expires_at)

        default_type = protocol.BINARY
        if "stream-forked-from" in headers:
            default_type = ""  # a fork has the type of its source
        wish = StreamRow(
            app=target.app,
            name=target.name,
            content_type=protocol.read_type(headers, default_type),
            ttl=ttl,
            expires_at=expires_at,
            expires_ms=expires_ms,
        )
        if protocol.closes(headers):
            # The end becomes known when the stream is stored.
            return replace(wish, closed_at=0)
        return wish

    def _fork(
        self, call: Call, wish: StreamRow, address: str, exists: bool
    ) -> StreamRow:
        """Return the fork that a PUT with a source describes.

        ``address``: the path of the source. ``exists``: a stream with the name
        of the fork exists. May switch greenlets. Raises ApiProblem.
        """
        headers = call.request.headers
        parent = _name_of_source(call.request.path, address)
        sub = protocol.number_in(headers, "Stream-Fork-Sub-Offset", 0)
        offset_text = headers.get("stream-fork-offset", "")
        offset = _read_fork_offset(offset_text)
        if sub and offset is None:
            raise refusal(400, "Stream-Fork-Sub-Offset needs Stream-Fork-Offset")
        wish = replace(
            wish, parent=parent, fork_offset=offset_text, fork_sub=sub, start=-1
        )
        # If the stream exists, it is only compared with the request. Its source
        # may have changed since.
        if exists:
            return wish
        return self._begin_fork(call.principal, wish, offset)

    def _begin_fork(
        self, principal: Principal, wish: StreamRow, offset: Offset | None
    ) -> StreamRow:
        """Return a new fork with its beginning, and facts of its source.

        ``offset``: where it begins; None means the end of the source. May
        switch greenlets. Raises ApiProblem.
        """
        source = self._source_of_fork(principal, wish)
        tail = self._reader.tail(source)
        if offset is None:
            offset = tail
        if offset > tail:
            raise refusal(400, "the fork begins behind the end of its source")
        _require_type_of(source, wish)
        start = offset
        if wish.fork_sub:
            start = self._reader.inside(source, offset, wish.fork_sub)
        wish = replace(
            wish,
            content_type=wish.content_type or source.content_type,
            start=start[0],
            skip=start[1],
            fork_offset=protocol.text_of_offset(offset),
        )
        return _with_expiry_of(source, wish)

    def _source_of_fork(self, principal: Principal, wish: StreamRow) -> StreamRow:
        """Return the stream from which a fork is made.

        May switch greenlets. Raises ApiProblem if the principal may not read
        it.
        """
        self._require_permission(principal, Target(wish.app, wish.parent), "subscribe")
        try:
            source = self._reader.find(wish.app, wish.parent)
        except ApiProblem as problem:
            if problem.problem.status == 410:
                raise refusal(409, "the source is gone") from None
            raise
        # Raises ApiProblem if the chain of forks is too long.
        self._reader.segments(replace(wish, start=0))
        return source

    def append(self, call: Call) -> HttpResponse:
        """Answer a POST. May switch greenlets. Raises ApiProblem."""
        target = call.input
        headers = call.request.headers
        body = call.body
        self._require_permission(call.principal, target, "publish")
        producer = protocol.read_producer(headers)
        ends = protocol.closes(headers)
        content_type = headers.get("content-type", "")
        if not body and not ends:
            raise refusal(400, "the body is empty")
        if body and not content_type:
            raise refusal(400, "Content-Type is missing")
        self._require_short(target, body)

        if body:
            content = self._content(target, body, content_type)
        else:
            # An entry without content marks the end of the stream.
            content = Content(b"", b"", END)
            content_type = ""
        append = Append(
            target.app,
            target.name,
            content_type,
            seq=protocol.short_text_in(headers, "Stream-Seq"),
            producer=producer,
            ends=ends,
            content=bool(body),
        )
        verdict, entry = self._store(call, append, content)
        return self._answer_append(append, verdict, entry)

    def _content(self, target: Target, body: bytes, content_type: str) -> Content:
        """Return the content of an append.

        The type of its stream decides how the body is read. Raises ApiProblem.
        """
        row = self._reader.find(target.app, target.name)
        is_same = protocol.plain_type(content_type) == protocol.plain_type(
            row.content_type
        )
        if not is_same or row.is_closed:
            return Content(body, b"", "text")  # the append will be refused
        content = protocol.content_of(body, row.content_type)
        assert content is not None
        return content

    def _answer_append(
        self, append: Append, verdict: Verdict, entry: Entry | None
    ) -> HttpResponse:
        """Return the answer to an append. Raises ApiProblem if it was refused.

        ``entry`` is None if nothing was stored.
        """
        more: list[tuple[str, str]] = []
        offset = self._offset_after(append, verdict, entry)
        if offset is not None:
            more.append((NEXT, protocol.text_of_offset(offset)))
        is_closed = verdict.row is not None and verdict.row.is_closed
        if is_closed or (append.ends and verdict.is_accepted):
            more.append((CLOSED, "true"))

        producer = append.producer
        if not verdict.is_accepted:
            more += _numbers_for_producer(producer, verdict)
            raise refusal(verdict.status, verdict.text, *more)
        if producer is None:
            return respond(204, *more)
        return _answer_producer(producer, append, verdict, entry, more)

    def _offset_after(
        self, append: Append, verdict: Verdict, entry: Entry | None
    ) -> Offset | None:
        """Return the end of the stream after an append.

        None if it is unknown, because the append was refused.
        """
        if entry is not None and append.content:
            return entry.id, 0
        row = verdict.row
        if row is None:
            return None
        if entry is not None:
            # This entry closed the stream, so the row has the position.
            row = self._rows.get(append.app, append.name) or row
        return self._reader.tail(row)

    def _require_short(
        self, target: Target, body: bytes, around: int = protocol.AROUND_BYTES
    ) -> None:
        """Refuse an append that is too long, before its values become objects.

        ``around``: the bytes of the body that may not belong to the content.
        Raises ApiProblem.
        """
        options = self._channels.options.of(target.app, target.name)
        most_bytes = min(MOST_BYTES, options.max_bytes or MOST_BYTES)
        if len(body) > most_bytes + around:
            raise refusal(413, f"an append has at most {most_bytes} bytes")

    def _store(
        self, call: Call, append: Append, content: Content
    ) -> tuple[Verdict, Entry | None]:
        """Store an append, if its stream accepts it.

        Returns the verdict, and the entry, which is None if nothing was stored.
        May switch greenlets. Raises ApiProblem and StorageUnavailable.
        """
        principal = call.principal
        self._require_short(Target(append.app, append.name), content.body, around=0)
        self._require_rate(call, append)
        draft = Draft(
            sender=principal.user,
            type=content.type,
            body=content.body,
            meta=content.meta,
            time_ms=_now_ms(),
            room=append.name,
        )
        waiting: AsyncResult[Any] = AsyncResult()
        # A user's message also counts for the rates of the user.
        if principal.user:
            self._messaging.send_of_user(append.app, draft, waiting.set, source=append)
        else:
            self._messaging.send(append.app, draft, waiting.set, source=append)
        result = waiting.get()
        if isinstance(result, Appended):
            return append.verdict, result.entry
        # The stream has refused it, and not the log.
        if isinstance(result, Rejected) and append.verdict.status:
            return append.verdict, None
        raise _error_of(result)

    def _require_rate(self, call: Call, append: Append) -> None:
        """Count an append of a client for the limit of the channel.

        Back ends have no limit. Raises ApiProblem if there are too many
        appends.
        """
        principal = call.principal
        channels = self._channels
        limit = channels.options.of(append.app, append.name).publications_per_second
        if not limit or principal.may(Needs.PUSH, append.app):
            return
        payer = append.app, principal.user or call.request.host
        if not channels.publishing.count_publication(
            payer, append.app, append.name, limit
        ):
            raise refusal(429, "the channel takes no more publications in this second")

    def delete(self, call: Call) -> HttpResponse:
        """Answer a DELETE. May switch greenlets. Raises ApiProblem."""
        target = call.input
        self._require_permission(call.principal, target, "publish")
        if not call.principal.may(Needs.PUSH, target.app):
            raise refusal(403, "only back ends delete streams")
        if self._rows.get(target.app, target.name) is None:
            raise refusal(404, "there is no such stream")
        self._reader.find(target.app, target.name)
        self._rows.remove(target.app, target.name)
        self._wake_readers(target)
        return respond(204)

    def _wake_readers(self, target: Target) -> None:
        """Wake the readers of a deleted stream on all nodes.

        If this is refused, they learn of it when they ask again. Switches
        greenlets.
        """
        waiting: AsyncResult[Any] = AsyncResult()
        end = Draft(sender="", type=END, room=target.name, body=b"", time_ms=_now_ms())
        self._messaging.send(target.app, end, waiting.set)
        waiting.get()

    def head(self, call: Call) -> HttpResponse:
        """Answer a HEAD. May switch greenlets. Raises ApiProblem."""
        target = call.input
        self._require_permission(call.principal, target, "subscribe")
        row = self._reader.find(target.app, target.name)
        more = [
            (NEXT, protocol.text_of_offset(self._reader.tail(row))),
            ("Cache-Control", "no-store"),
        ]
        if row.is_closed:
            more.append((CLOSED, "true"))
        more += _headers_of_lifetime(row)
        return respond(200, *more, kind=row.content_type)

    # --- requests -------------------------------------------------------------

    def read_target(self, call: Call) -> None:
        """Read the app and the stream that the path of a request names.

        ``/durable/news/stream/log%231`` names the stream ``log#1`` of the app
        ``news``. Raises ApiProblem.
        """
        _, _, app, _, name = call.request.path.split("/")
        call.app = self._core.tenants.resolve(unquote(app))
        call.input = Target(call.app, unquote(name))
        if "\0" in call.input.name:
            raise refusal(400, "no channel has this name")
        call.facts = {"stream": call.input.name}

    def _require_permission(
        self, principal: Principal, target: Target, action: Any
    ) -> None:
        """Refuse a principal who may not do this, and a channel that is not
        stored.

        ``action``: ``subscribe`` or ``publish``. May switch greenlets. Raises
        ApiProblem.
        """
        if self._core.tenants.find(target.app) is None:
            raise refusal(404, "there is no such app")
        try:
            self._core.channel_commands.check_request(
                principal, target.app, target.name, action
            )
        except ChannelRefused as refused:
            raise _problem(refused, principal) from None
        if not self._channels.options.is_stored(target.app, target.name):
            raise refusal(
                404, "the channel is not stored: its namespace needs `history: log`"
            )

    def paths(self, _answer_get: object) -> dict[str, StreamPath]:
        """Return the paths of streams.

        Each answer to a GET may become a stream, so each GET has a connection
        of its own.
        """
        refuse = partial(stream_refused, self._core.node.request_log, style=STYLE)
        return {PATH: StreamPath("GET", self.serve, refuse)}


def _headers_of_lifetime(row: StreamRow) -> list[tuple[str, str]]:
    """Return the headers that tell how long a stream lives, if it expires."""
    headers = []
    if row.ttl >= 0:
        headers.append(("Stream-TTL", str(row.ttl)))
    if row.expires_at:
        headers.append(("Stream-Expires-At", row.expires_at))
    return headers


def _headers_of_events(
    row: StreamRow, dialect: DurableDialect
) -> list[tuple[str, str]]:
    """Return the further headers of an answer that is a stream of events."""
    headers = [("Cross-Origin-Resource-Policy", "cross-origin")]
    if not protocol.is_text(row.content_type):
        headers.append((protocol.ENCODING, "base64"))
    if dialect is _EVENTS:
        headers.append(("Transfer-Encoding", "chunked"))
    return headers


def _etag_of(row: StreamRow, page: Page, wish: Wish) -> str:
    """Return the ETag of a page: its stream, and the offsets of its begin and
    end.

    ``:c`` says that nothing follows, because the stream is closed.
    """
    stream = f"{row.app}\0{row.name}\0{row.begins}".encode()
    name = blake2b(stream, digest_size=_ETAG_BYTES).hexdigest()
    end = protocol.text_of_offset(page.next)
    if row.is_closed and page.is_last:
        end += ":c"
    return f'"{name}:{wish.offset_text}:{end}"'


def _name_of_source(path: str, address: str) -> str:
    """Return the name of the stream at an address, the source of a fork.

    ``path``: of the fork, which is in the same app. Raises ApiProblem.
    """
    app = path.split("/")[2]
    parts = unquote(address).split("/stream/", 1)
    if len(parts) < 2 or not parts[0].endswith(f"/{app}"):
        raise refusal(404, "there is no such source")
    return parts[1]


def _require_type_of(source: StreamRow, wish: StreamRow) -> None:
    """Refuse a fork with another content type than its source.

    Raises ApiProblem. A fork without a type gets that of its source.
    """
    is_other_type = protocol.plain_type(wish.content_type) != protocol.plain_type(
        source.content_type
    )
    if wish.content_type and is_other_type:
        raise refusal(409, f"the source has the content type {source.content_type}")


def _error_of(result: object) -> Exception:
    """Return the error for an entry that the log has not stored."""
    if isinstance(result, Rejected):
        return ApiProblem(result.problem, result.explanation)
    assert isinstance(result, Unavailable)
    return result


def _read_expiry(text: str) -> int:
    """Return a time such as ``2026-01-20T10:00:00Z`` in Unix milliseconds.

    Raises ApiProblem if it is no time, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
        expires_ms = int(moment.timestamp() * _SECOND_MS)
    except (ValueError, OverflowError):
        raise refusal(400, "Stream-Expires-At: expected a time in ISO 8601") from None
    if len(text) > _MOST_TIME_CHARACTERS or moment.tzinfo is None:
        raise refusal(400, "Stream-Expires-At: expected a time with its zone")
    return expires_ms


def _with_expiry_of(source: StreamRow, wish: StreamRow) -> StreamRow:
    """Return a fork that lives as long as its source, if it names no time."""
    if wish.ttl >= 0 or wish.expires_at:
        return wish
    return replace(
        wish,
        ttl=source.ttl,
        expires_at=source.expires_at,
        expires_ms=source.expires_ms,
    )


def _read_fork_offset(text: str) -> Offset | None:
    """Return the offset at which a fork begins. None if the request names none.

    Raises ApiProblem.
    """
    if not text:
        return None
    if text == "-1":
        return (0, 0)
    return protocol.read_offset(text)


def _answer_producer(
    producer: protocol.Producer,
    append: Append,
    verdict: Verdict,
    entry: Entry | None,
    more: list[tuple[str, str]],
) -> HttpResponse:
    """Return the answer to an accepted append of a producer.

    ``entry`` is None if the append repeats an earlier one. ``more``: further
    headers.
    """
    # For a repeated append it is the last number that was stored.
    number = producer.seq
    if entry is None:
        number = verdict.number
    numbers = ("Producer-Epoch", str(producer.epoch)), ("Producer-Seq", str(number))
    # By the status a producer knows whether its append was a repeated one.
    if entry is not None and append.content:
        return respond(200, *more, *numbers)
    return respond(204, *more, *numbers)


def _numbers_for_producer(
    producer: protocol.Producer | None, verdict: Verdict
) -> list[tuple[str, str]]:
    """Return the headers from which a refused producer learns its numbers."""
    if verdict.status == 403:
        return [("Producer-Epoch", str(verdict.number))]
    if producer is not None and verdict.status == 409 and verdict.number >= 0:
        return [
            ("Producer-Expected-Seq", str(verdict.number)),
            ("Producer-Received-Seq", str(producer.seq)),
        ]
    return []


def _problem(refused: ChannelRefused, principal: Principal) -> ApiProblem:
    """Return the problem for a channel that refuses an action.

    Without a key or token it is 401, because with one it might be allowed.
    """
    status = _CODES.get(refused.reason, 403)
    if principal.kind == "nobody" and refused.reason not in _CODES:
        status = 401
    return refusal(status, str(refused))


def _now_ms() -> int:
    """Return the present time in Unix milliseconds."""
    return int(time() * _SECOND_MS)


def _control(next: Offset, state: dict[str, bool], wish: Wish) -> bytes:
    """Return the event that tells a client its position.

    ``state`` has ``streamClosed`` or ``upToDate``, if one of them is true.
    """
    fields: dict[str, Any] = {
        "streamNextOffset": protocol.text_of_offset(next),
        **state,
    }
    if "streamClosed" not in fields:
        fields["streamCursor"] = wish.next_cursor()
    return protocol.event("control", msgspec.json.encode(fields))


def _route(
    method: str, need: Need, function: Any, hot: bool = True, **more: Any
) -> Route:
    """Return a route for the streams. ``more``: further fields of the route."""
    # The service learns the routes of the node with the first request.
    more["service"] = lambda core, api: core.service(DurableStreams).attach(api)
    more["read"] = DurableStreams.read_target
    return Route(
        method, PATH, need, function, hot=hot, limited=True, style=STYLE, **more
    )


ROUTES: Final = (
    # The front server answers HEAD by its own row, the WSGI server by the row
    # of GET.
    _route("GET", READ, DurableStreams.head, hot=False),
    _route("HEAD", READ, DurableStreams.head),
    _route(
        "PUT",
        WRITE,
        DurableStreams.create,
        voice=True,
        act=f"{NAME}.create",
        takes_many=True,
    ),
    _route("POST", WRITE, DurableStreams.append, voice=True, takes_many=True),
    _route("DELETE", WRITE, DurableStreams.delete, act=f"{NAME}.delete"),
)
