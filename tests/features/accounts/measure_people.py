# ruff: noqa: E402
"""``python -m tests.features.accounts.measure_people [URL]``: lists and searches of 100,000 accounts.

A node in this process, asked as its HTTP server asks it. The default database is a new SQLite file. Prints
the least, the 50th and the 99th percentile of 100 requests each, and the longest time for which the loop was
held.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from gevent import monkey

monkey.patch_all()  # otherwise PostgreSQL and MariaDB hold the loop while they work

import gevent

from imserver.config.settings import StorageSettings
from imserver.features.accounts.contract import Account, Imported
from imserver.features.accounts.parts import accounts_of
from tests.features import sections
from tests.security.node_harness import ALL, Harness, config, searched
from tests.support import Ticks
from tests.users import User

ACCOUNTS = 100_000
REQUESTS = 100
APP = "gochat"


def fill(harness: Harness) -> None:
    """Store the accounts; every hundredth has no phone number."""
    rows = accounts_of(harness.node.core).rows
    first = rows.last_id() + 1
    for start in range(first, first + ACCOUNTS, 1000):
        rows.put(
            [
                Imported(
                    Account(
                        id,
                        APP,
                        "" if id % 100 == 0 else f"138{id:08}",
                        f"Person {id:06x}",
                        created=1_790_000_000,
                        email=f"p{id}@example.com",
                        name=f"name{id}",
                    ),
                    "a hash",
                )
                for id in range(start, start + 1000)
            ]
        )


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        of_features = sections(accounts={"searches_per_account": 1_000_000_000})
        storage = StorageSettings(url, look_seconds=60.0)
        harness = Harness(config(Path(folder), storage=storage, apps=searched(APP), of_features=of_features))
        member = User(harness, harness.account(APP), app=APP)
        fill(harness)
        keyed = User(harness, ALL.key, app=APP)
        for name, query in (
            ("the first page", {}),
            ("a page in the middle", {"after": str(ACCOUNTS // 2)}),
            ("an id", {"text": str(ACCOUNTS // 3)}),
            ("a part of many names", {"text": "person 0"}),
            ("a part of one e-mail address", {"text": "p77777@exam"}),
            ("a part of nothing", {"text": "nobody at all"}),
            ("moderators, of whom there is none", {"role": "moderator"}),
            ("locked accounts, of which there is none", {"locked": "true"}),
        ):
            measure(name, partial(keyed.get, "accounts/list", **query))
        for name, text in (
            ("the beginnings of all names", "p"),
            ("a part of one name", "rson 01869f"),
            ("a part of one in sixteen names", "fff"),
            ("a part of no name", "nobody at all"),
        ):
            measure(f"a member searches {name}", partial(member.post, "accounts/search", text=text))
        harness.close()


def measure(name: str, ask: Callable[[], object]) -> None:
    """Ask again and again, and print the times."""
    ticks, times = Ticks(), []
    watch = gevent.spawn(ticks.run)
    gevent.sleep(0.01)
    ticks.longest = 0.0
    for _ in range(REQUESTS):
        began = perf_counter()
        ask()
        times.append(perf_counter() - began)
        gevent.sleep(0)
    watch.kill()
    times.sort()
    print(
        f"{name}: least {times[0] * 1000:.0f} ms, p50 {times[REQUESTS // 2] * 1000:.0f} ms, "
        f"p99 {times[-2] * 1000:.0f} ms, "
        f"loop held {ticks.longest * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
