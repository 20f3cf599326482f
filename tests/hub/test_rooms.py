"""Rooms of a node: who is in them, in which order, and what they are told."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.hub.hub import RoomMembership, rooms_of
from imserver.model import Event
from imserver.transport.connection import Connection
from tests.hub.world import World, told
from tests.transport.rig import Client, turn

MULTI, NEWEST = "102", "101"
HELLO = Event("msg", "eve", "hello", "7")


@pytest.fixture
def world() -> Iterator[World]:
    with World() as one:
        yield one


@pytest.fixture
def membership(world: World) -> RoomMembership:
    return world.rooms.membership


def join(world: World, connection: Connection, *rooms: str) -> None:
    app = world.hub.apps[connection.app or ""]
    for room in rooms:
        assert world.rooms.membership.join(app, room, connection)


def texts(*clients: Client) -> list[list[str]]:
    """What the clients were told since the last time, without notices."""
    found = []
    turn()
    for client in clients:
        client.probe(b"settled")
        found.append([text for kind, _, text in told(client) if kind == "msg"])
        client.frames.clear()
    return found


def members(world: World, room: str, app: str = MULTI) -> list[str]:
    found = world.hub.apps[app].rooms.get(room)
    return [] if found is None else [connection.user or "" for connection in found.members]


# --- membership ---------------------------------------------------------------------------------------------


def test_members_stand_in_the_order_of_joining(world: World, membership: RoomMembership) -> None:
    connections = [world.login(MULTI, user)[0] for user in ("dan", "ann", "cid", "bob")]
    for connection in connections:
        join(world, connection, "lobby")
    assert members(world, "lobby") == ["dan", "ann", "cid", "bob"]
    times = list(world.hub.apps[MULTI].rooms["lobby"].members.values())
    assert times == sorted(set(times))
    assert (membership.rooms, membership.members) == (1, 4)


def test_joining_again_changes_nothing(world: World, membership: RoomMembership) -> None:
    ann, bob = (world.login(MULTI, user)[0] for user in ("ann", "bob"))
    join(world, ann, "lobby")
    join(world, bob, "lobby")
    before = dict(world.hub.apps[MULTI].rooms["lobby"].members)
    assert membership.join(world.hub.apps[MULTI], "lobby", ann) is False
    assert world.hub.apps[MULTI].rooms["lobby"].members == before


def test_a_room_is_gone_with_its_last_member(world: World, membership: RoomMembership) -> None:
    ann, bob = (world.login(MULTI, user)[0] for user in ("ann", "bob"))
    app = world.hub.apps[MULTI]
    join(world, ann, "lobby", "garden")
    join(world, bob, "lobby")
    assert membership.leave(app, "lobby", ann)
    assert members(world, "lobby") == ["bob"]
    assert membership.leave(app, "lobby", bob)
    assert list(app.rooms) == ["garden"]
    assert (membership.rooms, membership.members) == (1, 1)


def test_who_is_not_in_a_room_does_not_leave_it(world: World, membership: RoomMembership) -> None:
    ann, bob = (world.login(MULTI, user)[0] for user in ("ann", "bob"))
    join(world, ann, "lobby")
    app = world.hub.apps[MULTI]
    assert not membership.leave(app, "lobby", bob)
    assert not membership.leave(app, "garden", ann)
    assert members(world, "lobby") == ["ann"]


def test_a_connection_of_another_app_or_without_a_session_does_not_join(
    world: World, membership: RoomMembership
) -> None:
    elsewhere, _ = world.login(NEWEST, "ann")
    nobody, _ = world.connect()
    for connection in (elsewhere, nobody):
        assert not membership.join(world.hub.apps[MULTI], "lobby", connection)
        assert rooms_of(connection) == ()
    assert world.hub.apps[MULTI].rooms == {}


def test_a_connection_that_has_ended_does_not_join(world: World, membership: RoomMembership) -> None:
    ann, _ = world.login(MULTI, "ann")
    ann.close(1000)
    assert not membership.join(world.hub.apps[MULTI], "lobby", ann)
    assert world.hub.apps[MULTI].rooms == {}


def test_an_idle_connection_holds_nothing_for_rooms_and_one_room_needs_no_dict(world: World) -> None:
    ann, _ = world.login(MULTI, "ann")
    assert ann.rooms is None
    join(world, ann, "lobby")
    assert ann.rooms is world.hub.apps[MULTI].rooms["lobby"]


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "all"]), st.integers(0, 3), st.sampled_from("abc")),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_both_sides_of_membership_always_agree(actions: list[tuple[str, int, str]]) -> None:
    with World() as world:
        app, membership = world.hub.apps[MULTI], world.rooms.membership
        connections = [world.login(MULTI, f"u{n}")[0] for n in range(4)]
        model: dict[str, list[int]] = {}
        order: list[list[str]] = [[] for _ in connections]
        for action, who, room in actions:
            inside = who in model.get(room, [])
            if action == "join":
                assert membership.join(app, room, connections[who]) is not inside
                if not inside:
                    model.setdefault(room, []).append(who)
                    order[who].append(room)
            elif action == "leave":
                assert membership.leave(app, room, connections[who]) is inside
                if inside:
                    model[room].remove(who)
                    order[who].remove(room)
            else:
                left = membership.leave_all(connections[who])
                assert [each.name for each in left] == order[who]
                for each in order[who]:
                    model[each].remove(who)
                order[who] = []
            model = {name: inside for name, inside in model.items() if inside}
            assert {name: members(world, name) for name in app.rooms} == {
                name: [f"u{n}" for n in inside] for name, inside in model.items()
            }
            for connection, names in zip(connections, order, strict=True):
                assert [each.name for each in rooms_of(connection)] == names
            assert membership.rooms == len(model)
            assert membership.members == sum(map(len, model.values()))


# --- fan-out ------------------------------------------------------------------------------------------------


def test_a_room_is_told_and_nobody_else(world: World) -> None:
    (ann, a), (bob, b), (_, c) = (world.login(MULTI, user) for user in ("ann", "bob", "cid"))
    join(world, ann, "lobby")
    join(world, bob, "lobby")
    texts(a, b, c)
    assert world.fanout.to_room(world.hub.apps[MULTI].rooms["lobby"], HELLO) == 2
    assert texts(a, b, c) == [["hello"], ["hello"], []]


def test_each_connection_of_a_user_in_a_room_is_told_once(world: World) -> None:
    (phone, p), (desk, d), (_, other) = (
        world.login(MULTI, "ann", device=name) for name in ("phone", "desk", "")
    )
    join(world, phone, "lobby")
    join(world, desk, "lobby")
    texts(p, d, other)
    assert world.fanout.to_room(world.hub.apps[MULTI].rooms["lobby"], HELLO) == 2
    assert texts(p, d, other) == [["hello"], ["hello"], []]


def test_users_and_a_connection_can_be_left_out(world: World) -> None:
    people = [world.login(MULTI, user) for user in ("ann", "bob", "cid", "dan")]
    clients = [client for _, client in people]
    for connection, _ in people:
        join(world, connection, "lobby")
    room = world.hub.apps[MULTI].rooms["lobby"]
    texts(*clients)
    assert world.fanout.to_room(room, HELLO, ["ann", "nobody", "cid"]) == 2
    assert texts(*clients) == [[], ["hello"], [], ["hello"]]
    assert world.fanout.to_room(room, HELLO, (), people[1][0]) == 3
    assert texts(*clients) == [["hello"], [], ["hello"], ["hello"]]
    assert world.fanout.to_room(room, HELLO, ["ann"], people[3][0]) == 2
    assert texts(*clients) == [[], ["hello"], ["hello"], []]


def test_a_room_is_told_behind_the_notices_that_wait(world: World) -> None:
    ann, a = world.login(MULTI, "ann")
    join(world, ann, "lobby")
    turn()
    a.probe(b"settled")
    a.frames.clear()
    world.login(MULTI, "bob")
    world.fanout.to_room(world.hub.apps[MULTI].rooms["lobby"], HELLO)
    turn()
    a.probe(b"settled")
    assert [kind for kind, _, _ in told(a)] == ["enter", "msg"]


def test_a_device_of_a_user_is_told_alone(world: World) -> None:
    (_, p), (_, d), (_, n) = (world.login(MULTI, "ann", device=name) for name in ("phone", "desk", ""))
    app = world.hub.apps[MULTI]
    texts(p, d, n)
    assert world.fanout.to_device(app, "ann", "desk", HELLO) == 1
    assert texts(p, d, n) == [[], ["hello"], []]
    assert world.fanout.to_device(app, "ann", "", HELLO) == 1
    assert texts(p, d, n) == [[], [], ["hello"]]
    assert world.fanout.to_device(app, "ann", "tablet", HELLO) == 0


def test_one_connection_is_told_though_a_later_login_is_addressed(world: World) -> None:
    old, o = world.login(NEWEST, "ann")
    _, n = world.login(NEWEST, "ann")
    texts(o, n)
    world.fanout.to_connection(world.hub.apps[NEWEST], old, HELLO)
    assert texts(o, n) == [["hello"], []]


# --- who is addressed no longer -----------------------------------------------------------------------------


def test_a_session_that_is_addressed_no_longer_is_in_no_room(world: World) -> None:
    old, _ = world.login(NEWEST, "ann")
    join(world, old, "lobby", "garden")
    new, _ = world.login(NEWEST, "ann")
    assert rooms_of(old) == ()
    join(world, new, "lobby")
    assert members(world, "lobby", NEWEST) == ["ann"]
    world.hub.forget(new)
    assert world.hub.apps[NEWEST].rooms == {}


def test_a_second_session_of_a_user_leaves_the_first_in_its_rooms(world: World) -> None:
    first, _ = world.login(MULTI, "ann")
    join(world, first, "lobby")
    world.login(MULTI, "ann")
    assert members(world, "lobby") == ["ann"]
