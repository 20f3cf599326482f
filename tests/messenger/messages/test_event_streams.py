"""Event streams that come back: what they have missed is read once, and told from the first to the last."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from imserver.gateway.auth.rules import ALLOWED
from imserver.gateway.cluster import history
from imserver.gateway.dialects.sse.api import EventsQuery, EventStreams
from imserver.gateway.model import LogSubscription
from imserver.gateway.transport.connection import Connection
from imserver.messenger.messages import catch_up
from imserver.messenger.messages.catch_up import CatchUp, StreamStarts
from imserver.messenger.messages.log.contract import Entry, LogExtent
from imserver.messenger.messages.model import Message
from tests.gateway.dialects.sse.test_wire import DIALECT, data_of
from tests.gateway.transport.harness import until
from tests.messenger.messages.test_messaging import two
from tests.messenger.messaging_harness import APP, Node

LOG = [
    Entry(id=number, conversation=1, seq=number, sender="bob", body=b"1234567890") for number in range(1, 31)
]


class FakeLog:
    """A log of thirty entries, and what is asked of it and told of it."""

    def __init__(self) -> None:
        self.read: list[int] = []
        """The ids of all entries that were read."""
        self.received: list[int] = []
        self.pages: list[int] = []
        """How many entries were told together."""
        self.kicks = SimpleNamespace(count=0)
        self.catch_up = self.deliverer = self._deliverer = self.entries = self
        self.sessions = self.connections = self.channels = self.identity = self.logins = self.keys = self
        self.tenants = self.authority = self.node = self.request_log = self

    def part(self, _kind: object) -> "FakeLog":
        return self

    def extent(self, app: str) -> LogExtent:
        return LogExtent(0, LOG[-1].id)

    def page(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        found = LOG[after : after + limit]
        self.read += [entry.id for entry in found]
        return found, after + limit < len(LOG)

    def subscribe(self, stream: Any, log_subscription: LogSubscription) -> None:
        stream.log_subscription = log_subscription

    def sync(self, stream: Any, after: int, limit: int, answer: Callable[..., bool]) -> None:
        entries, more = self.page("", "", after, limit)
        answer(entries, more, False)

    send_missed = CatchUp.send_missed

    def send(self, stream: Any, messages: list[Message]) -> None:
        assert stream.outbox is None, "the page before has not left"
        self.received += [message.id for message in messages]
        self.pages.append(len(messages))
        stream.outbox = messages
        gevent.spawn(setattr, stream, "outbox", None)

    # --- the rest of a node

    def check(self, *_: object) -> object:
        return ALLOWED

    def takes_user(self, app: str, user: str) -> bool:
        return True

    def login(self, *_: object, **__: object) -> int:
        return 200


def come_back(cursor: int) -> tuple[FakeLog, bool]:
    """A stream that has everything up to ``cursor``; whether it is resumed."""
    fake: Any = FakeLog()
    fake.store = fake.deliverer = fake
    sent: list[bytes] = []
    stream: Any = SimpleNamespace(
        is_open=True, log_subscription=None, app="101", user="ann", device="", send=sent.append
    )
    stream.outbox = None
    stream.begin = lambda encoding, head: None
    stream.wait_until_sent = lambda: Connection.wait_until_sent(stream)
    messenger: Any = SimpleNamespace(stream_starts=StreamStarts(fake))
    EventStreams(fake, messenger).begin(stream, EventsQuery("101", "ann", cursor=cursor), (), lambda _: b"")
    return fake, b'"resumed":true' in sent[0]


def test_what_fits_a_page_is_read_once() -> None:
    fake, resumed = come_back(20)
    assert resumed
    assert fake.received == fake.read == list(range(21, 31))


def test_more_entries_are_delivered_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "PAGE", 4)
    fake, resumed = come_back(20)
    assert resumed
    assert fake.received == list(range(21, 31))


def test_the_first_page_holds_no_more_bytes_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE_BYTES", 40)
    fake, resumed = come_back(20)
    assert (resumed, fake.received) == (True, list(range(21, 31)))
    assert fake.pages[0] == 4


def test_a_client_that_missed_too_much_gets_only_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "PAGE", 4)
    monkeypatch.setattr(catch_up, "RESUMED", 9)
    fake, resumed = come_back(20)
    assert (resumed, fake.received) == (False, [])
    assert come_back(21)[0].received == list(range(22, 31))


def stored_on(node: Node) -> StreamStarts:
    return StreamStarts(node.messaging.catch_up)


@pytest.mark.parametrize("cursor", [None, 0, 1])
def test_a_node_that_is_behind_delivers_nothing_again(cursor: int | None) -> None:
    """What the client has, or gets from the log first, comes to this node late."""
    first, second = two()
    with first, second:
        second.speaker("eve", 0)
        ann = first.speaker("ann", 0)
        first.wire = lambda low, _: low != 1
        ann.send("bob", "1")
        bob, stored = second.speaker("bob"), stored_on(second)
        start = stored.start(APP, "bob", cursor)
        stream: Any = bob.connection
        stored.send(stream, start)
        ann.send("bob", "2")
        expected = [1, 2] if cursor == 0 else [2]
        until(lambda: [message["id"] for message in bob.pushed()][-1:] == [2])
        assert [message["id"] for message in bob.pushed()] == expected


def test_a_stream_is_not_resumed_if_entries_expire_while_they_are_read() -> None:
    with Node() as node:
        ann = node.speaker("ann", 0)
        for text in "1234":
            ann.send("bob", text)
        node.during(2, lambda: node.log.expire(APP, more_than=1, upto=3))
        start = stored_on(node).start(APP, "bob", 1)
        assert (start.resumed, start.cursor) == (False, 4)


def test_a_stored_entry_has_its_id_outside_and_inside() -> None:
    body, own = b'{"a":\n1}', "c-1"
    message = Message(
        17, 3, 5, "shop", ("ann", "shop"), type="order", body=body, client_msg_id=own, time_ms=9
    )
    block = DIALECT.encode_message(message)
    assert block.startswith(b"id: 17\n")
    assert data_of(block.removeprefix(b"id: 17\n")) == {
        "event": "message",
        "app": "system:shop",
        "id": 17,
        "conversation": 3,
        "seq": 5,
        "kind": "message",
        "from": "shop",
        "to": "ann",
        "type": "order",
        "data": {"a": 1},
        "client_msg_id": "c-1",
        "time": 9,
    }
