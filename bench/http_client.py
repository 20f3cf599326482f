"""A lean HTTP client: a few keep-alive connections in the loop of a generator,
requests pipelined."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from threading import Event
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from bench.connections import Target
from bench.loop import READ, WRITE, BenchError, Json, Loop

#: Handler of an answer: number of the request, µs since it was sent, status and body.
OnAnswer = Callable[[int, int, int, bytes], None]

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
RECEIVE_BYTES = 16384  # more would be mapped and unmapped for each answer
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 0.2
_open = build_opener(ProxyHandler({})).open  # without a proxy


def request_head(
    target: Target, path: str, content_type: str, body_bytes: int, *fields: str
) -> bytes:
    """Return the head of a POST request; ``fields`` are further header
    lines."""
    body = (f"Content-Type: {content_type}", f"Content-Length: {body_bytes}")
    return get_request(target, path, *fields, *body, method="POST")


def get_request(target: Target, path: str, *fields: str, method: str = "GET") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {target.http_host}:{target.http_port}",
        *fields,
    ]
    if target.key:
        lines.append(f"Authorization: Bearer {target.key}")
    return "\r\n".join([*lines, "", ""]).encode()


class HttpConnection:
    """One keep-alive connection: its unanswered requests, unsent bytes, an
    unfinished answer."""

    __slots__ = ("fd", "rest", "sock", "unsent", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.waiting: deque[tuple[int, int]] = deque()
        self.unsent = self.rest = b""


class HttpConnections:
    """The HTTP connections of one generator process. Owner of their sockets."""

    def __init__(
        self, loop: Loop, target: Target, count: int, on_answer: OnAnswer
    ) -> None:
        self.loop = loop
        self.on_answer = on_answer
        self.answered = 0
        self.by_fd: dict[int, HttpConnection] = {}
        for _ in range(count):
            try:
                sock = self.connect(target)
            except OSError as error:
                raise BenchError(
                    f"http://{target.http_host}:{target.http_port}: {error}"
                ) from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            conn = HttpConnection(sock)
            self.by_fd[conn.fd] = conn
            loop.add(conn.fd, READ, self)

    def connect(self, target: Target) -> socket.socket:
        return socket.create_connection(
            (target.http_host, target.http_port), timeout=10
        )

    def __iter__(self) -> Iterator[HttpConnection]:
        return iter(self.by_fd.values())

    def send(self, conn: HttpConnection, numbers: Iterable[int], data: bytes) -> None:
        """Send the requests ``numbers``, already joined in ``data``."""
        now = time.monotonic_ns()
        conn.waiting.extend([(number, now) for number in numbers])
        if conn.unsent:
            conn.unsent += data
            return
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise BenchError(f"the server ended an HTTP connection: {error}") from error
        if sent < len(data):
            conn.unsent = data[sent:]
            self.loop.change(conn.fd, READ | WRITE)

    def ready(self, fd: int, mask: int) -> None:
        conn = self.by_fd[fd]
        try:
            if mask & WRITE and conn.unsent:
                conn.unsent = conn.unsent[conn.sock.send(conn.unsent) :]
                if not conn.unsent:
                    self.loop.change(fd, READ)
            data = conn.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise BenchError(f"the server ended an HTTP connection: {error}") from error
        if not data:
            raise BenchError(
                "the server closed an HTTP connection that was to be kept alive"
            )
        conn.rest = self.parse(conn, conn.rest + data if conn.rest else data)

    def answer(
        self, conn: HttpConnection, now_ns: int, status: int, body: bytes
    ) -> None:
        number, sent_ns = conn.waiting.popleft()
        self.answered += 1
        self.on_answer(number, (now_ns - sent_ns) // 1000, status, body)

    def parse(self, conn: HttpConnection, data: bytes) -> bytes:
        """Handle all whole answers in ``data``; return the rest."""
        now = time.monotonic_ns()
        at = 0
        while at < len(data) and (found := split_answer(data, at)) is not None:
            status, body, at = found
            self.answer(conn, now, status, body)
        return data[at:]

    def close(self) -> None:
        for conn in self.by_fd.values():
            self.loop.remove(conn.fd)
            conn.sock.close()
        self.by_fd.clear()


def split_answer(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Return status, body and end of the answer that starts at ``at``; None if
    it is incomplete."""
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    status = int(data[at + 9 : at + 12])
    head = data[at : end + 2].lower()
    found = head.find(b"\r\ncontent-length:")
    if found < 0:
        raise BenchError("an HTTP answer has no length")
    stop = end + 4 + int(head[found + 17 : head.index(b"\r\n", found + 2)])
    if stop <= len(data):
        return (status, data[end + 4 : stop], stop)
    return None


def fetch(
    target: Target,
    path: str,
    form: str | bytes = "",
    *,
    seconds: float = ANSWER_SECONDS,
    **headers: str,
) -> Json:
    """Send one request over a new connection, a POST if it has a ``form``;
    return its ``data``, if the answer has that field, else the answer.
    """
    data = form.encode() if isinstance(form, str) else form
    request = Request(
        f"http://{target.http_host}:{target.http_port}{path}", data or None, headers
    )
    if target.key:
        request.add_header("Authorization", f"Bearer {target.key}")
    try:
        with _open(request, timeout=seconds) as answer:
            body = answer.read()
    except HTTPError as error:
        body = error.read()
    except OSError as error:
        raise BenchError(f"{request.full_url}: {error}") from error
    try:
        found: Json = json.loads(body)
        answered: Json = found.get("data", found) or {}
    except (ValueError, AttributeError):
        raise BenchError(f"{path}: {body[:200].decode(errors='replace')}") from None
    return answered


def post(
    target: Target, path: str, body: Json, seconds: float = ANSWER_SECONDS
) -> Json:
    """Send ``body`` as JSON over a new connection; see :func:`fetch`."""
    return fetch(
        target, path, json.dumps(body), seconds=seconds, **{"Content-Type": JSON}
    )


def insist(
    targets: Sequence[Target],
    path: str,
    body: Json,
    field: str,
    *,
    first: int = 0,
    seconds: float = 300.0,
    is_over: Event | None = None,
) -> Json | None:
    """Post to one node after the other until the answer has ``field``; None: it
    is over, or too late."""
    deadline = time.monotonic() + seconds
    for number in count(first):
        with suppress(BenchError):
            answer = post(targets[number % len(targets)], path, body)
            if answer.get(field):
                return answer
        if time.monotonic() > deadline or (is_over or Event()).wait(RETRY_SECONDS):
            break
    return None
