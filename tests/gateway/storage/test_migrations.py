"""Migrations: by one node at a time; a newer release's are left alone; tables
are as they are declared."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import pytest
from sqlalchemy import Connection, inspect

from imserver.gateway.config.settings import Config, StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import (
    FEATURES,
    load_features,
    tables_of,
    tables_of_server,
)
from imserver.gateway.storage.address import database_address
from imserver.gateway.storage.database import Database
from imserver.gateway.storage.engines import make_engine
from imserver.gateway.storage.migrations import (
    feature_steps,
    missing_steps,
    newer_steps,
    newest_steps,
    next_step,
    steps_of,
    taken_steps,
)
from imserver.gateway.storage.migrations.table_text import column_of
from imserver.gateway.storage.statements import PooledStatements, text_of
from tests.stores import OpenStore, server_of
from tests.support import eventually


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
    """A transaction in an empty database, after all steps up to one of those
    that owners shared."""
    with connected(url) as connection:
        for owner in newest_steps():
            some = {
                number: each
                for number, each in steps_of(owner).items()
                if number <= step
            }
            feature_steps.take(connection, owner, some, 0)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"
        )
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{step:04}')")
        yield connection


def test_the_numbers_in_the_text_are_those_of_the_steps() -> None:
    """So that a node can tell its steps from a newer release's without loading
    them."""
    features = {package.rpartition(".")[2] for package in FEATURES}
    for owner, newest in newest_steps().items():
        numbers = list(steps_of(owner))
        assert owner in {"storage", *features}
        assert numbers == sorted(numbers)
        assert numbers[-1] == newest
    assert newer_steps(dict.fromkeys(newest_steps(), 40)) == {}


def test_a_database_older_than_version_1_is_refused(
    empty_url: str, open_store: OpenStore
) -> None:
    open_store(empty_url).close()
    _make(
        empty_url,
        "UPDATE alembic_version SET version_num = '0019'",
        "DROP TABLE owner_step",
    )
    with pytest.raises(
        StartError, match=r"release before 1\.0\. Start version 1\.0 with it once"
    ):
        open_store(empty_url)


@pytest.mark.parametrize("empty_url", ["mysql"], indirect=True)
def test_a_step_that_was_begun_before_a_crash_is_finished(
    empty_url: str, open_store: OpenStore
) -> None:
    """MySQL keeps tables that an unfinished step has made; elsewhere nothing of
    it is left."""
    open_store(empty_url)
    _make(
        empty_url,
        "DELETE FROM alembic_version",
        "DELETE FROM owner_step",
        "DROP TABLE api_key",
    )
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


FOREIGN_STEPS = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('1975ea83b712')",
)


@pytest.mark.parametrize(
    ("statements", "names"),
    [(GOCHAT, "message"), ((*FOREIGN_STEPS, GOCHAT[2]), "alembic_version, message")],
)
def test_the_database_of_another_program_is_refused_and_left_alone(
    empty_url: str, open_store: OpenStore, statements: tuple[str, ...], names: str
) -> None:
    _make(empty_url, *statements)
    before = _tables(empty_url)
    for _ in range(2):
        with pytest.raises(
            StartError,
            match=rf"names of ours \({names}\)\. Set storage\.url to an empty",
        ) as error:
            open_store(empty_url)
    assert "imserver account import" in str(error.value)
    assert _tables(empty_url) == before


def test_tables_with_other_names_may_stand_beside_ours(
    empty_url: str, open_store: OpenStore
) -> None:
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


def test_a_newer_database_is_used(
    url: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    open_store(url).close()
    _make(url, "INSERT INTO owner_step (owner, step) VALUES ('polls', 41)")
    for step in (99, 40):
        _make(url, f"UPDATE owner_step SET step = {step} WHERE owner = 'storage'")
        again = open_store(url)
        assert again.add_app(f"at {step}", {})
        newest = max(step, newest_steps()["storage"])
        found = {
            text_of(owner): taken
            for owner, taken in again.rows("SELECT owner, step FROM owner_step")
        }
        assert found == newest_steps() | {"storage": newest, "polls": 41}
    for names in ("41 of polls, 99 of storage", "41 of polls"):
        assert f"belongs to a newer release, at step {names}\n" in caplog.text


@pytest.mark.parametrize(
    ("engine", "statement", "undo"),
    [
        ("postgresql", "ALTER DATABASE {} SET synchronous_commit = off", "SELECT 1"),
        (
            "mysql",
            *(
                f"SET GLOBAL innodb_flush_log_at_trx_commit = {number}"
                for number in (2, 1)
            ),
        ),
    ],
)
def test_what_the_server_may_lose_is_warned_of(
    caplog: Any,
    database_servers: Any,
    open_store: OpenStore,
    engine: str,
    statement: str,
    undo: str,
) -> None:
    server = server_of(engine, database_servers)
    url = server.new_url()
    server.execute(statement.format(url.rpartition("/")[2]))
    try:
        open_store(url)
    finally:
        server.execute(undo)
    assert "may lose confirmed data" in caplog.text


def test_the_columns_of_a_table_are_those_of_the_database(
    url: str, open_store: OpenStore
) -> None:
    def check(sql: PooledStatements) -> None:
        def described(
            name: str, kind: Any, is_nullable: bool, default: Any
        ) -> tuple[object, ...]:
            kind = re.sub(
                r"(INT\w*)\(\d+\)| .*", r"\1", kind.compile(sql.connection.dialect)
            )
            return (
                name,
                kind,
                is_nullable,
                re.sub(r"::.*|'|^(NULL|None|nextval.*)$", "", str(default)),
            )

        there = inspect(sql.connection)
        for table in tables_of_server():
            texts = [
                " ".join(each.split()[:2])
                for each in table.types.replace('"', "").split(",")
            ]
            columns = [
                (c.name, c.type, c.nullable, c.server_default)
                for c in map(column_of, texts)
            ]
            declared = {
                described(*each, getattr(default, "arg", None))
                for *each, default in columns
            }
            rows = there.get_columns(table.name)
            assert declared == {
                described(*map(c.get, ("name", "type", "nullable", "default")))
                for c in rows
            }
            key = there.get_pk_constraint(table.name)["constrained_columns"]
            assert {name.strip('"') for name in table.key} == set(key), table.name

    open_store(url).read(check)


def test_a_feature_has_the_tables_of_its_light_module() -> None:
    for features in (load_features(Config()), ()):
        assert tables_of(features).of_server() == tables_of_server()


# --- steps while others use the database --------------------------------------


class Others:
    """Writers of a release before: each transaction reads a conversation, then
    changes it, as they do."""

    def __init__(self, url: str) -> None:
        self.slowest = 0.0
        self.written = 0
        self._url = url
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(2)
        self._writers = [self._pool.submit(self._write) for _ in range(2)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for writer in self._writers:
            writer.result()

    def _write(self) -> None:
        settings = StorageSettings(self._url)
        database = Database(database_address(settings, ""), settings, threaded=False)
        while not self._over.is_set():
            began = time.monotonic()
            database.write(self._change)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.written += 1
        database.close()

    def _change(self, sql: PooledStatements) -> None:
        ((seq,),) = sql.query("SELECT last_seq FROM conversation WHERE id = 1")
        sql.execute("UPDATE conversation SET last_seq = %s WHERE id = 1", (seq + 1,))


CONVERSATION = (
    "INSERT INTO conversation (log, id, kind, name, last_seq, last_id, created) "
    "VALUES (1, 1, 1, 'tea', 0, 0, 0)"
)


@pytest.mark.parametrize("step", [30, 40])
def test_steps_are_taken_while_nodes_of_the_release_before_write(
    empty_url: str, open_store: OpenStore, step: int
) -> None:
    with at_step(empty_url, step) as connection:
        connection.exec_driver_sql(CONVERSATION)
    with Others(empty_url) as others:
        eventually(lambda: others.written > 10, what="they write")
        open_store(empty_url)
        written = others.written
        eventually(lambda: others.written > written + 10, what="they still write")
    assert others.slowest < 5, "so long a node waits for its database"
    assert missing_steps(_taken(empty_url)) == {}


def _taken(url: str) -> dict[str, int]:
    with connected(url) as connection:
        return taken_steps(connection)


@pytest.mark.parametrize(
    ("empty_url", "read", "step"),
    [
        ("postgresql", "LOCK TABLE conversation IN ACCESS SHARE MODE", 49),
        ("mysql", "SELECT id FROM conversation", 45),
    ],
    indirect=["empty_url"],
)
def test_a_step_that_waits_for_a_table_lets_others_pass_and_says_so(
    empty_url: str,
    open_store: OpenStore,
    caplog: pytest.LogCaptureFixture,
    read: str,
    step: int,
) -> None:
    """An export reads it: nobody else waits for the export meanwhile."""
    with at_step(empty_url, 40) as connection:
        connection.exec_driver_sql(CONVERSATION)
    with ThreadPoolExecutor(1) as pool:
        with connected(empty_url) as reader:
            reader.exec_driver_sql(read)
            opened = pool.submit(open_store, empty_url)
            waits = f"step {step} of messages waits for tables that others use"
            eventually(lambda: waits in caplog.text, what="the step waits")
            for _ in range(5):
                began = time.monotonic()
                with connected(empty_url) as connection:
                    connection.exec_driver_sql("UPDATE conversation SET last_seq = 7")
                assert time.monotonic() - began < 3
            assert next_step(_taken(empty_url)) == f"step {step} of messages"
        opened.result()
    assert missing_steps(_taken(empty_url)) == {}


def test_the_next_start_goes_on_behind_the_steps_that_were_taken(
    empty_url: str, open_store: OpenStore
) -> None:
    with at_step(empty_url, 30) as connection:
        connection.exec_driver_sql("ALTER TABLE arrangement RENAME TO gone")
    with pytest.raises(StartError, match="step 46 of inbox failed"):
        open_store(empty_url)
    taken = _taken(empty_url)
    assert (taken["webhooks"], taken["inbox"], taken["messages"]) == (52, 30, 30)
    with connected(empty_url) as connection:
        shared = connection.exec_driver_sql(
            "SELECT version_num FROM alembic_version"
        ).scalar_one()
        assert text_of(shared) == "0030", "so a node of 1.0 knows what it needs to know"
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO arrangement")
    open_store(empty_url)
    assert missing_steps(_taken(empty_url)) == {}


def test_nodes_that_start_at_once_share_the_steps(
    empty_url: str, open_store: OpenStore
) -> None:
    with at_step(empty_url, 30):
        pass
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(open_store, [empty_url] * 3))
    assert missing_steps(_taken(empty_url)) == {}


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_an_index_that_was_not_finished_is_made_anew(
    empty_url: str, open_store: OpenStore
) -> None:
    """PostgreSQL leaves an invalid one, which no query uses."""
    with at_step(empty_url, 40) as connection:
        connection.exec_driver_sql(
            "CREATE INDEX conversation_by_open ON conversation (open, log, id)"
        )
        connection.exec_driver_sql(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'conversation_by_open'::regclass"
        )
    open_store(empty_url)
    with connected(empty_url) as connection:
        of = "WHERE indexrelid = 'conversation_by_open'::regclass"
        assert connection.exec_driver_sql(
            f"SELECT indisvalid FROM pg_index {of}"
        ).scalar_one()
