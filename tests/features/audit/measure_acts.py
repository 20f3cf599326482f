"""``python -m tests.features.audit.measure_acts [ROWS [URL]]``: searches of an audit log of 1,000,000 acts.

The default database is a new SQLite file. Prints the 50th percentile and the longest time of 60 searches
each, and the longest time for which the loop was held.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import gevent

from imserver.config.settings import StorageSettings
from imserver.features.audit.acts import entry_of
from imserver.features.audit.chain import shown
from imserver.features.audit.rows import ActBatch, AuditQuery, NewAct, append, search
from imserver.plugin.identity import Act, Principal
from imserver.storage.store import Store
from tests.support import Ticks

ROWS = 1_000_000
BATCH = 2000
SEARCHES = 60
APPS = 1000
NAMES = ("ban", "unban", "accounts.login", "groups.create", "keys.create")
KEY = Principal("key", apps=None, key="1f2e")
SEEDED = random.Random(1)


def act() -> Act:
    where = f"app{SEEDED.randrange(APPS)}", f"u{SEEDED.randrange(500)}", "192.0.2.7"
    return Act(SEEDED.choice(NAMES), KEY, *where, f"{SEEDED.getrandbits(64):x}", {"seconds": 60})


def fill(store: Store, rows: int) -> None:
    for _ in range(0, rows, BATCH):
        acts = [NewAct(*entry_of(act()), monotonic()) for _ in range(BATCH)]
        store.write(partial(append, ActBatch(acts)))


def main(rows: int, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(StorageSettings(url or f"sqlite:///{folder}/acts.db"), folder)
        store.start()
        fill(store, rows)
        gc.collect()
        gc.freeze()  # as a node does after its start
        for name, wanted in (
            ("all", {}),
            ("an app", {"app": "?"}),
            ("a user", {"app": "?", "user": "u3"}),
            ("an act", {"name": "ban"}),
            ("an act in an app", {"app": "?", "name": "ban"}),
            ("a key in an app", {"app": "?", "by": "key:1f2e"}),
            ("a kind that did nothing", {"by": "staff"}),
        ):
            ticks, times = Ticks(), []
            watch = gevent.spawn(ticks.run)
            gevent.sleep(0.01)
            ticks.longest = 0.0
            for _ in range(SEARCHES):
                app = f"app{SEEDED.randrange(APPS)}"
                query: dict[str, Any] = {key: app if value == "?" else value for key, value in wanted.items()}
                began = perf_counter()
                acts, _ = store.read(partial(search, AuditQuery(**query)))
                for row, names in acts:
                    shown(row, names)
                times.append(perf_counter() - began)
                gevent.sleep(0)
            watch.kill()
            times.sort()
            print(
                f"{name}: p50 {times[SEARCHES // 2] * 1000:.1f} ms, longest {times[-1] * 1000:.1f} ms, "
                f"loop held {ticks.longest * 1000:.1f} ms"
            )
        store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS, sys.argv[2] if len(sys.argv) > 2 else "")
