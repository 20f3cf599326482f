"""What every connection to a database is told before it is used: without it a commit is no promise."""

from functools import partial

from imserver.gateway.storage.statements import PooledStatements
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from tests.stores import OpenStore

PROMISES: dict[str, list[tuple[str, str]]] = {
    "sqlite": [("PRAGMA synchronous", "2"), ("PRAGMA journal_mode", "wal")],
    "postgresql": [
        ("SHOW transaction_isolation", "read committed"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW plan_cache_mode", "force_custom_plan"),
    ],
    "mysql": [
        (
            "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')",
            "read committed",
        )
    ],
}
"""What is asked of each engine, and the one answer that is right: on SQLite 2 is FULL."""


def test_all_connections_keep_what_they_confirm_and_those_that_write_see_what_was_committed_last(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    log = store.part(MessageLog)
    log.writer.append("gochat", [Draft(sender="a", to_user="b")])
    driver = log.writer.connection.sql  # type: ignore[union-attr]
    assert driver is not None

    for statement, right in PROMISES[store.address.engine]:
        of_read = "repeatable read" if right == "read committed" else right
        query = partial(PooledStatements.query, statement=statement)
        for rows, expected in (
            (driver.query(statement), right),
            (store.write(query), right),
            (store.read(query), of_read),
            (store.write(query), right),
        ):
            value = rows[0][-1]
            found = value.decode() if isinstance(value, bytes) else str(value)
            assert found.lower().replace("-", " ") == expected, statement
