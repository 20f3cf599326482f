"""Nothing of an erased user is left: in rows, raw files, uploads, logs, and in
a backup that is restored."""

import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import LargeBinary, String, Text, inspect

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.model import id_of
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.app_rows import form_of
from imserver.gateway.storage.statements import PooledStatements, Row
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import OF_APP, OF_LOGS, Reason, Table
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.parts import bots_of
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.storage.servers import DatabaseServer
from tests.offline.copies.test_backup import copied
from tests.security.node_harness import ALL, Harness, config
from tests.support import eventually, run_cli
from tests.users import PASSWORD, User

from .clusters import nodes_of
from .cmd import CmdClient, cmd_client
from .v1 import good

APPS = {"account": "201", "session": "204"}
HEART = "\N{HEAVY BLACK HEART}"


def rows_of(store: Store) -> str:
    """All rows of all tables, as text."""

    def read(sql: PooledStatements) -> list[tuple[str, list[Row]]]:
        return [
            (name, sql.query(f"SELECT * FROM {name}"))
            for name in inspect(sql.connection).get_table_names()
        ]

    return "\n".join(
        f"{name}: {value if isinstance(value, int | str | None) else bytes(value).decode(errors='replace')}"
        for name, rows in store.read(read)
        for row in rows
        for value in row
    )


def fill(sql: PooledStatements, app: str, user: str, marker: str) -> None:
    """Give the user a row in each table that has rows of users and none of this
    user yet."""
    numbers = count(1_000_000)
    schema = inspect(sql.connection)
    ((log,),) = sql.query("SELECT number FROM log WHERE app = %s", (app,))
    for table in tables_of_server():
        form = form_of(table, user)
        if (
            isinstance(table.of_user, Reason)
            or not form
            or _rows(sql, app, table, form)
        ):
            continue
        column_of_user = table.of_user.removesuffix(" = %s").strip('"')
        # the row stays
        other = "of-nobody" if "UPDATE" in str(table.erase_user) else marker
        values: dict[str, object] = {}
        for column in schema.get_columns(table.name):
            name = str(column["name"])
            kind = column["type"]
            if name == column_of_user:
                values[name] = form
            elif name in ("app", "log"):
                values[name] = app if name == "app" else log
            elif isinstance(kind, String | Text) and not isinstance(kind, LargeBinary):
                values[name] = other[: getattr(kind, "length", None) or 64]
            elif "CHAR" in str(kind) or "TEXT" in str(kind):
                values[name] = other
            elif "BLOB" in str(kind) or "BYTEA" in str(kind) or "BINARY" in str(kind):
                values[name] = other.encode()[:16]
            else:
                values[name] = next(numbers) % 30_000
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join(["%s"] * len(values))
        sql.execute(
            f"INSERT INTO {table.name} ({columns}) VALUES ({marks})",
            list(values.values()),
        )
        assert _rows(sql, app, table, form), table.name


def _rows(sql: PooledStatements, app: str, table: Table, form: object) -> list[Row]:
    scope = "" if table.of_app not in (OF_APP, OF_LOGS) else f"{table.of_app} AND "
    values = (app, form) if scope else (form,)
    return sql.query(
        f"SELECT 1 FROM {table.name} WHERE {scope}{table.of_user} LIMIT 1", values
    )


def stored_files(
    url: str, database_servers: dict[str, DatabaseServer]
) -> Iterator[Path]:
    """The files of a database, but no write-ahead, redo and undo logs of a
    database server."""
    name = url.rpartition("/")[2].partition("?")[0]
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        yield from file.parent.glob(f"{file.name}*")
    elif url.startswith("postgresql"):
        server = database_servers["postgresql"]
        ((oid,),) = server.execute(
            f"SELECT oid FROM pg_database WHERE datname = '{name}'"
        )
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
    app = APPS[kind]
    marker = f"marker{secrets.token_hex(6)}"
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "node"
    folder.mkdir()
    settings = config(folder, storage=StorageSettings(url, seconds=60))
    node = Harness(settings)
    core = node.node.core
    store = core.store
    user = f"{marker}-ann"
    if kind == "account":
        new = Account(
            0, app, f"{marker}"[:20], marker, email=f"{marker}@example.com", name=marker
        )
        user = accounts_of(core).rows.add(new, "no hash").user
        bots_of(core).bots.create(app, user, f"{marker}-bot")
    log = store.part(MessageLog)
    group = log.groups.create(app, user, "tea", ["bob"]).conversation
    meta = json.dumps({"mentions": [user]}).encode()
    log.writer.append(
        app,
        [
            Draft(sender=user, conversation=group, body=marker.encode()),
            Draft(
                sender=user, to_user="bob", body=marker.encode(), client_msg_id=marker
            ),
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
    # it stays in the audit log, as its field says
    store.execute("UPDATE erasure_due SET reason = 'asked'")
    node.close()
    if url.startswith("sqlite"):
        older = f"sqlite:///{tmp_path}/older.db"
        shutil.copy(url.removeprefix("sqlite:///"), tmp_path / "older.db")
    else:
        older = copied(
            database_servers["postgresql" if url.startswith("post") else "mysql"], url
        )

    node = Harness(settings)
    store = node.node.core.store
    assert marker in rows_of(store)
    for _ in range(2):  # twice is the same
        status, answer = node.call(
            "POST", "/api/v1/users/erase", {"app": app, "user": user}, ALL.key
        )
        assert (status, answer) == (200, {"erased": True})
    assert marker not in rows_of(store)
    (entry,) = store.part(MessageLog).entries.find(app, [last])
    assert entry.body == b"hello"
    assert entry.reactions == ()
    assert not node.node.core.sessions.is_banned(app, user)
    node.close()
    done = run_cli(
        "erase",
        "--compact",
        "--data-dir",
        str(folder),
        seconds=300,
        IMSERVER_STORAGE_URL=url,
    )
    assert done.returncode == 0, done.stderr
    for file in (*stored_files(url, database_servers), *folder.rglob("*")):
        assert not file.is_file() or marker.encode() not in file.read_bytes(), file
    assert marker not in caplog.text

    # An older backup: the journal of the data folder says who is to be erased
    # again.
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).unlink()
        again = ["restore", str(tmp_path / "older.db")]
        older = url
    else:
        again = ["restore"]
    done = run_cli(
        *again, "--data-dir", str(folder), seconds=300, IMSERVER_STORAGE_URL=older
    )
    assert done.returncode == 0, done.stderr
    assert "users erased since the copy, and erased again now: 1" in done.stdout
    store = Store(StorageSettings(older, seconds=60), str(folder), threaded=False)
    store.start()
    assert marker not in rows_of(store)
    if kind == "account":
        assert store.rows("SELECT id FROM account WHERE id = %s", (id_of(user),)) == []
        assert store.rows("SELECT id FROM bot WHERE owner = %s", (id_of(user),)) == []
    store.close()


# --- two nodes: what is left in Redis and in their logs -----------------------

ANN = "ann@example.org"
TEXT = "a text of ann"
NICKNAME = "the nickname of bob"
CHANNEL = "past:1"
LIMITED = f"past:2#{ANN},bob"
PAST = {"history_size": 9, "history_seconds": 3600}
CONFIG: dict[str, Any] = {
    "apps": {
        "101": {
            "channels": {
                "past": {
                    "subscribe": "anybody",
                    "publish": "subscribers",
                    "user_limited": True,
                    **PAST,
                },
                "user": PAST,
            }
        },
        "people": {"account_tokens": "required"},
    },
    "accounts": {"registration": True},
    "log": {"requests": True},
}


def dump(server: RedisServer) -> dict[bytes, str]:
    """All keys of a server, with their values as text."""
    with redis.Redis(host="127.0.0.1", port=server.port, protocol=2) as client:
        readers: dict[bytes, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
        }
        keys = client.keys()
        return {
            key: repr(readers[kind](key))
            for key in keys
            if (kind := client.type(key)) in readers
        }


def naming(server: RedisServer, *markers: str) -> list[tuple[bytes, str]]:
    """The keys and values in which one of these stands."""
    rows = dump(server).items()
    return [
        row
        for row in rows
        if any(marker in f"{row[0]!r} {row[1]}" for marker in markers)
    ]


def subscribe(client: CmdClient, channel: str, **position: Any) -> Any:
    code, _, data = client.ask_cmd("subscribe", {"channel": channel, **position})
    assert code == 200
    return data


def facts_of(node: Any, account: User) -> tuple[list[Any], list[Any]]:
    """What nodes remember of an account: its slowest requests, and its
    refusals."""
    timings = good(node.http, "nodes/timings")["timings"]
    slow = [row for row in timings if row["by"].endswith(f":people/{account.user}")]
    return slow, good(node.http, "refusals", app="people", user=account.user)[
        "refusals"
    ]


def test_neither_redis_nor_a_log_has_what_an_erased_user_wrote(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    try:
        with nodes_of(tmp_path, 2, server, **CONFIG) as nodes:
            account = User.register(nodes.servers[0], "people", nickname=NICKNAME)
            with cmd_client(nodes.ws[0]) as ann, cmd_client(nodes.ws[1]) as bob:
                bob.login("bob", 101)
                first = subscribe(bob, CHANNEL)
                ann.login(ANN, 101)
                for channel in (CHANNEL, LIMITED):
                    subscribe(ann, channel)
                    code, _, _ = ann.ask_cmd(
                        "publish", {"channel": channel, "text": f"{TEXT} in {channel}"}
                    )
                    assert code == 200
                published = {
                    "app": "101",
                    "channel": CHANNEL,
                    "text": "by the back end",
                }
                good(nodes.http[1], "channels/publish", published)
                good(
                    nodes.http[1],
                    "push",
                    {"app": "101", "users": [ANN], "text": "to ann"},
                )
                assert len(naming(server, TEXT)) == 2
                assert len(naming(server, ANN)) > 5
                assert account.refused("accounts/password", password="")[0] == 400
                # takes a while
                account.post(
                    "accounts/password", password=PASSWORD, old_password=PASSWORD
                )
                assert all(facts_of(nodes.servers[1], account))
                for app, user in (("101", ANN), ("people", account.user)):
                    good(nodes.http[1], "users/erase", {"app": app, "user": user})
                assert facts_of(nodes.servers[1], account) == ([], [])
                # their lines come after the erasure
                for route in ("users/erase/self", "accounts/delete"):
                    leaver = User.register(nodes.servers[0], "people")
                    leaver.post(route, password=PASSWORD)
                    assert facts_of(nodes.servers[1], leaver) == ([], [])
            left = naming(server, TEXT, NICKNAME, ":list", "acc:user:online")
            assert [key for key, _ in left] == [
                key
                for key in dump(server)
                if key.endswith((b"past:1}:list", b"101_bob"))
            ]
            eventually(
                lambda: not naming(server, ANN, TEXT, NICKNAME),
                what="Redis has nothing of ann",
            )
            with cmd_client(nodes.ws[0]) as bob:
                bob.login("bob", 101)
                again = subscribe(
                    bob, CHANNEL, epoch=first["epoch"], offset=first["offset"]
                )
            assert again["recovered"]
            erased, other = again["publications"]
            assert (erased["offset"], erased["text"]) == (1, "")
            assert (other["offset"], other["text"]) == (2, "by the back end")
            logs = [node.log_with_requests() for node in nodes.servers]
            assert "users/erase" in logs[1]
            markers = (TEXT, "to ann", NICKNAME, account.phone)
            assert not [
                marker for marker in markers if any(marker in log for log in logs)
            ]
    finally:
        server.kill()
