"""Event streams that come back: what they have missed is read once, and told from the first to the last."""

from collections.abc import Callable
from typing import Any

import pytest

from imserver.gateway.cluster import history
from imserver.messenger.messages import catch_up
from imserver.messenger.messages.catch_up import StreamStarts
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.model import Message
from tests.gateway.dialects.sse.test_wire import DIALECT, data_of
from tests.gateway.transport.harness import until
from tests.messenger.messages.test_messaging import two
from tests.messenger.messaging_harness import APP, Node


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


@pytest.mark.parametrize(
    ("page", "page_bytes", "limit", "cursor", "resumed", "reads"),
    [
        (50, 1000, 50, 20, True, 6),
        (4, 1000, 50, 20, True, 9),
        (50, 40, 50, 20, True, 9),
        (4, 1000, 9, 21, True, 9),
        (4, 1000, 9, 20, False, 7),
    ],
)
def test_what_was_missed_is_read_once_page_by_page_and_no_more_than_may(
    constants: Callable[..., None],
    page: int,
    page_bytes: int,
    limit: int,
    cursor: int,
    resumed: bool,
    reads: int,
) -> None:
    constants(catch_up, PAGE=page, RESUMED=limit)
    constants(history, PAGE_BYTES=page_bytes)
    with Node() as node:
        node.log.writer.append(APP, [Draft(sender="ann", to_user="bob", body=b"1234567890")] * 30)
        bob, stored = node.speaker("bob"), stored_on(node)
        before = node.gates.reads
        start = stored.start(APP, "bob", cursor)
        assert start.resumed is resumed
        stored.send(bob.connection, start)
        bob.settle()
        assert [message["id"] for message in bob.pushed()] == [*range(cursor + 1, 31)] * resumed
        assert node.gates.reads - before <= reads


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
