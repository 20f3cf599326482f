"""A server whose clock is set back by an hour: what is due soon stays due
soon."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.tools import require

from .push_service import posts_of, push_service, subscribe
from .receiver import Receiver
from .v1 import good

pytestmark = [pytest.mark.full("waits"), pytest.mark.needs("faketime")]
APP = "shop"
KEY = "key-of-the-shop-0123456789"
DUE_SECONDS = 4
STEP_SECONDS = 3600
SECONDS = 300.0
"""How long a busy machine may take. A due that follows the clock takes an
hour."""
COUNTS = "SELECT count(*) FROM notify_due", "SELECT count(*) FROM absence"


service = pytest.fixture(push_service)


def stepping(clock: Path) -> dict[str, str]:
    """The environment of a process whose clock differs by as many seconds as a
    file says."""
    command = [require("faketime"), "-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]
    library = subprocess.run(
        command, capture_output=True, check=True, text=True
    ).stdout.strip()
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def numbers(server: Server, *queries: str) -> list[int]:
    """What each of these queries has for one number."""
    file = server.folder / "data" / "imserver.db"
    with closing(
        sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)
    ) as database:
        return [database.execute(each).fetchone()[0] for each in queries]


def send(server: Server, user: str) -> None:
    message = {"app": APP, "user": user, "sender": "bob", "text": "tea?", "store": True}
    good(server.http, "push", message, key=KEY)


def is_set_back(server: Server) -> bool:
    send(server, "cid")
    first, last = numbers(
        server, "SELECT min(time_ms) FROM message", "SELECT max(time_ms) FROM message"
    )
    return last - first > STEP_SECONDS * 500


@pytest.mark.parametrize("when", ["running", "off"])
def test_notifications_and_absences_do_not_wait_for_the_clock(
    start_server: StartServer, service: Receiver, tmp_path: Path, when: str
) -> None:
    webhook = {
        "url": f"{service.url}/events/200",
        "secret": "a-secret-of-the-back-end",
        "events": ["absent"],
        "absent_seconds": DUE_SECONDS,
    }
    config = {
        "apps": {
            APP: {
                "open": True,
                "notify": {"after_seconds": DUE_SECONDS},
                "webhook": webhook,
            }
        },
        "api": {"keys": [{"key": KEY, "scopes": ["push", "admin"]}]},
        "notifications": {"allow_loopback": True},
    }
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    options = {
        "config": config,
        "environment": stepping(clock),
        "folder": tmp_path / "server",
    }
    server = start_server(**options)
    subscribe(server.http, service, "ann", APP, KEY)
    send(server, "ann")
    eventually(lambda: numbers(server, *COUNTS) == [1, 1], SECONDS, "the dues")
    if when == "off":
        server.stop()
    clock.write_text(f"-{STEP_SECONDS}\n")
    if when == "off":
        server = start_server(**options)
    eventually(lambda: is_set_back(server), SECONDS, "the clock")
    eventually(lambda: posts_of(service, "ann"), SECONDS, "the notification")
    events = eventually(lambda: posts_of(service, "events"), SECONDS, "the event")
    event = json.loads(events[0].body)["events"][0]
    assert (event["event"], event["user"], event["preview"]) == (
        "absent",
        "ann",
        "tea?",
    )
