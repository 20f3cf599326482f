"""Answers of the front that their clients read slowly, late, with half a
connection, or never."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from imserver.gateway.transport.http import LARGE_BYTES, HttpConnection
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse
from imserver.gateway.transport.outbox import MANY_CONNECTIONS, Backlog
from tests.gateway.transport.harness import MEBIBYTE, POLLERS, Caller, look, until
from tests.gateway.transport.test_front import Harness, nothing_is_left
from tests.gateway.transport.test_front import later as later
from tests.gateway.transport.test_poller import SPINNING_TURNS, turns_of_the_loop
from tests.integration.raw import handshake, request

LARGE = 12 * MEBIBYTE
"""More than the kernel takes of one connection, and than
``limits.outbox_bytes`` allows to a WebSocket."""


class Answers(Harness):
    """It also answers ``/large?…`` and ``/medium?…`` itself. ``served``: the
    queries so far."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.served: list[bytes] = []
        more = {("GET", f"/{name}"): self.answer_long for name in ("large", "medium")}
        self.front.fast = {**self.front.fast, **more}

    def answer_long(self, request: HttpRequest) -> HttpResponse:
        self.served.append(request.query)
        return HttpResponse(
            200, request.query.ljust(LARGE if request.path == "/large" else LARGE_BYTES)
        )

    def stalled(self) -> HttpConnection:
        """Wait until a client has not taken its answer; its connection."""
        until(lambda: self.flusher.stalled)
        (one,) = self.flusher.stalled
        assert isinstance(one, HttpConnection)
        return one


@pytest.fixture(params=POLLERS)
def answers(request: pytest.FixtureRequest) -> Iterator[Answers]:
    with Answers(poller=request.param) as one:
        yield one


def large(number: int, *headers: tuple[str, str], **options: Any) -> bytes:
    return request(f"/large?{number}", headers=headers, **options)


def numbers(caller: Caller, count: int) -> list[int]:
    return [int(caller.response()[2]) for _ in range(count)]


def test_pipelined_requests_wait_until_a_large_answer_is_taken(
    answers: Answers,
) -> None:
    with answers.call() as caller:
        caller.send(
            large(0)
            + large(1)
            + request("/medium?2")
            + request("/app")
            + large(3)
            + large(4)
        )
        connection = answers.stalled()
        look()
        assert answers.served == [b"0"]
        assert connection.held_bytes() < LARGE + MEBIBYTE
        assert numbers(caller, 3) == [0, 1, 2]
        assert caller.response()[2] == b"/app"
        assert numbers(caller, 2) == [3, 4]
        caller.send(request("/fast"))
        assert caller.response()[0] == 200


def test_a_client_that_does_not_read_takes_no_place_of_the_application() -> None:
    with (
        Answers(requests=1) as answers,
        answers.call() as caller,
        answers.call() as other,
    ):
        caller.send(request("/app") + large(0) + request("/app"))
        answers.stalled()
        other.send(request("/app"))
        assert other.response()[2] == b"/app"
        assert caller.response()[2] == b"/app"
        assert numbers(caller, 1) == [0]
        assert caller.response()[2] == b"/app"


LAST = {
    "keep-alive": large(0),
    "close": large(0, ("Connection", "close")),
    "HTTP/1.0": large(0, protocol="HTTP/1.0"),
}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_client_that_has_ended_its_half_gets_a_large_answer_whatever_time_it_takes(
    answers: Answers, later: Callable[[float], None], last: str, when: str
) -> None:
    with answers.call() as caller:
        caller.send(LAST[last])
        if when == "later":
            answers.stalled()
        caller.sock.shutdown(socket.SHUT_WR)
        answers.stalled()
        assert turns_of_the_loop() < SPINNING_TURNS
        later(1000)
        answers.front.expire()
        assert len(caller.response()[2]) == LARGE
        assert caller.until_ended() == b""
    until(lambda: nothing_is_left(answers))


@pytest.mark.parametrize("last", LAST)
def test_a_client_that_has_ended_its_half_gets_an_answer_that_waits_for_its_turn(
    last: str,
) -> None:
    with Answers(batch=1) as answers, answers.call() as caller:
        until(lambda: answers.front.parked)
        for connection in [answers.connect()[0] for _ in range(MANY_CONNECTIONS - 4)]:
            connection.send(b"before it")
        caller.send(LAST[last].replace(b"/large", b"/medium"))
        caller.sock.shutdown(socket.SHUT_WR)
        assert numbers(caller, 1) == [0]
        assert caller.until_ended() == b""
        until(lambda: not answers.front.parked)


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("behind", [b"", large(1), None])
def test_a_client_that_takes_nothing_for_too_long_is_dropped(
    last: str, behind: bytes | None
) -> None:
    with Answers(outbox_seconds=30) as answers, answers.call() as caller:
        caller.send(LAST[last] + (behind or b""))
        if behind is None:
            caller.sock.shutdown(socket.SHUT_WR)
        connection = answers.stalled()
        answers.flusher.expire()
        assert answers.flusher.stalled, "it has some time"
        assert isinstance(connection.outbox, Backlog)
        connection.outbox.progress_at -= 31
        answers.flusher.expire()
        assert answers.flusher.slow_readers == 1
        until(lambda: nothing_is_left(answers))
        assert answers.served == [b"0"]


@pytest.mark.parametrize("behind", [b"", large(1)])
def test_a_client_that_vanishes_before_it_has_read_leaves_nothing(
    answers: Answers, behind: bytes
) -> None:
    caller = answers.call()
    caller.send(large(0) + behind)
    answers.stalled()
    caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    caller.sock.close()
    until(lambda: nothing_is_left(answers))
    assert answers.served == [b"0"]
    assert answers.budget.total == 0


def test_the_largest_holder_of_a_full_node_is_dropped() -> None:
    with Answers(node_bytes=MEBIBYTE) as answers, answers.call() as caller:
        caller.send(large(0) + large(1))
        caller.until_ended()
        assert answers.flusher.slow_readers == 1
        assert answers.served == [b"0"]


def test_a_drain_does_not_wait_for_a_slow_client(answers: Answers) -> None:
    with answers.call() as caller, answers.call() as idle:
        idle.send(request("/fast"))
        idle.response()
        caller.send(large(0))
        answers.stalled()
        caller.sock.shutdown(socket.SHUT_WR)
        with gevent.Timeout(20):
            answers.front.drain()
            answers.front.end_idle()
        assert idle.until_ended() == b""
        assert answers.front.busy
        assert len(caller.response()[2]) == LARGE
        until(lambda: not answers.front.busy)


@pytest.mark.parametrize("last", [handshake("/acc"), request("/app")])
def test_bytes_of_a_socket_that_is_passed_on_count_no_more(
    answers: Answers, last: bytes
) -> None:
    """Otherwise the node holds ever more, and drops those who do read."""
    count = 200
    with answers.call() as caller:
        look()
        until(lambda: answers.front.parked)
        (connection,) = answers.front.parked
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        caller.send(
            b"".join(request(f"/medium?{number}") for number in range(count))
            + last[:20]
        )
        answers.stalled()
        until(lambda: answers.budget.total)
        assert type(connection.outbox) is Backlog
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MEBIBYTE)
        assert numbers(caller, count) == list(range(count))
        until(lambda: not answers.flusher.stalled)
        until(lambda: answers.budget.sizes == {connection: 20})
        caller.send(last[20:])
        caller.response()
        assert not answers.budget.sizes
        assert answers.budget.total == 0
