"""Saved messages, reminders and scheduled messages, on a node."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import socketpair
from time import monotonic, time
from types import SimpleNamespace
from typing import Any

import pytest

from imserver.gateway.config.settings import ApiSettings, TenantSettings
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.messenger.later import metrics
from imserver.messenger.later.declared import SCHEDULE_CHANGES
from imserver.messenger.later.rows import ScheduledMessage, When
from imserver.messenger.later.service import ScheduledMessages
from imserver.plugin.identity import Buckets
from imserver.plugin.messages import Draft, MessageLog, Rejected
from tests.gateway.transport.harness import until
from tests.messenger.accounts import block
from tests.messenger.node import Messenger
from tests.security.node_harness import Harness, config
from tests.stores import OpenStore
from tests.users import NamedUser, User

HOUR = 3600


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Messenger]:
    harness = Messenger(tmp_path_factory.mktemp("later"), "later")
    yield harness
    harness.close()


@pytest.fixture
def ann(node: Messenger) -> User:
    return node.person()


@pytest.fixture
def bob(node: Messenger) -> User:
    return node.person()


def texts(user: User) -> list[str]:
    """What the newest conversation of a user has, without a message that made
    it."""
    newest = [
        row["conversation"] for row in user.get("conversations")["conversations"][:1]
    ]
    messages = [
        each
        for id in newest
        for each in user.get("messages", conversation=id)["messages"]
    ]
    return [each["text"] for each in messages if "text" in each]


def waiting(user: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = user.get("scheduled")["scheduled"]
    return found


def test_saved_messages_are_a_conversation_with_oneself(ann: User, bob: User) -> None:
    saved = ann.post("messages/send", to=ann.user, text="tea")
    received = bob.post("messages/send", to=ann.user, text="cake")
    copy = ann.post("messages/send", to=ann.user, forward=received["id"])
    assert copy["conversation"] == saved["conversation"] != received["conversation"]
    first, second = ann.get("conversations")["conversations"]
    assert (first["conversation"], first["peer"], first["unread"]) == (
        saved["conversation"],
        ann.user,
        0,
    )
    assert (second["peer"], second["unread"]) == (bob.user, 1)
    assert texts(ann) == ["tea", "cake"]
    assert bob.get("messages", conversation=saved["conversation"])["messages"] == []
    found = ann.get("messages/search", text="tea")["messages"]
    assert [each["id"] for each in found] == [saved["id"]]
    ann.post("messages/read", conversation=saved["conversation"], id=copy["id"])
    assert (
        ann.get("messages/receipts", conversation=saved["conversation"])["receipts"]
        == []
    )
    ann.post("messages/recall", id=saved["id"])
    assert texts(ann) == ["cake"]


def test_a_message_is_sent_when_it_is_due(ann: User, bob: User) -> None:
    row = ann.post(
        "scheduled/create", to=bob.user, text="tea", seconds=0, client_msg_id="a"
    )
    assert (row["id"], row["text"], row["to"]) == ("a", "tea", bob.user)
    until(lambda: texts(bob) == ["tea"])
    assert waiting(ann) == []
    assert ann.refused("scheduled/cancel", id="a") == (409, "already_sent")
    assert ann.refused("scheduled/cancel", id="b") == (404, "unknown_scheduled")
    # A repeated request, which did not know that it was sent.
    ann.post("scheduled/create", to=bob.user, text="tea", seconds=0, client_msg_id="a")
    until(lambda: waiting(ann) == [])
    assert texts(bob) == ["tea"]
    ann.post(
        "scheduled/create", to=bob.user, text="tea", seconds=HOUR, client_msg_id="a"
    )
    assert ann.refused("scheduled/cancel", id="a") == (409, "already_sent")
    assert waiting(ann) == []


def test_it_is_editable_until_then(ann: User, bob: User) -> None:
    row = ann.post("scheduled/create", to=bob.user, text="tea", seconds=HOUR)
    again = ann.post(
        "scheduled/create", to=bob.user, text="more", seconds=0, client_msg_id=row["id"]
    )
    assert again == row
    changed = ann.post("scheduled/change", id=row["id"], text="cake", at=row["due"] + 5)
    assert (changed["text"], changed["due"], changed["version"]) == (
        "cake",
        row["due"] + 5,
        2,
    )
    assert waiting(ann) == [changed]
    assert ann.refused("scheduled/change", id=row["id"])[0] == 400
    assert texts(bob) == []
    ann.post("scheduled/change", id=row["id"], seconds=0)
    until(lambda: texts(bob) == ["cake"])
    assert ann.refused("scheduled/change", id=row["id"], text="late") == (
        409,
        "already_sent",
    )


def test_the_list_survives_content_that_is_no_json(node: Messenger, ann: User) -> None:
    """Somebody else may have made it: it can be forwarded."""
    row = ScheduledMessage(
        app=ann.app, member=ann.user, id="a", to_user="bob", type="custom", body=b"{"
    )
    node.node.core.service(ScheduledMessages).add(row, When(seconds=HOUR))
    assert [(each["id"], "data" in each) for each in waiting(ann)] == [("a", False)]


def test_another_text_keeps_the_buttons_and_makes_a_forward_ones_own(
    node: Messenger, ann: User, bob: User
) -> None:
    meta = b'{"buttons":[[{"text":"Yes","value":"y"}]],"forwarded":{"from":"1","id":1},"mentions":["9"]}'
    row = ScheduledMessage(
        app=ann.app, member=ann.user, id="b", to_user=bob.user, body=b"tea?", meta=meta
    )
    node.node.core.service(ScheduledMessages).add(row, When(seconds=HOUR))
    changed = ann.post("scheduled/change", id="b", text="cake?")
    after = node.node.core.service(ScheduledMessages).rows.get(ann.app, ann.user, "b")
    assert (changed["text"], after and after.meta) == (
        "cake?",
        b'{"buttons":[[{"text":"Yes","value":"y"}]]}',
    )


def test_what_an_app_without_quota_may_not_send_waits_and_says_why(
    node: Messenger, ann: User, bob: User
) -> None:
    stored = node.node.core.metrics.stored
    stored.stop_at(
        ann.app, 0, int(time()) + HOUR, "The app has used its messages of today"
    )
    try:
        id = ann.post("scheduled/create", to=bob.user, text="tea", seconds=0)["id"]
        until(lambda: [each.get("reason") for each in waiting(ann)] == ["quota"])
    finally:
        stored.go_on(ann.app)
    assert "reason" not in ann.post("scheduled/change", id=id, seconds=0)
    until(lambda: texts(bob) == ["tea"])


def test_who_has_no_account_in_demo_mode_writes_to_anybody_later_too(
    tmp_path: Path,
) -> None:
    features = ("messages", "groups", "later")
    apps = {"gochat": TenantSettings()}
    with closing(
        Harness(config(tmp_path, api=ApiSettings(), apps=apps, features=features))
    ) as demo:
        ann = NamedUser(demo, "ann")
        ann.post("scheduled/create", to="bob", text="tea", seconds=0)
        until(lambda: texts(NamedUser(demo, "bob")) == ["tea"])


@pytest.mark.sqlite_first
def test_a_review_that_takes_a_while_keeps_nobody_waiting(
    url: str, open_store: OpenStore
) -> None:
    results: dict[str, Any] = {}

    def send_of_user(_app: str, draft: Draft, done: Any, **_: Any) -> None:
        assert draft.client_msg_id not in results
        results[draft.client_msg_id] = done

    services = SimpleNamespace(
        log=None,
        messaging=SimpleNamespace(send_of_user=send_of_user),
        signals=SimpleNamespace(send=lambda _: None),
    )
    core: Any = SimpleNamespace(
        store=open_store(url),
        sessions=SimpleNamespace(is_banned=lambda *_: False),
        keys=SimpleNamespace(demo=False),
        logins=SimpleNamespace(wants_account=lambda *_: False),
        hub=SimpleNamespace(apps={}),
        accounts=None,
    )
    later = ScheduledMessages(core, services, Buckets(SCHEDULE_CHANGES, 9, 9.0))
    for id in ("slow", "quick"):
        later.add(
            ScheduledMessage(app="shop", member="ann", id=id, to_user="bob"), When()
        )
    later.look()
    results["quick"](Rejected("blocked"))
    later.look()
    left = {row.id: row.reason for row in later.rows.of_user("shop", "ann")[0]}
    assert left == {"slow": "", "quick": "blocked"}


def test_what_is_cancelled_is_never_sent(ann: User, bob: User) -> None:
    row = ann.post("scheduled/create", to=bob.user, text="tea", seconds=HOUR)
    assert bob.refused("scheduled/cancel", id=row["id"]) == (404, "unknown_scheduled")
    assert ann.post("scheduled/cancel", id=row["id"]) == {"cancelled": True}
    assert (waiting(ann), texts(bob)) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"seconds": 1, "awaits": True},
        {"seconds": 367 * 24 * HOUR},
        {"seconds": 1, "text": ""},
        {"awaits": True, "to": "", "conversation": 1},
    ],
)
def test_a_wrong_one_is_refused(ann: User, bob: User, wrong: dict[str, Any]) -> None:
    assert ann.refused("scheduled/create", **{"to": bob.user, "text": "tea", **wrong})[
        0
    ] in (400, 404)


def test_a_reminder_is_an_unread_copy_in_saved_messages(ann: User, bob: User) -> None:
    sent = bob.post("messages/send", to=ann.user, text="tea at nine")
    assert bob.refused("scheduled/remind", message=sent["id"] + 99, seconds=0) == (
        404,
        "unknown_message",
    )
    ann.post("scheduled/remind", message=sent["id"], seconds=0)
    until(lambda: len(ann.get("conversations")["conversations"]) == 2)
    first, _ = ann.get("conversations")["conversations"]
    assert (first["peer"], first["unread"], first["last"]["from"]) == (ann.user, 1, "")
    assert (first["last"]["to"], first["last"]["text"]) == (ann.user, "tea at nine")
    about = {"id": sent["id"], "conversation": sent["conversation"], "from": bob.user}
    assert first["last"]["meta"]["reminder"] == about
    assert waiting(ann) == []


def test_a_message_awaits_its_receiver(node: Messenger, ann: User, bob: User) -> None:
    """Another one, who comes, does not count."""
    for to in (bob, node.person()):
        ann.post("scheduled/create", to=to.user, text="welcome", awaits=True)
    core = node.node.core
    near, far = socketpair()
    near.setblocking(False)
    encoding = Encoding(core.codec(CmdDialect()), core.dispatcher.serve, 65536, 0)
    connection = Connection(
        core.network.context, near, "192.0.2.1:1", encoding, monotonic()
    )
    with closing(far):
        core.hub.join(core.hub.apps[bob.app], connection, bob.user, "")
        until(lambda: texts(bob) == ["welcome"])
        connection.close(1001)
    assert len(waiting(ann)) == 1
    ann.post("scheduled/create", to=bob.user, text="again", awaits=True)
    assert len(waiting(ann)) == 2


def test_saved_messages_and_reminders_go_with_their_user(
    node: Messenger, ann: User, bob: User
) -> None:
    sent = bob.post("messages/send", to=ann.user, text="tea at nine")
    saved = ann.post("messages/send", to=ann.user, text="tea")["conversation"]
    ann.post("scheduled/remind", message=sent["id"], seconds=0)
    until(lambda: texts(ann) == ["tea", "tea at nine"])
    log = node.node.core.store.part(MessageLog)
    log.erase_user(ann.app, ann.user, "deleted:1")
    entries = [
        each
        for each in log.entries.read(ann.app, 0, 1000)
        if each.conversation == saved
    ]
    assert len(entries) == 2
    assert {(each.body, each.kind) for each in entries} == {(b"", "recall")}
    assert not any(ann.user in (each.sender, *each.members) for each in entries)


def test_who_may_not_write_any_more_learns_why(
    node: Messenger, ann: User, bob: User
) -> None:
    cal = node.person()
    group = int(bob.group(ann))
    rows = [
        ann.post("scheduled/create", conversation=group, text="tea", seconds=HOUR),
        ann.post("scheduled/create", to=cal.user, text="tea", seconds=HOUR),
    ]
    sent = cal.post("messages/send", to=ann.user, text="gone")
    rows.append(ann.post("scheduled/remind", message=sent["id"], seconds=HOUR))
    bob.post("groups/remove", group=str(group), members=[ann.user])
    cal.post("messages/recall", id=sent["id"])
    block(node.node.core.store, cal.user, ann.user)
    for row in rows:
        ann.post("scheduled/change", id=row["id"], seconds=0)
    until(lambda: all(each.get("reason") for each in waiting(ann)))
    reasons = {each["id"]: each["reason"] for each in waiting(ann)}
    assert [reasons[row["id"]] for row in rows] == [
        "not_member",
        "blocked",
        "unknown_message",
    ]
    # It waits again once it is changed, and goes when it is cancelled.
    changed = ann.post("scheduled/change", id=rows[0]["id"], seconds=HOUR)
    assert "reason" not in changed
    ann.post("scheduled/cancel", id=rows[1]["id"])
    assert len(waiting(ann)) == 2


def test_what_happened_is_counted(node: Messenger, ann: User, bob: User) -> None:
    def counts() -> dict[str, int]:
        (metric,) = metrics()
        return dict(metric.read(node.node.core))  # type: ignore[arg-type]

    before = counts()
    ann.post(
        "scheduled/cancel",
        id=ann.post("scheduled/create", to=bob.user, text="a", seconds=HOUR)["id"],
    )
    ann.post("scheduled/create", to=bob.user, text="b", seconds=0)
    until(lambda: texts(bob) == ["b"])
    until(lambda: counts()["send"] > before["send"])
    new = {event: count - before[event] for event, count in counts().items()}
    assert new == {"schedule": 2, "cancel": 1, "send": 1, "refuse": 0}
