"""``imserver.wsgi:application``: the node as a WSGI application under another
server.

For gunicorn with gevent-websocket's worker, which patches and listens. Settings
come from the environment (``IMSERVER_…``) and the file in ``IMSERVER_CONFIG``.
The node is built at the first request, in the worker that serves it. The other
server reads heads with its own limits; :func:`_read_body` reads bodies.
"""

import atexit
import logging
from collections.abc import Callable, Iterable
from io import BytesIO
from time import monotonic
from typing import Any, Final

import gevent
from gevent.lock import BoundedSemaphore

from imserver.gateway.api.v1.table import routes_at, unread_body_limit
from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.logging import open_logs
from imserver.gateway.node import feature_list
from imserver.gateway.node.flask_app import create_app
from imserver.gateway.node.node import Node
from imserver.gateway.transport.http1 import (
    CORS,
    HEADER_LIST,
    Headers,
    HttpRequest,
    HttpResponse,
    body_deadline,
    phrase_of,
    problem_body,
    row_of,
)

_JSON: Final = ("Content-Type", "application/json; charset=utf-8")

_nodes: list[Node] = []
"""The only node of this process, once it is built."""
_building: Final = BoundedSemaphore()
"""Lets one greenlet build the node. Its start switches greenlets, so other
requests may come meanwhile."""


_PIECE_BYTES: Final = 8192
_LEAST_SECONDS: Final = 0.001
"""The time limit of a read when no time is left. 0 would mean no limit."""


def _node() -> Node:
    """Return the node of this process.

    The first request builds it, which switches greenlets.
    """
    if not _nodes:
        with _building:
            # Another request may have built it while this one waited.
            if not _nodes:
                _nodes.append(_build_node())
    return _nodes[0]


def _build_node() -> Node:
    """Build and start a node under another server. Switches greenlets.

    The node has no listeners of its own, and logs to its own log.
    """
    settings, locations = feature_list.load_with_locations()
    feature_list.check(settings, locations)
    logs = open_logs(settings)
    # The worker's own request lines have queries, which may contain tokens.
    logging.getLogger("geventwebsocket.handler").setLevel(logging.WARNING)
    try:
        node = Node(settings, logs.requests, create_app)
        node.start(listeners=False)
    except BaseException:
        logs.close()
        raise
    atexit.register(logs.close)  # the other server ends the process
    return node


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer a request, or take over a WebSocket: the entry point of WSGI.

    If gevent-websocket's handler has upgraded a request to a WebSocket, the
    node takes over its connection.
    """
    # Imported here, so that importing this module does not need
    # gevent-websocket.
    from imserver.gateway.transport.wsgi import adopt_from_environ, objection_to

    node = _node()
    gate = node.core.network.gate
    if adopt_from_environ(environ, gate, node.servers.admit):
        return []

    objection = objection_to(environ, gate)
    if objection is not None:
        refusal: HttpResponse | None = _refuse(objection, CORS)
    else:
        refusal = _take_body(environ, node)
    if refusal is not None:
        # The connection is closed. Otherwise many servers would read the rest
        # of the body, without a time limit.
        headers = [
            *refusal.headers,
            ("Content-Length", str(len(refusal.body))),
            ("Connection", "close"),
        ]
        start_response(f"{refusal.status} {phrase_of(refusal.status)}", headers)
        return [refusal.body]
    answer: Iterable[bytes] = node.servers.application(environ, start_response)
    return answer


def _refuse(problem: HttpProblem, headers: Headers = ()) -> HttpResponse:
    """Make the response for a problem, as JSON."""
    body = problem_body(problem)
    return HttpResponse(problem.status, body, headers=(_JSON, *headers))


def _take_body(environ: dict[str, Any], node: Node) -> HttpResponse | None:
    """Read the whole body of a request, and put it into ``environ``.

    There it replaces the stream of the other server. Returns None if the
    request can be answered, and otherwise the response for a body that is too
    large, too slow or invalid. A body that a view reads in pieces, such as a
    file, stays in the stream. Switches greenlets while the body arrives.
    """
    from imserver.gateway.transport.wsgi import head_of

    head = head_of(environ)
    method = head.method
    path = head.path
    headers = head.headers
    is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = environ.get("CONTENT_LENGTH") or "0"
    if length == "0" and not is_chunked:
        return None
    if node.servers.is_streamed(method, path):
        return None
    if not (length.isascii() and length.isdecimal()):
        return _refuse(Problems.BAD_REQUEST)

    forwarded = headers.get("x-forwarded-for", "")
    client = node.core.network.gate.proxies.client(head.host, forwarded)
    limit = unread_body_limit(node.servers.api, method, path, headers, client)
    stream = environ["wsgi.input"]
    try:
        if int(length) > limit:
            body = None  # it is not even read
        else:
            body = _read_body(stream, limit)
    except TimeoutError:
        refusal = _refuse(Problems.TIMEOUT)
    # The client has disconnected, or its chunks are invalid.
    except (OSError, ValueError):
        refusal = _refuse(Problems.BAD_REQUEST)
    else:
        if body is not None:
            # The views read a body whose length is known.
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            environ.pop("wsgi.input_terminated", None)
            environ["wsgi.input"] = BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
            return None
        request = HttpRequest(
            method=method,
            path=path,
            query=b"",
            body=b"",
            headers=headers,
            host=client,
            too_large=True,
        )
        refusal = _too_large(node, request)
    # Otherwise pywsgi would read and drop the rest of the body.
    if hasattr(stream, "_chunked_input_error"):
        stream._chunked_input_error = True
    return refusal


def _read_body(stream: Any, limit: int) -> bytes | None:
    """Read a whole body.

    Returns None if it exceeds ``limit`` bytes. Raises TimeoutError if it
    arrives too slowly, and OSError or ValueError if the other server cannot
    read it.
    """
    begun_at = monotonic()
    content = bytearray()
    while True:
        now = monotonic()
        deadline = body_deadline(begun_at, len(content), now)
        seconds = max(deadline - now, _LEAST_SECONDS)
        # One byte more than the limit shows that the body exceeds it.
        readable = limit + 1 - len(content)
        with gevent.Timeout(seconds, TimeoutError):
            piece = stream.read(min(_PIECE_BYTES, readable))
        if not piece:
            return bytes(content)
        content += piece
        if len(content) > limit:
            return None


def _too_large(node: Node, request: HttpRequest) -> HttpResponse:
    """Make the response for a body that is too large.

    A route with an error format of its own makes it. Other routes have the
    usual JSON.
    """
    route = row_of(routes_at(node.servers.api), request.method, request.path)
    if route is None:
        return _refuse(Problems.BODY_TOO_LARGE)
    response = route(request)
    # The headers of the route replace those of the same name.
    headers: dict[str, str] = {**dict(HEADER_LIST), **dict(response.headers)}
    if response.content_type:
        headers["Content-Type"] = response.content_type
    return HttpResponse(response.status, response.body, headers=tuple(headers.items()))
