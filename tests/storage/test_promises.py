"""What every connection to a database is told before it is used: without it a commit is no promise."""

from typing import Any

import pytest

from imserver.storage.log.contract import Draft

from .conftest import OpenStore

ASKED: dict[str, list[tuple[str, object]]] = {
    "sqlite": [("PRAGMA synchronous", 2), ("PRAGMA journal_mode", "wal")],
    "postgresql": [
        ("SHOW transaction_isolation", "read committed"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW plan_cache_mode", "force_custom_plan"),
    ],
    "mysql": [
        (
            "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')",
            "READ-COMMITTED",
        ),
    ],
}
"""What is asked of each engine, and the one answer that is right: on SQLite 2 is FULL."""


@pytest.mark.parametrize("what", ["log", "rest"])
def test_all_connections_keep_what_they_confirm_and_see_what_was_committed_last(
    url: str, open_store: OpenStore, what: str
) -> None:
    store = open_store(url)
    log = store.log()
    log.append("gochat", [Draft(sender="a", to_user="b")])
    driver = log._connection._driver  # type: ignore[union-attr]
    assert driver is not None

    def said(statement: str) -> Any:
        rows = driver.query(statement) if what == "log" else store.read(lambda sql: sql.query(statement))
        value = rows[0][-1]
        return value.decode() if isinstance(value, bytes) else value

    for statement, right in ASKED[store.place.engine]:
        assert said(statement) == right, statement
