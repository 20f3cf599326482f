"""The reader that pywsgi gets in place of a file: the same as a file, however its bytes arrive."""

import io
from collections.abc import Iterator
from itertools import pairwise

import pytest
from gevent import socket as gevent_socket
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.transport.http1 import BadHead
from imserver.gateway.transport.one_request import Reader

relaxed = settings(deadline=None)
calls = st.tuples(
    st.sampled_from(["read", "readline"]), st.integers(0, 30) | st.sampled_from([-1, 1, 2, 100_000])
)
bodies = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"x" * 40]), max_size=30).map(b"".join)


class Pieces:
    """A socket whose ``recv`` gives one piece at a time."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.received = 0

    def settimeout(self, _seconds: float) -> None:
        """It never waits."""

    def recv(self, size: int) -> bytes:
        self.received += 1
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        assert len(piece) <= size
        return piece


@relaxed
@given(body=bodies, data=st.data())
def test_a_reader_reads_as_a_file_does(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    cuts_and_ends = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in pairwise(cuts_and_ends)]
    reader, file = Reader(Pieces(pieces[1:]), pieces[0]), io.BytesIO(body)  # type: ignore[arg-type]
    for name, size in data.draw(st.lists(calls, max_size=15)):
        assert getattr(reader, name)(size) == getattr(file, name)(size)
    assert reader.read() == file.read()
    assert reader.read() == reader.readline() == b""


@relaxed
@given(first=bodies, rest=bodies, size=st.integers(0, 60))
def test_what_was_read_beyond_the_request_is_kept(first: bytes, rest: bytes, size: int) -> None:
    reader = Reader(Pieces([rest]), first)  # type: ignore[arg-type]
    taken = reader.read(size)
    assert (taken + bytes(reader.unread)) in (first, first + rest)
    assert len(taken) == min(size, len(first + rest))


def test_nothing_is_received_as_long_as_enough_is_there() -> None:
    sock = Pieces([b"more"])
    reader = Reader(sock, b"line\nrest")  # type: ignore[arg-type]
    assert (reader.readline(), reader.read(4), reader.read(0)) == (b"line\n", b"rest", b"")
    assert sock.received == 0


# --- waiting for a head -------------------------------------------------------------------------------------

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[gevent_socket.socket, gevent_socket.socket]]:
    near, far = gevent_socket.socketpair()
    yield near, far
    near.close()
    far.close()


Pair = tuple[gevent_socket.socket, gevent_socket.socket]


def test_a_head_is_waited_for_and_stays_unread(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"\r\n" + HEAD + b"body")
    reader = Reader(near, b"")
    assert reader.await_head(1000, 5, 5) == HEAD
    assert reader.readline() == b"GET / HTTP/1.1\r\n"
    assert bytes(reader.unread) == b"Host: x\r\n\r\nbody"


def test_a_head_that_was_read_already_needs_no_socket(pair: Pair) -> None:
    assert Reader(pair[0], HEAD).await_head(1000, 0.0, 0.0) == HEAD


def test_a_client_that_says_nothing_gets_no_answer(pair: Pair) -> None:
    assert Reader(pair[0], b"").await_head(1000, 0.01, 5) == b""


def test_a_client_that_goes_gets_no_answer(pair: Pair) -> None:
    near, far = pair
    far.sendall(HEAD[:10])
    far.close()
    assert Reader(near, b"").await_head(1000, 5, 5) == b""


def test_half_a_head_that_stays_so_is_408(pair: Pair) -> None:
    near, far = pair
    far.sendall(HEAD[:10])
    with pytest.raises(BadHead) as caught:
        Reader(near, b"").await_head(1000, 5, 0.02)
    assert caught.value.problem.status == 408


def test_a_head_above_the_limit_is_431(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * 2000)
    with pytest.raises(BadHead) as caught:
        Reader(near, b"").await_head(1000, 5, 5)
    assert caught.value.problem.status == 431
