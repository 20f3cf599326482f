"""``imserver-client outbox``: pushes the rows of a table in a back end's
PostgreSQL, each once.

The back end inserts a row in the transaction that the push reports. ``id``
orders the rows. ``push`` is the body of ``POST /api/v1/push``. ``refused`` is
the reason why the server will never accept it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Event
from typing import Any, Final

import click
import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from imserver_client.errors import ClientError, NotConnected, RequestRefused
from imserver_client.publisher import Publisher
from imserver_client.results import PushAnswer
from imserver_client.session import Backoff
from imserver_client.terminal import fail, read_key, server_address, url_option

log = logging.getLogger(__name__)

# --- the table ----------------------------------------------------------------

CONNECT_SECONDS: Final = 10
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    push jsonb NOT NULL,
    refused text
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (id) WHERE refused IS NULL;
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify({channel}, ''); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS {function} ON {table};
CREATE TRIGGER {function} AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""


class OutboxUnavailable(ClientError):
    """The database of the outbox does not answer or refuses a statement. The
    text gives the reason."""

    code = "outbox_unavailable"
    remedy = "Check the address of the database, and that `outbox --create` has made the table."


class OutboxRow(Struct, frozen=True):
    """A row of the outbox table that waits to be pushed. ``push`` is the JSON
    of the column."""

    id: int
    push: bytes

    def body(self) -> dict[str, Any]:
        """The push as a mapping. Raises ValueError if it is not one."""
        return msgspec.json.decode(self.push, type=dict[str, Any])


def check_table(url: str, name: str) -> None:
    """Raise ValueError if this cannot be the address of a database and the name
    of a table. Nothing is connected."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a table named by a-z, 0-9 and _, got {name!r}")
    try:
        conninfo_to_dict(url)
    except psycopg.Error:  # its text could show the password
        raise ValueError(
            "the address of the database: expected postgresql://…"
        ) from None


class OutboxTable:
    """A connection to the outbox table, which is called ``name``.

    Only one process at a time gets :meth:`lock`. Every method waits for the
    database and may raise :class:`OutboxUnavailable`.
    """

    def __init__(self, url: str, name: str) -> None:
        """Connect to the database, and listen for inserts into the table."""
        check_table(url, name)
        self.name = name
        self._table = sql.Identifier(name)
        try:
            self._connection = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_SECONDS
            )
            self._connection.execute(sql.SQL("LISTEN {}").format(self._table))
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def create(self) -> None:
        """Create the table, and the trigger that notifies waiting readers."""
        self._execute(
            sql.SQL(_TABLE).format(
                table=self._table,
                index=sql.Identifier(f"{self.name}_waiting"),
                function=sql.Identifier(f"{self.name}_notify"),
                channel=sql.Literal(self.name),
            )
        )

    def lock(self) -> bool:
        """Become the only reader of the table until the connection ends.

        Returns False if another reader exists.
        """
        rows = self._execute(
            sql.SQL("SELECT pg_try_advisory_lock(hashtext({}))").format(
                sql.Literal(self.name)
            )
        )
        return bool(rows[0][0])

    def waiting(self, limit: int) -> list[OutboxRow]:
        """The oldest waiting rows, at most ``limit``."""
        statement = sql.SQL(
            "SELECT id, push::text FROM {} WHERE refused IS NULL ORDER BY id LIMIT %s"
        ).format(self._table)
        rows = self._execute(statement, (limit,))
        return [OutboxRow(id, push.encode()) for id, push in rows]

    def settle(self, pushed: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
        """Delete the pushed rows, and store the reasons in the refused rows.

        ``pushed``: their ids. ``refused``: their ids and reasons. Both happen
        in one transaction.
        """
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                # A pushed row is of no more use.
                if pushed:
                    statement = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(
                        self._table
                    )
                    cursor.execute(statement, (list(pushed),))
                if refused:
                    statement = sql.SQL(
                        "UPDATE {} SET refused = %s WHERE id = %s"
                    ).format(self._table)
                    cursor.executemany(
                        statement, [(reason, number) for number, reason in refused]
                    )
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def wait(self, seconds: float) -> None:
        """Wait until a row is inserted, at most ``seconds``."""
        try:
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def close(self) -> None:
        """End the connection, which releases the lock."""
        self._connection.close()

    def _execute(
        self, statement: sql.Composed, values: Sequence[Any] = ()
    ) -> list[Any]:
        """Execute a statement, and return its rows, if it gives rows.

        Raises OutboxUnavailable.
        """
        try:
            cursor = self._connection.execute(statement, values or None)
            if cursor.description:
                return cursor.fetchall()
            return []
        except psycopg.Error as error:
            raise _unavailable(error) from None


def _unavailable(error: psycopg.Error) -> OutboxUnavailable:
    """The error to raise in place of an error of the driver."""
    first_line = str(error).strip().partition("\n")[0]
    return OutboxUnavailable(first_line or type(error).__name__)


# --- pushing ------------------------------------------------------------------

BATCH_ROWS: Final = 1000
WAIT_SECONDS: Final = 5.0
"""Without a notification the table is read again after this time."""
ANSWER_SECONDS: Final = 30.0
ENVIRONMENT_DATABASE: Final = "OUTBOX_DATABASE_URL"
_ACCEPTED: Final = frozenset(("sent", "held", "partly", "repeated"))


class OutboxOutcome(Struct):
    """The result of pushing some rows. Rows that are in neither list must be
    pushed again."""

    pushed: list[int]
    """The ids of rows that the server has accepted."""
    refused: list[tuple[int, str]]
    """The ids of rows that the server will never accept, with the reasons."""
    retry_reason: str = ""
    """The reason why rows must be pushed again; ``""``: all rows are done."""

    def add(self, id: int, answer: Future[PushAnswer], is_stored: bool) -> None:
        """Wait for the answer to a row, and add the row to the result.

        ``is_stored``: its message is stored. Sets ``retry_reason`` if the row
        must be pushed again. Raises NotConnected.
        """
        try:
            if _must_repeat(answer.result(ANSWER_SECONDS), is_stored):
                self.retry_reason = f"row {id}: a node or the database does not answer"
            else:
                self.pushed.append(id)
        except RequestRefused as refused:
            if refused.temporary:
                self.retry_reason = str(refused)
                return
            # The path belongs to the publisher's message; the row has the push
            # in the column `push`.
            message = refused.message.replace("$.publish", "push")
            self.refused.append((id, f"{refused.code}: {message}"))
        except TimeoutError:
            self.retry_reason = "no answer in time"


def push_rows(
    publisher: Publisher, table: str, rows: Sequence[OutboxRow]
) -> OutboxOutcome:
    """Push rows in their order.

    If a row must be tried again, this row and all after it stay in the table.
    The rows after it may have arrived: the server recognises them by their ids
    at the next try. Raises NotConnected.
    """
    # All rows are sent before the first answer is awaited.
    sent = [_send(publisher, table, row) for row in rows]
    outcome = OutboxOutcome(pushed=[], refused=[])
    for row, (answer, is_stored) in zip(rows, sent, strict=True):
        if isinstance(answer, str):
            outcome.refused.append((row.id, answer))
        else:
            outcome.add(row.id, answer, is_stored)
        if outcome.retry_reason:
            break
    return outcome


def _send(
    publisher: Publisher, table: str, row: OutboxRow
) -> tuple[Future[PushAnswer] | str, bool]:
    """Send a row, without waiting for the answer.

    Returns the future of its answer, or the reason why the row is not a push.
    Also returns whether its message is stored. Raises NotConnected.
    """
    try:
        # After a crash a row is pushed again. The server recognises its id, and
        # does not deliver it twice.
        body: dict[str, Any] = {"id": f"{table}-{row.id}"}
        body |= row.body()
        app = body.pop("app", "")
        text = body.pop("text", None)
        future = publisher.publish(app, text, **body)
    except (ValueError, TypeError, RecursionError) as error:
        return f"not a push: {error}", False
    return future, bool(body.get("store"))


def _must_repeat(answer: PushAnswer, is_stored: bool) -> bool:
    """Whether a row must be pushed again, because a target has failed.

    An unstored message is pushed again only if no target has accepted it. Once
    a target has accepted a push, its id is used up: a repetition would get the
    same answer. A stored message is stored again only for targets that do not
    have it.
    """
    statuses = {result.status for result in answer.results}
    if "failed" not in statuses:
        return False
    return is_stored or statuses.isdisjoint(_ACCEPTED)


class OutboxWorker:
    """Moves rows from the table to the server until ``stop`` is set.

    It reconnects to both. Raises ValueError for an impossible address of the
    database or name of the table.
    """

    def __init__(self, database: str, table: str, url: str, key: str) -> None:
        """Check the name of the table. Nothing is connected yet."""
        check_table(database, table)
        self._database = database
        self._table = table
        self._url = url
        self._key = key
        self._backoff = Backoff()
        self.stop = Event()

    def run(self) -> None:
        """Push rows until :attr:`stop` is set.

        Errors are logged, and the work is tried again after longer and longer
        pauses.
        """
        while not self.stop.is_set():
            try:
                table = OutboxTable(self._database, self._table)
                try:
                    self._push_until_stopped(table)
                finally:
                    table.close()
            except (OutboxUnavailable, NotConnected, RequestRefused) as error:
                self._pause_after(error)

    def _push_until_stopped(self, table: OutboxTable) -> None:
        """Become the only reader of the table, and push its rows until
        :attr:`stop` is set.

        Raises OutboxUnavailable, NotConnected and RequestRefused.
        """
        while not table.lock():
            log.info(
                "another outbox process reads %s; waiting until it ends", self._table
            )
            if self.stop.wait(WAIT_SECONDS):
                return

        with Publisher(self._url, self._key) as publisher:
            log.info("pushing the rows of %s to %s", self._table, self._url)
            while not self.stop.is_set():
                # The oldest first, because pushes must keep their order.
                rows = table.waiting(BATCH_ROWS)
                if not rows:
                    table.wait(WAIT_SECONDS)
                    continue
                self._push_batch(table, publisher, rows)

    def _push_batch(
        self, table: OutboxTable, publisher: Publisher, rows: list[OutboxRow]
    ) -> None:
        """Push some rows, and remove them from the table. If they must be tried
        again, pauses first."""
        outcome = push_rows(publisher, self._table, rows)
        table.settle(outcome.pushed, outcome.refused)
        for number, reason in outcome.refused:
            log.error("row %d of %s is refused: %s", number, self._table, reason)
        if outcome.retry_reason:
            self._pause_after(outcome.retry_reason)
        else:
            self._backoff.failures = 0

    def _pause_after(self, problem: object) -> None:
        """Log a problem, and wait before the next try."""
        pause = self._backoff.pause()
        log.warning("%s; trying again in %.1f s", problem, pause)
        self.stop.wait(pause)


@click.command()
@click.option(
    "--database",
    metavar="URL",
    help=f"The postgresql:// URL of the back end's database. Default: {ENVIRONMENT_DATABASE}.",
)
@click.option(
    "--table",
    default="im_outbox",
    show_default=True,
    metavar="NAME",
    help="The name of the table.",
)
@url_option
@click.option(
    "--key-file",
    metavar="FILE",
    help="File with an API key that has the scope push, or - for standard input.",
)
@click.option(
    "--create", is_flag=True, help="Create the table and its trigger, then exit."
)
def outbox(
    database: str | None, table: str, url: str, key_file: str | None, create: bool
) -> None:
    """Push the rows of a table in a PostgreSQL database, in their order, until
    SIGTERM.

    A back end inserts rows in its own transactions. Each row is pushed once,
    which its id ensures, and then deleted. The key may be in the environment
    variable IMSERVER_KEY. If several processes run, only one works. When it
    ends, another one takes over.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    database_url = database or os.environ.get(ENVIRONMENT_DATABASE, "")
    if not database_url:
        fail(f"no database: give --database or set {ENVIRONMENT_DATABASE}")

    address = server_address(url)
    key = read_key(key_file)
    try:
        if create:
            _create_table(database_url, table)
            return
        worker = OutboxWorker(database_url, table, address, key)
    except (OutboxUnavailable, ValueError) as error:
        fail(error)

    # Both end the work after the present batch of rows.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    worker.run()
    sys.exit(0)


def _create_table(database_url: str, name: str) -> None:
    """Create the table and its trigger. Raises OutboxUnavailable and
    ValueError."""
    table = OutboxTable(database_url, name)
    table.create()
    table.close()
    click.echo(f"table {name} exists")
