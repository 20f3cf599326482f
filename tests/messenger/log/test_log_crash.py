"""What was told is stored, once, whatever is killed: the process at a point of
a commit, or the database."""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from imserver.messenger.later.rows import ScheduledRows
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.storage.servers import DatabaseServer
from tests.processes import end, spawn
from tests.stores import OpenStore
from tests.support import clean_environment

pytestmark = pytest.mark.sqlite_first

BEFORE = ("begin", "append", "execute_many", "write", "commit")
"""Functions of a transaction and of its statements in whose place the process
dies (:mod:`tests.messenger.log.appending`)."""


class Appending:
    """A process that appends (:mod:`tests.messenger.log.appending`),
    and what it asked and told."""

    def __init__(
        self, url: str, folder: Path, turn: str, point: str = "-", transaction: int = 0
    ) -> None:
        module = "tests.messenger.log.appending"
        command = [
            sys.executable,
            "-m",
            module,
            url,
            str(folder),
            turn,
            point,
            str(transaction),
        ]
        self.process = spawn(command, stdin=PIPE, stdout=PIPE, env=clean_environment())
        self.appended: set[str] = set()
        self.scheduled: set[str] = set()
        self.received: dict[str, int] = {}

    def receive(self, word: str = "", times: int = 1) -> None:
        """What it says, up to a word that it says so many times; without one,
        to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            verb, name, id = line.decode().split()
            if verb == "ask":
                self.appended.add(name)
            elif verb == "later":
                self.scheduled.add(name)
            elif verb == "told":
                self.received[name] = int(id)
            times -= verb == word
            if word and not times:
                return

    def end(self) -> None:
        """Kill it, and hear what it had still said."""
        self.process.kill()
        assert self.process.stdin is not None
        if not self.process.stdout.closed:
            self.receive()
        end(self.process)


@pytest.fixture
def append(tmp_path: Path) -> Iterator[Callable[..., Appending]]:
    """``append(url, turn, …)``: a process that appends, and is killed at the
    end of the test."""
    started: list[Appending] = []

    def start(url: str, *arguments: object) -> Appending:
        started.append(Appending(url, tmp_path, *arguments))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.end()


def compare(log: MessageLog, one: Appending) -> None:
    """What was told is stored under its id; what was not, once or not at all;
    nothing has a hole."""
    entries = log.entries.read("app", 0, 100_000)
    assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))
    seqs: Counter[int] = Counter()
    for entry in entries:
        seqs[entry.conversation] += 1
        assert entry.seq == seqs[entry.conversation]
    names = Counter(entry.client_msg_id for entry in entries)
    assert not [name for name, count in names.items() if count > 1]
    stored = {entry.client_msg_id: entry.id for entry in entries}
    assert {name: stored.get(name) for name in one.received} == one.received


def resend(log: MessageLog, names: set[str]) -> None:
    """Whoever asks again gets the first answer, or one now."""
    there = {
        entry.client_msg_id: entry.id for entry in log.entries.read("app", 0, 100_000)
    }
    for name in sorted(names):
        _, sender, number = name.split(".")
        to = f"u{(int(sender) + int(number)) % 8}"
        (outcome,) = log.writer.append(
            "app", [Draft(sender=f"u{sender}", to_user=to, client_msg_id=name)]
        )
        assert outcome.repeated == (name in there)
        assert outcome.entry.id == there.get(name, outcome.entry.id)


@pytest.mark.full("faults")
@pytest.mark.parametrize("turn", ["1", "later"])
@pytest.mark.parametrize("point", [*BEFORE, "after commit"])
def test_a_process_that_dies_in_a_commit_has_confirmed_nothing_that_is_not_stored(
    url: str,
    open_store: OpenStore,
    append: Callable[..., Appending],
    point: str,
    turn: str,
) -> None:
    store = open_store(url, seconds=10)
    log = store.part(MessageLog)
    rows = ScheduledRows(store)
    dying = append(url, turn, point, random.randint(2, 12))
    dying.receive()
    assert dying.process.wait() == -9
    compare(log, dying)
    there = [entry.client_msg_id for entry in log.entries.read("app", 0, 100_000)]
    there += [
        row.id for number in range(8) for row in rows.of_user("app", f"u{number}")[0]
    ]
    assert dying.scheduled <= set(there)
    assert len(there) == len(set(there)), "what was scheduled is stored, or waits"
    resend(log, dying.appended)
    compare(log, dying)


@pytest.mark.full("faults")
def test_a_process_that_is_killed_anywhere_has_confirmed_nothing_that_is_not_stored(
    url: str, open_store: OpenStore, append: Callable[..., Appending]
) -> None:
    log = open_store(url, seconds=10).part(MessageLog)
    for turn in range(4):
        killed = append(url, str(turn))
        killed.receive("told", random.randint(20, 300))
        killed.end()
        compare(log, killed)
        resend(log, killed.appended)


def test_everything_confirmed_is_there_when_a_killed_database_returns(
    own_database: DatabaseServer,
    open_store: OpenStore,
    append: Callable[..., Appending],
) -> None:
    url = own_database.new_url()
    going = append(url, "1")
    for _ in range(2):
        going.receive("told", 100)
        own_database.kill()
        going.receive("late", 8)
        own_database.start()
    going.receive("told", 100)
    going.end()
    log = open_store(url, seconds=10).part(MessageLog)
    compare(log, going)
    resend(log, going.appended)
    assert going.appended <= {
        entry.client_msg_id for entry in log.entries.read("app", 0, 100_000)
    }
