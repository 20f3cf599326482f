"""Migrations: by one node at a time; a newer release's are left alone."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import FEATURES
from imserver.gateway.storage.address import database_address
from imserver.gateway.storage.engines import make_engine
from imserver.gateway.storage.migrations import feature_steps, newer_steps, newest_steps, steps_of
from imserver.gateway.storage.statements import text_of
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.contract import Appended, Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from tests.gateway.storage.servers import DatabaseServer, MariaDB, Postgres
from tests.integration.release import BEFORE, run, unpack
from tests.stores import OpenStore


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A transaction in a database, as its administrator."""
    settings = StorageSettings(url, seconds=60)
    engine = make_engine(database_address(settings, ""), settings)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def at_step(url: str, step: int) -> Iterator[Connection]:
    """A transaction in an empty database, after all steps up to one of those that owners shared."""
    with connected(url) as connection:
        for owner in newest_steps():
            some = {number: each for number, each in steps_of(owner).items() if number <= step}
            feature_steps.take(connection, owner, some, 0)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{step:04}')")
        yield connection


def test_the_numbers_in_the_text_are_those_of_the_steps() -> None:
    """So that a node can tell its steps from a newer release's without loading them."""
    features = {package.rpartition(".")[2] for package in FEATURES}
    for owner, newest in newest_steps().items():
        numbers = list(steps_of(owner))
        assert owner in {"storage", *features}
        assert numbers == sorted(numbers)
        assert numbers[-1] == newest
    assert newer_steps(dict.fromkeys(newest_steps(), 40)) == {}


@pytest.mark.full
@pytest.mark.needs("git")
@pytest.mark.parametrize("commit", [BEFORE, "beb2ab92~", "b9a87c62"], ids=["0020", "0030", "0040"])
def test_an_old_database_becomes_as_a_new_one(
    database_servers: dict[str, DatabaseServer],
    empty_url: str,
    open_store: OpenStore,
    tmp_path: Path,
    commit: str,
) -> None:
    new = f"sqlite:///{tmp_path}/new.db"
    if not empty_url.startswith("sqlite"):
        new = database_servers[empty_url.partition(":")[0]].new_url()
    make = (
        "from imserver.gateway.config.settings import StorageSettings; "
        "from imserver.gateway.storage.store import Store; "
        f"Store(StorageSettings({empty_url!r}, seconds=60), '', threaded=False).start()"
    )
    run(unpack(tmp_path / "old", commit), sys.executable, "-c", make)
    for url in (empty_url, new):
        open_store(url).close()
    assert _schema(empty_url) == _schema(new)


def _schema(url: str) -> Any:
    """All columns, keys, constraints and indexes of a database."""
    with connected(url) as connection:
        tables = inspect(connection)
        return {
            name: (
                [{**each, "type": repr(each["type"])} for each in tables.get_columns(name)],
                tables.get_pk_constraint(name),
                sorted(map(str, tables.get_unique_constraints(name))),
                sorted(map(str, tables.get_indexes(name))),
                tables.get_table_options(name),
            )
            for name in tables.get_table_names()
        }


def test_a_database_older_than_version_1_is_refused(empty_url: str, open_store: OpenStore) -> None:
    open_store(empty_url).close()
    _make(empty_url, "UPDATE alembic_version SET version_num = '0019'", "DROP TABLE owner_step")
    with pytest.raises(StartError, match=r"release before 1\.0\. Start version 1\.0 with it once"):
        open_store(empty_url)


def test_accounts_of_the_release_before_stay_and_its_nodes_add_more(
    empty_url: str, open_store: OpenStore
) -> None:
    insert = (
        "INSERT INTO account (app, phone, nickname, avatar, password, version, created) "
        "VALUES ('gochat', '{}', 'Ánn', '', 'h', 0, 1)"
    )
    with at_step(empty_url, 20) as connection:
        connection.exec_driver_sql(insert.format("138"))
    accounts = AccountStore(open_store(empty_url))
    with connected(empty_url) as connection:
        connection.exec_driver_sql(insert.format("139"))
    both = [Account(id, "gochat", phone, "Ánn", created=1) for id, phone in ((1, "138"), (2, "139"))]
    assert accounts.by_ids("gochat", range(99)) == both
    with connected(empty_url) as connection:
        rows = connection.exec_driver_sql("SELECT folded FROM account ORDER BY id").all()
    assert [row[0] and text_of(row[0]).strip() for row in rows] == ["ann", None]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("owner", "ann"), ["owner", ""]),
        (("ann", "owner"), ["", ""]),
        (("owner", "moderator:ann", "owner:bob"), ["", "moderator", "owner"]),
    ],
)
def test_the_owner_of_a_chat_without_roles_becomes_one(
    empty_url: str, open_store: OpenStore, names: tuple[str, ...], roles: list[str]
) -> None:
    with at_step(empty_url, 38) as connection:
        for app in ("gochat", "shop"):
            for each in names:
                role, _, name = each.rpartition(":")
                connection.exec_driver_sql(
                    "INSERT INTO account "
                    "(app, phone, name, nickname, avatar, password, version, created, role) "
                    f"VALUES ('{app}', '{name}', '{name}', '', '', 'h', 0, 1, '{role}')"
                )
    accounts = AccountStore(open_store(empty_url))
    assert [each.role for each in accounts.by_ids("gochat", range(99))] == roles
    others = [each.rpartition(":")[0] for each in names]
    assert [each.role for each in accounts.by_ids("shop", range(99))] == others


def test_names_that_were_folded_with_letters_of_their_own_are_found_by_plain_ones(
    empty_url: str, open_store: OpenStore
) -> None:
    insert = (
        "INSERT INTO account (app, phone, nickname, avatar, password, version, created, folded) "
        "VALUES ('gochat', '{}', '{}', '', 'h', 0, 1, '{}')"
    )
    with at_step(empty_url, 37) as connection:
        for number, name in enumerate(("Łoś", "Ánn")):
            connection.exec_driver_sql(insert.format(number, name, f" {name.lower()} "))
    accounts = AccountStore(open_store(empty_url))
    search = accounts.named("gochat", ["los"], False, 0, 9, 9, 9)[0]
    assert [each.nickname for each in search] == ["Łoś"]
    with connected(empty_url) as connection:
        rows = connection.exec_driver_sql("SELECT folded FROM account ORDER BY id").all()
    assert [text_of(row[0]).strip() for row in rows] == ["los", "ánn"], "others stay as they are"


def test_the_database_of_a_release_without_questions_takes_them(
    empty_url: str, open_store: OpenStore
) -> None:
    with at_step(empty_url, 36) as connection:
        connection.exec_driver_sql(
            "INSERT INTO log (app, part, last_id, last_conversation, floor) VALUES ('tea', 0, 7, 0, 0)"
        )
    log = open_store(empty_url).part(MessageLog)
    meta = b'{"ask":{"text":true,"until":%d}}' % (log.asks.time_ms() - 1)
    (sent,) = log.writer.append("tea", [Draft(sender="ann", to_user="bob", body=b"?", meta=meta)])
    assert isinstance(sent, Appended)
    assert log.asks.due()[0] == [("tea", 8)]
    log.asks.expire("tea", 8)
    assert log.asks.due() == ([], None)


@pytest.mark.parametrize("empty_url", ["mysql"], indirect=True)
def test_a_step_that_was_begun_before_a_crash_is_finished(empty_url: str, open_store: OpenStore) -> None:
    """MySQL keeps tables that an unfinished step has made; elsewhere nothing of it is left."""
    first = open_store(empty_url)
    with connected(empty_url) as connection:
        for table in ("alembic_version", "owner_step"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("DROP TABLE api_key")
    first.close()
    again = open_store(empty_url)
    assert again.add_app("105", {})
    assert again.keys() == ()


GOCHAT = (
    "CREATE TABLE {0}user{0} (id BIGINT PRIMARY KEY, phone_number VARCHAR(20) UNIQUE, nickname VARCHAR(20))",
    "CREATE TABLE {0}group{0} (id BIGINT PRIMARY KEY, name VARCHAR(50), owner_id BIGINT)",
    "CREATE TABLE message (id BIGINT PRIMARY KEY, user_id BIGINT, sender_id BIGINT, seq BIGINT)",
)
"""Tables of GoChat, as its create_table.sql makes them."""


def _make(url: str, *statements: str) -> None:
    quote = "`" if url.startswith("mysql") else '"'
    with connected(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.format(quote))


def _tables(url: str) -> set[str]:
    with connected(url) as connection:
        return set(inspect(connection).get_table_names())


def test_the_database_of_another_program_is_refused_and_left_alone(
    empty_url: str, open_store: OpenStore
) -> None:
    _make(empty_url, *GOCHAT)
    before = _tables(empty_url)
    for _ in range(2):
        with pytest.raises(
            StartError, match=r"names of ours \(message\)\. Set storage\.url to an empty"
        ) as error:
            open_store(empty_url)
    assert "imserver account import" in str(error.value)
    assert _tables(empty_url) == before


def test_the_steps_of_another_program_are_not_ours(empty_url: str, open_store: OpenStore) -> None:
    _make(
        empty_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('1975ea83b712')",
        GOCHAT[2],
    )
    with pytest.raises(StartError, match=r"names of ours \(alembic_version, message\)"):
        open_store(empty_url)


def test_tables_with_other_names_may_stand_beside_ours(empty_url: str, open_store: OpenStore) -> None:
    _make(empty_url, *GOCHAT[:2])
    assert open_store(empty_url).add_app("105", {})


def test_each_table_of_ours_is_known(empty_url: str, open_store: OpenStore) -> None:
    open_store(empty_url).close()
    own_tables = _tables(empty_url)
    _make(empty_url, "DROP TABLE alembic_version", "DELETE FROM owner_step")
    with pytest.raises(StartError) as error:
        open_store(empty_url)
    names = re.search(r"\((.*)\)", str(error.value))
    assert names
    assert {*names[1].split(", "), "alembic_version"} == own_tables


def test_a_new_database_is_created_and_an_old_one_migrated(
    empty_url: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    open_store(empty_url).close()
    assert " was created" in caplog.text
    assert "migrated" not in caplog.text
    caplog.clear()
    open_store(empty_url).close()
    assert not caplog.text


def test_a_database_of_a_newer_release_is_used_as_it_is(
    url: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    open_store(url).close()
    with connected(url) as connection:
        connection.exec_driver_sql("UPDATE owner_step SET step = 99 WHERE owner = 'keys'")
        connection.exec_driver_sql("UPDATE owner_step SET step = 40 WHERE owner = 'storage'")
        connection.exec_driver_sql("INSERT INTO owner_step (owner, step) VALUES ('polls', 41)")
    again = open_store(url)
    assert "belongs to a newer release, at step 99 of keys, 41 of polls" in caplog.text
    assert again.add_app("105", {})
    rows = again.rows("SELECT owner, step FROM owner_step")
    assert {text_of(owner): step for owner, step in rows} == newest_steps() | {"keys": 99, "polls": 41}


def test_the_steps_of_a_folder_that_comes_back_are_taken(url: str, open_store: OpenStore) -> None:
    open_store(url).close()
    with connected(url) as connection:
        connection.exec_driver_sql("DELETE FROM owner_step WHERE owner = 'quotas'")
        connection.exec_driver_sql("DROP TABLE app_usage")
    assert open_store(url).rows("SELECT * FROM app_usage") == []


def test_a_step_that_fails_says_whose_it_is(empty_url: str, open_store: OpenStore) -> None:
    with at_step(empty_url, 20) as connection:
        connection.exec_driver_sql("DROP TABLE account")
    with pytest.raises(StartError, match=r"storage: step 21 of accounts failed: .*account"):
        open_store(empty_url)


def test_what_the_server_may_lose_is_warned_of(caplog: pytest.LogCaptureFixture, database_servers) -> None:
    for kind, statement in (
        (Postgres, "ALTER DATABASE {} SET synchronous_commit = off"),
        (MariaDB, "SET GLOBAL innodb_flush_log_at_trx_commit = 2"),
    ):
        server = database_servers.get(kind.engine) or kind()
        database_servers[kind.engine] = server
        url = server.new_url()
        server.execute(statement.format(url.rpartition("/")[2]))
        store = Store(StorageSettings(url, seconds=60), "", threaded=False)
        caplog.clear()
        try:
            store.start()
            assert "may lose confirmed data" in caplog.text
        finally:
            store.close()
            if kind is MariaDB:
                server.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
