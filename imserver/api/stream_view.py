"""Flask's view of event streams, for servers that let nobody have their sockets (gunicorn).

The stream writes to one end of a pair of sockets; the view reads from the other, a greenlet each. Our own
doors answer such requests before Flask hears of them.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Iterator
from typing import Final

from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from imserver.api.reply import PREFLIGHT
from imserver.api.views import as_request, to_response
from imserver.transport.gate import Head
from imserver.transport.stream import Streams

_RECEIVE_BYTES: Final = 65536
_END_OF_HEAD: Final = b"\r\n\r\n"


def create_stream_view(streams: Streams) -> Blueprint:
    """The blueprint that answers every path of ``streams``."""
    blueprint = Blueprint("streams", __name__)
    for path in streams.paths:
        blueprint.add_url_rule(
            path,
            endpoint=path.strip("/").replace("/", "_"),
            view_func=_View(streams),
            methods=["GET", "OPTIONS"],
            provide_automatic_options=False,
        )
    return blueprint


class _View:
    """One stream a call."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def __call__(self) -> Response:
        if request.method == "OPTIONS":  # of a page elsewhere that would send the token as a header
            return to_response(PREFLIGHT)
        if request.method != "GET":  # HEAD would begin a session for nobody
            raise MethodNotAllowed(["GET"])
        ours, theirs = socket.socketpair()
        plain = _socket.socket(ours.family, ours.type, ours.proto, ours.detach())
        plain.setblocking(False)
        asked = as_request()
        port = int(request.environ.get("REMOTE_PORT", 0) or 0)
        host = request.remote_addr or ""
        query = asked.query.decode("latin-1")
        self._streams.adopt(plain, Head("GET", asked.path, "1.1", host, port, asked.headers, query))
        head = _read_head(theirs)
        head, _, rest = head.partition(_END_OF_HEAD)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        # The server's own to say (PEP 3333).
        headers = [(name, value) for name, value in headers if name.lower() != "connection"]
        response = Response(_content(theirs, rest), int(first.split(" ")[1]), direct_passthrough=True)
        response.headers.clear()
        response.headers.extend(headers)
        return response


def _read_head(sock: socket.socket) -> bytes:
    """What the stream has answered so far: its whole head at least."""
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
