"""The nodes of a cluster have one database: what a node does that finds another one."""

from pathlib import Path

import pytest

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.core import cluster as cluster_node
from imserver.gateway.core.cluster import DatabaseCheck
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store


class Cluster:
    """A registry of leases that a test writes."""

    def __init__(self) -> None:
        self.others: list[Lease] = []
        self.received = ""

    def leases(self) -> dict[int, Lease]:
        return dict(enumerate([Lease("own:1", database=self.received), *self.others]))

    def report_database(self, database: str) -> None:
        self.received = database


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path):
    store = Store(
        StorageSettings(),
        str(tmp_path),
        threaded=False,
        objection=lambda database: DatabaseCheck(store, cluster).objection(database),  # type: ignore[arg-type]
    )
    store.on_open = cluster.report_database
    yield store
    store.close()


def test_the_others_learn_of_a_database_that_is_made(cluster: Cluster, store: Store) -> None:
    one = DatabaseCheck(store, cluster)
    cluster.others = [Lease("other:1")]
    store.add_app("105", {})
    one.check()
    assert (cluster.received, one.wrong) == (store.id, False)


def test_a_node_makes_no_second_database(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    cluster.others = [Lease("other:1", database="d1")]
    with pytest.raises(StorageUnavailable, match=r"same storage\.url"):
        store.add_app("105", {})
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_has_not_what_the_others_have_says_so_after_a_while(
    cluster: Cluster, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(cluster_node, "monotonic", lambda: now[0])
    one = DatabaseCheck(store, cluster)
    cluster.others = [Lease("other:1", database="d1")]
    for _ in range(3):
        one.check()
        now[0] += 4
    assert not one.wrong, "its own look may find the file yet"
    one.check()
    one.check()
    assert one.wrong
    assert caplog.text.count("same storage.url") == 1
    cluster.others = []
    one.check()
    assert not one.wrong
