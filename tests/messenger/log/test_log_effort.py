"""What batches and questions cost on SQLite, in steps of its machine: it must
not grow with the log."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.statements import SqliteStatements
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.stores import OpenStore

APP = "gochat"
_numbers = count()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """A SQLite file that is written here, in no thread of its own."""
    return open_store()


def fill(log: MessageLog, batches: int) -> None:
    """Batches of 100, each message with a name of its own, in a conversation of
    its own."""
    for _ in range(batches):
        some = [str(next(_numbers)) for _ in range(100)]
        log.writer.append(
            APP,
            [
                Draft(sender=f"a{n}", to_user=f"b{n}", client_msg_id=n, body=b"x")
                for n in some
            ],
        )


def steps(log: MessageLog, drafts: list[Draft]) -> int:
    """Thousands of steps that storing these takes."""
    return writing_steps(log, lambda: log.writer.append(APP, drafts), 1000)


def writing_steps(log: MessageLog, write: Callable[[], Any], each: int) -> int:
    """How many times so many steps something takes that is written."""
    driver = log.writer.connection.sql
    assert isinstance(driver, SqliteStatements)
    taken = 0

    def count_one() -> int:
        nonlocal taken
        taken += 1
        return 0

    driver.connection.set_progress_handler(count_one, each)
    write()
    driver.connection.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize("size", [8, 64])
def test_storing_named_messages_costs_the_same_however_long_the_log_is(
    log: MessageLog, size: int
) -> None:
    def batch() -> list[Draft]:
        return [
            Draft(sender="a1", to_user=f"c{n}", client_msg_id=f"{next(_numbers)}")
            for n in range(size)
        ]

    fill(log, 1)
    short = steps(log, batch())
    fill(log, 40)
    assert steps(log, batch()) <= 2 * short + 2


def test_messages_to_a_group_cost_the_same_however_many_are_in_it(
    log: MessageLog,
) -> None:
    costs = []
    for members in (["b", "c"], [f"m{n}" for n in range(5000)]):
        group = log.groups.create(APP, "a", "", members).conversation
        named = [str(next(_numbers)) for _ in range(20)]
        costs.append(
            steps(
                log,
                [
                    Draft(sender="a", conversation=group, client_msg_id=one)
                    for one in named
                ],
            )
        )
    assert costs[1] <= 2 * costs[0] + 2


CHANGES: dict[str, Callable[[MessageLog, int], Any]] = {
    "join": lambda log, group: log.groups.join(APP, group, ["new"], most=500),
    "leave": lambda log, group: log.groups.leave(APP, group, ["a"], heir=True),
    "set_member": lambda log, group: log.groups.set_member(
        APP, group, "b", role="owner"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing_a_group_costs_the_same_however_many_are_in_others(
    log: MessageLog, change: str
) -> None:
    costs = []
    for others in (10, 5000):
        log.groups.create(APP, "x", "", [f"m{n}" for n in range(others)])
        group = log.groups.create(APP, "a", "", ["b", "c"]).conversation
        costs.append(
            writing_steps(log, lambda group=group: CHANGES[change](log, group), 100)
        )  # type: ignore[misc]
    assert costs[1] <= 2 * costs[0] + 4


FRIENDS = ["me", *(f"u{n}" for n in range(30))]
QUESTIONS: dict[str, Callable[[MessageLog, int], Any]] = {
    "sync": lambda log, end: log.entries.sync(APP, "me", end, 50),
    "rooms": lambda log, end: log.entries.catch_up(
        APP, "me", end, 50, {"": end, "r": 0}
    ),
    "history": lambda log, end: log.entries.history(APP, "me", 1, 0, 50),
    "talks": lambda log, end: log.conversations.page(APP, "me", 0, 50),
    "memberships": lambda log, end: log.conversations.memberships(APP, "me"),
    "members": lambda log, end: log.conversations.members(APP, 1, "", 50),
    "between": lambda log, end: log.conversations.between(APP, "me", "u1"),
    "entries": lambda log, end: log.entries.find(APP, range(1, 20)),
    "read": lambda log, end: log.entries.read(APP, end, 50),
    "head": lambda log, end: log.entries.head(APP),
    "extent": lambda log, end: log.entries.extent(APP),
    "stored_at": lambda log, end: log.entries.stored_at(APP, range(1, 20)),
    "note": lambda log, end: log.marks.note(APP, "me", 1, read=log.entries.head(APP)),
    "hide": lambda log, end: log.marks.hide(APP, "me", range(1, 20)),
    "marks": lambda log, end: log.marks.since(APP, "me", 0),
    "receipts": lambda log, end: log.marks.receipts(APP, "me", 1, "", 50),
    "counts": lambda log, end: log.marks.count_receipts(APP, "me", 1, range(1, 100)),
    "unread": lambda log, end: log.conversations.unread(
        APP, {1: FRIENDS, 2: ["me"]}, {1: FRIENDS}
    ),
    "read_positions": lambda log, end: log.conversations.read_positions(
        APP, {1: FRIENDS, 2: ["me"]}
    ),
    "expire": lambda log, end: log.expire(APP, older_than_seconds=1000),
}


@pytest.mark.full("load")
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_a_user_asks_costs_the_same_however_long_the_log_is(
    tmp_path: Path, question: str
) -> None:
    short, long = (
        _cost(tmp_path / str(batches), batches, QUESTIONS[question])
        for batches in (1, 40)
    )
    assert long <= 2 * short + 4


def _cost(
    folder: Path, batches: int, question: Callable[[MessageLog, int], Any]
) -> int:
    """Hundreds of steps that a question takes in a log with what others have
    said between two messages."""
    store = Store(StorageSettings(), str(folder), threaded=False)
    log = store.part(MessageLog)
    assert (
        log.groups.create(APP, "me", "", [f"u{n}" for n in range(30)]).conversation == 1
    )
    drafts = [Draft(sender=f"u{n}", to_user="me", body=b"x") for n in range(30)]
    log.writer.append(APP, [Draft(sender="u1", conversation=1), *drafts])
    fill(log, batches)
    end = log.entries.head(APP)
    log.writer.append(APP, [Draft(sender="u1", conversation=1), *drafts])
    taken = steps_of(store, lambda: question(log, end))
    store.close()
    return taken


def steps_of(store: Store, ask: Callable[[], object]) -> int:
    """Hundreds of steps that something takes."""
    taken = 0

    def count_one() -> int:
        nonlocal taken
        taken += 1
        return 0

    def handle(handler: Callable[[], int] | None) -> None:
        raw: Any = store.read(lambda sql: sql.connection.connection.driver_connection)
        raw.set_progress_handler(handler, 100)

    handle(count_one)
    ask()
    handle(None)
    return taken
