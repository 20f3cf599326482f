"""The reader that pywsgi gets in place of a file: the same as a file, however
its bytes arrive."""

import io
from collections.abc import Iterator
from itertools import pairwise

import pytest
from gevent import socket as gevent_socket
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.transport.http1 import BadHead
from imserver.gateway.transport.one_request import (
    WRITE_SECONDS,
    OneRequestHandler,
    Reader,
    make_server,
)

relaxed = settings(deadline=None)
calls = st.tuples(
    st.sampled_from(["read", "readline"]),
    st.integers(0, 30) | st.sampled_from([-1, 1, 2, 100_000]),
)
bodies = st.lists(
    st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"x" * 40]), max_size=30
).map(b"".join)


class Pieces:
    """A socket whose ``recv`` gives one piece at a time, and whose other end
    reads nothing."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    def settimeout(self, seconds: float) -> None:
        self.seconds = seconds

    def recv(self, size: int) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        assert len(piece) <= size
        return piece

    def sendall(self, _data: bytes) -> None:
        raise TimeoutError


@relaxed
@given(body=bodies, data=st.data())
def test_a_reader_reads_as_a_file_does(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    cuts_and_ends = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in pairwise(cuts_and_ends)]
    sock = Pieces(pieces[1:])
    file = io.BytesIO(body)
    reader = Reader(sock, pieces[0])  # type: ignore[arg-type]
    for name, size in data.draw(st.lists(calls, max_size=15)):
        assert getattr(reader, name)(size) == getattr(file, name)(size)
        assert (
            bytes(reader.unread) + b"".join(sock.pieces) == body[file.seek(0, 1) :]
        ), "the rest stays"
    assert reader.read() == file.read()
    assert reader.read() == reader.readline() == b""


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[gevent_socket.socket, gevent_socket.socket]]:
    near, far = gevent_socket.socketpair()
    yield near, far
    near.close()
    far.close()


Pair = tuple[gevent_socket.socket, gevent_socket.socket]


@pytest.mark.parametrize(
    ("unread", "sent", "ends", "seconds", "expected"),
    [
        (b"", b"\r\n" + HEAD + b"body", False, (5, 5), HEAD),
        (HEAD, b"", False, (0.0, 0.0), HEAD),
        (b"", b"", False, (0.01, 5), b""),
        (b"", HEAD[:10], True, (5, 5), b""),
        (b"", HEAD[:10], False, (5, 0.02), 408),
        (b"", b"GET / HTTP/1.1\r\nX: " + b"y" * 2000, False, (5, 5), 431),
    ],
    ids=[
        "one",
        "one already read",
        "silence",
        "its client goes",
        "half of one",
        "too large",
    ],
)
def test_a_head_is_waited_for_and_stays_unread(
    pair: Pair,
    unread: bytes,
    sent: bytes,
    ends: bool,
    seconds: tuple[float, float],
    expected: bytes | int,
) -> None:
    near, far = pair
    far.sendall(sent)
    if ends:
        far.close()
    reader = Reader(near, unread)
    if isinstance(expected, int):
        with pytest.raises(BadHead) as caught:
            reader.await_head(1000, *seconds)
        assert caught.value.problem.status == expected
        return
    assert reader.await_head(1000, *seconds) == expected
    assert not expected or reader.readline() == b"GET / HTTP/1.1\r\n"
    assert not sent.endswith(b"body") or bytes(reader.unread) == b"Host: x\r\n\r\nbody"


def test_a_client_that_reads_nothing_is_cut_after_a_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sock = Pieces([])
    server = make_server(lambda _, start: [start("200 OK", []) and b"", b"answer"], {})
    handler = OneRequestHandler(sock, ("::1", 1), server, Reader(sock, HEAD))  # type: ignore[arg-type, call-arg]
    assert not handler.handle_one_request()
    assert (sock.seconds, handler.close_connection, caplog.text) == (
        WRITE_SECONDS,
        True,
        "",
    )
    reader = Reader(sock, HEAD.replace(b"/", b"/" + b"x" * 9000, 1))  # type: ignore[arg-type]
    handler = OneRequestHandler(sock, ("::1", 1), server, reader)  # type: ignore[arg-type, call-arg]
    status, answer = handler.handle_one_request()
    assert (status, b"headers_too_large" in answer) == ("431", True)
