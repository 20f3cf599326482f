"""How often a node looks for exports: seldom, and at once for what is started on it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
import pytest

from imserver.config.settings import StorageSettings
from imserver.features.exports.contents import Subject
from imserver.features.exports.exports import Exports
from imserver.features.exports.rows import DONE, Job
from imserver.plugin.storage import Row, Store
from tests.support import eventually

from .rows import Storage


class CountingStore(Store):
    """Counts its reads of the table of exports."""

    def __init__(self, folder: Path) -> None:
        super().__init__(StorageSettings("", seconds=60), str(folder))
        self.reads: Counter[str] = Counter()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        self.reads["export_job" in statement] += 1
        return super().rows(statement, values)


@pytest.mark.full
def test_a_node_without_work_does_not_look_and_begins_at_once_what_is_started_on_it(tmp_path: Path) -> None:
    config = Storage("", tmp_path).config
    store = CountingStore(tmp_path)
    store.start()
    exports = Exports(config, store)
    first = exports.start(Subject("shop", "ann"))  # a node that stores nothing has no database
    greenlets = [gevent.spawn(exports.run_users), gevent.spawn(exports.run_apps)]

    def is_done(job: Job) -> bool:
        gevent.sleep(0.01)  # a turn of the greenlets
        return exports.show("shop", job.id).state == DONE

    try:
        eventually(lambda: is_done(first), 10, "the first archive")
        gevent.sleep(1)
        store.reads.clear()
        gevent.sleep(6)
        assert store.reads[True] == 0
        second = exports.start(Subject("shop", "bob"))
        eventually(lambda: is_done(second), 10, "the second archive")
    finally:
        gevent.killall(greenlets)
        exports.close()
        store.close()
