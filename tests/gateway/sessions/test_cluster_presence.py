"""Presence, the courier and the questions of several nodes; ids of
connections."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.nodes import ToApp, ToUser, encode, read
from imserver.gateway.cluster.rpc.counters import UnknownQuery
from imserver.gateway.process import Secret
from imserver.gateway.sessions.connection_ids import (
    ID_CHARACTERS,
    Address,
    ConnectionIds,
    new_birth,
)
from imserver.gateway.sessions.presence import NamesAnswer, NamesQuery
from tests.gateway.core.cluster_harness import HELLO, MULTI, NEWEST, Several

# --- presence -----------------------------------------------------------------


def test_every_node_answers_the_same(nodes: Several) -> None:
    for epoch, user in ((1, "ann"), (2, "bob"), (3, "cid"), (1, "dan")):
        nodes[epoch].login(NEWEST, user)
    nodes[2].login(MULTI, "eve")
    for node in nodes.nodes.values():
        online = node.presence.are_online(
            NEWEST, ["ann", "bob", "eve", "", "cid", "ann", "nobody"]
        )
        assert online == [True, True, False, False, True, True, False]
        assert node.presence.is_online([MULTI], "eve")
        page = node.presence.page(NEWEST, None, 10)
        assert (page.total, sorted(page.users)) == (4, ["ann", "bob", "cid", "dan"])
        assert (page.more, page.missing) == (False, ())
        assert node.presence.page("999", None, 10).users == []


def test_many_users_or_apps_are_one_question_and_users_of_this_node_none(
    nodes: Several,
) -> None:
    nodes[1].login(NEWEST, "ann")
    nodes[2].login(NEWEST, "bob")
    presence = nodes[1].presence
    calls = nodes[1].registry.calls
    calls.clear()
    assert presence.is_online([MULTI, NEWEST], "ann")
    assert presence.are_online(NEWEST, []) == []
    apps = [MULTI, NEWEST, *map(str, range(100))]
    assert not presence.is_online(apps, "")
    assert not presence.is_online([], "bob")
    assert calls == []
    presence.are_online(NEWEST, [f"u{number}" for number in range(1000)])
    assert [presence.is_online(apps, user) for user in ("bob", "nobody")] == [
        True,
        False,
    ]
    assert calls == ["find", "find_in_apps", "find_in_apps"]


def test_while_the_registry_is_away_nodes_are_asked_and_silent_ones_named_unless_dead(
    nodes: Several,
) -> None:
    for epoch, user in ((1, "ann"), (2, "bob")):
        nodes[epoch].login(NEWEST, user)
    nodes[1].registry.away = True
    presence = nodes[1].presence
    assert presence.are_online(NEWEST, ["ann", "bob", "nobody"]) == [True, True, False]
    assert [
        presence.is_online(apps, "bob") for apps in ([NEWEST], [MULTI, NEWEST])
    ] == [True, False]
    nodes[1].rpc.cut.add(2)
    found = presence.online(NEWEST, ["ann", "bob"])
    assert (found.users, found.missing) == ([True, False], ("127.0.0.1:9002",))
    for missing in (("127.0.0.1:9002",), ()):
        page = presence.page(NEWEST, None, 10)
        assert (page.users, page.missing) == (["ann"], missing)
        nodes.book.leases.pop(2, None)


def test_nodes_that_have_not_registered_all_sessions_again_are_asked(
    nodes: Several,
) -> None:
    for epoch, user in ((2, "bob"), (3, "cid")):
        nodes[epoch].login(NEWEST, user)
    del nodes.book.refs[NEWEST, "bob"]
    nodes.book.unmarked.add(2)
    presence = nodes[1].presence
    assert presence.are_online(NEWEST, ["bob", "cid", "nobody"]) == [True, True, False]
    assert [
        presence.is_online([MULTI, NEWEST], user) for user in ("bob", "cid", "nobody")
    ] == [
        True,
        True,
        False,
    ]
    nodes[1].rpc.cut.add(2)
    assert presence.online(NEWEST, ["bob"]).missing == ("127.0.0.1:9002",)


@settings(deadline=None, max_examples=30)
@given(
    users=st.lists(
        st.tuples(st.integers(1, 3), st.text("abcé你", min_size=1, max_size=3)),
        max_size=25,
    ),
    limit=st.integers(1, 7),
    query=st.integers(1, 3),
)
def test_pages_hold_every_user_once_in_order(
    users: list[tuple[int, str]], limit: int, query: int
) -> None:
    with Several(3) as nodes:
        for epoch, user in users:
            nodes[epoch].login(MULTI, user)
        everybody = {user for _, user in users}
        everywhere = len(set(users))
        found: list[str] = []
        for _ in range(len(users) + 1):
            page = nodes[query].presence.page(
                MULTI, found[-1] if found else None, limit
            )
            assert len(page.users) <= limit
            assert page.total in (len(everybody), everywhere), (
                "who is on several nodes may count again"
            )
            found += page.users
            if not page.more:
                break
        assert (page.more, sorted(found)) == (False, sorted(everybody))
        if len(everybody) > limit:
            assert found == sorted(found)
        else:
            assert page.total == len(everybody)


# --- the courier --------------------------------------------------------------


def test_an_item_to_all_is_encoded_once_and_reaches_every_other_node(
    nodes: Several,
) -> None:
    clients = [nodes[epoch].login(NEWEST, f"u{epoch}")[1] for epoch in (1, 2, 3)]
    courier = nodes[1].node_messages
    nodes[1].rpc.sent.clear()
    assert courier.broadcast(ToApp(NEWEST, "", HELLO)) == 0
    (first, one), (second, other) = nodes[1].rpc.sent
    assert ({first, second}, one is other) == ({2, 3}, True)
    assert nodes.texts(*clients) == [[], ["hello"], ["hello"]]
    nodes[1].rpc.cut |= {2, 3}
    assert courier.broadcast(ToApp(NEWEST, "", HELLO)) == 2, (
        "how many do not get it is known"
    )
    for epoch in (2, 99):
        assert not courier.send(epoch, ToUser(NEWEST, "ann", HELLO)), (
            "nobody lives under that epoch"
        )


def test_broken_and_foreign_items_do_the_others_no_harm(
    nodes: Several, caplog: pytest.LogCaptureFixture
) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")

    def deliver(message: ToUser) -> None:
        if message.user == "eve":
            raise RuntimeError("a fault of ours")
        nodes[1].rerouting.deliver(message)

    nodes[1].node_messages.handle({ToUser: deliver})
    users = [(NEWEST, "ann"), (NEWEST, "eve"), ("999", "ann"), (NEWEST, "nobody")]
    good, *others = [encode(ToUser(*user, HELLO)) for user in users]
    broken = [b"\xc1", encode(["z", "101"]), b"\x91" * 10_000 + b"\x90"]
    nodes[1].node_messages.received(
        2, [good, *broken, *others, encode(ToApp("999", "", HELLO)), good]
    )
    assert nodes.texts(ann) == [["hello"] * 2]
    assert nodes[1].node_messages.unreadable == 3
    assert "node message ToUser from epoch 2 failed" in caplog.text
    assert sum("epoch 2" in record.getMessage() for record in caplog.records) == 4


# --- questions ----------------------------------------------------------------


def test_questions_are_answered_by_their_rows_and_what_cannot_be_read_is_refused_or_left_out(
    nodes: Several, caplog: pytest.LogCaptureFixture
) -> None:
    nodes[1].login(NEWEST, "ann")
    queries = nodes[1].queries
    answers = {
        "x": queries.answer("names", encode(NamesQuery(NEWEST, None, 10))),
        "b": b"\xc1",
    }
    assert read({**answers, "c": encode("three")}, NamesAnswer) == {
        "x": NamesAnswer(1, ["ann"])
    }
    for node in "bc":
        assert f"the answer of {node} is not readable" in caplog.text
    with pytest.raises(UnknownQuery):
        queries.answer("no such", b"")
    for body in (b"", encode([1, 2, "x"])):
        with pytest.raises(ValueError, match=r".*"):
            queries.answer("names", body)


SECRET = b"s" * 32
numbers = st.integers(1, (1 << 48) - 1)
OURS = ConnectionIds(Secret(SECRET), 77)
URL_SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(birth=numbers, number=numbers)
def test_an_id_shows_any_node_with_the_secret_where_its_connection_is(
    birth: int, number: int
) -> None:
    ids = ConnectionIds(Secret(SECRET), birth)
    connection_id = ids.id_of(number)
    assert connection_id == ids.id_of(number)
    assert (len(connection_id), set(connection_id) <= URL_SAFE) == (ID_CHARACTERS, True)
    other = Secret(b"t" * 32)
    changing = Secret(b"t" * 32, SECRET)
    for reader, found in ((Secret(SECRET), True), (changing, True), (other, False)):
        address = ConnectionIds(reader, 77).read(connection_id)
        assert address == (Address(birth, number) if found else None)
    assert OURS.read(ConnectionIds(changing, birth).id_of(number)) is None, (
        "none is made with the second one"
    )


@given(
    number=numbers,
    index=st.integers(0, ID_CHARACTERS - 1),
    letter=st.sampled_from(sorted(URL_SAFE)),
    other=st.sampled_from(
        ["A" * ID_CHARACTERS, "=" * 38, "马" * 38, "A" * 37, "\ud800"]
    )
    | st.text(),
)
def test_a_changed_id_and_other_text_is_none(
    number: int, index: int, letter: str, other: str
) -> None:
    connection_id = OURS.id_of(number)
    changed = connection_id[:index] + letter + connection_id[index + 1 :]
    assert OURS.read(changed) == (
        Address(77, number) if changed == connection_id else None
    )
    assert OURS.read(other) is None


def test_ids_of_one_node_are_new_and_show_nothing_in_common() -> None:
    """Neither the node nor the order of connections can be seen: no two
    characters stay where they are."""
    ids = [OURS.id_of(OURS.next_number()) for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(
        len({text[index] for text in ids}) > 8 for index in range(ID_CHARACTERS - 1)
    )
    births = {new_birth() for _ in range(1000)}
    assert len(births) == 1000
    assert all(0 < birth < 1 << 48 for birth in births)
