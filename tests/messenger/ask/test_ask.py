"""Questions over HTTP and with clients, on a node."""

import json
from collections.abc import Iterator
from time import time
from typing import Any

import gevent
import pytest

from imserver.messenger.ask import metrics
from imserver.messenger.ask.parts import AskParts
from imserver.plugin.messages import Appended, Draft, MessageLog
from tests.gateway.transport.harness import until
from tests.messenger.accounts import block
from tests.messenger.node import Messenger
from tests.users import User

YES_NO = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Messenger]:
    harness = Messenger(tmp_path_factory.mktemp("asks"))
    yield harness
    harness.close()


@pytest.fixture(scope="module")
def ann(node: Messenger) -> User:
    return node.person()


@pytest.fixture(scope="module")
def bob(node: Messenger) -> User:
    return node.person()


@pytest.fixture(scope="module")
def cal(node: Messenger) -> User:
    return node.person()


def ask(user: User, **fields: Any) -> dict[str, Any]:
    """A new question."""
    question: dict[str, Any] = user.post(
        "asks/create", text="tea?", options=YES_NO, **fields
    )
    assert question["state"] == "open"
    return question


def test_a_question_is_answered_once_and_everybody_sees_it(
    ann: User, bob: User
) -> None:
    id = ask(ann, to=bob.user)["id"]
    result = bob.post("asks/answer", id=id, value="yes")
    assert result["accepted"]
    assert bob.post("asks/answer", id=id, value="yes")["accepted"]
    assert not bob.post("asks/answer", id=id, value="no")["accepted"]
    seen = ann.post("asks/get", id=id)
    assert seen == result["ask"] == bob.post("asks/get", id=id)
    assert [(one["user"], one["value"]) for one in seen["answers"]] == [
        (bob.user, "yes")
    ]


def test_who_waits_hears_of_each_answer_at_once(
    node: Messenger, ann: User, bob: User, cal: User
) -> None:
    group = int(ann.group(bob, cal))
    id = ask(ann, conversation=group, need=2)["id"]
    waits = node.node.core.service(AskParts).waits
    for seen, (user, state) in enumerate(((bob, "open"), (cal, "answered"))):
        waiting = [
            gevent.spawn(ann.post, "asks/get", id=id, wait=30, seen=seen)
            for _ in range(3)
        ]
        until(lambda: waits.count == 3)
        user.post("asks/answer", id=id, value="no")
        gevent.joinall(waiting, timeout=10, raise_error=True)
        assert [(one.get()["state"], len(one.get()["answers"])) for one in waiting] == [
            (state, seen + 1)
        ] * 3
        assert waits.count == 0


def test_a_deadline_closes_it_and_ends_the_wait(
    node: Messenger, ann: User, bob: User
) -> None:
    id = ask(ann, to=bob.user, seconds=1)["id"]
    assert ann.post("asks/get", id=id, wait=30)["state"] == "expired"
    assert bob.post("asks/answer", id=id, value="yes") == {
        "accepted": False,
        "ask": bob.post("asks/get", id=id),
    }
    entries = bob.get("messages/sync", after=id, limit=200)["messages"]
    assert [each["type"] for each in entries if each.get("about") == id] == ["expire"]
    assert node.node.core.store.part(MessageLog).asks.due() == ([], None)


@pytest.mark.full("waits")
def test_a_wait_ends_by_what_another_node_has_stored(
    node: Messenger, ann: User, bob: User
) -> None:
    """Of such an answer, and of such a question and its deadline, this node is
    told nothing."""
    log = node.node.core.store.part(MessageLog)
    id = ask(ann, to=bob.user)["id"]
    waiting = gevent.spawn(ann.post, "asks/get", id=id, wait=60)
    until(lambda: node.node.core.service(AskParts).waits.count)
    log.asks.answer("201", bob.user, id, value="no")
    assert waiting.get(timeout=60)["state"] == "answered"
    meta = json.dumps(
        {"ask": {"options": YES_NO, "until": log.asks.time_ms() + 1}}
    ).encode()
    (other,) = log.writer.append(
        "201", [Draft(sender=ann.user, to_user=bob.user, meta=meta)]
    )
    assert isinstance(other, Appended)
    assert ann.post("asks/get", id=other.entry.id, wait=60)["state"] == "expired"


def test_only_the_author_cancels_reminds_and_escalates(
    node: Messenger, ann: User, bob: User, cal: User
) -> None:
    eve = node.person()
    group = int(ann.group(bob, cal))
    id = ask(ann, conversation=group, of=[bob.user])["id"]
    assert (
        bob.refused("asks/cancel", id=id)
        == eve.refused("asks/get", id=id)
        == (404, "unknown_message")
    )
    assert cal.refused("asks/answer", id=id, value="yes")[0] == 403
    assert ann.post("asks/remind", id=id)["state"] == "open"
    assert ann.refused("asks/remind", id=id)[0] == 429
    assert ann.refused("asks/escalate", id=id, of=[eve.user])[0] == 400
    assert ann.post("asks/escalate", id=id, of=[cal.user])["of"] == [bob.user, cal.user]
    assert ann.post("asks/cancel", id=id)["state"] == "cancelled"
    assert ann.refused("asks/escalate", id=id, of=[bob.user]) == (
        409,
        "question_closed",
    )
    assert not cal.post("asks/answer", id=id, value="yes")["accepted"]
    # Who is muted in the app does nothing of it, and who was blocked does not
    # answer.
    id = ask(eve, conversation=int(eve.group(ann, bob)), of=[bob.user])["id"]
    node.node.core.mutes.mute(eve.app, eve.user, int(time()) + 60)
    assert eve.refused("asks/remind", id=id) == (403, "muted")
    assert eve.refused("asks/escalate", id=id, of=[ann.user]) == (403, "muted")
    dan = node.person()
    id = ask(ann, to=dan.user)["id"]
    block(node.node.core.store, ann.user, dan.user)
    assert dan.refused("asks/answer", id=id, value="yes")[0] == 403


def test_a_poll_takes_votes_until_its_author_closes_it(
    node: Messenger, ann: User, bob: User, cal: User
) -> None:
    group = int(ann.group(bob, cal))
    begun = ask(ann, conversation=group, poll=True, many=True)
    id = begun["id"]
    assert (begun["poll"], begun["mine"], begun["of"]) == ({"many": True}, [], [])
    waiting = gevent.spawn(ann.post, "asks/get", id=id, wait=30)
    voted = bob.post("asks/answer", id=id, choices=[0, 1])
    assert (voted["accepted"], voted["ask"]["mine"]) == (True, [0, 1])
    assert waiting.get(timeout=10)["poll"]["voters"] == 1
    for user, choices in ((cal, [0]), (ann, [0]), (bob, [1]), (ann, [])):
        assert (
            user.post("asks/answer", id=id, choices=choices)["ask"]["mine"] == choices
        )
    # those who wait are counted
    until(lambda: ann.post("asks/get", id=id)["poll"]["counts"] == [1, 1])
    assert cal.post("asks/voters", id=id, choice=1) == {
        "users": [bob.user],
        "more": False,
    }
    for path, fields in (("remind", {}), ("escalate", {"of": [bob.user]})):
        assert ann.refused(f"asks/{path}", id=id, **fields)[0] == 400
    assert ann.post("asks/cancel", id=id)["state"] == "answered"
    assert not cal.post("asks/answer", id=id, choices=[1])["accepted"]
    secret = ask(ann, conversation=group, poll=True, anonymous=True)["id"]
    assert bob.post("asks/answer", id=secret, choices=[1])["ask"]["poll"]["counts"] == [
        0,
        1,
    ]
    assert ann.refused("asks/voters", id=secret, choice=1)[0] == 403
    assert (
        ann.refused("asks/voters", id=ask(ann, to=bob.user)["id"], choice=1)[0] == 404
    )
    assert node.person().refused("asks/voters", id=id, choice=1)[0] == 404


def test_who_asks_for_the_voters_of_a_large_poll_pays_for_the_look(
    node: Messenger, ann: User, bob: User
) -> None:
    poll = {"voters": 5000, "counts": [5000, 0], "users": [[], []], "time": 1}
    meta = json.dumps({"ask": {"options": YES_NO, "of": [], "poll": poll}}).encode()
    draft = Draft(
        sender=ann.user, body=b"tea?", conversation=int(ann.group(bob)), meta=meta
    )
    (sent,) = node.node.core.store.part(MessageLog).writer.append(ann.app, [draft])
    assert isinstance(sent, Appended)
    node.node.servers.api.rates.set(3)
    assert bob.post("asks/voters", id=sent.entry.id, choice=0)["users"] == []
    assert bob.refused("asks/voters", id=sent.entry.id, choice=0)[0] == 429
    node.node.servers.api.rates.set(0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"poll": True, "options": YES_NO[:1]},
        {"poll": True, "need": 2},
        {"anonymous": True},
        {"options": []},
        {"options": [*YES_NO, YES_NO[0]]},
        {"options": [{"text": "x", "value": "é" * 40}]},
        {"options": [{"text": str(one), "value": str(one)} for one in range(9)]},
        {"of": ["1"]},
        {"need": 21},
        {"seconds": 31 * 86400},
    ],
)
def test_a_wrong_question_is_refused(
    ann: User, bob: User, wrong: dict[str, Any]
) -> None:
    fields = {"to": bob.user, "text": "tea?", "options": YES_NO, **wrong}
    assert ann.refused("asks/create", **fields)[0] == 400


def test_what_happened_to_questions_is_counted(
    node: Messenger, ann: User, bob: User
) -> None:
    def counts() -> dict[str, int]:
        metric = next(each for each in metrics() if each.name == "imserver_asks_total")
        return dict(metric.read(node.node.core))  # type: ignore[arg-type]

    before = counts()
    for _ in range(2):
        first = ask(ann, to=bob.user, client_msg_id="counted")["id"]
    ann.post("asks/remind", id=first)
    bob.post("asks/answer", id=first, value="yes")
    bob.post("asks/answer", id=first, value="yes")
    bob.post("asks/answer", id=first, value="no")
    ann.post("asks/cancel", id=ask(ann, to=bob.user)["id"])
    late = ask(ann, to=bob.user, seconds=1)["id"]
    assert ann.post("asks/get", id=late, wait=30)["state"] == "expired"
    assert not bob.post("asks/answer", id=late, value="yes")["accepted"]
    new = {event: count - before[event] for event, count in counts().items()}
    assert {event: count for event, count in new.items() if count} == {
        **dict.fromkeys(("remind", "answer", "cancel", "expire"), 1),
        "ask": 3,
        "refuse": 2,
    }
