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
"""Starting a node switches greenlets: meanwhile other requests may come."""


_PIECE_BYTES: Final = 8192
_LEAST_SECONDS: Final = 0.001
"""Time limit of a read when no time is left: 0 would be none."""


def _node() -> Node:
    """The node of this process, which the first request builds. Switches
    then."""
    if not _nodes:
        with _building:
            if not _nodes:
                _nodes.append(_built())
    return _nodes[0]


def _built() -> Node:
    """Build and start a node under another server. Switches greenlets."""
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
    """WSGI entry point. A request upgraded by gevent-websocket's handler
    becomes a parked connection."""
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
        # Many servers would read the rest of the body without a time limit.
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
    body = problem_body(problem)
    return HttpResponse(problem.status, body, headers=(_JSON, *headers))


def _take_body(environ: dict[str, Any], node: Node) -> HttpResponse | None:
    """Replace the server's stream by the whole body of a request. Switches
    greenlets while the body arrives.

    Returns the error for a body that is too large, too slow or invalid. Views
    of files read them in pieces instead.
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
            body = None
        else:
            body = _read_body(stream, limit)
    except TimeoutError:
        refusal = _refuse(Problems.TIMEOUT)
    # the client has disconnected, or its chunks are invalid
    except (OSError, ValueError):
        refusal = _refuse(Problems.BAD_REQUEST)
    else:
        if body is not None:
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
    if hasattr(stream, "_chunked_input_error"):
        stream._chunked_input_error = True  # otherwise pywsgi reads and drops the rest
    return refusal


def _read_body(stream: Any, limit: int) -> bytes | None:
    """Read a whole body; None if it exceeds ``limit`` bytes. Raises
    TimeoutError if it arrives too slowly, OSError or ValueError from the
    server."""
    begun = monotonic()
    content = bytearray()
    while True:
        now = monotonic()
        deadline = body_deadline(begun, len(content), now)
        seconds = max(deadline - now, _LEAST_SECONDS)
        # One byte more than the limit shows that there is more.
        room = limit + 1 - len(content)
        with gevent.Timeout(seconds, TimeoutError):
            piece = stream.read(min(_PIECE_BYTES, room))
        if not piece:
            return bytes(content)
        content += piece
        if len(content) > limit:
            return None


def _too_large(node: Node, request: HttpRequest) -> HttpResponse:
    """The error in the style of the route."""
    route = row_of(routes_at(node.servers.api), request.method, request.path)
    if route is None:
        return _refuse(Problems.BODY_TOO_LARGE)
    response = route(request)
    headers: dict[str, str] = {**dict(HEADER_LIST), **dict(response.headers)}
    if response.content_type:
        headers["Content-Type"] = response.content_type
    return HttpResponse(response.status, response.body, headers=tuple(headers.items()))
