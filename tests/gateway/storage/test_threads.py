"""Where the work on a database is done: nothing that it waits for holds up the
loop."""

from pathlib import Path
from unittest.mock import Mock

import gevent
import pytest

from imserver.gateway.storage.database import GreenletRunner
from tests.gateway.storage.servers import DatabaseServer
from tests.stores import server_of
from tests.support import run_python

pytestmark = pytest.mark.sqlite_first

# In a process of its own, patched as a server is. Prints for how long the query
# ran and the loop stood still.
BEATING = """
from gevent import monkey; monkey.patch_all()
import sys, time, gevent
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
url, folder, slow = sys.argv[1:]
store = Store(StorageSettings(url, seconds=300), folder)
store.add_app("105", {})
late = []
def beat():
    while True:
        began = time.monotonic()
        gevent.sleep(0.01)
        late.append(time.monotonic() - began - 0.01)
gevent.spawn(beat)
gevent.sleep(0.05)
late.clear()
began = time.monotonic()
store.database().read(lambda sql: sql.query(slow))
took = time.monotonic() - began
print(f"{took * 1000:.0f} {max(late) * 1000:.0f} {len(late)}")
store.close()
"""
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000000) "
    "SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(3)",
    "mysql": "SELECT SLEEP(3)",
}


@pytest.mark.full("waits")
@pytest.mark.parametrize("engine", SLOW)
def test_a_slow_query_does_not_hold_up_the_loop(
    engine: str, database_servers: dict[str, DatabaseServer], tmp_path: Path
) -> None:
    url = "" if engine == "sqlite" else server_of(engine, database_servers).new_url()
    took, late, beats = map(
        int, run_python(BEATING, url, str(tmp_path), SLOW[engine]).split()
    )
    assert took >= 300, "slow enough to be noticed"
    assert late < took / 2, (
        "a loop that was held up would be as late as the query is slow"
    )
    assert beats > 15


# Two transactions that lock two rows, each in another order; at first they have
# one row each.
EMBRACE = """
from gevent import monkey; monkey.patch_all()
import sys
import gevent
from gevent.event import Event
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
store = Store(StorageSettings(sys.argv[1], seconds=20), "")
store.start()
def make(sql):
    sql.execute("CREATE TABLE pair (id INT PRIMARY KEY, count INT NOT NULL)")
    sql.execute("INSERT INTO pair VALUES (1, 0), (2, 0)")
store.write(make)
tries = []
arrived = {1: Event(), 2: Event()}
def embrace(first):
    def work(sql):
        tries.append(first)
        add = "UPDATE pair SET count = count + 1 WHERE id = %s"
        sql.execute(add, (first,))
        arrived[first].set()
        arrived[3 - first].wait(60)
        sql.execute(add, (3 - first,))
    store.write(work)
gevent.joinall([gevent.spawn(embrace, first) for first in (1, 2)], raise_error=True)
counts = [count for count, in store.read(lambda sql: sql.query("SELECT count FROM pair"))]
print(len(tries), *counts, store.healthy())
store.close()
"""


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_what_a_deadlock_undid_is_repeated(
    engine: str, database_servers: dict[str, DatabaseServer]
) -> None:
    url = server_of(engine, database_servers).new_url()
    tries, *rest = run_python(EMBRACE, url).split()
    assert rest == ["2", "2", "True"]
    assert int(tries) >= 3, (
        "one of the two was undone, on a busy machine perhaps more than once"
    )


UNPATCHED = """
import psycopg
from gevent import monkey; monkey.patch_all()
from imserver.gateway.errors import StartError
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
try:
    Store(StorageSettings("postgresql://x@127.0.0.1:1/x"), "").start()
except StartError as error:
    print(error)
"""


def test_a_driver_that_would_block_the_loop_is_refused() -> None:
    assert "imported before gevent patched" in run_python(UNPATCHED)


def test_who_is_killed_while_a_driver_waits_ends_though_the_driver_fails_in_turn() -> (
    None
):
    def question() -> None:
        try:
            gevent.sleep(60)
        finally:
            raise RuntimeError("this connection cannot be used any more")

    asking = gevent.spawn(GreenletRunner().run, question, 60)
    gevent.sleep(0)
    asking.kill(timeout=5)
    assert isinstance(asking.value, gevent.GreenletExit)
    with pytest.raises(RuntimeError, match="no such table"):
        GreenletRunner().run(Mock(side_effect=RuntimeError("no such table")), 60)
