"""Flask's views of the API: one thin adapter for each row of the table, uploads, and event streams."""

from __future__ import annotations

import _socket
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from imserver import errors
from imserver.api.call import Api, Call, Route, admit, answer, body_limit, carry_out, prepare
from imserver.api.form import BadBody
from imserver.api.reply import PREFLIGHT, PROBLEM, ApiProblem
from imserver.api.v1.uploads import FILE_PATH, PATH, THUMBNAIL_PATH, UPLOAD, UploadQuery, problem_after, shown
from imserver.errors import HTTP_BAD_REQUEST, Unavailable
from imserver.features.uploads.transfers import TransferRefused
from imserver.features.uploads.uploads import ID_CHARACTERS, Offer
from imserver.storage.contract import Upload
from imserver.transport.exchange import HEADER_LIST, HttpRequest, HttpResponse, pattern_of, phrase_of
from imserver.transport.gate import Head
from imserver.transport.stream import Streams


def create_api(api: Api, pages: Iterable[Route] = ()) -> Blueprint:
    """The blueprint that answers every route of the API, and the rows of ``pages``, before Flask's own
    routing.

    A hundred werkzeug rules would take a megabyte; one dict lookup does the same.
    """
    blueprint = Blueprint("api", __name__)
    views: dict[str, dict[str, _View]] = {}
    for route in (*api.routes, *pages):
        views.setdefault(route.path, {})[route.method] = _View(api, route)
    blueprint.before_app_request(_Table(views))
    return blueprint


class _Table:
    """Answers a request whose path and method are in the table."""

    def __init__(self, views: Mapping[str, Mapping[str, _View]]) -> None:
        self._views = views

    def __call__(self) -> Response | None:
        rows = self._views.get(request.path) or self._views.get(pattern_of(request.path))
        if rows is None:
            return None
        method = request.method
        view = rows.get("GET" if method == "HEAD" else method)
        if view is None and method == "OPTIONS":
            view = next(iter(rows.values()))
        if view is not None:
            # Flask knows no such path. With its exception, a request is a cycle of a hundred objects.
            request.routing_exception = None
            return view()
        if request.url_rule is not None:  # another view has this method of the path
            return None
        others = getattr(request.routing_exception, "valid_methods", None) or ()
        heads = ("HEAD",) if "GET" in rows else ()
        raise MethodNotAllowed(sorted({*rows, *heads, *others, "OPTIONS"}))


def to_response(finished: HttpResponse) -> Response:
    """Convert a finished answer to a Flask response, with the headers of the API."""
    # From a number, werkzeug would make a reason in capitals.
    response = Response(finished.body, f"{finished.status} {phrase_of(finished.status)}")
    response.headers.clear()
    if not finished.page:
        response.headers.extend(HEADER_LIST)
    if finished.content_type:
        response.headers["Content-Type"] = finished.content_type
    response.headers.extend(finished.headers)
    response.content_length = len(finished.body)
    return response


def as_request(body: bytes = b"") -> HttpRequest:
    """Convert Flask's request to a request of the API."""
    return HttpRequest(
        request.method,
        request.path,
        request.query_string,
        body,
        {name.lower(): value for name, value in request.headers.items()},
        g.get("host", request.remote_addr or ""),
        given_id=g.get("request_id", ""),
    )


class _View:
    """The view of one row."""

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self) -> Response:
        route, http_request = self._route, as_request()
        if request.method == "OPTIONS" and route.method != "OPTIONS":
            return to_response(answer(self._api, route, http_request))
        principal = admit(self._api, route, http_request)
        if isinstance(principal, HttpResponse):
            return to_response(principal)
        try:
            # One byte more: werkzeug cuts a chunked body off at the limit without an error.
            request.max_content_length = body_limit(self._api, principal) + 1
            reads = route.read is not None or request.method != "GET"
            body = request.get_data(cache=False, parse_form_data=False) if reads else b""
        except (HTTPException, OSError, ValueError):  # over the limit, incomplete, or invalid chunks
            return to_response(route.style.refuse(HTTP_BAD_REQUEST, http_request))
        return to_response(carry_out(self._api, route, as_request(body), principal))


_RETRY_AFTER: Final = ("Retry-After", "2")
_OWN_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_SHOWN: Final = frozenset({"picture", "voice", "video"})
_CACHED: Final = "private, max-age=86400, immutable"
_NOTHING_RUNS: Final = "default-src 'none'; sandbox"
"""Uploaded files must not run as pages: even if a browser renders one as a page, its scripts are blocked."""

_NO_FORM: Final = "The body of the request is the file itself; do not send a form"

Range = tuple[int, int]


def create_upload_view(api: Api) -> Blueprint:
    """The blueprint of the paths whose bodies are files."""
    view, blueprint = _UploadView(api), Blueprint("uploads", __name__)
    for path, function, methods in (
        (PATH, view.take, ["POST"]),
        (FILE_PATH, view.give, ["GET"]),
        (THUMBNAIL_PATH, view.give_thumbnail, ["GET"]),
    ):
        blueprint.add_url_rule(
            path.replace("{id}", f"<string(length={ID_CHARACTERS}):id>"),
            endpoint=function.__name__,
            view_func=function,
            methods=methods,
            provide_automatic_options=False,
        )
    return blueprint


class _UploadView:
    def __init__(self, api: Api) -> None:
        self._api = api

    # --- in -------------------------------------------------------------------------------------------------

    def take(self) -> Response:
        """``POST /api/v1/uploads``."""
        return answered(self._take)

    def _take(self, http_request: HttpRequest) -> Response:
        api = self._api
        principal = admit(api, UPLOAD, http_request)
        if isinstance(principal, HttpResponse):
            return to_response(principal)
        call = Call({}, "", principal, http_request)
        prepare(api, UPLOAD, call)
        query: UploadQuery = call.asked
        api.rates.require(principal, http_request.host)
        if http_request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiProblem(errors.HTTP_UNKNOWN_ENCODING, "Upload the file without a Content-Encoding")
        if http_request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, _NO_FORM)
        length = request.content_length
        if length is None:
            raise ApiProblem(errors.HTTP_LENGTH_REQUIRED)
        offer = Offer(
            call.app,
            call.user,
            query.name,
            query.kind,
            length,
            http_request.host,
            by_user=not call.is_back_end,
        )
        # The server's own stream: it ends with the body, and reads no more than requested.
        uploads = api.services.uploads
        row = uploads.receive(offer, request.environ["wsgi.input"].read)
        try:
            problem = problem_after(api, call, query.token)
            if problem is not None:
                raise ApiProblem(problem)
        except BaseException:
            uploads.delete(row.id)  # nothing else would delete the file
            raise
        headers = (("Location", f"{PATH}/{row.id}"), ("X-Request-Id", http_request.id))
        return to_response(HttpResponse(HTTPStatus.CREATED, _encode(shown(row)), headers=headers))

    # --- out ------------------------------------------------------------------------------------------------

    def give(self, id: str) -> Response:
        """``GET /api/v1/uploads/<id>``."""
        return answered(lambda http_request: self._give(http_request, id, thumbnail=False))

    def give_thumbnail(self, id: str) -> Response:
        """``GET /api/v1/uploads/<id>/thumbnail``."""
        return answered(lambda http_request: self._give(http_request, id, thumbnail=True))

    def _give(self, http_request: HttpRequest, name: str, thumbnail: bool) -> Response:
        uploads = self._api.services.uploads
        row = uploads.find(name)
        if row is None or (thumbnail and not row.thumbnail_bytes):
            raise ApiProblem(errors.HTTP_UNKNOWN_UPLOAD)
        tag = f'"{row.sha256[:32]}{"-t" if thumbnail else ""}"'
        headers = {**_headers(row, thumbnail), "ETag": tag, "X-Request-Id": http_request.id}
        if _names(http_request.headers.get("if-none-match", ""), tag):
            return _response((), HTTPStatus.NOT_MODIFIED, headers)
        size = row.thumbnail_bytes if thumbnail else row.bytes
        wanted = _range_of(http_request.headers, tag, size)
        first, last = wanted or (0, size - 1)
        headers["Content-Length"] = str(last + 1 - first)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
        if request.method == "HEAD":
            return _response((), status, headers)
        return _response(uploads.open(row, thumbnail, first, last, http_request.host), status, headers)


_encode: Final = msgspec.json.Encoder().encode


def answered(function: Callable[[HttpRequest], Response]) -> Response:
    """The result of a view of files, or its error as an answer."""
    http_request = as_request()
    try:
        return function(http_request)
    except ApiProblem as problem:
        return _refused(http_request, problem.problem, problem.detail, problem.headers)
    except TransferRefused as refused:
        return _refused(http_request, refused.problem, refused.detail)
    except Unavailable as error:
        return _refused(http_request, error.problem)
    except BadBody:
        return _refused(http_request, errors.HTTP_INVALID_REQUEST)
    except TimeoutError:  # the sender has stopped sending
        return _refused(http_request, errors.HTTP_TIMEOUT)
    except OSError:  # the sender has disconnected; nobody reads this
        return _refused(http_request, errors.HTTP_BAD_REQUEST)


def _refused(
    http_request: HttpRequest,
    problem: errors.HttpProblem,
    detail: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    response = to_response(PROBLEM.refuse(problem, http_request, detail))
    response.headers.extend(headers)
    if problem.temporary and "Retry-After" not in response.headers:
        response.headers.add(*_RETRY_AFTER)
    return response


def _response(content: Iterable[bytes], status: HTTPStatus, headers: dict[str, str]) -> Response:
    response = Response(content, f"{status.value} {status.phrase}", direct_passthrough=True)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _headers(row: Upload, thumbnail: bool) -> dict[str, str]:
    """The headers of a file's answer."""
    inline = thumbnail or row.kind in _SHOWN
    disposition = "inline" if inline else "attachment"
    if row.name and not thumbnail:
        disposition += f"; filename*=UTF-8''{quote(row.name, safe='')}"
    return {
        "Content-Type": row.thumbnail_type if thumbnail else row.type,
        "Content-Disposition": disposition,
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHED,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _NOTHING_RUNS,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag, X-Request-Id",
    }


def _names(header: str, tag: str) -> bool:
    """Whether If-None-Match names this file (RFC 9110 section 13.1.2)."""
    return header.strip() == "*" or any(each.strip().removeprefix("W/") == tag for each in header.split(","))


def _range_of(headers: Any, tag: str, size: int) -> Range | None:
    """The requested range of bytes; None: the whole file (RFC 9110 section 14.2).

    A header that is not one range of bytes, or is meant for other content, is ignored. Raises
    :class:`ApiProblem` for a range outside the file.
    """
    found = _OWN_RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", tag) != tag or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size - 1
        satisfiable = int(found[2]) > 0
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
        if found[2] and int(found[2]) < first:
            return None
        satisfiable = first < size
    if not satisfiable:
        raise ApiProblem(errors.HTTP_RANGE, headers=(("Content-Range", f"bytes */{size}"),))
    return first, last


_RECEIVE_BYTES: Final = 65536
_END_OF_HEAD: Final = b"\r\n\r\n"


def create_stream_view(streams: Streams, body_bytes: int) -> Blueprint:
    """The blueprint that answers every path of ``streams``. ``body_bytes``: longest body of a request."""
    blueprint = Blueprint("streams", __name__)
    for path, row in streams.paths.items():
        blueprint.add_url_rule(
            path.replace("*", "<segment>"),
            endpoint=path.strip("/").replace("/", "_"),
            view_func=_StreamView(streams, row.method, body_bytes),
            methods=[row.method, "OPTIONS"],
            provide_automatic_options=False,
        )
    return blueprint


class _StreamView:
    """Serves one stream per call."""

    def __init__(self, streams: Streams, method: str, body_bytes: int) -> None:
        self._streams = streams
        self._method = method
        self._body_bytes = body_bytes

    def __call__(self, **_segments: str) -> Response:
        if request.method == "OPTIONS":  # from a page of another origin that will send the token in a header
            return to_response(PREFLIGHT)
        if request.method != self._method:  # HEAD would begin a session that nobody uses
            raise MethodNotAllowed([self._method])
        request.max_content_length = self._body_bytes
        body = request.get_data(cache=False, parse_form_data=False)
        ours, theirs = socket.socketpair()
        plain = _socket.socket(ours.family, ours.type, ours.proto, ours.detach())
        plain.setblocking(False)
        http_request = as_request()
        port = int(request.environ.get("REMOTE_PORT", 0) or 0)
        host = request.remote_addr or ""
        query = http_request.query.decode("latin-1")
        asked = Head(
            self._method,
            http_request.path,
            "1.1",
            host,
            port,
            http_request.headers,
            query,
            body=body,
        )
        self._streams.adopt(plain, asked)
        head = _read_head(theirs)
        head, _, rest = head.partition(_END_OF_HEAD)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        # Only the server may send this header (PEP 3333).
        headers = [(name, value) for name, value in headers if name.lower() != "connection"]
        response = Response(_content(theirs, rest), int(first.split(" ")[1]), direct_passthrough=True)
        response.headers.clear()
        response.headers.extend(headers)
        return response


def _read_head(sock: socket.socket) -> bytes:
    """Read what the stream has sent so far, at least its whole head."""
    head = b""
    while _END_OF_HEAD not in head:
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            sock.close()
            raise ConnectionError("a stream ended without an answer")
        head += data
    return head


def _content(sock: socket.socket, rest: bytes) -> Iterator[bytes]:
    with sock:
        if rest:
            yield rest
        while data := sock.recv(_RECEIVE_BYTES):
            yield data
