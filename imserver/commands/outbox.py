"""``imserver outbox``: pushes the rows of a table in a back end's PostgreSQL, each once."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from random import uniform
from threading import Event
from typing import Any, Final

import click
from msgspec import Struct

from imserver.storage.outbox import OutboxRow, OutboxTable, OutboxUnavailable, check_place
from imserver.terminal import fail, read_key, server_address
from imserver_client import NotConnected, Publisher, PushAnswer, RequestRefused

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 1000
WAIT_SECONDS: Final = 5.0
"""Without a notification the table is read again after this time."""
ANSWER_SECONDS: Final = 30.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
ENVIRONMENT_DATABASE: Final = "OUTBOX_DATABASE_URL"


class OutboxOutcome(Struct):
    """What became of some rows: pushed, refused for good (id, reason), and to be tried again."""

    pushed: list[int]
    refused: list[tuple[int, str]]
    again: str = ""


def push_rows(publisher: Publisher, table: str, rows: Sequence[OutboxRow]) -> OutboxOutcome:
    """Push rows in their order. Stops at the first one that has to be tried again, so that none overtakes it.

    Raises NotConnected.
    """
    sent: list[tuple[OutboxRow, Future[PushAnswer] | str]] = []
    for row in rows:
        try:
            # Pushed again after a crash, a row is recognised by its id and not delivered twice.
            body: dict[str, Any] = {"id": f"{table}-{row.id}", **row.body()}
            sent.append((row, publisher.publish(body.pop("app", ""), body.pop("text", None), **body)))
        except (ValueError, TypeError) as error:
            sent.append((row, f"not a push: {error}"))
    outcome = OutboxOutcome([], [])
    for row, answer in sent:
        try:
            if isinstance(answer, str):
                outcome.refused.append((row.id, answer))
            else:
                answer.result(ANSWER_SECONDS)
                outcome.pushed.append(row.id)
        except RequestRefused as refused:
            if refused.temporary:
                outcome.again = str(refused)
                break
            outcome.refused.append((row.id, f"{refused.code}: {refused.message}"))
        except TimeoutError:
            outcome.again = "no answer in time"
            break
    return outcome


class OutboxWorker:
    """Moves rows from the table to the server until ``stop`` is set; reconnects to both.

    Raises ValueError for an impossible address of the database or name of the table.
    """

    def __init__(self, database: str, table: str, url: str, key: str) -> None:
        check_place(database, table)
        self._database = database
        self._table = table
        self._url = url
        self._key = key
        self._pause = FIRST_PAUSE_SECONDS
        self.stop = Event()

    def run(self) -> None:
        """Work until :attr:`stop`. Faults are logged and tried again, after longer and longer pauses."""
        while not self.stop.is_set():
            try:
                table = OutboxTable(self._database, self._table)
                try:
                    self._work(table)
                finally:
                    table.close()
            except (OutboxUnavailable, NotConnected, RequestRefused) as error:
                self._rest(error)

    def _work(self, table: OutboxTable) -> None:
        while not table.lock():
            log.info("another outbox process reads %s; waiting until it ends", self._table)
            if self.stop.wait(WAIT_SECONDS):
                return
        with Publisher(self._url, self._key) as publisher:
            log.info("pushing the rows of %s to %s", self._table, self._url)
            while not self.stop.is_set():
                rows = table.waiting(BATCH_ROWS)
                if not rows:
                    table.wait(WAIT_SECONDS)
                    continue
                outcome = push_rows(publisher, self._table, rows)
                table.settle(outcome.pushed, outcome.refused)
                for number, reason in outcome.refused:
                    log.error("row %d of %s is refused: %s", number, self._table, reason)
                if outcome.again:
                    self._rest(outcome.again)
                else:
                    self._pause = FIRST_PAUSE_SECONDS

    def _rest(self, problem: object) -> None:
        pause = self._pause * uniform(0.5, 1.5)
        log.warning("%s; trying again in %.1f s", problem, pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        self.stop.wait(pause)


@click.command()
@click.option(
    "--database", metavar="URL", help=f"postgresql://… of the back end. Default: {ENVIRONMENT_DATABASE}."
)
@click.option("--table", default="im_outbox", show_default=True, metavar="NAME", help="The table.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The server's HTTP port.")
@click.option(
    "--key-file", metavar="FILE", help="File with an API key of the scope push; - is standard input."
)
@click.option("--create", is_flag=True, help="Create the table and its trigger, then exit.")
def outbox(database: str | None, table: str, url: str, key_file: str | None, create: bool) -> None:
    """Push the rows of a table in a PostgreSQL database, in their order, until SIGTERM.

    A back end inserts rows in its own transactions. Each row is pushed once, by its id, then deleted. The key
    may be in the environment variable IMSERVER_KEY. Of several processes one works; another takes over
    when it ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    place = database or os.environ.get(ENVIRONMENT_DATABASE, "")
    if not place:
        fail(f"no database: give --database or set {ENVIRONMENT_DATABASE}")
    address, key = server_address(url), read_key(key_file)
    try:
        if create:
            made = OutboxTable(place, table)
            made.create()
            made.close()
            click.echo(f"table {table} exists")
            return
        worker = OutboxWorker(place, table, address, key)
    except (OutboxUnavailable, ValueError) as error:
        fail(error)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    worker.run()
    sys.exit(0)
