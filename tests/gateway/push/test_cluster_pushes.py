"""Pushes of several nodes: where a message goes, and that its id is accepted
once."""

from collections.abc import Iterator
from unittest.mock import Mock

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.model import Event, Outcome
from imserver.gateway.push import idempotency, routing
from imserver.gateway.push.push import UserPush
from tests.gateway.core.cluster_harness import (
    HELLO,
    MULTI,
    NEWEST,
    ClusterHarness,
    Several,
)
from tests.gateway.transport.harness import until

SENT = Outcome.SENT
NOT_SENT = Outcome.NOT_SENT
REPEATED = Outcome.REPEATED
FAILED = Outcome.FAILED
PARTLY = Outcome.PARTLY
UNKNOWN = Outcome.UNKNOWN


@pytest.fixture
def pair() -> Iterator[Several]:
    with Several(2) as several:
        yield several


def push(
    node: ClusterHarness,
    how: str,
    user: str,
    msg_id: str,
    text: str = "hello",
    app: str = NEWEST,
) -> Outcome:
    """Push in one of the ways; the call must not hang."""
    targets = [UserPush(user, msg_id, text)]
    calls = {
        "user": lambda: node.pushes.from_back_end(app, *targets),
        "app": lambda: node.pushes.to_app(app, user, msg_id, text),
        "each": lambda: node.pushes.to_each(app, targets)[0],
        "many": lambda: (node.pushes.to_many(app, [user], msg_id, text) or [REPEATED])[
            0
        ],
    }
    return gevent.spawn(calls[how]).get(timeout=60)


ways = pytest.mark.parametrize("how", ["user", "each", "many"])
WAYS = ("user", "app", "each", "many")


# --- to one user --------------------------------------------------------------


@pytest.mark.parametrize("msg_id", ["", "m1"])
@pytest.mark.parametrize("via", [1, 2])
def test_a_user_is_reached_from_every_node_by_one_question(
    pair: Several, via: int, msg_id: str
) -> None:
    _, ann = pair[1].login(NEWEST, "ann")
    _, bob = pair[1].login(NEWEST, "bob")
    pair[via].registry.calls.clear()
    assert (
        pair[via].pushes.from_back_end(NEWEST, UserPush("ann", msg_id, "hello")) == SENT
    )
    assert len(pair[via].registry.calls) == 1
    assert pair.texts(ann, bob) == [["hello"], []]
    assert [node.metrics.pushes.total for node in pair.nodes.values()] == [
        int(via == 1),
        int(via == 2),
    ]


@pytest.mark.parametrize(
    ("app", "epochs", "received"),
    [(NEWEST, [1, 2], [False, True]), (MULTI, [1, 2, 2], [True, True, True])],
)
@ways
def test_the_sessions_that_the_policy_addresses_are_reached_once(
    pair: Several, how: str, app: str, epochs: list[int], received: list[bool]
) -> None:
    clients = [pair[epoch].login(app, "ann")[1] for epoch in epochs]
    for epoch in (1, 2):
        assert push(pair[epoch], how, "ann", f"m{epoch}", f"{epoch}", app) == SENT
    assert pair.texts(*clients) == [["1", "2"] if each else [] for each in received]


@ways
def test_an_absent_user_or_none_is_not_reached_and_the_id_stays_free(
    pair: Several, how: str
) -> None:
    pair[1].login(NEWEST, "bob")
    pair[2].login(NEWEST, "dead")
    del pair.book.leases[2]
    for user in ("ann", "", "dead"):
        assert push(pair[1], how, user, "m1") == NOT_SENT
    pair.book.leases[2] = pair[2].registry.lease
    pair[2].login(NEWEST, "ann")
    assert push(pair[2], how, "ann", "m1") == SENT


def test_messages_to_one_user_keep_order_and_large_batches_are_looked_up_in_parts(
    pair: Several,
) -> None:
    _, ann = pair[2].login(NEWEST, "ann")
    words = [str(number) for number in range(2 * routing.BATCH_TARGETS + 1)]
    for word in words[:50]:
        pair[1].pushes.from_back_end(
            NEWEST, UserPush("ann", "m" + word if int(word) % 2 else "", word)
        )
    assert pair.texts(ann) == [words[:50]]
    pair[1].registry.calls.clear()
    targets = [UserPush("ann", f"n{word}", word) for word in words]
    assert pair[1].pushes.to_each(NEWEST, targets) == [SENT] * len(words)
    assert len(pair[1].registry.calls) == 6, "find and claim, three times"
    assert pair.texts(ann) == [words]
    assert pair[1].pushes.to_many(NEWEST, ["ann"] * len(words), "all", "x") == [
        SENT
    ] * len(words)


@ways
def test_while_the_registry_is_away_users_of_this_node_are_reached(
    pair: Several, how: str
) -> None:
    (_, ann), _ = pair[1].login(NEWEST, "ann"), pair[2].login(NEWEST, "bob")
    pair[1].registry.away = True
    assert [push(pair[1], how, "ann", msg_id) for msg_id in ("", "m1", "m1")] == [
        SENT,
        SENT,
        REPEATED,
    ]
    assert [push(pair[1], how, "bob", msg_id) for msg_id in ("", "m2")] == [UNKNOWN] * 2
    assert pair.texts(ann) == [["hello", "hello"]]


@ways
def test_until_all_nodes_have_registered_again_nobody_is_absent_and_every_device_is_reached(
    pair: Several, how: str
) -> None:
    _, ann = pair[2].login(NEWEST, "ann")
    phone = pair[1].login(MULTI, "eve")[1]
    laptop = pair[2].login(MULTI, "eve")[1]
    ref_of_phone = pair.book.refs[MULTI, "eve"][0]
    pair.book.flush()
    pair.book.unmarked.add(2)
    pair.book.refs[MULTI, "eve"] = [ref_of_phone]
    assert [push(pair[1], how, user, "m1") for user in ("ann", "nobody")] == [
        UNKNOWN
    ] * 2
    assert push(pair[1], how, "eve", "m2", app=MULTI) == SENT
    assert pair.texts(ann, phone, laptop) == [[], ["hello"], ["hello"]]
    assert pair[1].reach.to_user(MULTI, "eve", HELLO, "tablet") == UNKNOWN, (
        "no session of this device is known"
    )
    pair.book.unmarked.clear()
    assert push(pair[1], how, "ann", "m1") == NOT_SENT, "the id is free"


@pytest.mark.parametrize("lost", ["login", "flush", "refs"])
@ways
def test_a_session_unknown_to_the_registry_is_reached_on_its_node(
    pair: Several, how: str, lost: str
) -> None:
    """Not yet, or until the next look at it, after it was emptied."""
    pair[1].registry.away = lost == "login"
    _, ann = pair[1].login(NEWEST, "ann")
    pair[1].registry.away = False
    {"login": list, "flush": pair.book.flush, "refs": pair.book.refs.clear}[lost]()
    assert push(pair[1], how, "ann", "m1") == SENT
    assert pair.texts(ann) == [["hello"]]


@ways
def test_a_user_whose_node_is_known_as_away_is_failed_and_the_id_stays_free(
    pair: Several, how: str
) -> None:
    (_, ann), (_, here) = pair[1].login(NEWEST, "ann"), pair[2].login(MULTI, "ann")
    pair[1].login(MULTI, "ann")
    pair[2].rpc.cut.add(1)
    assert push(pair[2], how, "ann", "m1") == FAILED
    assert push(pair[2], how, "ann", "m2", app=MULTI) == SENT, (
        "reaching one session of several is enough"
    )
    pair[2].rpc.cut.clear()
    assert push(pair[2], how, "ann", "m1") == SENT
    assert pair.texts(ann, here) == [["hello"], ["hello"]]


# --- message ids --------------------------------------------------------------


@pytest.mark.parametrize("second", [1, 2])
def test_a_repeat_on_any_node_delivers_nothing(pair: Several, second: int) -> None:
    _, ann = pair[1].login(NEWEST, "ann")
    for how in WAYS:
        assert push(pair[1], how, "ann" if how != "app" else "bob", how) == SENT
        for again in WAYS:
            assert push(pair[second], again, "ann", how) == REPEATED
    pair[1].registry.calls.clear()
    assert push(pair[1], "user", "ann", "user") == REPEATED
    assert pair[1].registry.calls == [], "a repeat on the same node makes no query"
    assert pair.texts(ann) == [["hello"] * 4]


@pytest.mark.parametrize(("accepted", "outcome"), [(True, REPEATED), (False, SENT)])
@pytest.mark.parametrize("how", WAYS)
def test_a_repeat_waits_for_another_node(
    pair: Several, how: str, accepted: bool, outcome: Outcome
) -> None:
    _, ann = pair[1].login(NEWEST, "ann")
    claim = pair.book.claim("m1")
    waiting = gevent.spawn(push, pair[1], how, "bob" if how == "app" else "ann", "m1")
    gevent.sleep(0.12)
    assert not waiting.ready()
    pair[2].registry.settle(claim, accepted)
    assert waiting.get(timeout=60) == outcome
    assert pair.texts(ann) == [["hello"] if outcome == SENT else []]


def test_an_unsettled_claim_is_not_waited_for_long(
    pair: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (routing, idempotency):
        monkeypatch.setattr(module, "CLAIM_SECONDS", 0.1)
    pair[1].login(NEWEST, "ann")
    claim = pair.book.claim("m1")
    found = [
        push(pair[1], how, user, "m1")
        for how, user in (("user", "ann"), ("app", "bob"))
    ]
    pair[2].registry.settle(claim, accepted=False)
    found.append(push(pair[1], "user", "ann", "m1"))
    assert found == [FAILED, REPEATED, SENT], "nobody had accepted it"


@pytest.mark.parametrize("how", WAYS)
def test_a_delivery_that_fails_frees_the_id(pair: Several, how: str) -> None:
    _, ann = pair[1].login(NEWEST, "ann")
    fanout = pair[1].fanout
    user = "bob" if how == "app" else "ann"
    fanout.to_sessions = fanout.to_app = Mock(
        side_effect=RuntimeError("a fault of ours")
    )  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        push(pair[1], how, user, "m1")
    del fanout.to_sessions, fanout.to_app
    assert pair.book.ids == {}
    assert push(pair[1], how, user, "m1") == SENT
    assert pair.texts(ann) == [["hello"]]


# --- to all of an app ---------------------------------------------------------


@pytest.mark.parametrize("via", [1, 2])
def test_a_push_to_all_reaches_all_nodes_except_its_sender_whom_it_needs(
    pair: Several, via: int
) -> None:
    clients = [
        pair[epoch].login(MULTI, user)[1]
        for epoch, user in ((1, "ann"), (2, "bob"), (2, "ann"))
    ]
    _, elsewhere = pair[2].login(NEWEST, "cid")
    assert pair[via].pushes.to_app(MULTI, "", "m1", "of nobody") == NOT_SENT
    assert pair[via].pushes.to_app(MULTI, "ann", "m1", "hello") == SENT
    assert pair.texts(*clients, elsewhere) == [[], ["hello"], [], []]
    pair[via].registry.away = True
    assert pair[via].pushes.to_app(MULTI, "ann", "m2", "hello") == SENT, (
        "to all known nodes"
    )
    assert pair.texts(*clients) == [[], ["hello"], []]


@pytest.mark.parametrize("someone", [True, False])
def test_a_node_without_it_is_no_reason_to_send_it_again_if_someone_did(
    pair: Several, someone: bool
) -> None:
    clients = [
        pair[epoch].login(NEWEST, user)[1] for epoch, user in ((1, "ann"), (2, "bob"))
    ]
    sender = "cid" if someone else "ann"
    found = []
    for cut in ({2}, set()):
        pair[1].rpc.cut = cut
        found.append(push(pair[1], "app", sender, "m1"))
    assert found == ([PARTLY, REPEATED] if someone else [FAILED, SENT])
    assert pair.texts(*clients) == ([["hello"], []] if someone else [[], ["hello"]])


@pytest.mark.parametrize("answers", [True, False])
def test_a_node_whose_lease_is_overdue_gets_what_is_for_all_or_is_named(
    pair: Several, answers: bool
) -> None:
    """It may serve its users: the push to all says "partly", and a list names
    it, if it does not answer."""
    (_, ann), (connection, bob) = (
        pair[1].login(MULTI, "ann"),
        pair[2].login(MULTI, "bob"),
    )
    pair[2].connections.join(MULTI, pair[2].connections.id_of(connection), "lobby")
    pair.book.overdue[2] = pair.book.leases.pop(2)
    pair[1].rpc.cut = set() if answers else {2}
    assert push(pair[1], "app", "cid", "m1", app=MULTI) == (SENT if answers else PARTLY)
    published = pair[1].channels.publishing.publish(
        MULTI, "lobby", Event("msg", "cid", "to the lobby")
    )
    assert published == (SENT if answers else FAILED)
    assert pair.texts(ann, bob) == [
        ["hello"],
        ["hello", "to the lobby"] if answers else [],
    ]
    page = pair[1].presence.page(MULTI, None, 10)
    found = (["ann", "bob"], ()) if answers else (["ann"], ("127.0.0.1:9002",))
    assert (page.users, page.missing) == found
    assert push(pair[1], "user", "bob", "m2", app=MULTI) == NOT_SENT, (
        "the registry knows no session of his"
    )


# --- many at once -------------------------------------------------------------


def test_each_of_many_messages_has_its_own_outcome(pair: Several) -> None:
    (_, ann), (_, bob) = pair[1].login(NEWEST, "ann"), pair[2].login(NEWEST, "bob")
    pair[1].pushes.from_back_end(NEWEST, UserPush("ann", "old", "old"))
    pair[2].pushes.from_back_end(NEWEST, UserPush("bob", "older", "older"))
    steps = [
        ("ann", "m1", SENT),
        ("bob", "m2", SENT),
        ("nobody", "m3", NOT_SENT),
        ("ann", "old", REPEATED),
        ("bob", "older", REPEATED),
        ("", "m5", NOT_SENT),
        ("bob", "", SENT),
        ("bob", "", SENT),
        ("bob", "m2", REPEATED),  # the same id twice in one batch
        ("ann", "m3", SENT),  # nobody had it
    ]
    targets = [
        UserPush(user, id, str(number)) for number, (user, id, _) in enumerate(steps)
    ]
    greenlet = gevent.spawn(pair[1].pushes.to_each, NEWEST, targets)
    assert greenlet.get(timeout=60) == [outcome for *_, outcome in steps]
    assert pair.texts(ann, bob) == [["old", "0", "9"], ["older", "1", "6", "7"]]
    again = pair[2].pushes.to_each(
        NEWEST, [UserPush("ann", target.msg_id, "") for target in targets[:6]]
    )
    assert again == [REPEATED] * 5 + [SENT], "who was not reached left their id free"


def test_batches_with_the_same_ids_at_once_do_not_wait_for_each_other(
    pair: Several,
) -> None:
    _, ann = pair[2].login(NEWEST, "ann")
    targets = [UserPush("ann", f"m{number}", str(number)) for number in range(10)]
    calls = [(epoch, targets[::step]) for epoch in (1, 2) for step in (1, -1)]
    batches = [
        gevent.spawn(pair[epoch].pushes.to_each, NEWEST, each) for epoch, each in calls
    ]
    assert [outcome for batch in batches for outcome in batch.get(timeout=60)].count(
        SENT
    ) == 10
    assert [sorted(words) for words in pair.texts(ann)] == [[*"0123456789"]]


def test_a_batch_waits_for_an_id_that_another_node_is_busy_with_after_everything_else(
    pair: Several,
) -> None:
    _, ann = pair[1].login(NEWEST, "ann")
    claim = pair.book.claim("m1")
    targets = [UserPush("ann", "m1", "1"), UserPush("ann", "m2", "2")]
    batch = gevent.spawn(pair[1].pushes.to_each, NEWEST, targets)
    until(lambda: pair.book.ids.get("m2") == "1")
    assert not batch.ready()
    pair[2].registry.settle(claim, False)
    assert batch.get(timeout=60) == [SENT, SENT]
    assert pair.texts(ann) == [["2", "1"]]


def test_one_message_to_many_is_accepted_once_when_anybody_was_reached(
    pair: Several,
) -> None:
    (_, ann), (_, bob) = pair[1].login(NEWEST, "ann"), pair[2].login(NEWEST, "bob")
    to_many = pair[1].pushes.to_many
    assert to_many(NEWEST, ["nobody", ""], "m1", "no") == [NOT_SENT] * 2
    assert to_many(NEWEST, ["ann", "nobody", "bob", ""], "m1", "yes") == [
        SENT,
        NOT_SENT,
        SENT,
        NOT_SENT,
    ]
    assert [
        node.pushes.to_many(NEWEST, ["ann"], "m1", "again")
        for node in pair.nodes.values()
    ] == [None] * 2
    assert pair.texts(ann, bob) == [["yes"], ["yes"]]
    pair[1].rpc.cut.add(2)
    assert to_many(NEWEST, ["ann", "bob"], "m2", "x") == [SENT, FAILED]


@settings(deadline=None, max_examples=25)
@given(
    pushes=st.lists(
        st.tuples(
            st.integers(1, 2),
            st.sampled_from(WAYS),
            st.sampled_from(["ann", "bob", "nobody"]),
            st.sampled_from(["", "m1", "m2"]),
        ),
        max_size=10,
    )
)
def test_concurrent_pushes_with_one_id_are_accepted_once(
    pushes: list[tuple[int, str, str, str]],
) -> None:
    with Several(2) as pair:
        for epoch, user in ((1, "ann"), (2, "bob")):
            pair[epoch].login(NEWEST, user)
        calls = [
            gevent.spawn(push, pair[epoch], how, user, msg_id)
            for epoch, how, user, msg_id in pushes
        ]
        found = [call.get(timeout=60) for call in calls]
        for msg_id in ("m1", "m2"):
            outcomes = [
                outcome
                for outcome, each in zip(found, pushes, strict=True)
                if each[3] == msg_id
            ]
            assert outcomes.count(SENT) <= 1
            assert pair.book.ids.get(msg_id) == ("1" if SENT in outcomes else None)
