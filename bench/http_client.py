"""A lean HTTP client: a few keep-alive connections in the loop of a generator, requests pipelined."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from bench.connections import Target
from bench.loop import READ, WRITE, BenchError, Loop

#: What is done with an answer: number of the request, µs since it was sent, status and body.
OnAnswer = Callable[[int, int, int, bytes], None]

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
OK = b"HTTP/1.1 200 "
RECEIVE_BYTES = 16384  # more would be mapped and unmapped for each answer
ASKING = 4
ANSWER_SECONDS = 60.0


def request_head(target: Target, path: str, content_type: str, body_bytes: int, *fields: str) -> bytes:
    """Return everything of a POST request before its body; ``fields`` are more lines of the head."""
    body = (f"Content-Type: {content_type}", f"Content-Length: {body_bytes}")
    return get_request(target, path, *fields, *body, method="POST")


def get_request(target: Target, path: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.http_host}:{target.http_port}", *fields]
    if target.key:
        lines.append(f"Authorization: Bearer {target.key}")
    return "\r\n".join([*lines, "", ""]).encode()


class Lane:
    """One keep-alive connection: the requests it waits for, bytes not yet sent, an unfinished answer."""

    __slots__ = ("fd", "rest", "sock", "unsent", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.waiting: deque[tuple[int, int]] = deque()
        self.unsent = self.rest = b""


class Lanes:
    """The HTTP connections of one generator process. Owns their sockets."""

    def __init__(self, loop: Loop, target: Target, count: int, on_answer: OnAnswer) -> None:
        self.loop = loop
        self.on_answer = on_answer
        self.answered = 0
        self._usual = (0, b"")
        self.usual_end = b""
        """How all usual answers end, where they are equally long but not equal."""
        self.lanes: dict[int, Lane] = {}
        for _ in range(count):
            try:
                sock = self.connect(target)
            except OSError as error:
                raise BenchError(f"http://{target.http_host}:{target.http_port}: {error}") from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            lane = Lane(sock)
            self.lanes[lane.fd] = lane
            loop.add(lane.fd, READ, self)

    def connect(self, target: Target) -> socket.socket:
        return socket.create_connection((target.http_host, target.http_port), timeout=10)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self.lanes.values())

    def send(self, lane: Lane, numbers: Iterable[int], data: bytes) -> None:
        """Send the requests ``numbers``, already joined in ``data``."""
        now = time.monotonic_ns()
        lane.waiting.extend([(number, now) for number in numbers])
        if lane.unsent:
            lane.unsent += data
            return
        try:
            sent = lane.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise BenchError(f"the server ended an HTTP connection: {error}") from error
        if sent < len(data):
            lane.unsent = data[sent:]
            self.loop.change(lane.fd, READ | WRITE)

    def ready(self, fd: int, mask: int) -> None:
        lane = self.lanes[fd]
        try:
            if mask & WRITE and lane.unsent:
                lane.unsent = lane.unsent[lane.sock.send(lane.unsent) :]
                if not lane.unsent:
                    self.loop.change(fd, READ)
            data = lane.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise BenchError(f"the server ended an HTTP connection: {error}") from error
        if not data:
            raise BenchError("the server closed an HTTP connection that was to be kept alive")
        lane.rest = self.parse(lane, lane.rest + data if lane.rest else data)

    def answer(self, lane: Lane, now_ns: int, status: int, body: bytes) -> None:
        number, sent_ns = lane.waiting.popleft()
        self.answered += 1
        self.on_answer(number, (now_ns - sent_ns) // 1000, status, body)

    def parse(self, lane: Lane, data: bytes) -> bytes:
        """Handle all whole answers in ``data``; return the rest."""
        now = time.monotonic_ns()
        at, size = 0, len(data)
        usual_size, usual_body = self._usual
        if size == usual_size and data.endswith(self.usual_end or usual_body) and data.startswith(OK):
            self.answer(lane, now, 200, usual_body)
            return b""
        while at < size and (found := split_answer(data, at)) is not None:
            begin = at
            status, body, at = found
            self.answer(lane, now, status, body)
            if begin == 0 and at == size and status == 200:
                self._usual = (size, body)
        return data[at:]

    def close(self) -> None:
        for lane in self.lanes.values():
            self.loop.remove(lane.fd)
            lane.sock.close()
        self.lanes.clear()


def split_answer(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Return status, body and end of the answer that starts at ``at``; None when it is not all there."""
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    status = int(data[at + 9 : at + 12])
    head = data[at : end + 2].lower()
    found = head.find(b"\r\ncontent-length:")
    if found >= 0:
        stop = end + 4 + int(head[found + 17 : head.index(b"\r\n", found + 2)])
        return (status, data[end + 4 : stop], stop) if stop <= len(data) else None
    if b"\r\ntransfer-encoding: chunked" not in head:
        raise BenchError("an HTTP answer has neither a length nor chunks")
    body, at = b"", end + 4
    while (line := data.find(b"\r\n", at)) >= 0:
        length = int(data[at:line].split(b";")[0], 16)
        stop = line + length + 4
        if stop > len(data):
            return None
        if not length:
            return status, body, stop
        body += data[line + 2 : stop - 2]
        at = stop
    return None


def ask_all(
    loop: Loop, target: Target, requests: list[bytes], progress: Callable[[int, int], None] | None = None
) -> list[bytes]:
    """Send ``requests``, one under way on each of a few connections; return the bodies of their answers."""
    found: dict[int, bytes] = {}
    lanes = Lanes(
        loop, target, min(len(requests), ASKING), lambda number, *_rest: found.update({number: _rest[-1]})
    )
    waiting = deque(enumerate(requests))
    quiet = time.monotonic() + ANSWER_SECONDS
    while len(found) < len(requests):
        for lane in lanes:
            if waiting and not lane.waiting:
                number, data = waiting.popleft()
                lanes.send(lane, (number,), data)
        if loop.turn(0.5):
            quiet = time.monotonic() + ANSWER_SECONDS
        elif time.monotonic() > quiet or loop.stopped:
            raise BenchError(f"the server did not answer within {ANSWER_SECONDS:g} s")
        if progress is not None:
            progress(len(found), len(requests))
    lanes.close()
    return [found[number] for number in range(len(requests))]
