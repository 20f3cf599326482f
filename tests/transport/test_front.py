"""The front in this process: where requests go, and what becomes of a socket that changes hands."""

import _socket
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from imserver.metrics import Metrics
from imserver.protocol.cmd import CmdDialect
from imserver.transport import handover
from imserver.transport.connection import Connection
from imserver.transport.exchange import HttpRequest, HttpResponse
from imserver.transport.gate import Admission, Gate, Spoken, adopt, host_of
from imserver.transport.handover import HandOver
from imserver.transport.http import FrontServer, HttpConnection
from imserver.transport.listener import Listener, bind
from imserver.transport.proxies import TrustedProxies
from imserver.ws_routes import echo
from tests.integration.raw import request, text
from tests.transport.rig import Caller, Rig, look, until

Start = Callable[[str, list[tuple[str, str]]], Any]


class Door(Rig):
    """A front on a free port: ``/fast`` is answered by itself, everything else by ``application``.

    WebSockets on /acc echo, unless ``serve`` is set.
    """

    def __init__(self, *, requests: int = 8, keepalive_seconds: float = 75, **options: Any) -> None:
        super().__init__(**options)
        self.metrics = Metrics()
        self.serve: Callable[[Connection, bytes, bool], None] = echo
        self.handed_over: list[str] = []
        self.go = Signal()
        self.go.set()
        paths = {"/acc": Spoken(CmdDialect(), lambda *message: self.serve(*message), 65536)}
        self.gate = Gate(paths, TrustedProxies(()), False, 0, 0, True, ())
        fast = {("GET", "/fast"): self.answer, ("POST", "/fast"): self.answer}
        self.front = FrontServer(
            self.context,
            self.gate,
            fast,
            fast,
            lambda *_: 100_000,
            HandOver(self.application, requests, 1, {}),
            self.metrics,
            16384,
            100_000,
            10,
            keepalive_seconds,
            None,
            self.admit,
        )
        sock = bind("127.0.0.1", 0, 256, False)
        self.listener = Listener(sock, self.poller, self.loop, self.metrics, self.front.accept)

    def __exit__(self, *what: Any) -> None:
        self.go.set()
        self.listener.close()
        until(lambda: not self.front.hand_over.busy)
        for parked in tuple(self.front.parked):
            parked.lost()
        super().__exit__(*what)

    def admit(self, sock: _socket.socket, admission: Admission, rest: bytes) -> None:
        adopt(self.context, self.gate, sock, admission, rest)

    def on_ended(self, connection: Connection, code: int) -> None:
        super().on_ended(connection, code)
        self.gate.left(host_of(connection.peer))

    def answer(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"fast " + request.query + request.body, headers=(("X-Door", "fast"),))

    def application(self, environ: dict[str, Any], start: Start) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.handed_over.append(path)
        body = environ["wsgi.input"].read()
        self.go.wait()
        start("200 OK", [("X-Door", "application"), ("Content-Length", str(len(path) + len(body)))])
        return [path.encode() + body]

    def call(self) -> Caller:
        caller = Caller(self.listener.port)
        self.clients.append(caller)  # type: ignore[arg-type]
        return caller


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as one:
        yield one


def nothing_is_left(door: Door) -> bool:
    return not (door.context.connections or door.front.parked or door.budget.held or door.gate.connections)


# --- a socket that changes hands ----------------------------------------------------------------------------


def test_frames_right_behind_the_upgrade_are_served(door: Door) -> None:
    client = door.call().upgrade(behind=text("in the same packet"))
    client.expect(1)
    client.send(text("later"))
    client.expect(2)
    assert client.payloads() == [b"in the same packet", b"later"]
    assert not door.front.parked
    assert door.gate.connections == 1


@pytest.mark.parametrize("behind", [b"", text("x"), text("x" * 300)[:100]])
def test_a_client_that_upgrades_and_ends_its_half_at_once_is_counted_out(door: Door, behind: bytes) -> None:
    caller = door.call()
    caller.send(
        b"GET /acc HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + behind
    )
    caller.sock.shutdown(_socket.SHUT_WR)
    until(lambda: door.ended)
    assert [code for _, code in door.ended] == [1006]
    assert nothing_is_left(door)
    client = door.call().upgrade()
    client.send(text("the next one is served"))
    assert client.expect(1)[0].payload == b"the next one is served"


def test_a_serve_that_fails_behind_the_upgrade_ends_that_connection_and_no_other(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    door.serve = fail
    with caplog.at_level(logging.ERROR):
        caller = door.call()
        caller.upgrade(behind=text("x"))
        until(lambda: door.ended)
    assert "a defect" in caplog.text
    assert nothing_is_left(door)
    door.serve = echo
    for _ in range(3):
        client = door.call().upgrade(behind=text("alive"))
        assert client.expect(1)[0].payload == b"alive"


def test_a_command_that_blocks_behind_the_upgrade_delays_nobody_else(door: Door) -> None:
    go = Signal()

    def slow(connection: Connection, payload: bytes, is_text: bool) -> None:
        if payload == b"wait":
            go.wait()
        echo(connection, payload, is_text)

    door.serve = slow
    waiting = door.call().upgrade(behind=text("wait") + text("1"))
    waiting.send(text("2"))
    other = door.call().upgrade(behind=text("quick"))
    other.expect(1)
    assert waiting.payloads() == []
    go.set()
    waiting.expect(3)
    assert waiting.payloads() == [b"wait", b"1", b"2"]


def test_a_refused_client_is_told_by_a_close_code_and_a_full_node_by_its_own(door: Door) -> None:
    door.gate.set_policy(1, 0, True, ())
    first = door.call().upgrade()
    second = door.call().upgrade()
    assert second.close_code() == 4005
    first.sock.close()
    until(lambda: door.gate.connections < 2)
    second.sock.close()
    until(lambda: nothing_is_left(door))
    assert door.call().upgrade(behind=text("x")).expect(1)


def test_many_that_upgrade_and_vanish_leave_nothing_behind(door: Door) -> None:
    for number in range(60):
        caller = door.call()
        client = caller.upgrade(behind=text("x") if number % 2 else b"")
        if number % 3:
            client.reset()
        else:
            client.hang_up()
    until(lambda: len(door.ended) == 60)
    assert nothing_is_left(door)


# --- requests -----------------------------------------------------------------------------------------------


def test_requests_of_both_kinds_on_one_connection_are_answered_in_their_order(door: Door) -> None:
    with door.call() as caller:
        kinds = ["/fast?1", "/app1", "/fast?2", "/fast?3", "/app2", "/fast?4"]
        caller.send(b"".join(request(path) for path in kinds))
        bodies = [caller.response()[2].decode() for _ in kinds]
    assert bodies == ["fast 1", "/app1", "fast 2", "fast 3", "/app2", "fast 4"]
    assert door.handed_over == ["/app1", "/app2"]
    assert (door.metrics.http_fast, door.metrics.http_handed_over) == (4, 2)


def test_a_body_reaches_whoever_answers_in_whatever_pieces_it_comes(door: Door) -> None:
    for path in ("/fast", "/app"):
        with door.call() as caller:
            whole = request(path, method="POST", body=b"hello world")
            for start in range(0, len(whole), 7):
                caller.send(whole[start : start + 7])
                look()
            assert caller.response()[2].endswith(b"hello world")


def test_a_kept_connection_waits_parked_and_its_next_request_is_served(door: Door) -> None:
    with door.call() as caller:
        for path in ("/fast", "/app", "/fast"):
            caller.send(request(path))
            assert caller.response()[0] == 200
            until(lambda: len(door.front.parked) == 1 and not door.front.hand_over.busy)
    until(lambda: nothing_is_left(door))


@pytest.mark.parametrize("path", ["/fast", "/app"])
def test_a_client_that_asks_and_ends_its_half_gets_its_answer(door: Door, path: str) -> None:
    with door.call() as caller:
        caller.send(request(path))
        caller.sock.shutdown(_socket.SHUT_WR)
        assert caller.response()[0] == 200
        assert caller.until_ended() == b""
    until(lambda: nothing_is_left(door))


def test_above_the_limit_requests_wait_for_their_turn() -> None:
    with Door(requests=2) as door:
        door.go.clear()
        callers = [door.call() for _ in range(5)]
        for number, caller in enumerate(callers):
            caller.send(request(f"/app{number}"))
        until(lambda: len(door.handed_over) == 2 and door.metrics.http_handed_over == 5)
        with door.call() as quick:
            quick.send(request("/fast"))
            assert quick.response()[0] == 200, "fast routes need no turn"
        door.go.set()
        assert [caller.response()[2] for caller in callers] == [b"/app%d" % n for n in range(5)]


def test_a_client_that_vanishes_while_the_application_works_does_no_harm(door: Door) -> None:
    door.go.clear()
    caller = door.call()
    caller.send(request("/app"))
    until(lambda: door.handed_over)
    caller.sock.close()
    door.go.set()
    until(lambda: nothing_is_left(door) and not door.front.hand_over.busy)


# --- waiting too long ---------------------------------------------------------------------------------------


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the front."""
    passed = 0.0
    monkeypatch.setattr("imserver.transport.http.monotonic", lambda: time.monotonic() + passed)

    def let_pass(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    return let_pass


def test_a_connection_that_says_nothing_is_closed_and_half_a_head_is_told(
    door: Door, later: Callable[[float], None]
) -> None:
    with door.call() as silent, door.call() as half:
        half.send(b"GET /fast HT")
        until(lambda: any(parked.held_bytes() for parked in door.front.parked))
        until(lambda: len(door.front.parked) == 2)
        later(9)
        door.front.expire()
        assert len(door.front.parked) == 2
        later(2)
        door.front.expire()
        assert half.response()[0] == 408
        assert silent.until_ended() == b""


def test_a_kept_connection_has_a_time_of_its_own(door: Door, later: Callable[[float], None]) -> None:
    with door.call() as caller:
        caller.send(request("/fast"))
        caller.response()
        later(74)
        door.front.expire()
        caller.send(request("/fast"))
        assert caller.response()[0] == 200
        later(76)
        door.front.expire()
        assert caller.until_ended() == b""


def test_a_connection_whose_request_is_being_answered_does_not_expire(
    door: Door, later: Callable[[float], None]
) -> None:
    door.go.clear()
    with door.call() as caller:
        caller.send(request("/app"))
        until(lambda: door.handed_over)
        later(10_000)
        door.front.expire()
        door.go.set()
        assert caller.response()[0] == 200


# --- draining -----------------------------------------------------------------------------------------------


def test_a_drain_ends_what_waits_and_answers_what_is_there(door: Door) -> None:
    with door.call() as idle, door.call() as late, door.call() as working:
        idle.send(request("/fast"))
        idle.response()
        door.go.clear()
        working.send(request("/app"))
        until(lambda: door.handed_over)
        until(lambda: len(door.front.parked) == 2)
        late.send(request("/fast"))
        door.front.drain()
        assert idle.until_ended() == b""
        status, headers, _ = late.response()
        assert (status, headers.get("connection")) == (200, "close")
        assert door.front.busy
        door.go.set()
        assert working.response()[0] == 200
        assert working.until_ended() == b""
        until(lambda: not door.front.busy)


# --- the poller's marks -------------------------------------------------------------------------------------


def test_a_fast_route_that_waits_keeps_the_order_of_its_connection(door: Door) -> None:
    go = Signal()
    order: list[bytes] = []

    def slow(request: HttpRequest) -> HttpResponse:
        order.append(request.query)
        if request.query == b"1":
            go.wait()
        return HttpResponse(200, request.query)

    door.front.fast = {("GET", "/fast"): slow}
    with door.call() as caller, door.call() as other:
        caller.send(request("/fast?1"))
        until(lambda: order)
        caller.send(request("/fast?2") + request("/app"))
        other.send(request("/fast?x"))
        assert other.response()[2] == b"x"
        gevent.sleep(0)
        assert order == [b"1", b"x"]
        go.set()
        assert [caller.response()[2] for _ in range(3)] == [b"1", b"2", b"/app"]
        assert isinstance(next(iter(door.front.parked)), HttpConnection)


class _Pours(Door):
    """Answers with more than a connection holds."""

    def application(self, environ: dict[str, Any], start: Start) -> list[bytes]:
        start("200 OK", [("Content-Length", "64000000")])
        return [bytes(1_000_000)] * 64


def test_a_client_that_takes_nothing_any_more_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handover, "WRITE_SECONDS", 0.1)
    with _Pours() as door:
        caller = door.call()
        caller.send(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: door.front.hand_over.busy)
        until(lambda: not door.front.hand_over.busy)
        caller.sock.close()
        until(lambda: nothing_is_left(door))
    assert capfd.readouterr().err == ""
