"""What a feed reads of a long log and while others write."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imserver.backends.webhooks.event_rows import EventStore, NewEvent
from imserver.backends.webhooks.feeds import REQUEST_EVENTS, Feed, Feeds
from imserver.backends.webhooks.log_window import LogWindow
from imserver.backends.webhooks.requests import Receiver, WebhookCounts
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.messenger.log.test_log_effort import APP, fill, steps_of
from tests.messenger.log.test_snapshot import torn_reads
from tests.stores import OpenStore


def test_the_heads_of_feeds_and_logs_are_of_one_state(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_store(url)

    def commit() -> None:
        writer.part(MessageLog).writer.append(APP, [Draft(sender="bob", to_user="ann")])
        EventStore(writer).append([NewEvent(APP, "ann", "custom", b"{}")])

    commit()
    reads = {"event_heads": lambda store: EventStore(store).heads([APP])}
    assert torn_reads(commit, open_store(url), reads, monkeypatch) == []


def test_looking_for_dead_events_costs_the_same_however_long_the_log_is(
    tmp_path: Path,
) -> None:
    store = Store(StorageSettings(), str(tmp_path), threaded=False)
    back_end: Any = None
    feeds = Feeds(store, EventStore(store), back_end, lambda: "one", WebhookCounts())
    feeds.attach(store.part(MessageLog))
    feed = Feed(
        APP, Receiver(APP, "http://back.end/", b"secret", frozenset({"message"}))
    )
    feed.sender = SimpleNamespace(is_unsaved=False)  # type: ignore[assignment]
    feed.has_retries = False
    costs = []
    for batches in (3, 40):
        fill(store.part(MessageLog), batches)
        feed.entries = LogWindow(partial(store.part(MessageLog).entries.read, APP), 0)
        feed.entries.head = store.part(MessageLog).entries.head(APP)
        batch = feeds._next(feed)
        assert batch is not None
        assert len(batch.events) == REQUEST_EVENTS
        costs.append(steps_of(store, lambda batch=batch: feeds._bury(feed, batch, 20)))  # type: ignore[misc]
    assert costs[1] <= 2 * costs[0] + 4
    store.close()
