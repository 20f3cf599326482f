"""Nothing of an erased user is left: in rows, raw files, uploads, logs, and in a backup that is restored."""

import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary, String, Text, inspect

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.model import id_of
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.app_rows import form_of
from imserver.gateway.storage.statements import PooledStatements, Row
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import OF_APP, OF_LOGS, Reason, Table
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.parts import bots_of
from tests.gateway.storage.servers import DatabaseServer
from tests.operate.copies.test_restore import copied
from tests.security.node_harness import ALL, Harness, config
from tests.support import run_cli

APPS = {"account": "201", "session": "204"}
HEART = "\N{HEAVY BLACK HEART}"


def rows_of(store: Store) -> str:
    """All rows of all tables, as text."""

    def read(sql: PooledStatements) -> list[tuple[str, list[Row]]]:
        return [
            (name, sql.query(f"SELECT * FROM {name}")) for name in inspect(sql.connection).get_table_names()
        ]

    return "\n".join(
        f"{name}: {value if isinstance(value, int | str | None) else bytes(value).decode(errors='replace')}"
        for name, rows in store.read(read)
        for row in rows
        for value in row
    )


def fill(sql: PooledStatements, app: str, user: str, marker: str) -> None:
    """Give the user a row in each table that has rows of users and none of this user yet."""
    numbers = count(1_000_000)
    schema = inspect(sql.connection)
    ((log,),) = sql.query("SELECT number FROM log WHERE app = %s", (app,))
    for table in tables_of_server():
        form = form_of(table, user)
        if isinstance(table.of_user, Reason) or not form or _rows(sql, app, table, form):
            continue
        column_of_user = table.of_user.removesuffix(" = %s").strip('"')
        values: dict[str, object] = {}
        for column in schema.get_columns(table.name):
            name, kind = str(column["name"]), column["type"]
            if name == column_of_user:
                values[name] = form
            elif name in ("app", "log"):
                values[name] = app if name == "app" else log
            elif isinstance(kind, String | Text) and not isinstance(kind, LargeBinary):
                values[name] = marker[: getattr(kind, "length", None) or 64]
            elif "CHAR" in str(kind) or "TEXT" in str(kind):
                values[name] = marker
            elif "BLOB" in str(kind) or "BYTEA" in str(kind) or "BINARY" in str(kind):
                values[name] = marker.encode()[:16]
            else:
                values[name] = next(numbers) % 30_000
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join(["%s"] * len(values))
        sql.execute(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", list(values.values()))
        assert _rows(sql, app, table, form), table.name


def _rows(sql: PooledStatements, app: str, table: Table, form: object) -> list[Row]:
    scope = "" if table.of_app not in (OF_APP, OF_LOGS) else f"{table.of_app} AND "
    values = (app, form) if scope else (form,)
    return sql.query(f"SELECT 1 FROM {table.name} WHERE {scope}{table.of_user} LIMIT 1", values)


def stored_files(url: str, database_servers: dict[str, DatabaseServer]) -> Iterator[Path]:
    """The files of a database, but no write-ahead, redo and undo logs of a database server."""
    name = url.rpartition("/")[2].partition("?")[0]
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        yield from file.parent.glob(f"{file.name}*")
    elif url.startswith("postgresql"):
        server = database_servers["postgresql"]
        ((oid,),) = server.execute(f"SELECT oid FROM pg_database WHERE datname = '{name}'")
        server.execute("CHECKPOINT")
        yield from (server.folder / "data" / "base" / str(oid)).iterdir()
    else:
        server = database_servers["mysql"]
        server.execute("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        server.execute("FLUSH TABLES")
        yield from (server.folder / "data" / name).iterdir()


@pytest.mark.parametrize("kind", ["account", "session"])
def test_nothing_of_an_erased_user_is_left(
    kind: str,
    url: str,
    database_servers: dict[str, DatabaseServer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, marker = APPS[kind], f"marker{secrets.token_hex(6)}"
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "node"
    folder.mkdir()
    settings = config(folder, storage=StorageSettings(url, seconds=60))
    node = Harness(settings)
    core = node.node.core
    store, user = core.store, f"{marker}-ann"
    if kind == "account":
        new = Account(0, app, f"{marker}"[:20], marker, email=f"{marker}@example.com", name=marker)
        user = accounts_of(core).rows.add(new, "no hash").user
        bots_of(core).bots.create(app, user, f"{marker}-bot")
    log = store.part(MessageLog)
    group = log.groups.create(app, user, "tea", ["bob"]).conversation
    meta = json.dumps({"mentions": [user]}).encode()
    log.writer.append(
        app,
        [
            Draft(sender=user, conversation=group, body=marker.encode()),
            Draft(sender=user, to_user="bob", body=marker.encode(), client_msg_id=marker),
            Draft(sender="bob", to_user=user, body=b"hello", meta=meta),
            Draft(sender="bob", conversation=group, body=b"hello", meta=meta),
        ],
    )
    last = log.entries.head(app)
    log.annotations.react(app, user, last, HEART)
    sent = node.web.post(
        "/api/v1/uploads",
        query_string={"app": app, "user": user, "name": marker},
        data=marker.encode(),
        headers={"Authorization": f"Bearer {ALL.key}"},
    )
    assert sent.status_code == 201, sent.data
    store.ban(app, [user], 600, marker)
    store.write(lambda sql: fill(sql, app, user, marker))
    node.close()
    if url.startswith("sqlite"):
        older = f"sqlite:///{tmp_path}/older.db"
        shutil.copy(url.removeprefix("sqlite:///"), tmp_path / "older.db")
    else:
        older = copied(database_servers["postgresql" if url.startswith("post") else "mysql"], url)

    node = Harness(settings)
    store = node.node.core.store
    assert marker in rows_of(store)
    for _ in range(2):  # twice is the same
        status, answer = node.call("POST", "/api/v1/users/erase", {"app": app, "user": user}, ALL.key)
        assert (status, answer) == (200, {"erased": True})
    assert marker not in rows_of(store)
    (entry,) = store.part(MessageLog).entries.find(app, [last])
    assert entry.body == b"hello"
    assert entry.reactions == ()
    assert not node.node.core.sessions.is_banned(app, user)
    node.close()
    done = run_cli("erase", "--compact", "--data-dir", str(folder), seconds=300, IMSERVER_STORAGE_URL=url)
    assert done.returncode == 0, done.stderr
    for file in (*stored_files(url, database_servers), *folder.rglob("*")):
        assert not file.is_file() or marker.encode() not in file.read_bytes(), file
    assert marker not in caplog.text

    # An older backup: the journal of the data folder says who is to be erased again.
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).unlink()
        again = ["restore", str(tmp_path / "older.db")]
        older = url
    else:
        again = ["restore"]
    done = run_cli(*again, "--data-dir", str(folder), seconds=300, IMSERVER_STORAGE_URL=older)
    assert done.returncode == 0, done.stderr
    assert "1 users who were erased since the copy are erased again" in done.stdout
    store = Store(StorageSettings(older, seconds=60), str(folder), threaded=False)
    store.start()
    assert marker not in rows_of(store)
    if kind == "account":
        assert store.rows("SELECT id FROM account WHERE id = %s", (id_of(user),)) == []
        assert store.rows("SELECT id FROM bot WHERE owner = %s", (id_of(user),)) == []
    store.close()
