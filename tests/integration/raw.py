"""A raw client on plain sockets: every byte that a test sends or reads is under
the test's control.

Nothing here judges a frame or a header before it leaves, so a test can say what
no honest client would. What the server answers is parsed strictly (RFC 6455,
RFC 9112): a masked server frame fails the test.
"""

import base64
import contextlib
import hashlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA
CONTROL_OPCODES = frozenset({CLOSE, PING, PONG})
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"
PATIENCE_SECONDS = 40.0

Address = tuple[str, int]


@dataclass(frozen=True)
class Frame:
    """One server frame as it came over the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def text(self) -> str:
        """The payload as UTF-8."""
        return self.payload.decode()

    @property
    def json(self) -> Any:
        """The payload as JSON."""
        return json.loads(self.payload)

    @property
    def close_code(self) -> int | None:
        """The code of a close frame, None when it carries none."""
        assert self.opcode == CLOSE, f"not a close frame: {self}"
        return int(struct.unpack("!H", self.payload[:2])[0]) if self.payload else None

    @property
    def close_reason(self) -> str:
        """The reason of a close frame."""
        assert self.opcode == CLOSE, f"not a close frame: {self}"
        return self.payload[2:].decode()


@dataclass(frozen=True)
class Response:
    """One HTTP response; `headers` keeps order and spelling."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    head: bytes

    def header(self, name: str) -> str | None:
        """The only value of a header, None when it is missing."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is repeated: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Ended(AssertionError):
    """The server ended the connection where an answer was expected."""


def accept_of(key: str) -> str:
    """The Sec-WebSocket-Accept that belongs to a key (RFC 6455 section
    4.2.2)."""
    digest = hashlib.sha1(
        f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
    ).digest()
    return base64.b64encode(digest).decode()


def masked(payload: bytes, mask: bytes) -> bytes:
    """The payload XORed with the repeated mask."""
    size = len(payload)
    if not size:
        return b""
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(
        size, "big"
    )


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    declared: int | None = None,
    form: int | None = None,
) -> bytes:
    """Any frame, honest or not.

    Args:
        opcode: 0 to 15.
        payload: bytes, or text that goes out as UTF-8.
        fin: whether the final bit is set.
        rsv: the three reserved bits, RSV1 being 4.
        mask: four bytes, or None for an unmasked frame.
        declared: the length that the header claims, when it is not the payload's.
        form: 7, 16 or 64: the length field to use, minimal when None.
    """
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data) if declared is None else declared
    if form is None:
        form = 7 if size < 126 else 16 if size < 1 << 16 else 64
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0 if mask is None else 0x80
    if form == 7:
        head = struct.pack("!BB", first, bit | size)
    elif form == 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (data if mask is None else mask + masked(data, mask))


def text(payload: bytes | str) -> bytes:
    """A whole masked text frame."""
    return frame(TEXT, payload)


def close(code: int | None = 1000, reason: bytes | str = b"") -> bytes:
    """A masked close frame; no payload when the code is None."""
    words = reason.encode() if isinstance(reason, str) else reason
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + words)


def handshake(
    path: str = "/acc",
    *,
    host: str = "127.0.0.1",
    key: str | None = KEY,
    version: str | None = "13",
    upgrade: str | None = "websocket",
    connection: str | None = "Upgrade",
    method: str = "GET",
    protocol: str = "HTTP/1.1",
    more: Iterable[tuple[str, str]] = (),
) -> bytes:
    """An upgrade request; a header is left out where its value is None."""
    rows = [
        ("Host", host),
        ("Upgrade", upgrade),
        ("Connection", connection),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", version),
        *more,
    ]
    return request(
        path,
        method=method,
        protocol=protocol,
        headers=[(k, v) for k, v in rows if v is not None],
        host=None,
    )


def request(
    path: str,
    *,
    method: str = "GET",
    protocol: str = "HTTP/1.1",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    host: str | None = "127.0.0.1",
) -> bytes:
    """An HTTP request; Content-Length is added when there is a body and no
    header speaks of its length."""
    rows = list(headers)
    if host is not None:
        rows.insert(0, ("Host", host))
    names = {name.lower() for name, _ in rows}
    if body and not names & {"content-length", "transfer-encoding"}:
        rows.append(("Content-Length", str(len(body))))
    lines = [
        f"{method} {path} {protocol}",
        *(f"{name}: {value}" for name, value in rows),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def take_frame(waiting: bytearray) -> Frame | None:
    """Take the server's first frame out of what has come; None as long as it is
    not whole.

    A server's frames are never masked (RFC 6455 section 5.1), and their lengths
    are minimal.
    """
    if len(waiting) < 2:
        return None
    first, second = waiting[:2]
    assert not second & 0x80, "the server masked a frame"
    form = second & 0x7F
    start = {126: 4, 127: 10}.get(form, 2)
    if len(waiting) < start:
        return None
    size = form if start == 2 else int.from_bytes(waiting[2:start])
    assert size > {126: 125, 127: 0xFFFF}.get(form, -1), "length is not minimal"
    if len(waiting) < start + size:
        return None
    found = Frame(
        first & 0x0F,
        bytes(waiting[start : start + size]),
        bool(first & 0x80),
        first >> 4 & 7,
    )
    del waiting[: start + size]
    if found.opcode in CONTROL_OPCODES:
        assert (found.fin, found.rsv, size < 126) == (True, 0, True), (
            f"bad control frame {found}"
        )
    return found


def bearer(data: bytes, key: str) -> bytes:
    """A request or handshake with a key or a token; as it is without one."""
    return (
        data.replace(b"\r\n", f"\r\nAuthorization: Bearer {key}\r\n".encode(), 1)
        if key
        else data
    )


class Raw:
    """One connection to a server, by TCP or to the path of a Unix socket. Owned
    by the test that opened it; a context manager closes it."""

    answers_pings = False
    """Pings are answered when they are read, and nothing is told of them."""

    def __init__(
        self, address: Address | str, *, receive_buffer_bytes: int = 0, source: str = ""
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer_bytes:
            self.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
            )
        self.sock.settimeout(PATIENCE_SECONDS)
        try:
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(address)
        # nobody has this object: its socket would fail a later test
        except BaseException:
            self.sock.close()
            raise
        if family == socket.AF_INET:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address
        self.waiting = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    # Sending.

    def send(self, *pieces: bytes) -> None:
        """All pieces in one write."""
        self.sock.sendall(b"".join(pieces))

    def dribble(self, data: bytes, size: int = 1) -> None:
        """The data in packets of `size` bytes (TCP_NODELAY is on; a packet a
        write)."""
        for start in range(0, len(data), size):
            self.sock.sendall(data[start : start + size])

    # Reading.

    def _more(self, deadline: float) -> bool:
        """Wait for more bytes; False at the end of the stream. A reset counts
        as an end."""
        left = deadline - time.monotonic()
        if left <= 0 or not select_readable(self.sock, left):
            raise TimeoutError(
                f"nothing came in time; so far {bytes(self.waiting[:200])!r}"
            )
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            return False
        self.waiting += data
        return bool(data)

    def _take(self, size: int, deadline: float) -> bytes:
        while len(self.waiting) < size:
            if not self._more(deadline):
                raise Ended(f"the stream ended after {bytes(self.waiting[:200])!r}")
        data = bytes(self.waiting[:size])
        del self.waiting[:size]
        return data

    def _until(self, mark: bytes, deadline: float) -> bytes:
        while (end := self.waiting.find(mark)) < 0:
            if not self._more(deadline):
                raise Ended(f"the stream ended after {bytes(self.waiting[:200])!r}")
        data = bytes(self.waiting[: end + len(mark)])
        del self.waiting[: end + len(mark)]
        return data

    def response(
        self, seconds: float = PATIENCE_SECONDS, *, to_head: bool = False
    ) -> Response:
        """The next HTTP response with its body, by Content-Length, chunks or
        the end of the stream."""
        deadline = time.monotonic() + seconds
        head = self._until(b"\r\n\r\n", deadline)
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        protocol, status, reason = (first + " ").split(" ", 2)
        assert protocol in ("HTTP/1.1", "HTTP/1.0"), head
        headers = tuple(
            (name, value.strip())
            for name, _, value in (line.partition(":") for line in lines)
        )
        bare = Response(int(status), reason.strip(), headers, b"", head)
        if to_head or bare.status < 200 or bare.status in (204, 304):
            return bare
        return Response(
            bare.status, bare.reason, headers, self._body(bare, deadline), head
        )

    def _body(self, head: Response, deadline: float) -> bytes:
        if (head.header("transfer-encoding") or "").lower() == "chunked":
            body = b""
            while size := int(self._until(b"\r\n", deadline), 16):
                body += self._take(size, deadline)
                assert self._take(2, deadline) == b"\r\n"
            assert self._until(b"\r\n", deadline) == b"\r\n"
            return body
        if (length := head.header("content-length")) is not None:
            return self._take(int(length), deadline)
        return self.rest(deadline - time.monotonic())

    def frame(self, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next frame; no ping, if pings are answered."""
        deadline = time.monotonic() + seconds
        while True:
            if (found := take_frame(self.waiting)) is None:
                if not self._more(deadline):
                    raise Ended(f"the stream ended after {bytes(self.waiting[:200])!r}")
            elif found.opcode != PING or not self.answers_pings:
                return found
            else:
                self.pinged(found.payload)

    def pinged(self, payload: bytes) -> None:
        """Answer a ping."""
        self.send(frame(PONG, payload))

    def message(self, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next data message, put together from its fragments; control
        frames in between are refused.

        The server may ping before it.
        """
        deadline = time.monotonic() + seconds
        while (found := self.frame(deadline - time.monotonic())).opcode == PING:
            pass
        assert found.opcode in (TEXT, BINARY), f"no data frame: {found}"
        payload = found.payload
        last = found
        while not last.fin:
            last = self.frame(deadline - time.monotonic())
            assert last.opcode == CONTINUATION, f"no continuation: {last}"
            payload += last.payload
        return Frame(found.opcode, payload, True, found.rsv)

    def closed(self, *codes: int | None, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next frame must be a close with one of these codes (None: no
        payload)."""
        found = self.frame(seconds)
        assert found.opcode == CLOSE, f"expected a close, got {found}"
        assert found.close_code in codes, (
            f"expected a close with {codes}, got {found.close_code} {found.close_reason!r}"
        )
        return found

    def rest(self, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Everything up to the end of the stream."""
        deadline = time.monotonic() + seconds
        while self._more(deadline):
            pass
        data = bytes(self.waiting)
        self.waiting.clear()
        return data

    def ended(self, seconds: float = PATIENCE_SECONDS) -> None:
        """The server must end the connection without another byte."""
        left = self.rest(seconds)
        assert not left, f"more came before the end: {left[:200]!r}"

    def quiet(self) -> None:
        """Nothing comes before the answer to a ping sent now: what the server
        owed is read already."""
        self.send(frame(PING, b"quiet?"))
        found = self.frame()
        assert (found.opcode, found.payload) == (PONG, b"quiet?"), f"not quiet: {found}"

    # The beginning and the end.

    def upgrade(self, path: str = "/acc", **options: Any) -> Self:
        """Shake hands and check the 101."""
        key = options.get("key", KEY)
        self.send(handshake(path, **options))
        answer = self.response()
        assert answer.status == 101, answer
        assert answer.header("sec-websocket-accept") == accept_of(key)
        return self

    def ask(self, data: bytes, seconds: float = PATIENCE_SECONDS) -> Response:
        """Send a request and read its response."""
        self.send(data)
        return self.response(seconds, to_head=data.startswith(b"HEAD "))

    def reset(self) -> None:
        """Vanish with a RST."""
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()

    def leave(self) -> None:
        """Vanish with a FIN."""
        self.sock.close()


def select_readable(sock: socket.socket, seconds: float) -> bool:
    """Whether the socket becomes readable in time (poll: descriptors above 1023
    are welcome)."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def ask(address: Address | str, data: bytes) -> Response:
    """One request on a connection of its own."""
    with Raw(address) as raw:
        return raw.ask(data)


@contextlib.contextmanager
def open_socket(address: Address, path: str = "/acc", **options: Any) -> Iterator[Raw]:
    """An upgraded connection."""
    with Raw(address) as raw:
        yield raw.upgrade(path, **options)
