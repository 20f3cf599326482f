"""Pushes of several nodes: where a message goes, and that its id is accepted once."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.registry import Claim
from imserver.gateway.model import Outcome
from imserver.gateway.push import routing as module
from imserver.gateway.push.push import UserPush
from tests.gateway.core.cluster_harness import MULTI, NEWEST, ClusterHarness, Several, received_since
from tests.gateway.transport.harness import Client, look, until

SENT, NOT_SENT, REPEATED = Outcome.SENT, Outcome.NOT_SENT, Outcome.REPEATED
FAILED, PARTLY, UNKNOWN = Outcome.FAILED, Outcome.PARTLY, Outcome.UNKNOWN


@pytest.fixture
def nodes() -> Iterator[Several]:
    with Several(2) as several:
        yield several


def texts(nodes: Several, *clients: Client) -> list[list[str]]:
    """The messages that each client was told."""
    nodes.settle(*clients)
    return [[text for kind, _, text in received_since(client) if kind == "msg"] for client in clients]


def bounded(call: Any, *arguments: Any) -> Any:
    """A call that must not hang."""
    greenlet = gevent.spawn(call, *arguments)
    greenlet.join(60)
    assert greenlet.ready(), f"{call} hangs"
    return greenlet.get()


# --- to one user --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("msg_id", ["", "m1"])
@pytest.mark.parametrize("via", [1, 2])
def test_a_user_is_reached_from_every_node_by_one_question(nodes: Several, via: int, msg_id: str) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    _, bob = nodes[1].login(NEWEST, "bob")
    nodes[via].registry.calls.clear()
    assert nodes[via].pushes.from_back_end(NEWEST, UserPush("ann", msg_id, "hello")) == SENT
    assert len(nodes[via].registry.calls) == 1
    assert texts(nodes, ann, bob) == [["hello"], []]
    assert [node.metrics.pushes.total for node in nodes.nodes.values()] == [int(via == 1), int(via == 2)]


def test_only_the_newest_session_is_reached(nodes: Several) -> None:
    _, older = nodes[1].login(NEWEST, "ann")
    _, newer = nodes[2].login(NEWEST, "ann")
    nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "", "hello"))
    nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "", "again"))
    assert texts(nodes, older, newer) == [[], ["hello", "again"]]


def test_all_sessions_of_a_user_on_all_nodes_are_reached_once(nodes: Several) -> None:
    clients = [nodes[epoch].login(MULTI, "ann")[1] for epoch in (1, 2, 2)]
    assert nodes[1].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello")) == SENT
    assert texts(nodes, *clients) == [["hello"]] * 3


def test_an_absent_user_or_none_is_not_reached_and_the_id_stays_free(nodes: Several) -> None:
    for user in ("ann", ""):
        assert nodes[1].pushes.from_back_end(NEWEST, UserPush(user, "m1", "hello")) == NOT_SENT
    nodes[2].login(NEWEST, "ann")
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT


def test_messages_to_one_user_keep_their_order(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    words = [str(number) for number in range(50)]
    for number, word in enumerate(words):
        nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", f"m{number}" if number % 2 else "", word))
    assert texts(nodes, ann) == [words]


def test_while_the_registry_is_away_users_of_this_node_are_reached(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[2].login(NEWEST, "bob")
    nodes[1].registry.away = True
    for msg_id in ("", "m1"):
        assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", msg_id, "hello")) == SENT
    for msg_id in ("", "m2"):
        assert nodes[1].pushes.from_back_end(NEWEST, UserPush("bob", msg_id, "hello")) == UNKNOWN
    assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == REPEATED, (
        "known on this node"
    )
    assert texts(nodes, ann) == [["hello", "hello"]]


def test_a_session_that_the_registry_does_not_know_yet_is_reached_on_its_node(nodes: Several) -> None:
    nodes[1].registry.away = True
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[1].registry.away = False
    assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert texts(nodes, ann) == [["hello"]]


def test_after_a_flush_users_of_this_node_are_reached_at_once(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes.book.flush()
    assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert texts(nodes, ann) == [["hello"]]


def test_a_local_user_unknown_to_the_registry_is_reached(nodes: Several) -> None:
    """Until the next look the node takes its sessions for registered."""
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes.book.refs.clear()
    assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert nodes[1].pushes.to_each(NEWEST, [UserPush("ann", "m2", "each")]) == [SENT]
    assert texts(nodes, ann) == [["hello", "each"]]


def test_a_user_whose_node_is_known_to_be_away_is_failed_and_the_id_stays_free(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[2].rpc.cut.add(1)
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == FAILED
    nodes[2].rpc.cut.clear()
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert texts(nodes, ann) == [["hello"]]


def test_reaching_one_session_of_several_is_enough(nodes: Several) -> None:
    _, here = nodes[2].login(MULTI, "ann")
    nodes[1].login(MULTI, "ann")
    nodes[2].rpc.cut.add(1)
    assert nodes[2].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello")) == SENT
    assert texts(nodes, here) == [["hello"]]


def test_a_session_on_a_dead_node_is_not_reached(nodes: Several) -> None:
    nodes[1].login(NEWEST, "ann")
    del nodes.book.leases[1]
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == NOT_SENT
    nodes.book.leases[1] = nodes[1].registry.lease


# --- message ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [1, 2])
def test_a_repeat_on_any_node_delivers_nothing(nodes: Several, second: int) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    assert nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert nodes[second].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == REPEATED
    assert nodes[second].pushes.to_app(NEWEST, "bob", "m1", "hello") == REPEATED
    assert texts(nodes, ann) == [["hello"]]


def test_a_repeat_on_the_same_node_makes_no_query(nodes: Several) -> None:
    nodes[1].login(NEWEST, "ann")
    nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello"))
    nodes[1].registry.calls.clear()
    nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello"))
    assert nodes[1].registry.calls == []


def test_messages_without_an_id_are_never_repeats(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    for epoch in (1, 2, 1):
        assert nodes[epoch].pushes.from_back_end(NEWEST, UserPush("ann", "", "hello")) == SENT
        assert nodes[epoch].pushes.to_app(NEWEST, "bob", "", "all") == SENT
    assert texts(nodes, ann) == [["hello", "all"] * 3]


@pytest.mark.parametrize("shared", [True, False])
def test_an_id_counts_for_all_apps_or_for_each_by_itself(shared: bool) -> None:
    with Several(2, shared_ids=shared) as nodes:
        for app in (NEWEST, MULTI):
            nodes[1].login(app, "ann")
        nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello"))
        outcome = nodes[2].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello"))
        assert outcome == (REPEATED if shared else SENT)


@pytest.mark.parametrize(("accepted", "outcome"), [(True, REPEATED), (False, SENT)])
def test_a_repeat_waits_for_the_outcome_on_another_node(
    nodes: Several, accepted: bool, outcome: Outcome
) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    claim = nodes.book.claim("m1")
    push = gevent.spawn(nodes[1].pushes.from_back_end, NEWEST, UserPush("ann", "m1", "hello"))
    gevent.sleep(0.12)
    assert not push.ready()
    nodes[2].registry.settle(claim, accepted)
    assert push.get(timeout=60) == outcome
    assert texts(nodes, ann) == [["hello"] if outcome == SENT else []]


@pytest.mark.parametrize(("accepted", "outcome"), [(True, REPEATED), (False, SENT)])
def test_a_repeat_to_all_waits_too(nodes: Several, accepted: bool, outcome: Outcome) -> None:
    claim = nodes.book.claim("m1")
    push = gevent.spawn(nodes[1].pushes.to_app, NEWEST, "bob", "m1", "hello")
    many = gevent.spawn(nodes[1].pushes.to_many, NEWEST, ["ann"], "m1", "hello")
    gevent.sleep(0.12)
    assert not push.ready()
    assert not many.ready()
    nodes[2].registry.settle(claim, accepted)
    assert push.get(timeout=60) == outcome
    assert many.get(timeout=60) is None


def test_a_claim_that_is_never_settled_is_not_waited_for_for_ever(
    nodes: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLAIM_SECONDS", 0.1)
    nodes[1].login(NEWEST, "ann")
    claim = nodes.book.claim("m1")
    monkeypatch.setattr("imserver.gateway.push.idempotency.CLAIM_SECONDS", 0.1)
    to_user, to_app = nodes[1].pushes.from_back_end, nodes[1].pushes.to_app
    assert bounded(to_user, NEWEST, UserPush("ann", "m1", "hello")) == FAILED
    assert bounded(to_app, NEWEST, "bob", "m1", "hello") == REPEATED
    nodes[2].registry.settle(claim, accepted=False)
    assert bounded(to_user, NEWEST, UserPush("ann", "m1", "hello")) == SENT, "nobody had accepted it"


def test_the_same_message_on_both_nodes_at_once_is_delivered_once(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    pushes = [
        gevent.spawn(nodes[epoch].pushes.from_back_end, NEWEST, UserPush("ann", "m1", "hello"))
        for epoch in (1, 2, 1, 2, 2)
    ]
    assert sorted(push.get(timeout=60) for push in pushes) == [SENT] + [REPEATED] * 4
    assert texts(nodes, ann) == [["hello"]]


def test_a_delivery_that_fails_frees_the_id(nodes: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")

    def fail(*_: Any) -> int:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr(nodes[1].fanout, "to_sessions", fail)
        broken.setattr(nodes[1].fanout, "to_app", fail)
        with pytest.raises(RuntimeError):
            nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello"))
        with pytest.raises(RuntimeError):
            nodes[1].pushes.to_app(NEWEST, "bob", "m2", "hello")
        with pytest.raises(RuntimeError):
            nodes[1].pushes.to_each(NEWEST, [UserPush("ann", "m3", "hello")])
        with pytest.raises(RuntimeError):
            nodes[1].pushes.to_many(NEWEST, ["ann"], "m4", "hello")
    assert nodes.book.ids == {}
    assert bounded(nodes[1].pushes.from_back_end, NEWEST, UserPush("ann", "m1", "hello")) == SENT
    assert bounded(nodes[1].pushes.to_app, NEWEST, "bob", "m2", "hello") == SENT
    assert bounded(nodes[1].pushes.to_each, NEWEST, [UserPush("ann", "m3", "hello")]) == [SENT]
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["ann"], "m4", "hello") == [SENT]
    assert texts(nodes, ann) == [["hello"] * 4]


# --- to all of an app ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", [1, 2])
def test_a_push_to_all_reaches_all_nodes_except_the_sender(nodes: Several, via: int) -> None:
    clients = [nodes[epoch].login(MULTI, user)[1] for epoch, user in ((1, "ann"), (2, "bob"), (2, "ann"))]
    _, elsewhere = nodes[2].login(NEWEST, "cid")
    assert nodes[via].pushes.to_app(MULTI, "ann", "m1", "hello") == SENT
    assert texts(nodes, *clients, elsewhere) == [[], ["hello"], [], []]


def test_without_a_sender_nothing_is_sent_and_the_id_stays_free(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    assert nodes[1].pushes.to_app(NEWEST, "", "m1", "hello") == NOT_SENT
    assert nodes[1].pushes.to_app(NEWEST, "bob", "m1", "hello") == SENT
    assert texts(nodes, ann) == [["hello"]]


def test_a_node_that_does_not_get_it_is_no_reason_to_send_it_again(nodes: Several) -> None:
    _, here = nodes[1].login(NEWEST, "ann")
    _, there = nodes[2].login(NEWEST, "bob")
    nodes[1].rpc.cut.add(2)
    assert nodes[1].pushes.to_app(NEWEST, "cid", "m1", "hello") == PARTLY
    assert nodes[1].pushes.to_app(NEWEST, "cid", "m1", "hello") == REPEATED
    assert texts(nodes, here, there) == [["hello"], []]


def test_a_push_to_all_that_no_node_takes_is_failed_and_the_id_stays_free(nodes: Several) -> None:
    _, here = nodes[1].login(NEWEST, "cid")
    _, there = nodes[2].login(NEWEST, "bob")
    nodes[1].rpc.cut.add(2)
    assert nodes[1].pushes.to_app(NEWEST, "cid", "m1", "hello") == FAILED
    nodes[1].rpc.cut.clear()
    assert nodes[1].pushes.to_app(NEWEST, "cid", "m1", "hello") == SENT
    assert texts(nodes, here, there) == [[], ["hello"]]


def test_without_the_registry_all_known_nodes_get_the_push(nodes: Several) -> None:
    _, there = nodes[2].login(NEWEST, "bob")
    nodes[1].registry.away = True
    assert nodes[1].pushes.to_app(NEWEST, "cid", "m1", "hello") == SENT
    assert texts(nodes, there) == [["hello"]]


# --- many at once -------------------------------------------------------------------------------------------


def test_each_of_many_messages_has_its_own_outcome(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    _, bob = nodes[2].login(NEWEST, "bob")
    nodes[1].pushes.from_back_end(NEWEST, UserPush("ann", "old", "old"))
    nodes[2].pushes.from_back_end(NEWEST, UserPush("bob", "older", "older"))
    targets = [
        UserPush("ann", "m1", "1"),
        UserPush("bob", "m2", "2"),
        UserPush("nobody", "m3", "3"),
        UserPush("ann", "old", "4"),
        UserPush("bob", "older", "5"),
        UserPush("", "m5", "6"),
        UserPush("bob", "", "7"),
    ]
    outcomes = bounded(nodes[1].pushes.to_each, NEWEST, targets)
    assert outcomes == [SENT, SENT, NOT_SENT, REPEATED, REPEATED, NOT_SENT, SENT]
    assert texts(nodes, ann, bob) == [["old", "1"], ["older", "2", "7"]]
    again = bounded(
        nodes[2].pushes.to_each, NEWEST, [UserPush("ann", target.msg_id, "") for target in targets[:3]]
    )
    assert again == [REPEATED, REPEATED, SENT], "who was not reached left their id free"


def test_the_same_id_twice_in_one_batch_is_delivered_once(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    targets = [UserPush("ann", "m1", "1"), UserPush("ann", "m1", "2"), UserPush("ann", "m2", "3")]
    assert bounded(nodes[1].pushes.to_each, NEWEST, targets) == [SENT, REPEATED, SENT]
    assert texts(nodes, ann) == [["1", "3"]]


def test_an_id_that_reached_no_user_may_be_used_again_in_the_same_batch(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    targets = [UserPush("nobody", "m1", "1"), UserPush("ann", "m1", "2")]
    assert bounded(nodes[1].pushes.to_each, NEWEST, targets) == [NOT_SENT, SENT]
    assert texts(nodes, ann) == [["2"]]


def test_batches_with_the_same_ids_at_once_do_not_wait_for_each_other(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    targets = [UserPush("ann", f"m{number}", str(number)) for number in range(10)]
    batches = [
        gevent.spawn(nodes[epoch].pushes.to_each, NEWEST, targets[::step])
        for epoch, step in ((1, 1), (1, -1), (2, 1), (2, -1))
    ]
    outcomes = [batch.get(timeout=60) for batch in batches]
    assert sum(outcome == SENT for batch in outcomes for outcome in batch) == 10
    (words,) = texts(nodes, ann)
    assert sorted(words) == sorted(str(number) for number in range(10))


def test_a_batch_waits_for_an_id_that_another_node_is_busy_with_after_everything_else(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    claim = nodes.book.claim("m1")
    targets = [UserPush("ann", "m1", "1"), UserPush("ann", "m2", "2")]
    batch = gevent.spawn(nodes[1].pushes.to_each, NEWEST, targets)
    until(lambda: nodes.book.ids.get("m2") == "1")
    assert not batch.ready()
    nodes[2].registry.settle(claim, False)
    assert batch.get(timeout=60) == [SENT, SENT]
    assert texts(nodes, ann) == [["2", "1"]]


def test_large_batches_are_looked_up_in_parts(nodes: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TARGETS", 10)
    _, ann = nodes[2].login(NEWEST, "ann")
    nodes[1].registry.calls.clear()
    targets = [UserPush("ann", f"m{number}", str(number)) for number in range(35)]
    assert bounded(nodes[1].pushes.to_each, NEWEST, targets) == [SENT] * 35
    assert len(nodes[1].registry.calls) == 8, "find and claim, four times"
    assert texts(nodes, ann) == [[str(number) for number in range(35)]]
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["ann"] * 35, "all", "x") == [SENT] * 35


def test_a_batch_while_the_registry_is_away_reaches_users_of_this_node(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[2].login(NEWEST, "bob")
    nodes[1].registry.away = True
    targets = [UserPush("ann", "m1", "1"), UserPush("bob", "m2", "2")]
    assert bounded(nodes[1].pushes.to_each, NEWEST, targets) == [SENT, UNKNOWN]
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["ann", "bob"], "m3", "3") == [SENT, UNKNOWN]
    assert texts(nodes, ann) == [["1", "3"]]


def test_a_batch_reaches_a_session_that_the_registry_does_not_know_yet(nodes: Several) -> None:
    nodes[1].registry.away = True
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[1].registry.away = False
    assert bounded(nodes[1].pushes.to_each, NEWEST, [UserPush("ann", "m1", "1")]) == [SENT]
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["ann"], "m2", "2") == [SENT]
    assert texts(nodes, ann) == [["1", "2"]]


def test_one_message_to_many_is_accepted_once_when_anybody_was_reached(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    _, bob = nodes[2].login(NEWEST, "bob")
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["nobody", ""], "m1", "no") == [NOT_SENT] * 2
    outcomes = bounded(nodes[1].pushes.to_many, NEWEST, ["ann", "nobody", "bob", ""], "m1", "yes")
    assert outcomes == [SENT, NOT_SENT, SENT, NOT_SENT]
    for epoch in (1, 2):
        assert bounded(nodes[epoch].pushes.to_many, NEWEST, ["ann"], "m1", "again") is None
    assert texts(nodes, ann, bob) == [["yes"], ["yes"]]


def test_one_message_to_many_of_whom_some_cannot_be_reached(nodes: Several) -> None:
    nodes[1].login(NEWEST, "ann")
    nodes[2].login(NEWEST, "bob")
    nodes[1].rpc.cut.add(2)
    assert bounded(nodes[1].pushes.to_many, NEWEST, ["ann", "bob"], "m1", "x") == [SENT, FAILED]


@settings(deadline=None, max_examples=25)
@given(
    pushes=st.lists(
        st.tuples(
            st.integers(1, 2),
            st.sampled_from(["user", "app", "each", "many"]),
            st.sampled_from(["ann", "bob", "nobody"]),
            st.sampled_from(["", "m1", "m2"]),
        ),
        max_size=10,
    )
)
def test_concurrent_pushes_with_one_id_are_accepted_once(pushes: list[tuple[int, str, str, str]]) -> None:
    with Several(2) as nodes:
        _, ann = nodes[1].login(NEWEST, "ann")
        _, bob = nodes[2].login(NEWEST, "bob")
        calls = [gevent.spawn(_push, nodes[epoch], how, user, msg_id) for epoch, how, user, msg_id in pushes]
        gevent.joinall(calls, timeout=60, raise_error=True)
        assert all(call.ready() for call in calls)
        for msg_id in ("m1", "m2"):
            accepted = [call.get() for call, push in zip(calls, pushes, strict=True) if push[3] == msg_id]
            assert sum(outcome == SENT for outcome in accepted) <= 1
            if SENT in accepted:
                assert nodes.book.ids[msg_id] == "1"
            else:
                assert msg_id not in nodes.book.ids
        look()
        assert len(texts(nodes, ann, bob)) == 2


def _push(node: ClusterHarness, how: str, user: str, msg_id: str) -> Outcome:
    if how == "user":
        return node.pushes.from_back_end(NEWEST, UserPush(user, msg_id, "x"))
    if how == "app":
        return node.pushes.to_app(NEWEST, user, msg_id, "x")
    if how == "each":
        return node.pushes.to_each(NEWEST, [UserPush(user, msg_id, "x")])[0]
    outcomes = node.pushes.to_many(NEWEST, [user], msg_id, "x")
    return REPEATED if outcomes is None else outcomes[0]


def test_a_claim_of_nothing_is_mine(nodes: Several) -> None:
    """The registry's answer for a user who is nowhere: nothing stays claimed."""
    answer = nodes[1].registry.find_and_claim(NEWEST, "nobody", "m1")
    assert answer == ((), Claim("m1", "mine"))
    assert nodes.book.ids == {}
