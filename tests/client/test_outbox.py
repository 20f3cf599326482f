"""`imserver-client outbox`: rows of a table are pushed once, in order, whatever
ends in between."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from imserver_client import Client, NotConnected, PushAnswer, PushResult, RequestRefused
from imserver_client.outbox import OutboxRow, OutboxTable, OutboxUnavailable, push_rows
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.gateway.storage.servers import KINDS, DatabaseServer
from tests.ports import fixed_ports
from tests.processes import ended_on_failure, spawn
from tests.support import ROOT, Server, clean_environment, eventually, run_cli


@pytest.fixture(scope="module")
def postgresql() -> Iterator[DatabaseServer]:
    server = KINDS["postgresql"]()
    yield server
    server.remove()


@pytest.fixture
def database(postgresql: DatabaseServer) -> str:
    """A new database with the table."""
    url = postgresql.new_url()
    result = run_cli("outbox", "--database", url, "--create")
    assert result.returncode == 0, result.stderr
    assert run_cli("outbox", "--database", url, "--create").returncode == 0, (
        "it may be made again"
    )
    return url


def insert(database: str, *pushes: Any) -> None:
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO im_outbox (push) VALUES (%s)",
            [(json.dumps(push),) for push in pushes],
        )


def rows(database: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(
            "SELECT id, refused FROM im_outbox ORDER BY id"
        ).fetchall()


@contextmanager
def outbox(database: str, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "imserver_client",
        "--url",
        server.http_url,
        "outbox",
    ]
    environment = clean_environment(OUTBOX_DATABASE_URL=database)
    process = spawn(command, env=environment, stderr=subprocess.PIPE, cwd=server.folder)
    with ended_on_failure(process):
        yield process
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors, errors


def says(process: subprocess.Popen[bytes], words: bytes) -> bool:
    """Wait until the process writes a line with these words to its log. It ends
    if that takes too long."""
    assert process.stderr is not None
    timer = threading.Timer(60, process.kill)
    timer.start()
    found = any(words in line for line in process.stderr)
    timer.cancel()
    return found


def push(text: str, user: str = "ann", **more: Any) -> dict[str, Any]:
    return {"app": "101", "user": user, "text": text, **more}


@pytest.mark.full("programs")
def test_rows_arrive_once_and_in_order_and_refused_ones_are_marked_and_hold_nothing_up(
    start_server: StartServer, database: str
) -> None:
    server = start_server()
    bad = [
        {"app": "101"},
        7,
        push("x", colour="red"),
        {"app": "nowhere", "user": "ann", "text": "x"},
    ]
    insert(database, *bad, *(push(f"before {number}") for number in range(50)))
    with Client(server.ws_url, "101", "ann") as ann:
        with outbox(database, server) as process:
            texts = [ann.receive(60).text for _ in range(50)]
            insert(database, *(push(f"after {number}") for number in range(50)))
            texts += [ann.receive(60).text for _ in range(50)]
            eventually(lambda: len(rows(database)) == len(bad))
            assert process.poll() is None
        assert texts == [
            f"{when} {number}" for when in ("before", "after") for number in range(50)
        ]
        assert all(reason for _, reason in rows(database))
        # As if the process had ended between the push and its deletion.
        with psycopg.connect(database) as connection:
            connection.execute(
                "INSERT INTO im_outbox (id, push) OVERRIDING SYSTEM VALUE VALUES (5, %s)",
                (json.dumps(push("before 0")),),
            )
        insert(database, push("next"))
        with outbox(database, server) as first:
            assert ann.receive(60).text == "next"
            eventually(lambda: len(rows(database)) == len(bad))
            with outbox(database, server) as second:
                assert says(second, b"another outbox process reads")
                first.kill()
                first.wait(60)
                insert(database, push("last"))
                assert ann.receive(60).text == "last"


@pytest.mark.full("programs")
def test_it_waits_for_the_server(start_server: StartServer, database: str) -> None:
    config = {"app": fixed_ports()}
    server = start_server(config=config)
    server.stop()
    insert(database, push("later"))
    with outbox(database, server) as process:
        assert says(process, b"trying again")
        assert len(rows(database)) == 1
        again = start_server(config=config)
        with Client(again.ws_url, "101", "ann") as ann:
            # It may have been pushed, to nobody, before she came.
            eventually(lambda: rows(database) == [])
            insert(database, push("last"))
            while ann.receive(60).text != "last":
                pass


@pytest.mark.full("programs")
def test_the_guide_inserts_a_row_in_its_own_transaction(
    start_server: StartServer, database: str
) -> None:
    (statements,) = blocks(ROOT / "docs" / "guides" / "outbox.md", "sql")
    server = start_server()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int, state text)")
        connection.execute("INSERT INTO orders VALUES (17, 'new')")
        with Client(server.ws_url, "default", "ann") as ann, outbox(database, server):
            connection.execute(statements.text)
            event = ann.receive(60)
    assert event.json() == {"id": 17, "state": "sent"}


@pytest.mark.full("programs")
def test_a_table_that_is_not_there_or_badly_named_is_refused(
    postgresql: DatabaseServer,
) -> None:
    url = postgresql.new_url()
    with pytest.raises(ValueError, match="named by"):
        OutboxTable(url, 'im"; DROP')
    table = OutboxTable(url, "im_outbox")
    with pytest.raises(OutboxUnavailable, match="does not exist"):
        table.waiting(1)
    table.close()
    done = run_cli(
        "outbox", "--database", "postgresql://nobody@127.0.0.1:1/x", "--create"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (
        run_cli("outbox").stderr
        == "imserver: no database: give --database or set OUTBOX_DATABASE_URL\n"
    )


class Server503:
    """A publisher whose answers are prepared."""

    def __init__(self, *outcomes: Any) -> None:
        self._outcomes = iter(outcomes)

    def publish(self, *_: Any, **__: Any) -> Any:
        outcome = next(self._outcomes)

        class Answer:
            def result(self, _seconds: float) -> PushAnswer:
                if isinstance(outcome, Exception):
                    raise outcome
                return PushAnswer(
                    0, tuple(PushResult({}, status) for status in outcome or ())
                )

        return Answer()


def test_rows_that_are_refused_or_to_be_tried_again() -> None:
    busy = RequestRefused(503, "busy", "later", True)
    publisher: Any = Server503(None, busy, None)
    outcome = push_rows(
        publisher, "t", [OutboxRow(number, b'{"app":"101"}') for number in (1, 2, 3)]
    )
    assert (outcome.pushed, outcome.refused) == ([1], [])
    assert "busy" in outcome.retry_reason
    publisher: Any = Server503(None)
    nested = b'{"data":' + b"[" * 3000 + b"]" * 3000 + b"}"
    outcome = push_rows(publisher, "t", [OutboxRow(1, nested), OutboxRow(2, b"{}")])
    assert (outcome.pushed, [number for number, _ in outcome.refused]) == ([2], [1])
    publisher: Any = Server503(NotConnected("gone"))
    with pytest.raises(NotConnected):
        push_rows(publisher, "t", [OutboxRow(1, b'{"app":"101"}')])


@pytest.mark.parametrize(
    ("push", "statuses", "is_done"),
    [
        ("{}", ["failed"], False),
        ("{}", ["failed", "absent"], False),
        ("{}", ["failed", "sent"], True),
        ('{"store":true}', ["failed", "stored"], False),
        ('{"store":true}', ["refused", "stored"], True),
    ],
)
def test_a_row_that_failed_is_pushed_again_if_it_helps(
    push: str, statuses: list[str], is_done: bool
) -> None:
    publisher: Any = Server503(statuses, None)
    outcome = push_rows(
        publisher, "t", [OutboxRow(1, push.encode()), OutboxRow(2, b"{}")]
    )
    assert (outcome.pushed, outcome.refused) == ([1, 2] if is_done else [], [])
    assert bool(outcome.retry_reason) is not is_done
