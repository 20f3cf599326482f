"""The front in this process: where requests go, and what becomes of a socket
that changes hands."""

import _socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.gateway.clock import is_long_turn
from imserver.gateway.config.settings import LimitSettings
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.metrics import Metrics
from imserver.gateway.node.http_servers import echo
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import (
    Admission,
    DialectPath,
    Gate,
    GatePolicy,
    Origins,
    adopt,
)
from imserver.gateway.transport.handover import HandOver, ListenerContext
from imserver.gateway.transport.http import (
    PIPELINED_SECONDS,
    FrontServer,
    HttpConnection,
)
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse, KnownHeads
from imserver.gateway.transport.listener import Listener, bind
from imserver.gateway.transport.outbox import MANY_CONNECTIONS
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.gateway.transport.wsgi import WsgiServer
from tests.gateway.transport.harness import Caller, Socket, SocketHarness, until
from tests.integration.raw import handshake, request, text
from tests.support import HTTP_SERVERS

Start = Callable[[str, list[tuple[str, str]]], Any]


class Harness(SocketHarness):
    """A front on a free port: ``/fast`` is answered by itself, everything else
    by ``application``.

    WebSockets on /acc echo, unless ``serve`` is set.
    """

    def __init__(
        self,
        *,
        requests: int = 8,
        limits: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.metrics = Metrics()
        self.serve: Callable[[Connection, bytes, bool], None] = echo
        self.handed_over: list[str] = []
        self.on_request: Callable[[], None] = lambda: None
        """Called when the application begins with a request."""
        self.go = Flag()
        self.go.set()
        paths = {
            "/acc": DialectPath(
                CmdDialect(), lambda *message: self.serve(*message), 65536
            )
        }
        proxies = TrustedProxies(())
        policy = GatePolicy(any_origin=True)
        self.gate = Gate(proxies, Origins(proxies, policy), False, policy)
        self.gate.paths.update(paths)
        fast = {("GET", "/fast"): self.answer, ("POST", "/fast"): self.answer}
        self.front = FrontServer(
            self.context,
            ListenerContext(
                self.gate,
                fast,
                lambda *_: 100_000,
                LimitSettings(body_bytes=100_000, **limits or {}),
                self.admit,
            ),
            fast,
            HandOver(self.application, requests, 1, {}, self.metrics),
            self.metrics,
            lambda *_: None,
            KnownHeads(),
        )
        sock = bind("127.0.0.1", 0, 256, False)
        self.listener = Listener(
            sock, self.poller, self.loop, self.metrics, self.front.accept
        )

    def __exit__(self, *what: Any) -> None:
        self.go.set()
        self.listener.close()
        until(lambda: not self.front.hand_over.busy)
        self.front.close()
        super().__exit__(*what)

    def admit(self, sock: _socket.socket, admission: Admission, rest: bytes) -> None:
        adopt(self.context, self.gate, sock, admission, rest)

    def on_ended(self, connection: Connection, code: int) -> None:
        super().on_ended(connection, code)
        self.gate.left(connection.peer)

    def answer(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(
            200, b"fast " + request.query + request.body, headers=(("X-Route", "fast"),)
        )

    def application(self, environ: dict[str, Any], start: Start) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.handed_over.append(path)
        self.on_request()
        body = environ["wsgi.input"].read()
        self.go.wait()
        start(
            "200 OK",
            [
                ("X-Route", "application"),
                ("Content-Length", str(len(path) + len(body))),
            ],
        )
        return [path.encode() + body]

    def call(self) -> Caller:
        caller = Caller(self.listener.port)
        self.clients.append(caller)
        return caller


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as one:
        yield one


def nothing_is_left(harness: Harness) -> bool:
    return not (
        harness.context.connections
        or harness.front.parked
        or harness.budget.sizes
        or harness.gate.connections
    )


@contextmanager
def wsgi_server(harness: Harness) -> Iterator[WsgiServer]:
    sock = bind("127.0.0.1", 0, 256, False)
    server = WsgiServer(
        sock, harness.application, {}, harness.front.listener, harness.metrics
    )
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_pipelined_requests_of_the_application_take_a_turn_of_the_loop_each(
    http_server: str,
) -> None:
    turn, turns = 0, list[int]()

    def count() -> None:
        nonlocal turn
        turn += 1

    with Harness() as one, ExitStack() as stack:
        one.on_request = lambda: turns.append(turn)
        watcher = one.loop.check()
        watcher.start(count)
        stack.callback(watcher.stop)
        port = one.listener.port
        if http_server == "wsgi":
            port = stack.enter_context(wsgi_server(one)).port
        with Caller(port) as caller:
            caller.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
            assert [caller.response()[2] for _ in range(20)] == [b"/page"] * 20
    assert len(set(turns)) == 20


def test_others_are_served_between_long_requests_that_came_together(
    harness: Harness,
) -> None:
    served: list[bytes] = []

    def answer(request: HttpRequest) -> HttpResponse:
        if request.query == b"other":
            return HttpResponse(200, b"%d" % len(served))
        while not is_long_turn(PIPELINED_SECONDS):
            pass
        served.append(request.query)
        return HttpResponse(200, request.query)

    harness.front.fast = {("GET", "/fast"): answer}
    queries = [b"%d" % number for number in range(5)]
    with harness.call() as caller, harness.call() as other:
        caller.send(b"".join(request(f"/fast?{each.decode()}") for each in queries))
        until(lambda: bool(served))
        other.send(request("/fast?other"))
        assert int(other.response()[2]) < len(queries)
        assert [caller.response()[2] for _ in queries] == queries


# --- a socket that changes hands ----------------------------------------------


@pytest.mark.parametrize(
    "before",
    [b"", b"POST /fast HTTP/1.1\r\nContent-Length: 4\r\nHost: localhost\r\n\r\n"],
)
def test_many_frames_behind_the_upgrade_delay_nobody_else(
    harness: Harness, before: bytes
) -> None:
    """A body that is read in large pieces may end with an upgrade too."""
    served: list[int] = []
    seen: list[int] = []
    harness.serve = lambda *_: served.append(0)
    answer = harness.front.fast["GET", "/fast"]

    def look(request: HttpRequest) -> HttpResponse:
        seen.append(len(served))
        return answer(request)

    harness.front.fast = {**harness.front.fast, ("GET", "/fast"): look}
    attacker = harness.call()
    other = harness.call()
    attacker.send(before)
    other.send(request("/fast"))
    assert other.response()[0] == 200
    frames = text("x") * 8000
    attacker.send((b"body" if before else b"") + handshake("/acc") + frames)
    other.send(request("/fast"))
    assert other.response()[0] == 200
    until(lambda: len(served) == 8000)
    assert seen[1] < 4000


@pytest.mark.parametrize(("fails", "frames"), [(False, 8000), (True, 1)])
def test_a_connection_that_ends_between_frames_behind_the_upgrade_is_served_no_more(
    harness: Harness, fails: bool, frames: int, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[int] = []

    def end(connection: Connection, *_: Any) -> None:
        served.append(0)
        if fails:
            raise RuntimeError("a defect")
        gevent.spawn(connection.lost)

    harness.serve = end
    caller = harness.call()
    caller.send(handshake("/acc") + text("x") * frames)
    caller.until_ended()
    assert 0 < len(served) < 8000
    assert ("a defect" in caplog.text) is fails
    assert nothing_is_left(harness)


def test_many_that_upgrade_and_vanish_leave_nothing_behind(harness: Harness) -> None:
    for number in range(60):
        caller = harness.call()
        behind = (b"", text("x"), text("x" * 300)[:100])[number % 3]
        if number % 4 == 0:  # it ends its half at once
            caller.send(handshake() + behind)
            caller.sock.shutdown(_socket.SHUT_WR)
            continue
        client = caller.upgrade(behind=behind)
        (client.reset if number % 4 == 1 else client.hang_up)()
    until(lambda: len(harness.ended) == 60)
    assert {code for _, code in harness.ended} == {1006}
    assert nothing_is_left(harness)


# --- requests -----------------------------------------------------------------


CHUNKED = "POST {} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_many_chunked_requests_in_one_packet_are_all_answered(harness: Harness) -> None:
    """Each of them is served when its body is complete, in a loop and not one
    inside the other."""
    head = CHUNKED.format("/fast").encode()
    count = 600
    with harness.call() as caller:
        caller.send(head + b"1\r\n")  # within a body more is read at once
        until(lambda: any(parked.held_bytes() for parked in harness.front.parked))
        caller.send(b"x\r\n0\r\n\r\n" + (head + b"0\r\n\r\n") * count)
        assert caller.response()[2] == b"fast x"
        assert {caller.response()[2] for _ in range(count)} == {b"fast "}


@pytest.mark.parametrize("path", ["/fast", "/app"])
@pytest.mark.parametrize("first", ["/fast", "/app", "chunked"])
def test_line_ends_before_a_request_do_not_hide_its_body(
    harness: Harness, first: str, path: str
) -> None:
    before = (
        CHUNKED.format("/fast").encode() + b"0\r\n\r\n"
        if first == "chunked"
        else request(first, method="POST", body=b"first")
    )
    inner = request("/inner")
    with harness.call() as caller:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
        caller.send(before + b"\r\n" + CHUNKED.format(path).encode() + chunks)
        assert caller.response()[0] == 200
        assert caller.response()[2].endswith(inner)
        caller.send(request("/fast?last"))
        assert caller.response()[2] == b"fast last"
    assert "/inner" not in harness.handed_over


def test_the_answer_to_a_push_to_many_comes_before_the_push_is_written(
    harness: Harness,
) -> None:
    """A back end that pushes in a closed loop, three requests at a time:
    nothing is lost or overtaken."""
    pairs = [harness.connect() for _ in range(MANY_CONNECTIONS)]
    answered: list[bytes] = []

    def push(request: HttpRequest) -> HttpResponse:
        for connection, _ in pairs:
            connection.send(request.query)
        return HttpResponse(200, request.query)

    written = pairs[0][0].sock
    assert isinstance(written, Socket)
    written.on_send = lambda: answered.append(caller.sock.recv(13, _socket.MSG_PEEK))
    harness.front.fast["GET", "/push"] = push  # type: ignore[index]
    with harness.call() as caller:
        for turns in range(5):
            numbers = range(3 * turns, 3 * turns + 3)
            caller.send(b"".join(request(f"/push?{number}") for number in numbers))
            assert [caller.response()[2] for _ in numbers] == [
                b"%d" % number for number in numbers
            ]
    for _, client in pairs:
        client.expect(15)
        assert client.payloads() == [b"%d" % number for number in range(15)]
    assert set(answered) == {b"HTTP/1.1 200 "}


def test_above_the_limit_requests_wait_for_their_turn() -> None:
    with Harness(requests=2) as harness:
        harness.go.clear()
        callers = [harness.call() for _ in range(5)]
        for number, caller in enumerate(callers):
            caller.send(request(f"/app{number}"))
        until(
            lambda: (
                len(harness.handed_over) == 2 and harness.metrics.http_handed_over == 5
            )
        )
        with harness.call() as quick:
            quick.send(request("/fast"))
            assert quick.response()[0] == 200, "fast routes need no turn"
        harness.go.set()
        assert [caller.response()[2] for caller in callers] == [
            b"/app%d" % n for n in range(5)
        ]


def test_a_client_that_vanishes_while_the_application_works_does_no_harm(
    harness: Harness,
) -> None:
    harness.go.clear()
    caller = harness.call()
    caller.send(request("/app"))
    until(lambda: harness.handed_over)
    caller.sock.close()
    harness.go.set()
    until(lambda: nothing_is_left(harness) and not harness.front.hand_over.busy)


# --- waiting too long ---------------------------------------------------------


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the front."""
    passed = 0.0
    monkeypatch.setattr(
        "imserver.gateway.transport.http.monotonic", lambda: time.monotonic() + passed
    )

    def let_pass(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    return let_pass


def test_a_connection_that_sends_nothing_is_closed_and_half_a_head_is_answered(
    harness: Harness, later: Callable[[float], None]
) -> None:
    with harness.call() as silent, harness.call() as half:
        half.send(b"GET /fast HT")
        until(lambda: any(parked.held_bytes() for parked in harness.front.parked))
        until(lambda: len(harness.front.parked) == 2)
        later(9)
        harness.front.expire()
        assert len(harness.front.parked) == 2
        later(2)
        harness.front.expire()
        assert half.response()[0] == 408
        assert silent.until_ended() == b""


def test_the_wsgi_server_cuts_off_a_handshake_that_does_not_end() -> None:
    with Harness(limits={"handshake_seconds": 0.1}) as one, wsgi_server(one) as server:
        for begun in (b"", b"GET /acc HT", handshake()[:-2]):
            with Caller(server.port) as caller:
                caller.send(begun)
                assert caller.until_ended()[:12] == (b"HTTP/1.1 408" if begun else b"")


def test_each_request_in_a_packet_has_its_own_time(
    harness: Harness, later: Callable[[float], None]
) -> None:
    whole = request("/fast")
    with harness.call() as caller:
        caller.send(whole[:10])
        until(lambda: any(parked.held_bytes() for parked in harness.front.parked))
        later(9)
        caller.send(whole[10:] + whole[:10])
        assert caller.response()[0] == 200
        later(9)
        harness.front.expire()
        caller.send(whole[10:])
        assert caller.response()[0] == 200
        caller.send(whole[:10])
        until(lambda: any(parked.held_bytes() for parked in harness.front.parked))
        later(11)
        harness.front.expire()
        assert caller.response()[0] == 408


def test_a_connection_that_is_answered_does_not_expire(
    harness: Harness, later: Callable[[float], None]
) -> None:
    harness.go.clear()
    with harness.call() as caller:
        caller.send(request("/app"))
        until(lambda: harness.handed_over)
        later(10_000)
        harness.front.expire()
        harness.go.set()
        assert caller.response()[0] == 200


def test_a_kept_connection_has_a_time_of_its_own(
    harness: Harness, later: Callable[[float], None]
) -> None:
    with harness.call() as caller:
        caller.send(CHUNKED.format("/fast").encode())
        until(lambda: any(parked.held_bytes() for parked in harness.front.parked))
        caller.send(b"0\r\n\r\n\r\n")
        caller.response()
        later(74)
        harness.front.expire()
        caller.send(request("/fast"))
        assert caller.response()[0] == 200, (
            "the line end behind the body has shortened nothing"
        )
        later(76)
        harness.front.expire()
        assert caller.until_ended() == b""


# --- draining -----------------------------------------------------------------


def ends_with_its_answer(caller: Caller) -> bool:
    """Whether an answer comes that says it is the last one, and it is."""
    status, headers, _ = caller.response()
    return (status, headers.get("connection"), caller.until_ended()) == (
        200,
        "close",
        b"",
    )


def test_a_drain_ends_what_waits_and_answers_what_is_there(harness: Harness) -> None:
    with ExitStack() as stack:
        idle, late, handed, working = (
            stack.enter_context(harness.call()) for _ in range(4)
        )
        for caller in (idle, handed):
            caller.send(request("/fast"))
            caller.response()
        harness.go.clear()
        working.send(request("/app"))
        until(lambda: harness.handed_over)
        until(lambda: len(harness.front.parked) == 3)
        late.send(request("/fast"))
        handed.send(request("/app"))
        harness.front.drain()
        harness.front.end_idle()
        assert idle.until_ended() == b""
        assert ends_with_its_answer(late)
        assert harness.front.busy
        harness.go.set()
        for caller in (handed, working):
            assert caller.response()[0] == 200
            assert caller.until_ended() == b""
    until(lambda: nothing_is_left(harness) and not harness.front.busy)


def test_a_kept_connection_is_served_once_more_in_a_drain(harness: Harness) -> None:
    """A proxy that sends a POST on it could not know that it ends, and must not
    repeat it elsewhere."""
    with harness.call() as fast, harness.call() as handed:
        for caller, path in ((fast, "/fast"), (handed, "/app")):
            caller.send(request(path))
            assert caller.response()[0] == 200
        harness.go.clear()
        handed.send(request("/app"))
        until(lambda: len(harness.handed_over) == 2)
        harness.front.drain()
        harness.go.set()
        assert handed.response()[0] == 200
        for caller in (fast, handed):
            caller.send(request("/fast"))
            assert ends_with_its_answer(caller)


def test_the_wsgi_server_serves_a_kept_connection_once_more_in_a_drain(
    harness: Harness,
) -> None:
    with wsgi_server(harness) as server, ExitStack() as stack:
        idle, keep_alive, working = (
            stack.enter_context(Caller(server.port)) for _ in range(3)
        )
        for caller in (idle, keep_alive):
            caller.send(request("/app"))
            assert caller.response()[0] == 200
        harness.go.clear()
        working.send(request("/app"))
        until(lambda: len(harness.handed_over) == 3)
        queued = stack.enter_context(Caller(server.port))
        server.drain()
        harness.go.set()
        old = request(
            "/app", protocol="HTTP/1.0", headers=[("Connection", "keep-alive")]
        )
        for caller, more in (
            (working, b""),
            (keep_alive, request("/app")),
            (queued, old),
        ):
            caller.send(more)
            assert ends_with_its_answer(caller)
        until(lambda: not server.busy)
        assert server.connected
        server.end_idle()
        assert idle.until_ended() == b""
        until(lambda: not server.connected)


def test_the_wsgi_server_ends_a_drain_with_what_has_arrived(harness: Harness) -> None:
    with wsgi_server(harness) as server, ExitStack() as stack:
        started, arrived, working = (
            stack.enter_context(Caller(server.port)) for _ in range(3)
        )
        for caller in (started, arrived):
            caller.send(request("/app"))
            assert caller.response()[0] == 200
        started.send(request("/app")[:10])
        until(lambda: any(not handler.idle for handler in server.waiting))
        harness.go.clear()
        working.send(request("/app"))
        until(lambda: len(harness.handed_over) == 3)
        server.drain()
        arrived.send(request("/app"))
        server.end_idle()
        assert server.busy
        started.send(request("/app")[10:])
        harness.go.set()
        assert all(map(ends_with_its_answer, (working, arrived, started)))
        until(lambda: not server.busy and not server.connected)


def test_a_fast_route_that_waits_keeps_the_order_of_its_connection(
    harness: Harness,
) -> None:
    go = Flag()
    order: list[bytes] = []

    def slow(request: HttpRequest) -> HttpResponse:
        order.append(request.query)
        if request.query == b"1":
            go.wait()
        return HttpResponse(200, request.query)

    harness.front.fast = {("GET", "/fast"): slow}
    with harness.call() as caller, harness.call() as other:
        caller.send(request("/fast?1"))
        until(lambda: order)
        caller.send(request("/fast?2") + request("/app"))
        other.send(request("/fast?x"))
        assert other.response()[2] == b"x"
        gevent.sleep(0)
        assert order == [b"1", b"x"]
        go.set()
        caller.send(request("/app") + request("/fast?3"))
        bodies = [caller.response()[2] for _ in range(5)]
        assert bodies == [b"1", b"2", b"/app", b"/app", b"3"]
        assert (harness.metrics.http_fast, harness.metrics.http_handed_over) == (4, 2)
        assert isinstance(next(iter(harness.front.parked)), HttpConnection)
