"""Tables of features of other distributions: their steps, and what reaches
their rows without the feature."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.operations import Operations
from sqlalchemy import Column, SmallInteger, text

from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.migrations.table_text import Columns
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import (
    FeatureTables,
    Migration,
    Reason,
    StoreTables,
    Table,
)
from tests.stores import OpenStore

TABLES = (
    Table(
        name="lamp_use",
        key=("lamp",),
        of_app="lamp IN (SELECT id FROM lamp_owner WHERE app = %s)",
        of_user=Reason("the lamp says who owns it"),
        erase_user=(
            "DELETE FROM lamp_use WHERE lamp IN (SELECT id FROM lamp_owner WHERE app = %s AND member = %s)",
        ),
        columns=("lamp", "uses"),
    ),
    Table(
        name="lamp_owner",
        key=("id",),
        of_user="member = %s",
        erase_user=("DELETE FROM lamp_owner WHERE app = %s AND member = %s",),
        columns=("id", "member"),
    ),
)


make_owners = "ordered lamp_owner: id big*, app name500, member name255"


def make_uses(op: Operations) -> None:
    op.create_table(
        "lamp_use", Columns.key("lamp"), Columns.need("uses"), **Columns.KEY_ORDER
    )


def add_colour(op: Operations) -> None:
    op.add_column(
        "lamp_owner",
        Column("colour", SmallInteger, nullable=False, server_default=text("0")),
    )


def lamps(*steps: Migration, tables: tuple[Table, ...] = TABLES) -> StoreTables:
    return StoreTables(tables_of_server, (FeatureTables("lamp", tables, steps),))


def add_lamps(store: Store) -> None:
    store.execute(
        "INSERT INTO lamp_owner (id, app, member) VALUES (1, 'shop', 'ann'), (2, 'shop', 'bob')"
    )
    store.execute("INSERT INTO lamp_use (lamp, uses) VALUES (1, 10), (2, 20)")


def count(store: Store) -> tuple[int, int]:
    """Rows of both tables."""
    rows = store.rows(
        "SELECT (SELECT count(*) FROM lamp_owner), (SELECT count(*) FROM lamp_use)"
    )
    return rows[0][0], rows[0][1]


def test_a_node_without_the_feature_erases_and_exports_its_rows(
    url: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = open_store(url, tables=lamps(make_owners, make_uses))
    assert not caplog.text
    add_lamps(first)
    first.add_app("shop", {})
    store = open_store(url)
    assert caplog.text.endswith(
        "has tables of features that this node does not have: lamp\n"
    )
    pages = {
        page.table: (page.columns, page.rows)
        for page in store.rows_of_user("shop", "ann")
    }
    assert pages == {"lamp_owner": (("id", "member"), [(1, "ann")])}
    pages = {
        page.table: (page.columns, page.rows) for page in store.rows_of_app("shop")
    }
    assert pages["lamp_use"] == (("lamp", "uses"), [(1, 10), (2, 20)])
    store.delete_rows_of_user("shop", "ann")
    assert count(store) == (1, 1)
    store.delete_app("shop")
    store.delete_rows("shop")
    assert count(store) == (0, 0)


def test_rows_are_erased_and_exported_where_tables_were_dropped(
    url: str, open_store: OpenStore
) -> None:
    add_lamps(open_store(url, tables=lamps(make_owners, make_uses)))
    store = open_store(url)
    store.add_app("shop", {})
    store.execute("DROP TABLE lamp_use")
    store.delete_rows_of_user("shop", "ann")
    assert [
        page.rows for page in store.rows_of_app("shop") if page.table == "lamp_owner"
    ] == [[(2, "bob")]]
    store.execute("DROP TABLE lamp_owner")
    store.delete_rows_of_user("shop", "bob")
    store.execute("UPDATE feature_schema SET tables = %s", (b"[{",))
    with pytest.raises(
        StorageUnavailable, match="row of 'lamp' in the table feature_schema is damaged"
    ):
        store.delete_rows_of_user("shop", "bob")
    store.execute("UPDATE feature_schema SET tables = %s", (b"[]",))
    assert "lamp_owner" not in {page.table for page in store.rows_of_app("shop")}
    store.delete_app("shop")
    store.delete_rows("shop")


def test_later_steps_are_taken_once_and_a_newer_database_is_refused(
    url: str, open_store: OpenStore
) -> None:
    steps = (make_owners, make_uses, add_colour)
    add_lamps(open_store(url, tables=lamps(*steps[:2])))
    for _ in range(2):
        store = open_store(url, tables=lamps(*steps))
        assert store.rows("SELECT id, colour FROM lamp_owner ORDER BY id") == [
            (1, 0),
            (2, 0),
        ]
    newer = "newer than the feature 'lamp': it is at its step 3, and the installed distribution has 2$"
    with pytest.raises(StartError, match=newer):
        open_store(url, tables=lamps(*steps[:2]))
    open_store(url, tables=lamps(*steps, tables=TABLES[1:]))
    store = open_store(url)
    store.delete_rows_of_user("shop", "ann")
    assert count(store) == (1, 2)


def test_a_step_that_fails_ends_the_start_in_one_line(
    url: str, open_store: OpenStore
) -> None:
    def fail(_op: Operations) -> None:
        raise ValueError("no\nlamps")

    with pytest.raises(
        StartError, match=r"storage: step 2 of the feature 'lamp' failed: no lamps$"
    ):
        open_store(url, tables=lamps(make_owners, fail))


def test_nodes_that_start_at_once_take_the_steps_once(
    empty_url: str, open_store: OpenStore
) -> None:
    guard = threading.Barrier(5)

    def start(_number: int) -> tuple[str, int, int]:
        guard.wait()
        store = open_store(empty_url, tables=lamps(make_owners, make_uses))
        return (store.id, *count(store))

    with ThreadPoolExecutor(5) as pool:
        ((_, *rows),) = set(pool.map(start, range(5)))
    assert rows == [0, 0]
