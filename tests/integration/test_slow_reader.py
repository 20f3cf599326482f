"""Clients that do not read, do not finish, or vanish: they hurt nobody but themselves."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from tests.support import Server, eventually

from . import protobuf
from .cmd import CmdClient, cmd_client, command, get, good, is_online, logged_in, send_message, users
from .gochat import form, register
from .protobuf import ACK, MESSAGE, ProtobufClient, chatting, outputs, pushed
from .raw import BINARY, CLOSE, PING, Address, Ended, Frame, Raw, frame, handshake
from .setting import ECHO_PATH, Launch, growth_of, open_files

pytestmark = pytest.mark.full

BIG = "x" * 60_000


class Probe:
    """A client that pings all the while in a thread of its own. It waits as long for an answer as any."""

    def __init__(self, address: Address) -> None:
        self._one = CmdClient(address).upgrade()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers = 0
        self.slowest_seconds = 0.0
        self.fault: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.01):
                began = time.monotonic()
                assert self._one.ask_cmd("ping", None, str(self.answers))[2] == "pong"
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                self.answers += 1
        except BaseException as fault:
            self.fault = fault

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._one.leave()
        if kind is None:
            assert self.fault is None, self.fault
            assert self.answers > 0
            print(f"slowest of {self.answers} answers: {self.slowest_seconds * 1000:.0f} ms")


@pytest.fixture(scope="module")
def strict(launch: Launch, http_server: str) -> Server:
    """Little may wait for one client, and not for long."""
    return launch(
        http_server,
        limits={"outbox_bytes": 500_000, "outbox_seconds": 8, "handshake_seconds": 8},
        websocket={"close_seconds": 1, "sweep_seconds": 0.2},
        debug={"echo_path": ECHO_PATH, "echo_bytes": 1 << 20},
    )


@contextlib.contextmanager
def slow(server: Server, user: str, app: int) -> Iterator[CmdClient]:
    """A session with a small receive buffer whose client reads nothing from now on."""
    with CmdClient(server.ws, receive_buffer_bytes=4096) as one:
        yield one.upgrade().login(user, app)


@pytest.mark.both_servers
def test_a_client_that_does_not_read_is_closed_when_too_much_waits_for_it(strict: Server) -> None:
    with Probe(strict.ws), slow(strict, "slow", 101) as one, logged_in(strict.ws, "quick", 101) as quick:
        for number in range(2000):
            if not send_message(strict.http, 101, "slow", BIG)["sendResults"]:
                break
            assert number < 500, "so much cannot wait in the kernel alone"
        assert quick.push("exit").json["response"]["data"]["from"] == "slow"
        assert users(strict.http, 101) == ["quick"]
        # What had been sent is whole; what follows it is the end, perhaps with the code for it.
        with contextlib.suppress(Ended):
            while (found := one.frame()).opcode == 1:
                assert found.json["cmd"] in ("msg", "enter")
            assert found.close_code == 4000


@pytest.mark.parametrize(
    ("path", "packet"),
    [(ECHO_PATH, frame(2, b"x" * 100_000)), ("/acc", frame(9, b"p" * 125) * 1000)],
    ids=["echo", "pings"],
)
def test_a_client_that_never_reads_the_answers_is_stopped(strict: Server, path: str, packet: bytes) -> None:
    """50 MB of echo or 200,000 pongs that nobody reads: the server holds no more than its outbox may hold."""
    with Raw(strict.ws, receive_buffer_bytes=4096) as one:
        one.upgrade(path)
        grown, before = growth_of(strict.pid), counted(strict)
        one.sock.settimeout(2)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(500):
                one.send(packet)
        eventually(lambda: counted(strict) < before, what="the server has ended the connection")
    assert grown() < 16 << 20
    with cmd_client(strict.ws) as other:
        assert other.ask_cmd("ping")[2] == "pong"


# Dialects that keep messages.


@contextlib.contextmanager
def slow_chatter(server: Server, account: tuple[str, str]) -> Iterator[ProtobufClient]:
    """A session that has caught up, has a small window, and from now on reads only when it is told to."""
    with ProtobufClient(server.ws, receive_buffer_bytes=4096) as one:
        one.begin()
        one.id = int(account[0])
        one.login(account[1])
        assert one.catch_up() == []
        yield one


def read_to_the_end(one: ProtobufClient) -> list[protobuf.SentMessage]:
    """What a connection that is being closed was still sent, whole; the last frame is a close of 4000, if any
    is there: it may not have found its way."""
    found: list[protobuf.SentMessage] = []
    with contextlib.suppress(Ended):
        while True:
            got: Frame = one.frame()
            if got.opcode == CLOSE:
                assert got.close_code == 4000, got
                break
            assert got.opcode in (BINARY, PING), got
            if got.opcode == BINARY:
                found += [pushed(output) for output in outputs(got.payload)]
    return found


def test_a_client_that_does_not_read_is_paused_and_misses_nothing(strict: Server) -> None:
    server = strict
    ann, bob, quick_account = (register(server.http) for _ in range(3))
    fields = {"name": "us", "ids": [bob[0], quick_account[0]]}
    group = int(form(server.http, "/group/create", fields, ann[1]).json["data"]["id"])
    with chatting(server.ws, ann) as sender, chatting(server.ws, quick_account) as quick:
        with slow_chatter(server, bob) as stuck:
            grown = growth_of(server.pid)
            number = 0
            while chats(server, bob):
                number += 1
                assert number < 400, "so much cannot wait in the kernel alone"
                sender.group(number, group, f"{number} {BIG}")
                assert quick.output().kind == MESSAGE
                assert sender.output().kind == ACK
            assert grown() < 16 << 20
            before = read_to_the_end(stuck)
        sender.group(number + 1, group, "when it is gone")
        assert pushed(quick.output()).text == "when it is gone"
    texts = [each.text for each in before]
    assert texts == [f"{each} {BIG}" for each in range(1, len(texts) + 1)], "in order, without a hole"
    assert len(texts) < number
    with chatting(server.ws, bob, after=before[-1].seq if before else 0) as back:
        texts += [each.text for each in back.missed]
    assert texts == [*(f"{each} {BIG}" for each in range(1, number + 1)), "when it is gone"]


def chats(server: Server, account: tuple[str, str]) -> bool:
    """Whether a session of the account's user is there."""
    found = good(get(server.http, "/system/state", isDebug="true"))["managerInfo"]["users"]
    return f"gochat_{account[0]}" in found


def test_a_client_that_requests_pages_and_does_not_read_is_paused(strict: Server) -> None:
    server = strict
    ann, bob = register(server.http), register(server.http)
    with chatting(server.ws, ann) as sender:
        for number in range(1, 31):
            sender.single(number, int(bob[0]), BIG)
            assert sender.output().kind == ACK
        with ProtobufClient(server.ws, receive_buffer_bytes=4096) as greedy:
            greedy.begin().login(bob[1])
            grown = growth_of(server.pid)
            greedy.sock.settimeout(2)
            with contextlib.suppress(ConnectionError, TimeoutError):
                for _ in range(200):
                    greedy.send_payload(protobuf.sync(0))
            eventually(lambda: not chats(server, bob), what="it is stopped")
            assert grown() < 24 << 20
        sender.single(31, int(ann[0]) + int(bob[0]) + 1000, "goes on")
        assert sender.output().kind == ACK


def test_who_reads_a_page_slowly_may_be_answered_meanwhile(strict: Server) -> None:
    """What it has missed is more than the kernel and its outbox hold together."""
    with logged_in(strict.ws, "dora", 101) as dora:
        for number in range(110):
            text = f"{number} {BIG}"
            assert dora.ask_cmd("send", {"to": "cid", "text": text}, str(number))[0] == 200
    with CmdClient(strict.ws, receive_buffer_bytes=4096) as cid:
        cid.upgrade().login("cid", 101)
        cid.send(command("sync", {"cursor": 0, "limit": 200}, "page"), command("ping", None, "ping"))
        answers = [cid.frame().json, cid.frame().json]
        assert [answer["seq"] for answer in answers] == ["page", "ping"]


# The budget of a node.


@pytest.fixture(scope="module")
def poor(launch: Launch, http_server: str) -> Server:
    """One client may keep much waiting, but all of them together may not."""
    return launch(
        http_server,
        limits={"outbox_bytes": 8 << 20, "outbox_seconds": 60, "node_outbox_bytes": 8 << 20},
        websocket={"close_seconds": 1},
        debug={"echo_path": ECHO_PATH},
    )


@pytest.mark.both_servers
def test_above_the_budget_of_the_node_the_largest_outbox_is_closed_first(poor: Server) -> None:
    with contextlib.ExitStack() as stack:
        quick = stack.enter_context(logged_in(poor.ws, "quick", 101))
        small = stack.enter_context(slow(poor, "small", 101))
        for number in range(4):
            stack.enter_context(slow(poor, f"large{number}", 101))
        grown = growth_of(poor.pid)
        sent = 0
        while len(found := users(poor.http, 101)) > 3:
            for number in range(4):
                send_message(poor.http, 101, f"large{number}", BIG)
            sent += 1
            assert sent < 1000, f"{found} are all there still"
        assert {"quick", "small"} <= set(found)
        assert grown() < 32 << 20
        assert quick.ask_cmd("ping")[2] == "pong"
        assert small.ask_cmd("ping")[2] == "pong"


# Crowds.


def crowd(address: Address, count: int, data_of: Callable[[int], bytes]) -> list[Raw]:
    """So many connections, each having sent the data for its number without reading anything."""
    found = []
    for number in range(count):
        one = Raw(address)
        one.send(data_of(number))
        found.append(one)
    return found


@pytest.mark.parametrize("way", ["reset", "leave"])
def test_ten_thousand_clients_that_vanish_at_once_delay_nobody(
    strict: Server, http_server: str, way: str
) -> None:
    """All of one app, so each would hear of each; fewer through the WSGI server, which is slower."""
    count = open_files(10_000 if http_server == "front" else 3_000)

    def arrival(number: int) -> bytes:
        return handshake() + command("login", {"userID": f"crowd{number}", "appID": 103})

    with Probe(strict.ws) as probe:
        gone = crowd(strict.ws, count, arrival)
        eventually(lambda: counted(strict) > count, what="all are connected")
        before = probe.answers
        for one in gone:
            getattr(one, way)()
        eventually(lambda: counted(strict) <= 2, what="all are gone")
        eventually(lambda: probe.answers > before + 3, what="the probe went on")
    assert users(strict.http, 103) == []


def counted(server: Server) -> int:
    """How many WebSockets the server counts."""
    return int(good(get(server.http, "/system/state"))["managerInfo"]["clientsLen"])


@pytest.mark.parametrize("first", [handshake()[:-20], b""], ids=["half a handshake", "no byte"])
def test_a_crowd_that_goes_no_further_delays_nobody_and_is_cut_off(strict: Server, first: bytes) -> None:
    with Probe(strict.ws):
        half = crowd(strict.ws, open_files(2_000), lambda _: first)
        with cmd_client(strict.ws) as one:
            assert one.ask_cmd("ping")[2] == "pong"
        for one in half:
            one.rest()
            one.leave()


# Limits of connections.


def test_pings_of_the_server_find_dead_peers(launch: Launch, http_server: str) -> None:
    server = launch(
        http_server,
        websocket={"ping_seconds": 0.5, "pong_seconds": 8, "sweep_seconds": 0.2, "close_seconds": 1},
    )
    with logged_in(server.ws, "dead", 101) as dead, logged_in(server.ws, "alive", 101) as alive:
        deadline = time.monotonic() + 60
        while is_online(server.http, "dead", 101):
            assert time.monotonic() < deadline
            found = alive.frame()
            if found.opcode == 9:
                alive.send(frame(10, found.payload))
        assert is_online(server.http, "alive", 101)
        while (found := dead.frame()).opcode == 1:
            assert found.json["cmd"] == "enter"
        assert found.opcode == 9
