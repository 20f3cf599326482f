"""What a batch costs on SQLite, counted in steps of its machine: it must not grow with the log."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from imserver.settings import StorageSettings
from imserver.storage.log import Log
from imserver.storage.log_contract import Appended, Draft
from imserver.storage.log_sqlite import SqlitePen
from imserver.storage.store import Store

APP = "gochat"
_numbers = count()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that is written here, in no thread of its own."""
    store = Store(StorageSettings(), str(tmp_path), threaded=False)
    yield store.log()
    store.close()


def fill(log: Log, batches: int) -> None:
    """Batches of 100, each message with a name of its own, in a conversation of its own."""
    for _ in range(batches):
        some = [str(next(_numbers)) for _ in range(100)]
        log.append(APP, [Draft(sender=f"a{n}", to_user=f"b{n}", client_msg_id=n, body=b"x") for n in some])


def steps(log: Log, drafts: list[Draft]) -> int:
    """Thousands of steps that storing these takes."""
    assert log._writer is not None
    pen = log._writer._desk._pen
    assert isinstance(pen, SqlitePen)
    taken = 0

    def count_one() -> int:
        nonlocal taken
        taken += 1
        return 0

    pen._connection.set_progress_handler(count_one, 1000)
    log.append(APP, drafts)
    pen._connection.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize("size", [8, 64])
def test_storing_named_messages_costs_the_same_however_long_the_log_is(log: Log, size: int) -> None:
    def batch() -> list[Draft]:
        return [Draft(sender="a1", to_user=f"c{n}", client_msg_id=f"{next(_numbers)}") for n in range(size)]

    fill(log, 1)
    short = steps(log, batch())
    fill(log, 40)
    assert steps(log, batch()) <= 2 * short + 2


def test_messages_to_a_group_cost_the_same_however_many_are_in_it(log: Log) -> None:
    costs = []
    for members in (["b", "c"], [f"m{n}" for n in range(5000)]):
        group = log.create(APP, "a", "", members).conversation
        named = [str(next(_numbers)) for _ in range(20)]
        costs.append(steps(log, [Draft(sender="a", conversation=group, client_msg_id=one) for one in named]))
    assert costs[1] <= 2 * costs[0] + 2


def test_commits_are_copied_into_the_database_when_many_have_gathered(log: Log, tmp_path: Path) -> None:
    fill(log, 40)
    size = (tmp_path / "imserver.db-wal").stat().st_size
    assert size > 1500 * 4096


def test_repeats_are_found_among_many(log: Log) -> None:
    fill(log, 3)
    first = log.append(APP, [Draft(sender="a", to_user="b", client_msg_id=f"x{n}") for n in range(40)])
    again = log.append(APP, [Draft(sender="a", to_user="b", client_msg_id=f"x{n}") for n in range(40)])
    assert [one.entry.id for one in first if isinstance(one, Appended)] == [
        one.entry.id for one in again if isinstance(one, Appended) and one.repeated
    ]
