"""Slow clients of the dialects that keep messages: what they missed fits their line, and who does not read is
stopped, has everything when it comes again, and costs the others nothing."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support import Server, eventually

from . import protobuf
from .cmd import CmdClient, command, get, good, logged_in
from .gochat import form, register
from .protobuf import ACK, MESSAGE, ProtobufClient, chatting, outputs, pushed, synced, visiting
from .raw import BINARY, CLOSE, PING, Ended, Frame
from .setting import Launch, growth_of

Account = tuple[str, str]

LONG = "x" * 60_000
OUTBOX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """Little may wait for one client."""
    return launch(http_server, apps={"gochat": {}, "101": {}}, limits={"outbox_bytes": OUTBOX_BYTES})


@pytest.fixture(scope="module")
def hasty(launch: Launch, http_server: str) -> Server:
    """Little may wait for one client, and not for long."""
    return launch(
        http_server,
        apps={"gochat": {}},
        limits={"outbox_bytes": OUTBOX_BYTES, "outbox_seconds": 8},
        websocket={"close_seconds": 1, "sweep_seconds": 0.2},
    )


@contextlib.contextmanager
def slow(server: Server, account: Account) -> Iterator[ProtobufClient]:
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


@pytest.mark.full
def test_a_client_that_does_not_read_is_paused_and_misses_nothing(hasty: Server) -> None:
    server = hasty
    ann, bob, quick_account = (register(server.http) for _ in range(3))
    fields = {"name": "us", "ids": [bob[0], quick_account[0]]}
    group = int(form(server.http, "/group/create", fields, ann[1]).json["data"]["id"])
    with chatting(server.ws, ann) as sender, chatting(server.ws, quick_account) as quick:
        with slow(server, bob) as stuck:
            grown = growth_of(server.pid)
            number = 0
            while is_online(server, bob):
                number += 1
                assert number < 400, "so much cannot wait in the kernel alone"
                sender.group(number, group, f"{number} {LONG}")
                assert quick.output().kind == MESSAGE
                assert sender.output().kind == ACK
            assert grown() < 16 << 20
            before = read_to_the_end(stuck)
        sender.group(number + 1, group, "when it is gone")
        assert pushed(quick.output()).text == "when it is gone"
    texts = [each.text for each in before]
    assert texts == [f"{each} {LONG}" for each in range(1, len(texts) + 1)], "in order, without a hole"
    assert len(texts) < number
    with chatting(server.ws, bob, after=before[-1].seq if before else 0) as back:
        texts += [each.text for each in back.missed]
    assert texts == [*(f"{each} {LONG}" for each in range(1, number + 1)), "when it is gone"]


def is_online(server: Server, account: Account) -> bool:
    """Whether a session of the account's user is there."""
    found = good(get(server.http, "/system/state", isDebug="true"))["managerInfo"]["users"]
    return f"gochat_{account[0]}" in found


@pytest.mark.full
def test_a_client_that_requests_pages_and_does_not_read_is_paused(hasty: Server) -> None:
    server = hasty
    ann, bob = register(server.http), register(server.http)
    with chatting(server.ws, ann) as sender:
        for number in range(1, 31):
            sender.single(number, int(bob[0]), LONG)
            assert sender.output().kind == ACK
        with ProtobufClient(server.ws, receive_buffer_bytes=4096) as greedy:
            greedy.begin().login(bob[1])
            grown = growth_of(server.pid)
            greedy.sock.settimeout(2)
            with contextlib.suppress(ConnectionError, TimeoutError):
                for _ in range(200):
                    greedy.send_payload(protobuf.sync(0))
            eventually(lambda: not is_online(server, bob), what="it is stopped")
            assert grown() < 24 << 20
        sender.single(31, int(ann[0]) + int(bob[0]) + 1000, "goes on")
        assert sender.output().kind == ACK


def test_a_page_of_long_messages_holds_fewer_and_says_that_there_are_more(server: Server) -> None:
    ann, bob = register(server.http), register(server.http)
    texts = [f"{number} {LONG}" for number in range(1, 21)]
    with chatting(server.ws, ann) as sender:
        for number, text in enumerate(texts, 1):
            sender.single(number, int(bob[0]), text)
            assert sender.output().kind == ACK
    with visiting(server.ws) as reader:
        reader.login(bob[1])
        found: list[protobuf.SentMessage] = []
        more = True
        while more:
            reader.send_payload(protobuf.sync(found[-1].seq if found else 0))
            page, more = synced(reader.output())
            assert 1 <= len(page) <= 10
            found += page
    assert [each.text for each in found] == texts


def long_conversation(cmd_client: CmdClient, count: int) -> int:
    """Say so many long things to cid; the number of the conversation."""
    for number in range(count):
        code, _, answer = cmd_client.ask_cmd("send", {"to": "cid", "text": f"{number} {LONG}"}, str(number))
        assert code == 200
    return int(answer["conversation"])


def test_the_cmd_dialects_pages_are_bounded_in_both_directions(server: Server) -> None:
    with logged_in(server.ws, "dora", 101) as dora, logged_in(server.ws, "cid", 101) as cid:
        conversation = long_conversation(dora, 20)
        forward: list[int] = []
        while True:
            data = {"cursor": forward[-1] if forward else 0, "limit": 200}
            page = cid.ask_cmd("sync", data)[2]
            assert 1 <= len(page["messages"]) <= 10
            forward += [each["id"] for each in page["messages"]]
            if not page["hasMore"]:
                break
        for command in ("history", "search"):
            backward: list[int] = []
            while True:
                before = {"before": backward[0]} if backward else {}
                data = {"conversation": conversation, "limit": 200, **before}
                page = cid.ask_cmd(command, {**data, "text": "xxx"})[2]
                assert 1 <= len(page["messages"]) <= 10
                backward = [each["id"] for each in page["messages"]] + backward
                if not page["hasMore"]:
                    break
            assert backward == forward
    assert len(forward) == 20


def test_who_reads_a_page_slowly_may_be_answered_meanwhile(server: Server) -> None:
    """What it has missed is more than the kernel and its outbox hold together."""
    with logged_in(server.ws, "dora", 101) as dora:
        long_conversation(dora, 110)
    with CmdClient(server.ws, receive_buffer_bytes=4096) as cid:
        cid.upgrade().login("cid", 101)
        cid.send(command("sync", {"cursor": 0, "limit": 200}, "page"), command("ping", None, "ping"))
        answers = [cid.frame().json, cid.frame().json]
        assert [answer["seq"] for answer in answers] == ["page", "ping"]
