"""Nobody who reads the log by a cursor misses an entry, however late it is committed."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from imserver.gateway.storage.statements import MysqlStatements, PostgresqlStatements, SqliteStatements
from imserver.messenger.messages.log.contract import Appended, Draft
from imserver.messenger.messages.log.message_log import MessageLog
from tests.stores import OpenStore

pytestmark = pytest.mark.sqlite_first

APP = "gochat"
WRITERS = 5
TIMES = 25
LATEST_SECONDS = 0.02
STATEMENTS = (SqliteStatements, PostgresqlStatements, MysqlStatements)


def delay_commits(patch: pytest.MonkeyPatch) -> None:
    """Let each transaction wait for a while, all done, before it is committed."""
    for driver in STATEMENTS:
        commit = driver.commit

        def late(self: Any, commit: Callable[[Any], None] = commit) -> None:
            time.sleep(random.random() * LATEST_SECONDS)
            commit(self)

        patch.setattr(driver, "commit", late)


def missed(open_store: OpenStore, url: str) -> tuple[int, set[int]]:
    """How many entries several writers stored, and the ids that a reader, who went along, did not see."""
    stores = [open_store(url, seconds=30) for _ in range(WRITERS + 1)]
    over = threading.Event()

    def write(writer: int) -> list[int]:
        log = stores[writer].part(MessageLog)
        received: list[int] = []
        for number in range(TIMES):
            drafts = [Draft(sender=f"w{writer}", to_user="all", body=b"%d" % number)] * random.randint(1, 5)
            for outcome in log.writer.append(APP, drafts):
                assert isinstance(outcome, Appended)
                received.append(outcome.entry.id)
        return received

    def read() -> set[int]:
        log = stores[WRITERS].part(MessageLog)
        seen: list[int] = []
        while True:
            last = over.is_set()
            page = log.entries.read(APP, seen[-1] if seen else 0, 7)
            seen += [entry.id for entry in page]
            if last and not page:
                return set(seen)

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        reading = pool.submit(read)
        received = set(itertools.chain.from_iterable(pool.map(write, range(WRITERS))))
        over.set()
        return len(received), received - reading.result()


@pytest.fixture
def conversations(url: str, open_store: OpenStore) -> None:
    """Each writer has a conversation of its own, which is there already."""
    log = open_store(url).part(MessageLog)
    log.writer.append(APP, [Draft(sender=f"w{writer}", to_user="all") for writer in range(WRITERS)])


@pytest.mark.usefixtures("conversations")
def test_nobody_misses_what_is_committed_late(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay_commits(monkeypatch)
    count, lost = missed(open_store, url)
    assert lost == set()
    log = open_store(url).part(MessageLog)
    entries = log.entries.read(APP, 0, 10_000)
    assert [entry.id for entry in entries] == list(range(1, WRITERS + count + 1))
    for _, some in itertools.groupby(
        sorted(entries, key=lambda one: one.conversation), lambda one: one.conversation
    ):
        seqs = [entry.seq for entry in some]
        assert seqs == list(range(1, len(seqs) + 1))
