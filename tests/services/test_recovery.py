"""Clients that come back with a position of the log receive exactly what they missed."""

from collections.abc import Callable, Iterator

import pytest

from imserver.cluster.history import Position
from imserver.errors import StorageUnavailable
from imserver.services.messages import catch_up
from imserver.services.messages.catch_up import Recovery
from imserver.services.messages.deliverer import Result
from imserver.storage.log.contract import Appended, Draft, Entry
from imserver.transport.connection import Connection
from tests.services.memory_log import MemoryStore, Shelf
from tests.services.messaging_harness import APP, MessageClient, Node
from tests.transport.harness import until

EPOCH = MemoryStore.id[:8]


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def store(node: Node, *texts: str, to: str = "ann") -> int:
    """Store messages to a user, who receives them before this returns; the id of the last one."""
    stored: list[Result] = []
    for text in texts:
        node.messaging.send(APP, Draft(sender="shop", body=text.encode(), to_user=to), stored.append)
    until(lambda: len(stored) == len(texts))
    last = stored[-1]
    assert isinstance(last, Appended)
    return last.entry.id


def recover(node: Node, since: Position | None, user: str = "ann") -> tuple[MessageClient, Recovery]:
    """Log in with a position; the client, and what it begins with. Entries are held until the release."""
    client = node.speaker(user)
    found = node.messaging.catch_up.recover(client.connection, since)
    assert found is not None
    return client, found


def missed(found: Recovery) -> list[str]:
    return [each.body.decode() for each in found.messages]


def release(node: Node, client: MessageClient) -> None:
    node.messaging.catch_up.release(client.connection)


def heard(client: MessageClient, count: int) -> list[str]:
    """So many messages that were delivered, and no more."""

    def messages() -> list[str]:
        return [body["response"]["data"]["text"] for body in client.bodies() if body["cmd"] == "message"]

    until(lambda: len(messages()) >= count)
    client.settle()
    return messages()


def test_a_new_client_begins_at_the_end_of_the_log(node: Node) -> None:
    store(node, "before")
    client, found = recover(node, None)
    assert (found.position, found.recovered, missed(found)) == (Position(EPOCH, 1), False, [])
    store(node, "held")
    release(node, client)
    store(node, "live")
    assert heard(client, 2) == ["held", "live"]


def test_what_comes_while_the_log_is_read_comes_once_and_in_order(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(node, "seen", "missed")
    store(node, "of bob", to="bob")
    read = node.messaging.catch_up.page

    def page(app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        store(node, "before the read")
        found = read(app, user, after, limit)
        store(node, "after the read")
        return found

    monkeypatch.setattr(node.messaging.catch_up, "page", page)
    client, found = recover(node, Position(EPOCH, 1))
    assert (found.recovered, found.position) == (True, Position(EPOCH, 5))
    assert missed(found) == ["missed", "before the read", "after the read"]
    store(node, "held")
    release(node, client)
    store(node, "live")
    assert heard(client, 2) == ["held", "live"]


def lose(node: Node) -> Position:
    node.log.floor = lambda _app: 1  # type: ignore[method-assign]
    return Position(EPOCH, 0)


@pytest.mark.parametrize(
    "since",
    [
        lambda node: Position("another", 1),
        lambda node: Position("_", 0),
        lambda node: Position(EPOCH, 4),
        lambda node: Position(EPOCH, 0),
        lose,
    ],
    ids=["another epoch", "an invalidated one", "after the end", "too many", "expired"],
)
def test_a_client_whose_position_is_lost_must_reload(
    node: Node, monkeypatch: pytest.MonkeyPatch, since: Callable[[Node], Position]
) -> None:
    monkeypatch.setattr(catch_up, "RECOVERED", 2)
    store(node, "one", "two", "three")
    client, found = recover(node, since(node))
    assert (found.position, found.recovered, missed(found)) == (Position(EPOCH, 3), False, [])
    release(node, client)
    store(node, "live")
    assert heard(client, 1) == ["live"]


def test_a_client_that_is_ahead_of_its_new_node_receives_nothing_twice() -> None:
    shelf = Shelf()
    with Node(shelf) as one, Node(shelf) as two:
        one.peers = [two]
        recover(two, None, "bob")  # so it follows the log
        one.wire = lambda _first, _last: False
        last = store(one, "seen elsewhere", "this too")
        client, found = recover(two, Position(EPOCH, last))
        assert (found.recovered, missed(found)) == (True, [])
        assert found.position == Position(EPOCH, last)
        release(two, client)
        one.wire = lambda _first, _last: True
        store(one, "live")
        assert heard(client, 1) == ["live"]


def test_without_a_position_no_login_waits_for_a_database_that_does_not_answer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.store, "answers", lambda: False)
    connection: Connection = node.speaker("ann").connection
    with pytest.raises(StorageUnavailable):
        node.messaging.catch_up.recover(connection, None)
    assert connection.subscription is None
    assert recover(node, Position(EPOCH, 0), "bob")[1].recovered


def test_a_node_that_cannot_read_on_recovers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "WAIT_SECONDS", 0.0)
    shelf = Shelf()
    with Node(shelf) as one, Node(shelf) as two:
        recover(two, None, "bob")
        last = store(one, "seen elsewhere")
        connection: Connection = two.speaker("ann").connection
        with pytest.raises(StorageUnavailable):
            two.messaging.catch_up.recover(connection, Position(EPOCH, last))
