"""What back ends are told, of whom, and when; and what they are asked."""

from pathlib import Path
from typing import Any

import gevent
import pytest
from msgspec.structs import replace

from imserver.backends.webhooks.event_rows import EventStore, NewEvent
from imserver.gateway.config.settings import StorageSettings, TenantSettings
from imserver.gateway.model import Event
from tests.backends.login_harness import WebhookHarness
from tests.gateway.core.login_harness import ASK, HOOK, JWT, token_for
from tests.gateway.transport.harness import until
from tests.security.node_harness import Harness as Node
from tests.security.node_harness import config

HOOKED = {"101": TenantSettings(webhook=HOOK), "102": TenantSettings()}


def received(harness: WebhookHarness, count: int) -> list[dict[str, Any]]:
    """So many events, without what differs from run to run."""
    until(lambda: len(harness.back_end.events) >= count)
    assert len(harness.back_end.events) == count, harness.back_end.names()
    return [
        {k: v for k, v in event.items() if k not in ("id", "time")}
        for event in harness.back_end.events
    ]


def test_a_session_is_reported_from_its_beginning_to_its_end() -> None:
    with WebhookHarness(HOOKED) as harness:
        connection = harness.login_request()
        harness.begin(connection, "ann", device="phone")
        connection.close(4502)
        common = {
            "app": "101",
            "node": "node:1",
            "user": "ann",
            "device": "phone",
            "dialect": "echo",
        }
        common |= {"connection": f"id of {connection.peer}", "address": "127.0.0.1"}
        *begun, ended = received(harness, 3)
        assert begun == [{"event": "connect", **common}, {"event": "login", **common}]
        assert ended == {"event": "disconnect", **common, "code": 4502}
        ids = [event["id"] for event in harness.back_end.events]
        assert len(set(ids)) == 3
        assert all(isinstance(event["time"], int) for event in harness.back_end.events)
        assert harness.back_end.posts[0].url == "http://back.end/events"
        assert harness.back_end.posts[0].secret == b"hook secret"


def test_who_moves_to_another_app_has_left_the_first() -> None:
    settings = replace(HOOK, url="http://other/")
    with WebhookHarness({**HOOKED, "103": TenantSettings(webhook=settings)}) as harness:
        connection = harness.login_request()
        harness.begin(connection, "ann", "101")
        harness.begin(connection, "ann", "103")
        connection.lost()
        received(harness, 6)
        for url in (HOOK.url, "http://other/"):
            events = [
                e
                for post in harness.back_end.posts
                if post.url == url
                for e in post.json["events"]
            ]
            assert [event["event"] for event in events] == [
                "connect",
                "login",
                "disconnect",
            ]


def test_a_refused_login_and_a_connection_that_never_logged_in_are_not_reported() -> (
    None
):
    with WebhookHarness({"101": TenantSettings(webhook=HOOK, jwt=JWT)}) as harness:
        first = harness.login_request()
        second = harness.login_request()
        assert not harness.begin(first, "ann").ok
        first.lost()
        second.lost()
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        assert [event["event"] for event in received(harness, 2)] == [
            "connect",
            "login",
        ]


def test_only_the_events_that_the_app_names_are_sent() -> None:
    hook = replace(HOOK, events=("disconnect", "absent"))
    with WebhookHarness({"101": TenantSettings(webhook=hook)}) as harness:
        connection = harness.login_request()
        harness.begin(connection, "ann")
        harness.webhooks.message("101", "ann", {"text": "hi"})
        connection.lost()
        harness.webhooks.absent("101", [("bob", Event("msg", "", "hi", "m1"))])
        assert [event["event"] for event in received(harness, 2)] == [
            "disconnect",
            "absent",
        ]


def test_a_webhook_may_come_change_and_go_at_run_time() -> None:
    with WebhookHarness({"101": TenantSettings()}) as harness:
        early = harness.login_request()
        harness.begin(early, "early")
        harness.change("101", TenantSettings(webhook=HOOK))
        early.lost()
        harness.begin(harness.login_request(), "ann")
        received(harness, 2)
        harness.change("101", TenantSettings(webhook=replace(HOOK, url="http://new/")))
        harness.begin(harness.login_request(), "bob")
        received(harness, 4)
        harness.change("101", TenantSettings())
        harness.begin(harness.login_request(), "eve")
        assert [event["user"] for event in received(harness, 4)] == [
            "ann",
            "ann",
            "bob",
            "bob",
        ]
        assert harness.back_end.posts[-1].url == "http://new/"


def test_a_stop_sends_what_waits_but_does_not_wait_for_who_does_not_answer() -> None:
    away = TenantSettings(webhook=replace(HOOK, url="http://away/"))
    with WebhookHarness({"101": TenantSettings(webhook=HOOK), "103": away}) as harness:
        harness.back_end.reply = lambda post: (
            "away" if "away" in post.url else (200, b"")
        )
        for number in range(5):
            harness.webhooks.message("101", "ann", {"n": number})
            harness.webhooks.message("103", "ann", {"n": number})
        harness.webhooks.stop(5)
        assert harness.webhooks.tally.delivered.total() == 5
        assert harness.webhooks.tally.dropped.total() == 5
        assert harness.webhooks.tally.waiting.total() == 0


ASKING = {"101": TenantSettings(webhook=ASK)}


def codes(decision: Any) -> tuple[int, int]:
    return decision.code, decision.close


def test_a_back_end_is_asked_with_all_that_it_needs_to_decide() -> None:
    with WebhookHarness(ASKING) as harness:
        harness.back_end.reply = lambda _: (200, b'{"allow":true}')
        assert harness.begin(
            harness.login_request(), "ann", token="their own token", device="phone"
        ).ok
        (post,) = harness.back_end.posts
        question = post.json
        assert question.pop("time") > 0
        who = {
            "user": "ann",
            "device": "phone",
            "dialect": "cmd",
            "token": "their own token",
        }
        wanted = {
            "event": "authorise",
            "app": "101",
            "node": "node:1",
            **who,
            "address": "127.0.0.1",
        }
        assert question == wanted
        assert (post.url, post.secret) == ("http://back.end/authorise", b"hook secret")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((200, b'{"allow":true}'), (200, 0)),
        ((200, b'{"allow":false}'), (1003, 4505)),
        ((200, b"{}"), (1003, 4505)),
        ((403, b'{"allow":true}'), (1003, 4505)),
        ((200, b'{"allow":1}'), (1004, 1011)),
        ((200, b'{"allow":true,"expires_at":"soon"}'), (1004, 1011)),
        ((200, b""), (1004, 1011)),
        ((200, b"[" * 5000), (1004, 1011)),
        ((302, b'{"allow":true}'), (1004, 1011)),
        ((500, b'{"allow":true}'), (1004, 1011)),
        ("refused", (1004, 1011)),
    ],
)
def test_only_a_clear_yes_lets_anybody_in(
    reply: Any, expected: tuple[int, int]
) -> None:
    with WebhookHarness(ASKING) as harness:
        harness.back_end.reply = lambda _: reply
        connection = harness.login_request()
        assert codes(harness.begin(connection, "ann")) == expected
        counters = harness.webhooks.back_ends.authoriser
        code = expected[0]
        counts = (
            counters.asked.total(),
            counters.refused.total(),
            counters.undecided.total(),
        )
        assert counts == (1, code == 1003, code == 1004)


def test_who_gets_no_answer_in_time_is_refused_with_those_in_the_line_which_is_bounded(
    small_limits: None,
) -> None:
    with WebhookHarness({**ASKING, "102": TenantSettings()}) as harness:
        harness.back_end.open.clear()
        logins = [
            gevent.spawn(harness.begin, harness.login_request(), f"u{number}")
            for number in range(8)
        ]
        until(lambda: harness.back_end.busy)
        assert harness.begin(harness.login_request(), "ann", "102").ok, (
            "other apps do not notice"
        )
        gevent.joinall(logins, timeout=60)
        assert all(codes(login.value) == (1004, 1011) for login in logins)
        assert harness.back_end.most_busy == 1
        assert harness.webhooks.back_ends.authoriser.undecided.total() == 8
        harness.back_end.open.set()
        harness.back_end.reply = lambda _: (200, b'{"allow":true}')
        assert harness.begin(harness.login_request(), "ann").ok, (
            "nothing is left of the line"
        )


def test_a_back_end_may_say_who_it_is_and_when_the_session_ends_and_the_earlier_end_counts() -> (
    None
):
    with WebhookHarness({"101": TenantSettings(webhook=ASK, jwt=JWT)}) as harness:

        def end(answer: bytes) -> int:
            harness.back_end.reply = lambda _: (200, answer)
            decision = harness.logins.check(
                "101", "ann", token_for("ann"), "cmd", harness.login_request()
            )
            assert decision.ok
            return int(decision.expires_at)

        assert end(b'{"allow":true,"expires_at":1000}') == 1000
        assert end(b'{"allow":true,"expires_at":4000000000}') < 4_000_000_000
    with WebhookHarness(ASKING) as harness:
        harness.back_end.reply = lambda _: (200, b'{"allow":true,"user":"ann"}')
        assert (
            harness.logins.check(
                "101", "", "opaque", "sse", harness.login_request()
            ).user
            == "ann"
        )
        assert (
            harness.logins.check(
                "101", "bob", "opaque", "sse", harness.login_request()
            ).user
            == "bob"
        )


def test_a_login_that_fails_before_asks_nobody() -> None:
    with WebhookHarness(
        {"101": TenantSettings(webhook=ASK, jwt=JWT, dialects=("cmd",))}
    ) as harness:
        assert not harness.begin(harness.login_request(), "ann", token="wrong").ok
        assert not harness.logins.check(
            "101", "ann", token_for("ann"), "sse", harness.login_request()
        ).ok
        assert harness.back_end.posts == []


def test_a_crowd_that_was_asked_about_does_not_slip_past_the_limit() -> None:
    with WebhookHarness(
        {"101": TenantSettings(webhook=ASK, max_connections=2)}
    ) as harness:
        harness.back_end.reply = lambda _: (200, b'{"allow":true}')
        harness.back_end.open.clear()
        logins = [
            gevent.spawn(harness.begin, harness.login_request(), f"u{number}")
            for number in range(5)
        ]
        until(lambda: harness.back_end.busy == 5)
        harness.back_end.open.set()
        gevent.joinall(logins, timeout=60)
        assert sorted(login.value.ok for login in logins) == [
            False,
            False,
            False,
            True,
            True,
        ]


def test_nothing_is_remembered_of_who_has_gone_while_their_back_end_was_asked() -> None:
    with WebhookHarness(
        {"101": TenantSettings(webhook=ASK, max_connections=1)}
    ) as harness:
        harness.back_end.reply = lambda _: (
            200,
            b'{"allow":true,"expires_at":4000000000}',
        )
        harness.back_end.open.clear()
        connection = harness.login_request()
        login = gevent.spawn(harness.begin, connection, "ann")
        until(lambda: harness.back_end.busy)
        connection.lost()
        harness.back_end.open.set()
        login.join(60)
        assert not harness.webhooks.known
        assert harness.begin(harness.login_request(), "bob").ok


@pytest.mark.parametrize(
    "features",
    [("webhooks",), ("messages", "webhooks")],
    ids=["alone", "with messages"],
)
def test_old_events_expire_also_without_stored_messages(
    tmp_path: Path, features: tuple[str, ...]
) -> None:
    node = Node(
        config(
            tmp_path, features=features, storage=StorageSettings(expire_seconds=0.05)
        )
    )
    store = node.node.core.store
    events = EventStore(store)
    events.append([NewEvent("101", "ann", "account", b"{}")])
    store.execute("UPDATE event SET time = time - 400000")
    until(lambda: not events.read("101", 0, 1))
    node.close()
