"""Many notifications at a time, beside answers that come late, never, or with a reset."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from conftest import PLUGIN, Keys, Site, Start, addresses_of, settings_of_app
from fakes import FORMS, Do

from tests.support import ROOT, clean_environment

SERVICES = ("fcm", "apns", "hms")


def run(site: Site, keys: Keys, counts: dict[str, tuple[int, int]], **node: Any) -> dict[str, Any]:
    """Send so many to each service by so many greenlets."""
    app = msgspec.to_builtins(settings_of_app(keys))
    given = {"app": app, "node": {**addresses_of(*site[:3]), **node}, "counts": counts}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("many.py"))],
        input=json.dumps(given),
        env=clean_environment(PYTHONPATH=f"{ROOT}:{PLUGIN}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_many_reach_each_service_once_and_one_greenlet_asks_for_a_token(start: Start, keys: Keys) -> None:
    site = start()
    result = run(site, keys, dict.fromkeys(SERVICES, (80, 8)), seconds=60)
    assert result["outcomes"] == {name: {"taken": 80} for name in SERVICES}
    assert result["longest_ms"] < 50
    for fake in (site.fcm, site.apns, site.hms):
        assert (len(fake.taken), fake.twice(), fake.problems) == (81, [], [])
    assert (site.fcm.token_requests, site.hms.token_requests, len(site.apns.tokens)) == (1, 1, 1)
    assert len(site.apns.connections) == 1


def test_nothing_is_lost_beside_a_service_that_fails(start: Start, keys: Keys) -> None:
    site = start()
    errors = {
        "fcm": (Do("UNAVAILABLE"), Do("QUOTA_EXCEEDED"), Do("UNAUTHENTICATED")),
        "apns": (Do("ServiceUnavailable"), Do("TooManyRequests"), Do(what="refuse")),
        "hms": (Do("81000001"), Do("503"), Do("80200003")),
    }
    dead = {"fcm": "UNREGISTERED", "apns": "Unregistered", "hms": "80300007"}
    for name in SERVICES:
        fake = getattr(site, name)
        for number in range(0, 60, 5):
            what = Do(what="hang" if number == 20 else "reset")
            fake.behave(FORMS[name].format(number), what if number % 10 == 0 else Do(seconds=0.5))
            fake.behave(FORMS[name].format(number + 1), errors[name][number // 5 % 3])
            fake.behave(FORMS[name].format(number + 2), Do(dead[name]))
        if name == "apns":
            fake.behave(FORMS[name].format(33), Do(what="goaway"))
            fake.behave(FORMS[name].format(43), Do(what="goaway-before"))
    result = run(site, keys, dict.fromkeys(SERVICES, (60, 8)), seconds=3)
    for name in SERVICES:
        fake, outcomes = getattr(site, name), result["outcomes"][name]
        assert (outcomes["taken"], outcomes["gone"]) == (48, 12), (name, outcomes)
        assert fake.twice() == []
        assert len({each.id for each in fake.taken}) == 49
        gone = [FORMS[name].format(number) for number in range(2, 60, 5)]
        assert {fake.requests[device] for device in gone} == {1}, "a dead device was asked again"
