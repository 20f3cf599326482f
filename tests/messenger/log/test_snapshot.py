"""A read sees one state of the database, on each engine, whatever is committed
between its queries."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from imserver.gateway.storage.statements import PooledStatements, Row
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.log.contract import Appended, Change, Draft
from imserver.messenger.log.message_log import MessageLog
from tests.stores import OpenStore

APP = "gochat"
GROUP = 1
PEERS = 2
"""The conversations of ann and bob: the group, and their own."""
ENTRIES = 20
"""Those that have not expired."""
COMMITS = 6
"""Before the first read."""

Read = Callable[[Store], object]

READS: dict[str, Read] = {
    "channel_page": lambda store: store.part(MessageLog).entries.channel_page(
        APP, "news", 0, 1000
    ),
    "channel_page_since": lambda store: store.part(MessageLog).entries.channel_page(
        APP, "news", 4, 2
    ),
    "channel_page_reverse": lambda store: store.part(MessageLog).entries.channel_page(
        APP, "news", None, 3, True, True
    ),
    "read": lambda store: store.part(MessageLog).entries.read(APP, 0, 1000),
    "entries": lambda store: store.part(MessageLog).entries.find(APP, range(1, 1000)),
    "sync": lambda store: store.part(MessageLog).entries.sync(APP, "ann", 0, 1000),
    "catch_up": lambda store: store.part(MessageLog).entries.catch_up(
        APP, "ann", 0, 1000, {"": 0, "news": 0}
    ),
    "history": lambda store: store.part(MessageLog).entries.history(
        APP, "ann", GROUP, 0, 1000
    ),
    "history_after": lambda store: store.part(MessageLog).entries.history(
        APP, "ann", PEERS, 0, 2, 0
    ),
    "readable": lambda store: store.part(MessageLog).entries.readable(
        APP, "ann", range(1, 1000)
    ),
    "pins": lambda store: store.part(MessageLog).entries.pins(APP, "ann", GROUP)[0],
    "list_conversations": lambda store: store.part(MessageLog).conversations.page(
        APP, "ann", 0, 10
    ),
    "memberships": lambda store: store.part(MessageLog).conversations.memberships(
        APP, "ann"
    ),
    "members": lambda store: store.part(MessageLog).conversations.members(
        APP, GROUP, "", 1000
    ),
    "marks": lambda store: store.part(MessageLog).marks.since(APP, "ann", 0),
    "receipts": lambda store: store.part(MessageLog).marks.receipts(
        APP, "ann", PEERS, "", 10
    ),
    "stored_before": lambda store: store.part(MessageLog).entries.stored_before(
        APP, 1 << 40
    ),
    "positions": lambda store: ActionPositions(store).get(APP, "ann", ["news"]),
    "contents": lambda store: store.contents(APP),
}


class Writer:
    """Another node. Each :meth:`commit` changes the result of each read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.log = store.part(MessageLog)
        self.commits = 0
        assert isinstance(
            self.log.groups.create(APP, "ann", "a group", ["bob"]), Change
        )
        self._append(Draft(sender="bob", to_user="ann"))
        for _ in range(COMMITS):
            self.commit()

    def commit(self) -> None:
        """Change everything."""
        self.commits += 1
        to_ann = Draft(sender="bob", to_user="ann")
        message, peers, *_ = self._append(
            Draft(sender="bob", conversation=GROUP),
            to_ann,
            to_ann,
            Draft(sender="bob", room="news"),
        )
        assert isinstance(self.log.annotations.pin(APP, "", message), Change)
        assert isinstance(self.log.annotations.react(APP, "ann", message, "+"), Change)
        assert isinstance(
            self.log.groups.join(APP, GROUP, [f"member {self.commits}"]), Change
        )
        assert isinstance(self.log.groups.create(APP, "ann", "another", []), Change)
        assert self.log.marks.note(APP, "bob", PEERS, read=peers)
        assert self.log.marks.note(APP, "ann", GROUP, read=message - 1)
        self.log.marks.hide(APP, "ann", [peers])
        self.log.expire(APP, more_than=ENTRIES)
        ActionPositions(self.store).raise_to(
            [(APP, "ann", "", peers), (APP, "ann", "news", peers)]
        )

    def _append(self, *drafts: Draft) -> list[int]:
        outcomes = self.log.writer.append(APP, drafts)
        return [
            outcome.entry.id for outcome in outcomes if isinstance(outcome, Appended)
        ]


class Interruption:
    """Calls a function once, between two queries of whoever queries first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._queries = 0
        self._reader: PooledStatements | None = None
        self._act: Callable[[], None] | None = None
        query = PooledStatements.query

        def interrupted(
            sql: PooledStatements, statement: str, values: Sequence[Any] = ()
        ) -> list[Row]:
            rows = query(sql, statement, values)
            if self._act is not None and self._reader in (None, sql):
                self._reader = sql
                self._queries -= 1
                if not self._queries:
                    act = self._act
                    self._act = None
                    act()
            return rows

        monkeypatch.setattr(PooledStatements, "query", interrupted)

    def after(self, queries: int, act: Callable[[], None]) -> None:
        """Call ``act`` after so many queries of the next transaction."""
        self._queries = queries
        self._reader = None
        self._act = act

    def end(self) -> bool:
        """Whether the function was called."""
        called = self._act is None
        self._act = None
        return called


def torn_reads(
    commit: Callable[[], None],
    reader: Store,
    reads: dict[str, Read],
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[str, int]]:
    """Name and number of queries of the reads that have a part of a commit
    between two queries."""
    interruption = Interruption(monkeypatch)
    torn = []
    for name, read in reads.items():
        queries = 0
        called = True
        while called:
            before = read(reader)
            queries = queries + 1
            interruption.after(queries, commit)
            found = read(reader)
            called = interruption.end()
            if found != before:
                torn.append((name, queries))
            assert not called or read(reader) != before, (
                f"the commit does not change {name}"
            )
    return torn


def test_what_is_committed_while_it_reads_is_in_the_whole_result_or_nowhere(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(open_store(url))
    assert torn_reads(writer.commit, open_store(url), READS, monkeypatch) == []
