"""``GET /api/v1/events``: an event stream, for who cannot have a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NoReturn

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver import errors
from imserver.api.form import BadBody
from imserver.api.reply import PROBLEM, ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.operation import Header, Operation
from imserver.api.v1.wire import read_query
from imserver.auth.authority import bearer
from imserver.auth.principal import ANYONE_OR_READ, READ, may
from imserver.services.dialects.event_streams import EventStreams, NoUser, StreamRequest
from imserver.services.rooms.rooms import MAX_NAME_BYTES, MAX_ROOMS_OF_A_CONNECTION
from imserver.transport import problems
from imserver.transport.exchange import HttpRequest, header_block
from imserver.transport.gate import Head, host_of
from imserver.transport.stream import Stream

if TYPE_CHECKING:
    from imserver.parts import Parts

PATH: Final = "/api/v1/events"

_TEXT: Final = "text/event-stream"
_STATUS_OF: Final = {
    errors.CLOSE_TOKEN_INVALID: errors.HTTP_TOKEN_INVALID,
    errors.CLOSE_NOT_ALLOWED: errors.HTTP_NOT_ALLOWED,
    errors.CLOSE_BANNED: errors.HTTP_BANNED,
    errors.CLOSE_KICKED: errors.HTTP_BANNED,
    errors.CLOSE_REFUSED: errors.HTTP_ALREADY_ONLINE,
    errors.CLOSE_REPLACED: errors.HTTP_ALREADY_ONLINE,
    errors.CLOSE_NODE_FULL: errors.HTTP_NODE_FULL,
    errors.CLOSE_INTERNAL_ERROR: errors.HTTP_INTERNAL_ERROR,
}
"""How HTTP says what a WebSocket's close code says; any other: ``not_ready``."""
_ID_DIGITS: Final = 18
_RETRY_AFTER: Final = ("Retry-After", "2")
_HEADERS: Final = (
    ("Content-Type", f"{_TEXT}; charset=utf-8"),
    ("Cache-Control", "no-store, no-transform"),
    # nginx would keep events to itself until it has 4 KB of them.
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
    ("Access-Control-Allow-Origin", "*"),
    ("Connection", "close"),
)
"""Of every stream."""


class EventsQuery(Struct, forbid_unknown_fields=True):
    """Whose events."""

    app: field.App
    user: Annotated[
        str, Meta(max_length=255, description="The user who listens. Optional if the token names them.")
    ] = ""
    token: Annotated[
        str,
        Meta(
            description="The session token of the user, where the app demands one, if it does not come as "
            "`Authorization: Bearer`. It is kept out of the log."
        ),
    ] = ""
    device: Annotated[str, Meta(max_length=64, description="What the device calls itself.")] = ""
    rooms: Annotated[
        str,
        Meta(
            description="Rooms to join, separated by commas. Outside demo mode this takes an API key with "
            "the scope `read` as `Authorization: Bearer`; otherwise your back end joins connections to rooms."
        ),
    ] = ""
    with_id: Annotated[
        bool, Meta(description="Tell the id of the connection in `ready`, for your back end to push to.")
    ] = False
    cursor: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**53,
                description="The id of the last stored message that the client has. Later messages are "
                "sent first. `Last-Event-ID` takes precedence.",
            ),
        ]
        | UnsetType
    ) = UNSET


class Events:
    """Opens streams. Stateless; ``services`` is the node."""

    def __init__(self, services: Parts, streams: EventStreams) -> None:
        self._services = services
        self._streams = streams

    def open(self, stream: Stream, head: Head) -> None:
        """Begin the stream that a request asks for, or refuse it. It may switch."""
        request = _request(head, host_of(stream.peer))
        try:
            self._streams.open(stream, self._wish(request), lambda: self._begin(request))
        except NoUser:
            problem = ApiProblem(errors.HTTP_INVALID_REQUEST, "The request names no `user`")
            stream.refuse(self._refused(request, problem), errors.CLOSE_POLICY)
        except BadBody:
            problem = ApiProblem(errors.HTTP_INVALID_REQUEST, "Too many parameters")
            stream.refuse(self._refused(request, problem), errors.CLOSE_POLICY)
        except ApiProblem as refused:
            stream.refuse(self._refused(request, refused), errors.CLOSE_POLICY)
        except errors.StorageUnavailable:
            problem = ApiProblem(errors.HTTP_STORAGE_UNAVAILABLE)
            stream.refuse(self._refused(request, problem), errors.CLOSE_INTERNAL_ERROR)

    def refuse(self, head: Head, code: int) -> bytes:
        """The response to a request whose stream is closed before it has begun."""
        problem = ApiProblem(_STATUS_OF.get(code, errors.HTTP_NOT_READY))
        return self._refused(_request(head, head.host), problem)

    def _begin(self, request: HttpRequest) -> bytes:
        """The head of a stream."""
        self._log(request, 200, 0)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*_HEADERS, ("X-Request-Id", request.id)))
        return problems.status_line(200) + f"{lines}\r\n".encode("latin-1")

    def _refused(self, request: HttpRequest, problem: ApiProblem) -> bytes:
        """A whole response with a problem body."""
        answer = PROBLEM.refuse(problem.problem, request, problem.detail)
        headers = problem.headers + ((_RETRY_AFTER,) if problem.problem.temporary else ())
        lines = header_block(answer)
        lines += "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        self._log(request, answer.status, len(answer.body))
        return problems.head(answer.status, lines, len(answer.body), keep=False) + answer.body

    def _log(self, request: HttpRequest, status: int, size: int) -> None:
        # A stream has no end yet, so there is no time that it took.
        log = self._services.request_log
        log.add(request.method, request.path, status, 0.0, request.host, size, request.id)

    def _wish(self, request: HttpRequest) -> StreamRequest:
        """What a request asks for. Raises :class:`ApiProblem`, and StorageUnavailable. It may switch."""
        query = read_query(request, EventsQuery)
        services = self._services
        app: str = services.tenants.resolve(query.app)
        if services.tenants.find(app) is None:
            raise ApiProblem(errors.HTTP_UNKNOWN_APP)
        principal = services.authority.identify(ANYONE_OR_READ, request.headers, request.host)
        rooms = tuple(dict.fromkeys(name for name in query.rooms.split(",") if name))
        if rooms and not may(principal, READ, app):
            raise ApiProblem(errors.HTTP_FORBIDDEN, "To join rooms here takes an API key with the scope read")
        if len(rooms) > MAX_ROOMS_OF_A_CONNECTION:
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"More than {MAX_ROOMS_OF_A_CONNECTION} rooms")
        if any(len(name.encode()) > MAX_NAME_BYTES for name in rooms):
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"A room has more than {MAX_NAME_BYTES} bytes")
        token = query.token or ("" if principal.key else bearer(request.headers.get("authorization", "")))
        cursor = _last_event_id(request)
        if cursor is None and query.cursor is not UNSET:
            cursor = query.cursor
        return StreamRequest(app, query.user, token, query.device, rooms, query.with_id, cursor)


def _last_event_id(request: HttpRequest) -> int | None:
    """The last id of a client that comes back; None for none, or one that is no id of ours."""
    text = request.headers.get("last-event-id", "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _ID_DIGITS else None


def _request(head: Head, host: str) -> HttpRequest:
    return HttpRequest(head.method, head.path, head.query.encode("latin-1"), b"", head.headers, host)


def _elsewhere(*_: object) -> NoReturn:
    raise NotImplementedError("a stream takes its socket over; see imserver.transport.stream")


OPERATIONS: Final = (
    Operation(
        "GET",
        PATH,
        ANYONE_OR_READ,
        _elsewhere,
        "events",
        "Receive events without a WebSocket",
        "Server-sent events (`EventSource` of browsers): a session of `user` that only receives. Login "
        "policy, bans, limits and tokens are those of the app, as on a WebSocket.\n\n"
        "The first event is named `ready`: from then on whatever is pushed to the user arrives, each as one "
        "event without a name whose data is a line of JSON. A comment comes every 25 s. If the server ends "
        "the stream, the last event is named `end` and tells a close code and whether to come back.\n\n"
        "Stored messages have an `id`. Whoever comes back with the last one as `Last-Event-ID`, as browsers "
        "do by themselves, is told what it missed of them, and `ready` says `resumed`; where that is "
        "`false`, something before the id of `ready` may be missing.",
        query=EventsQuery,
        problems=(
            errors.HTTP_INVALID_REQUEST,
            errors.HTTP_TOKEN_INVALID,
            errors.HTTP_NOT_ALLOWED,
            errors.HTTP_FORBIDDEN,
            errors.HTTP_BANNED,
            errors.HTTP_UNKNOWN_APP,
            errors.HTTP_ALREADY_ONLINE,
            errors.HTTP_NODE_FULL,
            errors.HTTP_NOT_READY,
            errors.HTTP_STORAGE_UNAVAILABLE,
        ),
        headers=(
            Header("Last-Event-ID", "Sent by browsers that come back: the id of the last stored message."),
        ),
        example_query={"app": "101", "user": "u1"},
        example_answer=(
            'retry: 3000\nid: 16\nevent: ready\ndata: {"event":"ready","app":"101","user":"u1","device":"",'
            '"rooms":[],"resumed":false}\n\n'
            'data: {"event":"msg","app":"101","id":"o-1","sender":"shop","type":"text","text":"hi"}\n\n'
            'id: 17\ndata: {"event":"message","app":"101","id":17,"conversation":3,"seq":5,"kind":"message",'
            '"from":"shop","to":"u1","type":"text","text":"hi","time":1795155801000}\n\n'
        ),
        content_type=_TEXT,
        hot=False,
    ),
)
