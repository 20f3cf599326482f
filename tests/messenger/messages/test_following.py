"""Clients that have no cursor, those of Centrifugo, follow the log from their login on."""

from collections.abc import Iterator

import pytest

from imserver.gateway.errors import StorageUnavailable
from imserver.messenger.messages.log.contract import Draft, Stored
from tests.gateway.transport.harness import until
from tests.messenger.messaging_harness import APP, MessageClient, Node


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def store(node: Node, text: str) -> None:
    """Store a message to a user, who receives it before this returns."""
    stored: list[Stored] = []
    node.messaging.send(APP, Draft(sender="shop", body=text.encode(), to_user="ann"), stored.append)
    until(lambda: bool(stored))


def heard(client: MessageClient, count: int) -> list[str]:
    """So many messages that were delivered, and no more."""

    def messages() -> list[str]:
        return [body["response"]["data"]["text"] for body in client.bodies() if body["cmd"] == "message"]

    until(lambda: len(messages()) >= count)
    client.settle()
    return messages()


def test_a_client_begins_at_the_end_of_the_log(node: Node) -> None:
    store(node, "before")
    client = node.speaker("ann")
    node.messaging.catch_up.follow(client.connection)
    store(node, "held")
    assert heard(client, 0) == []
    node.messaging.catch_up.release(client.connection)
    store(node, "live")
    assert heard(client, 2) == ["held", "live"]


def test_no_login_waits_for_a_database_that_does_not_answer(node: Node) -> None:
    connection = node.speaker("ann").connection
    node.store.database().failed("no answer in time", wrote=False)
    with pytest.raises(StorageUnavailable):
        node.messaging.catch_up.follow(connection)
    assert connection.log_subscription is None
