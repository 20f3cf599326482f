"""Clients that do not read: they hurt nobody but themselves.

Crowds that vanish or go no further are in ``tests/gateway/transport/test_poller.py`` and
``tests/security/test_exhaustion.py``.
"""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support import Server

from . import protobuf
from .cmd import get, good
from .gochat import form, register
from .protobuf import ACK, MESSAGE, ProtobufClient, chatting, outputs, pushed
from .raw import BINARY, CLOSE, PING, Ended, Frame
from .setting import Launch, growth_of

pytestmark = pytest.mark.full("waits")

BIG = "x" * 60_000


@pytest.fixture(scope="module")
def strict(launch: Launch, http_server: str) -> Server:
    """Little may wait for one client, and not for long."""
    return launch(
        http_server,
        limits={"outbox_bytes": 500_000, "outbox_seconds": 8},
        websocket={"close_seconds": 1, "sweep_seconds": 0.2},
    )


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
