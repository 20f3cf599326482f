"""The nodes of a cluster have one database: what a node does that finds another
one."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.core import cluster as cluster_node
from imserver.gateway.core.cluster import DatabaseCheck
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from tests.stores import OpenStore
from tests.support import Clock

OTHER = Lease("other:1", database="d1")


@pytest.fixture
def cluster() -> Mock:
    """A registry of leases that a test writes in ``others``."""
    one = Mock(others=[OTHER])
    one.leases = lambda: dict(enumerate([Lease("own:1"), *one.others]))
    return one


@pytest.fixture
def store(cluster: Mock, open_store: OpenStore) -> Store:
    store = open_store()
    store.ask(DatabaseCheck(store, cluster).objection)
    return store


def test_the_others_learn_of_a_database_that_is_made(
    cluster: Mock, store: Store
) -> None:
    store.report_to(opened=cluster.report_database)
    cluster.others = [Lease("other:1")]
    store.add_app("105", {})
    one = DatabaseCheck(store, cluster)
    one.check()
    cluster.report_database.assert_called_with(store.id)
    assert not one.wrong


def test_a_node_makes_no_second_database(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"same storage\.url"):
        store.add_app("105", {})
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_has_not_what_the_others_have_says_so_after_a_while(
    cluster: Mock,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    monkeypatch.setattr(cluster_node, "monotonic", clock)
    one = DatabaseCheck(store, cluster)
    for _ in range(3):
        one.check()
        clock.now += 4
    assert not one.wrong, "its own look may find the file yet"
    one.check()
    one.check()
    assert one.wrong
    assert caplog.text.count("same storage.url") == 1
    cluster.others = []
    one.check()
    assert not one.wrong
