"""Flask's views of the API: one thin adapter for each row of the table, and
event streams."""

import _socket
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from flask import Blueprint, Response, g, request
from msgspec.structs import replace
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from imserver.gateway.errors import Problems
from imserver.gateway.http.call import (
    Api,
    Endpoint,
    Route,
    admit,
    answer,
    body_limit,
)
from imserver.gateway.http.reply import PREFLIGHT
from imserver.gateway.transport.gate import Head
from imserver.gateway.transport.http1 import (
    HEADER_LIST,
    HttpRequest,
    HttpResponse,
    patterns_of,
    phrase_of,
    typed_headers,
)
from imserver.gateway.transport.stream import Streams


def create_api(api: Api) -> Blueprint:
    """Make the blueprint of Flask that answers every route of the API.

    The blueprint finds the route in a dict, before Flask's routing, because a
    hundred rules of werkzeug would take a megabyte.
    """
    blueprint = Blueprint("api", __name__)
    rows: dict[str, dict[str, Endpoint]] = {}
    for (method, path), endpoint in api.endpoints.items():
        rows.setdefault(path, {})[method] = endpoint
    blueprint.before_app_request(partial(_answer, api, rows))
    return blueprint


def _answer(api: Api, table: Mapping[str, Mapping[str, Endpoint]]) -> Response | None:
    """Answer the request of Flask, if its path and method are in the table.

    ``table`` is path or pattern of a path → method → route. Returns None if
    another view answers the request.
    """
    paths = (request.path, *patterns_of(request.path))
    rows = next((table[path] for path in paths if path in table), None)
    if rows is None:
        return None
    endpoint = _endpoint_in(rows, request.method)
    if endpoint is None:
        return None

    # Flask knows no such path, so it has stored an exception in the request.
    # With this exception, the request would be a reference cycle of a hundred
    # objects.
    request.routing_exception = None
    route = endpoint.route
    http_request = as_request()
    if request.method == "OPTIONS" and route.method != "OPTIONS":
        return to_response(answer(api, endpoint, http_request))

    principal = admit(api, endpoint, http_request)
    if isinstance(principal, HttpResponse):
        return to_response(principal)
    try:
        # The limit for werkzeug is one byte higher, because werkzeug cuts off a
        # chunked body at its limit without an error.
        body = _body_of(route, body_limit(api, route, principal) + 1)
    except RequestEntityTooLarge:
        too_large = replace(http_request, too_large=True)
        return to_response(answer(api, endpoint, too_large, principal))
    except (HTTPException, OSError, ValueError):  # incomplete, or invalid chunks
        return to_response(route.style.refuse(Problems.BAD_REQUEST, http_request))
    return to_response(answer(api, endpoint, as_request(body), principal))


def _endpoint_in(rows: Mapping[str, Endpoint], method: str) -> Endpoint | None:
    """Find the route that answers a method of a path.

    ``rows`` is method → route, of this path. Returns None if another view
    answers the method. Raises MethodNotAllowed, which lists the methods of all
    views.
    """
    if method == "HEAD":
        endpoint = rows.get("GET")
    else:
        endpoint = rows.get(method)
    if endpoint is not None:
        return endpoint
    if method == "OPTIONS":
        return next(iter(rows.values()))  # each answers preflight requests
    if request.url_rule is not None:  # another view has this method of the path
        return None

    others = getattr(request.routing_exception, "valid_methods", None) or ()
    methods = {*rows, *others, "OPTIONS"}
    if "GET" in rows:
        methods.add("HEAD")
    raise MethodNotAllowed(sorted(methods))


def _body_of(route: Route, most_bytes: int) -> bytes:
    """Read the body of the current request, if its route takes one.

    A longer body raises RequestEntityTooLarge. A broken body raises
    HTTPException, OSError or ValueError.
    """
    request.max_content_length = most_bytes
    reads = route.read is not None or route.shape is not None
    if reads or request.method != "GET":
        return request.get_data(cache=False, parse_form_data=False)
    return b""


def to_response(finished: HttpResponse) -> Response:
    """Convert an answer of the API to a Flask response.

    The response gets the usual headers of the API, unless it is a page.
    """
    # If the status were a number, werkzeug would write its reason in capitals.
    status = f"{finished.status} {phrase_of(finished.status)}"
    response = Response(finished.body, status)
    response.headers.clear()
    if not finished.page:
        response.headers.extend(HEADER_LIST)
    if finished.content_type:
        response.headers["Content-Type"] = finished.content_type
        if not finished.page:
            response.headers.extend(typed_headers(finished.content_type))
    response.headers.extend(finished.headers)
    response.content_length = len(finished.body)
    return response


def as_request(body: bytes = b"") -> HttpRequest:
    """Convert the current request of Flask to a request of the API.

    Flask's ``g`` keeps the result, because the log of requests names the
    principal of the request.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    converted = HttpRequest(
        request.method,
        request.path,
        query=request.query_string,
        body=body,
        headers=headers,
        # Behind a proxy, the gate has found the address of the client already.
        host=g.get("host", request.remote_addr or ""),
        given_id=g.get("request_id", ""),
        by=getattr(g.get("http_request"), "by", ""),
    )
    g.http_request = converted
    return converted


_RECEIVE_BYTES: Final = 65536
_END_OF_HEAD: Final = b"\r\n\r\n"


def create_stream_view(streams: Streams, body_bytes: int) -> Blueprint:
    """Make the blueprint of Flask that answers every path of ``streams``.

    A *stream* is an answer that goes on, such as server-sent events.
    ``body_bytes`` is the longest body of a request.
    """
    blueprint = Blueprint("streams", __name__)
    for path, row in streams.paths.items():
        # Flask names the segments of a pattern, which has at most two.
        rule = path.replace("*", "<segment>", 1).replace("*", "<next_segment>", 1)
        blueprint.add_url_rule(
            rule,
            endpoint=path.strip("/").replace("/", "_"),
            view_func=partial(_open_stream, streams, row.method, body_bytes),
            methods=[row.method, "OPTIONS"],
            provide_automatic_options=False,
        )
    return blueprint


def _open_stream(
    streams: Streams, method: str, body_bytes: int, **_segments: str
) -> Response:
    """Serve one stream through Flask.

    The streams of the server write to one end of a pair of sockets, and the
    response of Flask reads the other end. Raises MethodNotAllowed.
    """
    # A page of another origin asks whether it may send the token in a header.
    if request.method == "OPTIONS":
        return to_response(PREFLIGHT)
    # Flask accepts HEAD with GET. But a HEAD request would begin a session that
    # nobody uses.
    if request.method != method:
        raise MethodNotAllowed([method])

    request.max_content_length = body_bytes
    body = request.get_data(cache=False, parse_form_data=False)
    http_request = as_request()
    full_head = Head(
        method=method,
        path=http_request.path,
        version="1.1",
        host=request.remote_addr or "",
        port=int(request.environ.get("REMOTE_PORT", 0) or 0),
        headers=http_request.headers,
        query=http_request.query.decode("latin-1"),
        body=body,
    )
    ours, theirs = socket.socketpair()
    # Streams write to plain sockets, not to sockets of gevent.
    plain = _socket.socket(ours.family, ours.type, ours.proto, ours.detach())
    plain.setblocking(False)
    streams.adopt(plain, full_head)

    # The stream writes a whole HTTP response at the other end. Flask needs the
    # status, the headers and the content of it separately.
    head, first_bytes = _read_head(theirs)
    status, headers = _parse_head(head)
    content = _content(theirs, first_bytes)
    response = Response(content, status, direct_passthrough=True)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """Read the head of a stream's answer, and the bytes that came after it.

    Raises ConnectionError if the stream ends first.
    """
    received = b""
    while _END_OF_HEAD not in received:
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            sock.close()
            raise ConnectionError("a stream ended without an answer")
        received += data
    head, _, first_bytes = received.partition(_END_OF_HEAD)
    return head, first_bytes


def _parse_head(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Read the status and the headers of a stream's answer.

    ``head`` is the head of an HTTP response, without the empty line.
    """
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        # Only the server may send this header (PEP 3333).
        if name.lower() != "connection":
            headers.append((name, value.strip()))
    return int(status_line.split(" ")[1]), headers


def _content(sock: socket.socket, first_bytes: bytes) -> Iterator[bytes]:
    """Yield the bytes of a stream after its head, until the stream ends.

    ``first_bytes`` were read together with the head.
    """
    with sock:
        if first_bytes:
            yield first_bytes
        while True:
            data = sock.recv(_RECEIVE_BYTES)
            if not data:
                return
            yield data
