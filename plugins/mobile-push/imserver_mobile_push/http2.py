"""A connection of HTTP/2 with many requests at a time, in greenlets. The
library h2 implements the protocol.

One greenlet reads, and one writes. A request adds its frames to the output of
h2, and waits for its answer. Therefore a missing answer delays no other
request, and no part of a frame is lost if a request gives up.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from gevent import socket, ssl
from gevent.event import Event as Flag
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.events import Event as H2Event
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hpack import Encoder
from hpack.hpack import encode_integer
from hpack.table import HeaderTable
from msgspec import Struct

from imserver.plugin.runtime import Unreachable, is_long_turn, serve_others

PING_SECONDS: Final = 30.0
"""If no frame comes for this time, the client sends a ping."""
IDLE_SECONDS: Final = 900.0
"""If a connection has no requests for this time, it ends."""
MOST_STREAMS: Final = 500
ANSWER_BYTES: Final = 16384
_NEVER_INDEXED: Final = 0x10
"""First byte of a field that is never indexed (RFC 7541, section 6.2.3)."""
_HEAD: Final = 9
"""Length of the head of a frame, in bytes: its length, type, flags and stream
(RFC 9113, section 4.1)."""
_LENGTH_BYTES: Final = 3
_TYPE_INDEX: Final = 3
_GOAWAY: Final = 7
_GOAWAY_BYTES: Final = 8
"""Length of the last stream and of the code in a frame GOAWAY, in bytes."""
_STREAM_BYTES: Final = 4
_STREAM_BITS: Final = 0x7FFF_FFFF
_MOST_TEXT_BYTES: Final = 200
_READ_BYTES: Final = 16384
_LENGTH_PREFIX_BITS: Final = 7
_NAME_PREFIX_BITS: Final = 4
"""Bits of the prefix of a name's index (RFC 7541, sections 5.2 and 6.2.3)."""
_PORTS: Final = {"http": 80, "https": 443}


class StreamLost(Unreachable):
    """A request gets no answer.

    ``is_safe``: the server has not begun with the request, so it may be sent
    again.
    """

    def __init__(self, text: str, is_safe: bool = False) -> None:
        super().__init__(text)
        self.is_safe = is_safe


class Answer(Struct, frozen=True):
    """The answer to a request. The names of its headers are in small
    letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Request:
    """A request that waits for its answer.

    ``headers``, ``body``: the answer as far as it has come. ``done`` is set
    when the answer is complete, or when ``problem`` tells why no answer comes.
    """

    __slots__ = ("body", "done", "headers", "problem")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.problem: StreamLost | None = None
        self.done = Flag()

    def lose(self, problem: StreamLost) -> None:
        """Give the request up, and wake the greenlet that waits for its
        answer."""
        self.problem = problem
        self.done.set()


@cache
def _length_prefix(size: int) -> bytes:
    """The length of a name or a value, as HTTP/2 writes it before the text."""
    return bytes(encode_integer(size, _LENGTH_PREFIX_BITS))


@cache
def _field_beginning(name: bytes) -> bytes:
    """The beginning of a header field that no table may contain (never
    indexed).

    The name is a number if RFC 7541 gives it one.
    """
    numbers = (
        number
        for number, (known, _) in enumerate(HeaderTable.STATIC_TABLE, 1)
        if known == name
    )
    # 0 means that the name follows as a text.
    prefix = encode_integer(next(numbers, 0), _NAME_PREFIX_BITS)
    prefix[0] |= _NEVER_INDEXED
    if prefix[0] != _NEVER_INDEXED:
        return bytes(prefix)
    return bytes(prefix) + _length_prefix(len(name)) + name


class _PlainEncoder(Encoder):
    """Writes fields without Huffman codes and tables. A request with its frames
    takes 75 µs instead of 280 µs.

    Apple wants this for fields that differ in each request, and so no table
    contains our token.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        """Encode header fields, each as its beginning and its value."""
        fields = [
            _field_beginning(name) + _length_prefix(len(value)) + value
            for name, value in headers
        ]
        # The first time, the base class writes that the table has another size.
        return super().encode(()) + b"".join(fields)


@cache
def tls_context() -> ssl.SSLContext:
    """The TLS context, which verifies servers by the certificates of the
    system. It is cached, because it takes a while to read them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.set_alpn_protocols(["h2"])
    return context


def open_socket(url: str, seconds: float) -> socket.socket:
    """Open a connection to a server of HTTP/2, with TLS unless the address has
    http.

    Switches greenlets. Raises Unreachable if it is not open within ``seconds``.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    timeout = gevent.Timeout(seconds)
    sock = None
    try:
        with timeout:
            sock = socket.create_connection((host, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "https":
                # In two steps, so that the socket is closed below after an
                # error.
                sock = tls_context().wrap_socket(
                    sock, server_hostname=host, do_handshake_on_connect=False
                )
                _begin_tls(sock, host)
            return sock
    except BaseException as error:
        if sock is not None:
            sock.close()
        # The time limit of a caller is another error, which is raised below.
        if error is timeout:
            raise Unreachable(
                f"{host} has not let us connect within {seconds:g} s"
            ) from None
        if isinstance(error, OSError):
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        raise


def _begin_tls(sock: ssl.SSLSocket, host: str) -> None:
    """Agree with a server on TLS and HTTP/2. Raises Unreachable if it does not
    speak HTTP/2."""
    sock.do_handshake()
    if sock.selected_alpn_protocol() != "h2":
        raise Unreachable(f"{host} does not speak HTTP/2")


def _new_protocol() -> H2Connection:
    """The state of a new connection, which accepts no pushes of the server."""
    # Our headers are valid: the senders make them, with names in small letters.
    protocol = H2Connection(
        H2Configuration(
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    protocol.encoder = _PlainEncoder()
    protocol.local_settings = Settings(initial_values={SettingCodes.ENABLE_PUSH: 0})
    return protocol


class Http2Connection:
    """A connection of HTTP/2, which many requests use at a time.

    h2 has the state of the protocol, and this class the socket.
    """

    def __init__(
        self, sock: socket.socket, authority: str, scheme: str, seconds: float
    ) -> None:
        """Begin the protocol, and wait for the settings of the server.

        ``seconds``: how long the server may take for its settings. Switches
        greenlets. Raises Unreachable.
        """
        self._sock = sock
        self._authority = authority
        self._scheme = scheme
        self._h2 = _new_protocol()
        self._requests: dict[int, _Request] = {}
        self._waiting_for_stream: deque[Flag] = deque()
        """Requests that wait until fewer requests are in progress."""
        self._waiting_for_window: list[Flag] = []
        """Requests that wait until the server accepts more of their bodies."""
        self._buffer = b""
        """The beginning of a frame whose end has not come."""
        self._has_output = Flag()
        """Set when h2 may have bytes to send."""
        self._settings_came = Flag()
        """Set when the settings of the server have come, or at the end."""
        self._problem = ""
        """The reason why the connection ends; ``""`` while it works."""
        self._is_pinged = False
        """Whether a ping was sent and is not answered."""
        self._used_at = monotonic()
        self._heard_at = self._used_at
        self.is_open = True
        """Whether it accepts requests. Later, requests in progress still get
        their answers."""
        self._h2.initiate_connection()
        self._has_output.set()
        # From now on both directions are served, while this waits.
        self._greenlets = [
            gevent.spawn(self._write_output),
            gevent.spawn(self._read_frames),
        ]
        self._settings_came.wait(seconds)
        if not self.is_open or not self._settings_came.is_set():
            self._end(self._problem or f"no answer within {seconds:g} s")
            raise Unreachable(self._problem)

    # --- requests -------------------------------------------------------------

    def request(
        self, path: str, headers: Sequence[tuple[str, str]], body: bytes, seconds: float
    ) -> Answer:
        """POST a body, and return the answer.

        Switches greenlets. Raises StreamLost if no answer comes within
        ``seconds``, or if the connection ends.
        """
        timeout = gevent.Timeout(seconds)
        number = 0  # of the stream of this request; 0: it has none yet
        began_at = monotonic()
        try:
            with timeout:
                self._wait_for_stream()
                self._used_at = monotonic()
                number = self._h2.get_next_available_stream_id()
                request = _Request()
                self._requests[number] = request
                self._h2.send_headers(number, [*self._head_of(path), *headers])
                self._send_body(number, request, body)
                request.done.wait()
                return _answer_to(request)
        except gevent.Timeout as over:
            if over is not timeout:
                raise
            # If nothing has come at all, the connection itself is broken.
            if number and self._heard_at < began_at:
                self._end("it is silent")
            text = f"no answer within {seconds:g} s"
            raise StreamLost(text, is_safe=not number) from None
        except (H2Error, KeyError, ValueError) as error:
            # KeyError and ValueError: the answer has no status.
            self._end(f"{type(error).__name__}: {error}")
            raise StreamLost(self._problem) from None
        finally:
            self._finish(number)

    def _head_of(self, path: str) -> list[tuple[str, str]]:
        """The headers of HTTP/2 that say what is requested, and from whom."""
        return [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":authority", self._authority),
            (":path", path),
        ]

    def _finish(self, number: int) -> None:
        """Forget the request of a stream, and let the next request begin.

        If the request has no answer yet, the server is told that it need not
        answer any more. ``number`` is 0 for a request without a stream.
        """
        unfinished = self._requests.pop(number, None)
        if unfinished is not None and not unfinished.done.is_set():
            # The server may have ended the stream meanwhile.
            with suppress(H2Error):
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
            self._has_output.set()
        if self._waiting_for_stream:
            self._waiting_for_stream.popleft().set()
        if not self.is_open and not self._requests:
            self._end(self._problem or "the server ends the connection")

    def _wait_for_stream(self) -> None:
        """Wait until the server accepts one more request.

        Switches greenlets. Raises StreamLost if the connection ends before.
        """
        while self.is_open:
            limit = self._h2.remote_settings.max_concurrent_streams
            if len(self._requests) < min(limit, MOST_STREAMS):
                return
            turn = Flag()
            self._waiting_for_stream.append(turn)
            try:
                turn.wait()
            finally:
                # The wait was interrupted, so nobody has taken the event out.
                if turn in self._waiting_for_stream:
                    self._waiting_for_stream.remove(turn)
        raise StreamLost(
            self._problem or "the server ends the connection", is_safe=True
        )

    def _send_body(self, number: int, request: _Request, body: bytes) -> None:
        """Add a body to the output, in pieces as large as the server accepts.

        Each stream has a *window*: the number of bytes that the server accepts
        before it has read some. Switches greenlets. Raises H2Error.
        """
        self._has_output.set()
        while not request.done.is_set():
            size = min(
                self._h2.local_flow_control_window(number),
                self._h2.max_outbound_frame_size,
            )
            # The window is full, and the server will say when it grows.
            if size <= 0 and body:
                window_grows = Flag()
                self._waiting_for_window.append(window_grows)
                window_grows.wait()
                continue
            self._h2.send_data(number, body[:size], end_stream=len(body) <= size)
            self._has_output.set()
            body = body[size:]
            if not body:
                return

    # --- the socket -----------------------------------------------------------

    def _write_output(self) -> None:
        """Write the output of h2 to the socket, until the connection ends. This
        is a greenlet of its own."""
        try:
            while self._has_output.wait():
                self._has_output.clear()
                data = self._h2.data_to_send()
                if data:
                    self._sock.sendall(data)
        except OSError as error:
            self._end(f"{type(error).__name__}: {error}")

    def _read_frames(self) -> None:
        """Read frames from the socket, and pass them to their requests. This is
        a greenlet of its own.

        If nothing comes for a while, it sends a ping. It ends the connection if
        the ping is not answered, or if the connection was idle for long.
        """
        try:
            self._sock.settimeout(PING_SECONDS)
            while True:
                try:
                    data = self._sock.recv(_READ_BYTES)
                except TimeoutError:
                    problem = self._reason_to_end()
                    if problem:
                        break
                    self._is_pinged = True
                    self._h2.ping(b"imserver")
                    self._has_output.set()
                    continue
                if not data:
                    problem = "the server has closed the connection"
                    break
                self._handle_data(data)
        except (OSError, H2Error) as error:
            problem = f"{type(error).__name__}: {error}"
        self._end(problem)

    def _handle_data(self, data: bytes) -> None:
        """Handle the frames in bytes from the socket. May switch greenlets.
        Raises H2Error."""
        self._heard_at = monotonic()
        for frame in self._frames(data):
            for event in self._h2.receive_data(frame):
                self._handle_event(event)
            # Many answers may come at once.
            if is_long_turn():
                serve_others()
        self._has_output.set()

    def _reason_to_end(self) -> str:
        """The reason to end a connection on which nothing has come for a while;
        ``""`` if a ping should be sent instead."""
        if self._is_pinged:
            return "it is silent"
        if not self._requests and monotonic() - self._used_at > IDLE_SECONDS:
            return "it was idle"
        return ""

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """Add bytes to the buffer, and yield the complete frames in it.

        A frame GOAWAY is handled here, because h2 reads no answers after it.
        """
        self._buffer += data
        while len(self._buffer) >= _HEAD:
            end = _HEAD + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if end > _HEAD + self._h2.max_inbound_frame_size:
                break  # h2 raises an error for a frame that is too long
            # The rest of the frame comes with the next bytes.
            if len(self._buffer) < end:
                return
            frame = self._buffer[:end]
            self._buffer = self._buffer[end:]
            if frame[_TYPE_INDEX] == _GOAWAY and end >= _HEAD + _GOAWAY_BYTES:
                self._end_new_requests(frame[_HEAD:])
            else:
                yield frame
        if len(self._buffer) >= _HEAD:
            frame = self._buffer
            self._buffer = b""
            yield frame

    def _end_new_requests(self, payload: bytes) -> None:
        """Handle a frame GOAWAY: the server accepts no more requests.

        Requests after the last one that the server has seen may be sent again;
        they fail with ``is_safe``. The other ones still get their answers.
        """
        last = int.from_bytes(payload[:_STREAM_BYTES], "big") & _STREAM_BITS
        self._problem = _reason_in(payload)
        self.is_open = False
        # A list, because requests that end are removed.
        for number, request in [*self._requests.items()]:
            if number > last:
                request.lose(StreamLost(self._problem, is_safe=True))
        self._wake_all()
        if not self._requests:
            self._end(self._problem)

    def _handle_event(self, event: H2Event) -> None:
        """Pass the meaning of a frame to the connection, and to its request.

        Never switches greenlets. Raises H2Error.
        """
        if isinstance(event, RemoteSettingsChanged):
            self._settings_came.set()
            self._wake_all()
        elif isinstance(event, WindowUpdated):
            self._wake_windows()
        elif isinstance(event, PingAckReceived):
            self._is_pinged = False
        elif isinstance(event, DataReceived):
            # Also for a request that was given up: the window is shared.
            self._h2.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
        request = self._requests.get(getattr(event, "stream_id", 0) or 0)
        if request is not None:
            self._handle_event_of(request, event)

    def _handle_event_of(self, request: _Request, event: H2Event) -> None:
        """Add a part to the answer of a request, or end the request."""
        if isinstance(event, ResponseReceived):
            request.headers = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, DataReceived):
            request.body += event.data
            # Answers of push services are short.
            if len(request.body) > ANSWER_BYTES:
                self._h2.reset_stream(event.stream_id, ErrorCodes.CANCEL)
                text = f"the answer has more than {ANSWER_BYTES} bytes"
                request.lose(StreamLost(text))
        elif isinstance(event, StreamEnded):
            request.done.set()
        elif isinstance(event, StreamReset):
            request.lose(_reset_error(event))
            self._wake_windows()

    def _wake_windows(self) -> None:
        """Wake the requests that wait until the server accepts more of their
        bodies."""
        waiting = self._waiting_for_window
        self._waiting_for_window = []
        for event in waiting:
            event.set()

    def _wake_all(self) -> None:
        """Wake all requests that wait for anything. They look again, and may
        wait on."""
        self._wake_windows()
        while self._waiting_for_stream:
            self._waiting_for_stream.popleft().set()

    # --- the end --------------------------------------------------------------

    def close(self) -> None:
        """Accept no more requests, and end after the last answer. Never
        switches greenlets."""
        self.is_open = False
        if not self._requests:
            self._end("closed")

    def _end(self, problem: str) -> None:
        """End the connection, and all its requests. Never switches greenlets.

        ``problem``: the reason, unless another one is known already.
        """
        self.is_open = False
        self._problem = self._problem or problem
        for request in self._requests.values():
            if not request.done.is_set():
                request.lose(StreamLost(self._problem))
        self._settings_came.set()
        self._wake_all()
        self._sock.close()
        # One of them may have called this.
        for greenlet in self._greenlets:
            if greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)


def _answer_to(request: _Request) -> Answer:
    """The answer to a request that has ended. Raises its problem, and KeyError
    or ValueError for an answer without a status."""
    if request.problem is not None:
        raise request.problem
    return Answer(int(request.headers[":status"]), request.headers, request.body)


def _reason_in(payload: bytes) -> str:
    """The reason for the end of a connection, from a frame GOAWAY."""
    code = int.from_bytes(payload[_STREAM_BYTES:_GOAWAY_BYTES], "big")
    text_bytes = payload[_GOAWAY_BYTES:][:_MOST_TEXT_BYTES]
    text = text_bytes.decode("utf-8", "replace")
    return f"the server ends the connection (code {code}) {text}".rstrip()


def _reset_error(event: StreamReset) -> StreamLost:
    """The error of a request that the server has reset. A request that was
    refused may be sent again."""
    text = f"the server has reset the request (code {int(event.error_code)})"
    return StreamLost(text, is_safe=event.error_code == ErrorCodes.REFUSED_STREAM)
