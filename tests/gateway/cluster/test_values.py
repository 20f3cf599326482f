"""Temporary values: in the memory of a node, and in the Redis of a cluster."""

from typing import Any

import pytest

from imserver.gateway.cluster.registry import MAX_VALUES, LocalValues
from imserver.gateway.errors import StorageUnavailable
from tests.gateway.cluster.conftest import StartNode
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import until


@pytest.fixture(params=["local", "redis"])
def store(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        return LocalValues()
    start: StartNode = request.getfixturevalue("start_node")
    return start(request.getfixturevalue("server"))


def test_a_value_is_there_until_it_is_removed_by_the_first_who_tries(store: Any) -> None:
    assert store.value("key") is None
    assert not store.remove_value("key")
    store.put_value("key", b"one", 60)
    store.put_value("key", b"\x00two", 60)
    store.put_value("other", b"", 60)
    assert store.value("key") == b"\x00two"
    assert [store.remove_value("key") for _ in range(2)] == [True, False]
    assert (store.value("key"), store.value("other")) == (None, b"")


def test_a_value_ends_with_its_time(store: Any) -> None:
    store.put_value("key", b"one", 0.001)
    until(lambda: store.value("key") is None)
    assert not store.remove_value("key")


def test_the_memory_of_a_node_is_bounded() -> None:
    store = LocalValues()
    for number in range(MAX_VALUES + 1):
        store.put_value(str(number), b"x", 10 + number)
    assert [store.value(key) for key in ("0", "1", str(MAX_VALUES))] == [None, b"x", b"x"]


def test_without_redis_nothing_is_believed(own_server: RedisServer, start_node: StartNode) -> None:
    node = start_node(own_server)
    node.put_value("key", b"one", 60)
    own_server.kill()
    for call in (node.value, node.remove_value, lambda key: node.put_value(key, b"", 1)):
        with pytest.raises(StorageUnavailable):
            call("key")
