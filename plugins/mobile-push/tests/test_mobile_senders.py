"""What the services get, many at a time too, and what is done with each answer:
the tables of README.md."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import (
    APP,
    HMS_SECRET,
    PLUGIN,
    Keys,
    Site,
    Start,
    addresses_of,
    settings_of_app,
    tenant,
)
from fakes import FORMS, Do, rows
from imserver_mobile_push import apns, fcm, hms, services_of
from imserver_mobile_push.settings import FcmSettings, HmsSettings, MobilePushSettings

from imserver.plugin.settings import Config
from imserver.plugin.wire import PushNotice, PushResult
from tests.support import ROOT, clean_environment

DEVICES = {"fcm": "d" * 40 + ":APA91b-x_y", "apns": "ab" * 32, "hms": "IQAAAACy0t" * 5}
NOTICE = PushNotice(
    id="n1",
    kind="message",
    tag="c7",
    topic="topic-7",
    title="Ann",
    body="hello",
    url="https://chat.example/7",
    actions=(("read", "Mark as read", ""),),
    conversation=7,
    entry=70,
    count=2,
    badge=3,
    time_ms=1_795_156_528_000,
    token="act-token",
    ttl=600,
)
SERVICES = ("fcm", "apns", "hms")
OUTCOMES = {"the device goes": "gone", "refused": "refused"}


def fake_of(site: Site, name: str) -> Any:
    return getattr(site, name)


def send(site: Site, name: str, notice: PushNotice = NOTICE) -> PushResult:
    return site.services[name].send(APP, DEVICES[name], notice)


@pytest.fixture
def clock(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the minutes since the first use of a token of Apple, and by how many
    the nodes are wrong."""
    begin = time.time() // apns.EVERY_SECONDS * apns.EVERY_SECONDS + apns.YOUNG_SECONDS

    def set_to(minutes: float, wrong: float = 0.0) -> None:
        site.apns.clock = lambda: begin + minutes * 60
        monkeypatch.setattr(apns, "time", lambda: begin + (minutes + wrong) * 60)

    return set_to


def changed(**fields: Any) -> PushNotice:
    return PushNotice(
        **{name: getattr(NOTICE, name) for name in NOTICE.__struct_fields__} | fields
    )


# --- what they get ------------------------------------------------------------


def test_each_service_takes_a_notification(site: Site) -> None:
    for name in SERVICES:
        result = send(site, name)
        fake = fake_of(site, name)
        assert (result.outcome, result.status, fake.problems) == ("taken", 200, []), (
            name
        )
        (taken,) = fake.taken
        assert (taken.token, taken.id) == (DEVICES[name], "n1")
    facts = {
        "kind": "message",
        "id": "n1",
        "tag": "c7",
        "conversation": 7,
        "entry": 70,
        "count": 2,
        "badge": 3,
        "time": NOTICE.time_ms,
        "url": NOTICE.url,
        "token": "act-token",
        "actions": [{"action": "read", "title": "Mark as read"}],
    }
    google, apple, huawei = (fake_of(site, name).taken[0].content for name in SERVICES)
    assert google["notification"] == {"title": "Ann", "body": "hello"}
    assert json.loads(google["data"]["imserver"]) == facts
    shown = {"tag": "c7", "sound": "default", "notification_count": 3}
    urgent = {"collapse_key": "topic-7", "ttl": "600s", "priority": "HIGH"}
    assert google["android"] == {**urgent, "notification": shown}
    assert google["webpush"]["headers"] == {
        "TTL": "600",
        "Urgency": "high",
        "Topic": "topic-7",
    }
    assert google["apns"]["payload"]["aps"] == apple["aps"]
    alert = {"alert": {"title": "Ann", "body": "hello"}, "badge": 3, "sound": "default"}
    about = {"thread-id": "c7", "category": "message", "mutable-content": 1}
    assert apple == {"aps": {**alert, **about}, "imserver": facts}
    headers = site.apns.taken[0].headers
    assert (headers["apns-push-type"], headers["apns-priority"]) == ("alert", "10")
    assert (headers["apns-collapse-id"], headers["apns-topic"]) == (
        "topic-7",
        "com.example.chat",
    )
    assert 590 <= int(headers["apns-expiration"]) - time.time() <= 601
    assert json.loads(huawei["data"]) == facts
    shown = {"title": "Ann", "body": "hello", "tag": "c7", "click_action": {"type": 3}}
    assert huawei["android"] == {
        "ttl": "600s",
        "urgency": "HIGH",
        "notification": shown,
    }


@pytest.mark.parametrize("badge", [None, 0])
@pytest.mark.parametrize("fields", [{"kind": "close"}, {"silent": True}])
def test_nothing_is_shown_of_what_is_silent(
    site: Site, fields: dict[str, Any], badge: int | None
) -> None:
    notice = changed(badge=badge, **fields)
    for name in SERVICES:
        assert send(site, name, notice).outcome == "taken"
        assert fake_of(site, name).problems == []
    google, apple, huawei = (fake_of(site, name).taken[0] for name in SERVICES)
    assert "notification" not in google.content
    assert google.content["android"] == {
        "collapse_key": "topic-7",
        "ttl": "600s",
        "priority": "NORMAL",
    }
    assert apple.content["aps"] == {"content-available": 1} | (
        {} if badge is None else {"badge": 0}
    )
    assert apple.headers["apns-push-type"] == (
        "background" if badge is None else "alert"
    )
    assert apple.headers["apns-priority"] == "5"
    assert huawei.content["android"] == {"ttl": "600s", "urgency": "NORMAL"}


def test_what_cannot_wait_and_what_the_application_shows_itself(
    start: Start, keys: Keys
) -> None:
    huawei = HmsSettings(
        "102345678", HMS_SECRET, category="IM", badge_class="com.example.Main"
    )
    site = start(app={"fcm": FcmSettings(keys.account, data_only=True), "hms": huawei})
    notice = changed(
        time_sensitive=True, data=b'{"order":7}', icon="https://chat.example/ann.png"
    )
    for name in SERVICES:
        assert send(site, name, notice).outcome == "taken"
        assert fake_of(site, name).problems == []
    facts = json.loads(site.fcm.taken[0].content["data"]["imserver"])
    assert "notification" not in site.fcm.taken[0].content
    assert (facts["title"], facts["body"], facts["data"]) == (
        "Ann",
        "hello",
        {"order": 7},
    )
    assert site.fcm.taken[0].content["android"]["priority"] == "HIGH"
    assert site.apns.taken[0].content["aps"]["interruption-level"] == "time-sensitive"
    android = site.hms.taken[0].content["android"]
    assert android["category"] == "IM"
    assert android["notification"]["badge"] == {
        "set_num": 3,
        "class": "com.example.Main",
    }


@pytest.mark.parametrize(
    "text", ["x" * 9000, "\u4f60\u597d" * 4000, '"\\\n' * 4000, "\U0001f600" * 3000]
)
def test_what_is_too_long_is_shortened(site: Site, text: str) -> None:
    notices = [
        changed(body=text),
        changed(title=text, body=""),
        changed(data=json.dumps(text).encode()),
        changed(
            url=f"https://chat.example/{'x' * 900}",
            icon=f"https://chat.example/{'y' * 900}",
            body=text,
        ),
    ]
    for notice in notices:
        for name in SERVICES:
            assert send(site, name, notice).outcome == "taken"
            assert fake_of(site, name).problems == []
    bodies = [each.content["aps"]["alert"].get("body", "") for each in site.apns.taken]
    assert bodies[0].endswith("…")
    assert len(bodies[0].encode()) > 2000 or '"' in bodies[0]
    assert bodies[2] in ("hello", "")


def test_a_late_and_an_endless_notification(site: Site) -> None:
    for ttl in (0, 10**8):
        for name in SERVICES:
            assert send(site, name, changed(ttl=ttl)).outcome == "taken"
    assert [each.content["android"]["ttl"] for each in site.fcm.taken] == [
        "0s",
        "2419200s",
    ]
    assert site.apns.taken[0].headers["apns-expiration"] == "0"
    assert [each.content["android"]["ttl"] for each in site.hms.taken] == [
        "1s",
        "1296000s",
    ]


# --- the tables of answers ----------------------------------------------------

ROWS = [
    (name, *row)
    for name in SERVICES
    for row in rows(f"answer of {name.upper().replace('NS', 'Ns')}")
]


def check(result: PushResult, text: str) -> None:
    """A result is the one that the table says."""
    last = text.rpartition("then ")[2]
    assert result.outcome == OUTCOMES.get(last, "later"), result
    pause = re.search(r"pause of (?:at least )?(\d+) s", last)
    assert result.retry_after == (float(pause[1]) if pause else None)


def test_the_tables_are_those_of_the_code() -> None:
    codes = {
        name: {row[1].split()[0] for row in ROWS if row[0] == name} for name in SERVICES
    }
    assert codes == {
        "fcm": {*fcm.RULES},
        "apns": {*apns.RULES},
        "hms": {*hms.RULES} - {"80000000"},
    }


@pytest.mark.parametrize(
    ("service", "error", "status", "text"),
    ROWS,
    ids=lambda value: value.replace(" ", "-")[:40],
)
def test_an_answer_is_followed_as_the_table_says(
    site: Site, clock: Any, service: str, error: str, status: str, text: str
) -> None:
    clock(1)
    fake = fake_of(site, service)
    device = DEVICES[service]
    code, _, of_token = error.partition(" of the ")
    more = (
        {"message": "The registration token is not a valid FCM registration token"}
        if of_token
        else {}
    )
    renews = "and once more" in text
    fake.behave(device, *[Do(code, more=more)] * (2 if renews else 1))
    result = send(site, service)
    assert result.status == int(status)
    check(result, text)
    if status == "410":
        assert abs(result.gone_since - time.time()) < 60, "Apple has said since when"
    else:
        assert result.gone_since == 0
    assert (fake.requests[device], fake.problems, fake.taken) == (
        2 if renews else 1,
        [],
        [],
    )
    if service != "apns":
        assert fake.token_requests == (2 if renews else 1)
    assert send(site, service).outcome == "taken"
    if result.outcome == "later":
        fake.behave(
            device,
            *[Do(code, more=more, headers={"retry-after": "3000"})]
            * (2 if renews else 1),
        )
        assert send(site, service).retry_after == 3000
    if renews:
        fake.behave(device, Do(code))
        assert send(site, service).outcome == "taken"


def test_answers_that_nobody_documents(site: Site) -> None:
    site.fcm.behave(DEVICES["fcm"], Do("502"), Do("429"), Do("418"))
    assert [send(site, "fcm").outcome for _ in range(3)] == [
        "later",
        "later",
        "refused",
    ]
    site.apns.behave(DEVICES["apns"], Do("502"), Do("403"), Do("418"))
    results = [send(site, "apns") for _ in range(3)]
    outcomes = [(each.outcome, each.retry_after) for each in results]
    assert outcomes == [("later", None), ("later", 60.0), ("refused", None)]


# --- tokens of ours -----------------------------------------------------------


def test_an_access_token_is_kept_and_renewed_before_its_end(site: Site) -> None:
    for name in ("fcm", "hms"):
        fake = fake_of(site, name)
        fake.token_seconds = 1
        assert [send(site, name).outcome for _ in range(2)] == ["taken", "taken"]
        assert fake.token_requests == 1
        fake.issued.clear()  # the service has forgotten it
        assert send(site, name).outcome == "taken"
        assert fake.token_requests == 2


def test_no_access_token_is_a_reason_to_wait_and_shows_no_secret(site: Site) -> None:
    for name in ("fcm", "hms"):
        fake = fake_of(site, name)
        error = {
            "error": "invalid_grant",
            "error_description": "Invalid JWT Signature.",
        }
        fake.token_answer = 400, {**error, "client_secret": HMS_SECRET}
        results = [send(site, name) for _ in range(5)]
        assert {(each.outcome, each.status) for each in results} == {("later", 0)}
        assert "invalid_grant Invalid JWT Signature." in results[0].problem
        assert HMS_SECRET not in results[0].problem
        assert fake.token_requests == 1, "each of the five has asked"


def test_nodes_with_clocks_wrong_by_minutes_change_apples_token_half_hourly(
    site: Site, clock: Any
) -> None:
    config = Config(
        of_features=(("mobile_push", MobilePushSettings(apns_url=site.apns.url)),)
    )
    services = services_of(config, SimpleNamespace(get=site.tenants.get))
    other = site._replace(services={each.name: each for each in services})
    for minutes in range(5, 240):
        for node, wrong in ((site, 4.5), (other, -4.5)):
            clock(minutes, wrong)
            assert send(node, "apns").outcome == "taken"
        assert (len(site.apns.tokens), site.apns.problems) == (
            1 + int(minutes + 4.5) // 30,
            [],
        )
    for each in services:
        each.close()


def test_apples_last_token_is_used_while_it_refuses_the_next(
    site: Site, clock: Any
) -> None:
    fake = site.apns
    counts = []
    for minutes in (29, 31, 48, 51, 61, 69):
        clock(minutes)
        assert send(site, "apns").outcome == "taken"
        counts.append((len(fake.tokens), len(fake.problems)))
    assert counts == [(1, 0), (1, 1), (1, 1), (2, 1), (2, 2), (2, 2)]
    fake.tokens.clear()
    fake.behave(DEVICES["apns"], Do("ExpiredProviderToken"))  # there is a newer one
    assert send(site, "apns").outcome == "taken"
    # the clock was ahead, and is mended
    for wrong, outcome in ((60, "later"), (0, "taken")):
        clock(150, wrong)
        assert send(site, "apns").outcome == outcome


# --- apps ---------------------------------------------------------------------


def test_a_device_needs_a_service_that_the_app_has_and_a_token_of_it(
    site: Site, keys: Keys
) -> None:
    for name in SERVICES:
        service = site.services[name]
        assert service.objection(APP, DEVICES[name]) == ""
        assert service.objection(APP, "not a token!") == f"this is no token of {name}"
        assert service.objection("tea", DEVICES[name]).startswith("the app has no keys")
        assert service.host(APP, DEVICES[name]) == f"{name}/{APP}"
    site.tenants[APP] = tenant(settings_of_app(keys, fcm=FcmSettings()))
    assert (
        site.services["fcm"]
        .objection(APP, DEVICES["fcm"])
        .startswith("the app has no keys")
    )
    result = send(site, "fcm")
    assert (result.outcome, result.retry_after) == ("later", 60.0)


def test_an_app_keeps_its_pace(start: Start, keys: Keys) -> None:
    site = start(app={"per_second": 10})
    began = time.monotonic()
    results = [send(site, "apns", changed(id=str(number))) for number in range(12)]
    assert time.monotonic() - began > 1.0
    assert [each.outcome for each in results] == ["taken"] * 12
    site.tenants[APP] = tenant(settings_of_app(keys, per_second=1))
    assert send(site, "apns").outcome == "taken"


def run(
    site: Site, keys: Keys, counts: dict[str, tuple[int, int]], **node: Any
) -> dict[str, Any]:
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


def test_many_reach_each_service_once_and_one_greenlet_asks_for_a_token(
    start: Start, keys: Keys
) -> None:
    site = start()
    result = run(site, keys, dict.fromkeys(SERVICES, (80, 8)), seconds=60)
    assert result["outcomes"] == {name: {"taken": 80} for name in SERVICES}
    assert result["longest_ms"] < 50
    for fake in (site.fcm, site.apns, site.hms):
        assert (len(fake.taken), fake.twice(), fake.problems) == (81, [], [])
    assert (
        site.fcm.token_requests,
        site.hms.token_requests,
        len(site.apns.tokens),
    ) == (1, 1, 1)
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
            fake.behave(
                FORMS[name].format(number),
                what if number % 10 == 0 else Do(seconds=0.5),
            )
            fake.behave(FORMS[name].format(number + 1), errors[name][number // 5 % 3])
            fake.behave(FORMS[name].format(number + 2), Do(dead[name]))
        if name == "apns":
            fake.behave(FORMS[name].format(33), Do(what="goaway"))
            fake.behave(FORMS[name].format(43), Do(what="goaway-before"))
    result = run(site, keys, dict.fromkeys(SERVICES, (60, 8)), seconds=3)
    for name in SERVICES:
        fake = getattr(site, name)
        outcomes = result["outcomes"][name]
        assert (outcomes["taken"], outcomes["gone"]) == (48, 12), (name, outcomes)
        assert fake.twice() == []
        assert len({each.id for each in fake.taken}) == 49
        gone = [FORMS[name].format(number) for number in range(2, 60, 5)]
        assert {fake.requests[device] for device in gone} == {1}, (
            "a dead device was asked again"
        )
