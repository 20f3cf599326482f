"""Rooms and connections as services, on a node that is alone."""

from collections.abc import Iterator

import gevent
import pytest

from imserver import errors
from imserver.model import Event, Outcome
from imserver.services.nodes.queries import AliveQuery
from imserver.services.rooms.connections import Joined, Left
from imserver.services.rooms.rooms import (
    MAX_NAME_BYTES,
    MAX_ROOMS_OF_A_CONNECTION,
    Publication,
    RoomRefused,
    Rooms,
)
from imserver.transport.connection import Connection
from tests.hub.test_rooms import texts
from tests.hub.world import World
from tests.transport.rig import turn, until

MULTI = "102"
HELLO = Event("msg", "eve", "hello", "7")


def event(text: str) -> Event:
    return Event("msg", "eve", text, "7")


@pytest.fixture
def world() -> Iterator[World]:
    with World() as one:
        yield one


@pytest.fixture
def rooms(world: World) -> Rooms:
    return world.rooms


# --- joining ------------------------------------------------------------------------------------------------


def test_who_has_joined_is_told_what_is_published(world: World, rooms: Rooms) -> None:
    (ann, a), (_, b) = (world.login(MULTI, user) for user in ("ann", "bob"))
    texts(a, b)
    assert rooms.publish(MULTI, "lobby", HELLO) == Outcome.NOT_SENT
    assert rooms.join(MULTI, "lobby", ann) is True
    assert rooms.join(MULTI, "lobby", ann) is False
    assert rooms.publish(MULTI, "lobby", HELLO) == Outcome.SENT
    assert texts(a, b) == [["hello"], []]
    assert rooms.leave(MULTI, "lobby", ann)
    assert not rooms.leave(MULTI, "lobby", ann)
    assert rooms.publish(MULTI, "lobby", HELLO) == Outcome.NOT_SENT
    assert texts(a, b) == [[], []]


def test_an_app_that_is_not_there_has_no_rooms(world: World, rooms: Rooms) -> None:
    ann, _ = world.login(MULTI, "ann")
    assert rooms.join("nowhere", "lobby", ann) is False
    assert rooms.leave("nowhere", "lobby", ann) is False
    assert rooms.publish("nowhere", "lobby", HELLO) == Outcome.NOT_SENT
    assert rooms.page("nowhere").rooms == []
    assert rooms.members("nowhere", "lobby").total == 0
    assert rooms.count("nowhere", "lobby") == 0


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_BYTES + 1), "马" * (MAX_NAME_BYTES // 3 + 1)])
def test_a_name_that_is_empty_or_too_long_is_refused(world: World, rooms: Rooms, name: str) -> None:
    ann, _ = world.login(MULTI, "ann")
    with pytest.raises(RoomRefused, match="1 to 255 bytes") as refused:
        rooms.join(MULTI, name, ann)
    assert not refused.value.full


@pytest.mark.parametrize("name", ["x" * MAX_NAME_BYTES, "马" * (MAX_NAME_BYTES // 3), "\ud800", "\0"])
def test_any_other_name_is_a_room(world: World, rooms: Rooms, name: str) -> None:
    ann, _ = world.login(MULTI, "ann")
    assert rooms.join(MULTI, name, ann)
    assert rooms.rooms_of(ann) == (name,)


def test_a_connection_may_be_in_so_many_rooms_and_no_more(world: World, rooms: Rooms) -> None:
    ann, _ = world.login(MULTI, "ann")
    for number in range(MAX_ROOMS_OF_A_CONNECTION):
        assert rooms.join(MULTI, f"r{number}", ann)
    with pytest.raises(RoomRefused) as refused:
        rooms.join(MULTI, "one more", ann)
    assert refused.value.full
    assert rooms.join(MULTI, "r0", ann) is False
    rooms.leave(MULTI, "r7", ann)
    assert rooms.join(MULTI, "one more", ann)


def test_an_app_may_have_so_many_rooms_and_no_more(world: World, rooms: Rooms) -> None:
    ann, bob = (world.login(MULTI, user)[0] for user in ("ann", "bob"))
    world.max_rooms = 2
    assert rooms.join(MULTI, "lobby", ann)
    assert rooms.join(MULTI, "garden", ann)
    with pytest.raises(RoomRefused, match="2 rooms") as refused:
        rooms.join(MULTI, "attic", bob)
    assert refused.value.full
    assert rooms.join(MULTI, "lobby", bob)
    assert world.connections.join(MULTI, world.connections.id_of(bob), "attic") == Joined.FULL


# --- publishing ---------------------------------------------------------------------------------------------


def test_publications_arrive_in_their_order(world: World, rooms: Rooms) -> None:
    ann, a = world.login(MULTI, "ann")
    rooms.join(MULTI, "lobby", ann)
    rooms.join(MULTI, "garden", ann)
    texts(a)
    outcomes = rooms.publish_each(
        MULTI,
        [Publication(("lobby", "garden", "attic")[n % 3], event(str(n))) for n in range(600)],
    )
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 200
    assert texts(a) == [[str(n) for n in range(600) if n % 3 != 2]]
    assert world.metrics.pushes == 400


def test_users_and_the_publishers_connection_are_left_out(world: World, rooms: Rooms) -> None:
    people = [world.login(MULTI, user) for user in ("ann", "bob", "cid")]
    clients = [client for _, client in people]
    for connection, _ in people:
        rooms.join(MULTI, "lobby", connection)
    texts(*clients)
    rooms.publish(MULTI, "lobby", HELLO, ("ann",), people[1][0])
    assert texts(*clients) == [[], [], ["hello"]]
    rooms.publish(MULTI, "lobby", HELLO, except_connection=world.connections.id_of(people[2][0]))
    assert texts(*clients) == [["hello"], ["hello"], []]
    rooms.publish(MULTI, "lobby", HELLO, except_connection="no such id")
    assert texts(*clients) == [["hello"]] * 3


def test_a_room_with_too_many_members_is_told_nothing(world: World, rooms: Rooms) -> None:
    people = [world.login(MULTI, user) for user in ("ann", "bob")]
    for connection, _ in people:
        rooms.join(MULTI, "lobby", connection)
    client = people[0][1]
    texts(client)
    told = {at_most: rooms.publish(MULTI, "lobby", HELLO, at_most=at_most) for at_most in (0, 1, 2, None)}
    assert told == {0: Outcome.NOT_SENT, 1: Outcome.NOT_SENT, 2: Outcome.SENT, None: Outcome.SENT}
    assert texts(client) == [["hello"] * 2]


# --- being asked --------------------------------------------------------------------------------------------


def test_members_are_paged_in_the_order_of_joining(world: World, rooms: Rooms) -> None:
    people = [world.login(MULTI, f"u{n:02}", device="phone")[0] for n in range(25)]
    for connection in reversed(people):
        rooms.join(MULTI, "lobby", connection)
    seen, after, pages = [], "", 0
    while pages == 0 or after:
        page = rooms.members(MULTI, "lobby", after, 10)
        assert page.total == 25
        seen += page.members
        after, pages = page.next, pages + 1
    assert pages == 3
    assert [member.user for member in seen] == [f"u{n:02}" for n in reversed(range(25))]
    assert [member.connection for member in seen] == [world.connections.id_of(c) for c in reversed(people)]
    assert {(member.device, member.dialect) for member in seen} == {("phone", "cmd")}
    assert [member.joined for member in seen] == sorted(member.joined for member in seen)


def test_a_page_goes_on_where_the_last_ended_though_members_have_left(world: World, rooms: Rooms) -> None:
    people = [world.login(MULTI, f"u{n}")[0] for n in range(6)]
    for connection in people:
        rooms.join(MULTI, "lobby", connection)
    first = rooms.members(MULTI, "lobby", limit=3)
    for connection in people[1:4]:
        rooms.leave(MULTI, "lobby", connection)
    rest = rooms.members(MULTI, "lobby", first.next, 3)
    assert [member.user for member in rest.members] == ["u4", "u5"]
    assert (rest.total, rest.next) == (3, "")


@pytest.mark.parametrize("after", ["nonsense", "-", "1-", "nan-1", "inf-zz", "-1", "\ud800"])
def test_a_cursor_that_is_none_begins_with_the_first_member(world: World, rooms: Rooms, after: str) -> None:
    ann, _ = world.login(MULTI, "ann")
    rooms.join(MULTI, "lobby", ann)
    assert [member.user for member in rooms.members(MULTI, "lobby", after).members] == ["ann"]


def test_rooms_are_paged_by_name(world: World, rooms: Rooms) -> None:
    ann, bob = (world.login(MULTI, user)[0] for user in ("ann", "bob"))
    for name in ("b", "马", "a", "c"):
        rooms.join(MULTI, name, ann)
    rooms.join(MULTI, "c", bob)
    first = rooms.page(MULTI, limit=2)
    assert ([(each.room, each.members) for each in first.rooms], first.total) == ([("a", 1), ("b", 1)], 4)
    assert first.more
    rest = rooms.page(MULTI, "b", 2)
    assert [(each.room, each.members) for each in rest.rooms] == [("c", 2), ("马", 1)]
    assert not rest.more


# --- leaving ------------------------------------------------------------------------------------------------


def test_who_ends_is_out_of_all_rooms_and_others_hear_which(world: World, rooms: Rooms) -> None:
    heard: list[tuple[str, tuple[str, ...]]] = []
    rooms.on_left.append(lambda connection, names: heard.append((connection.user or "", names)))
    (ann, a), (bob, _) = (world.login(MULTI, user) for user in ("ann", "bob"))
    rooms.join(MULTI, "garden", ann)
    rooms.join(MULTI, "lobby", ann)
    rooms.join(MULTI, "lobby", bob)
    a.hang_up()
    until(lambda: heard == [("ann", ("garden", "lobby"))])
    assert [member.user for member in rooms.members(MULTI, "lobby").members] == ["bob"]
    assert rooms.count(MULTI, "garden") == 0
    bob.close(1000)
    bob.lost()
    until(lambda: heard[1:] == [("bob", ("lobby",))])


def test_who_was_in_no_room_is_not_told_of(world: World, rooms: Rooms) -> None:
    heard: list[Connection] = []
    rooms.on_left.append(lambda connection, _: heard.append(connection))
    (_, a), (bob, b) = (world.login(MULTI, user) for user in ("ann", "bob"))
    rooms.join(MULTI, "lobby", bob)
    a.hang_up()
    b.hang_up()
    until(lambda: heard == [bob])


def test_leaving_everything_is_silent(world: World, rooms: Rooms) -> None:
    heard: list[Connection] = []
    rooms.on_left.append(lambda connection, _: heard.append(connection))
    ann, a = world.login(MULTI, "ann")
    rooms.join(MULTI, "lobby", ann)
    rooms.join(MULTI, "garden", ann)
    assert rooms.leave_all(ann) == ("lobby", "garden")
    assert rooms.rooms_of(ann) == ()
    a.hang_up()
    until(lambda: not world.hub.is_online(MULTI, "ann"))
    turn()
    assert heard == []


def test_who_tells_of_an_end_may_wait_and_may_fail(
    world: World, rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(_connection: Connection, _names: tuple[str, ...]) -> None:
        raise RuntimeError("on purpose")

    def tell(connection: Connection, _names: tuple[str, ...]) -> None:
        gevent.sleep(0.01)
        heard.append(connection.user or "")

    rooms.on_left += [fail, tell]
    people = [world.login(MULTI, f"u{n:02}") for n in range(40)]
    for connection, _ in people:
        rooms.join(MULTI, "lobby", connection)
    for connection, _ in people:
        connection.lost()
    until(lambda: sorted(heard) == [f"u{n:02}" for n in range(40)])
    assert [record.getMessage() for record in caplog.records] == ["telling of an end failed"] * 40


# --- connections --------------------------------------------------------------------------------------------


def test_a_connection_is_found_by_its_id_in_its_app_while_it_lives(world: World) -> None:
    ann, a = world.login(MULTI, "ann")
    made = world.connections.id_of(ann)
    assert world.connections.id_of(ann) == made
    assert world.connections.find(MULTI, made) is ann
    for app in ("101", "nowhere"):
        assert world.connections.find(app, made) is None
    a.hang_up()
    until(lambda: world.connections.find(MULTI, made) is None)
    assert world.connections.id_of(ann) == made


def test_a_connection_without_a_session_is_nowhere(world: World) -> None:
    nobody, _ = world.connect()
    assert world.connections.find(MULTI, world.connections.id_of(nobody)) is None


def test_ids_that_were_never_asked_for_cost_nothing(world: World) -> None:
    for number in range(5):
        world.login(MULTI, f"u{number}")
    assert (len(world.table._numbers), len(world.table._by_number)) == (0, 0)
    ann, a = world.login(MULTI, "ann")
    world.connections.id_of(ann)
    assert (len(world.table._numbers), len(world.table._by_number)) == (1, 1)
    a.hang_up()
    until(lambda: not world.table._by_number)


def test_connections_are_pushed_to_one_by_one(world: World) -> None:
    (ann, a), (_, b) = (world.login(MULTI, "ann") for _ in range(2))
    made = world.connections.id_of(ann)
    texts(a, b)
    assert world.connections.push(MULTI, made, HELLO) == Outcome.SENT
    assert texts(a, b) == [["hello"], []]
    outcomes = world.connections.push_each(MULTI, ["no id", made, ""], event("again"))
    assert outcomes == [Outcome.NOT_SENT, Outcome.SENT, Outcome.NOT_SENT]
    assert world.connections.push("101", made, HELLO) == Outcome.NOT_SENT
    assert texts(a, b) == [["again"], []]


def test_a_connection_is_closed_behind_what_was_pushed_to_it(world: World) -> None:
    ann, a = world.login(MULTI, "ann")
    made = world.connections.id_of(ann)
    texts(a)
    world.connections.push(MULTI, made, HELLO)
    assert world.connections.close("101", made, errors.CLOSE_KICKED) == Outcome.NOT_SENT
    assert world.connections.close(MULTI, made, errors.CLOSE_KICKED) == Outcome.SENT
    assert a.close_code() == errors.CLOSE_KICKED
    assert [frame.payload for frame in a.frames if b"hello" in frame.payload]
    assert world.connections.close(MULTI, made, errors.CLOSE_KICKED) == Outcome.NOT_SENT


def test_connections_join_and_leave_by_their_ids(world: World) -> None:
    ann, a = world.login(MULTI, "ann")
    made = world.connections.id_of(ann)
    heard: list[tuple[Connection, str, bytes, bool]] = []
    world.connections.on_join.append(lambda *what: heard.append(what))
    texts(a)
    assert world.connections.join(MULTI, made, "lobby", b"first") == Joined.JOINED
    assert world.connections.join(MULTI, made, "lobby", b"again") == Joined.MEMBER
    assert heard == [(ann, "lobby", b"first", True), (ann, "lobby", b"again", False)]
    assert world.connections.rooms_of(MULTI, made) == ["lobby"]
    world.rooms.publish(MULTI, "lobby", HELLO)
    assert texts(a) == [["hello"]]
    assert world.connections.leave(MULTI, made, "lobby") == Left.LEFT
    assert world.connections.leave(MULTI, made, "lobby") == Left.ABSENT
    assert world.connections.rooms_of(MULTI, made) == []
    for app, unknown in (("101", made), (MULTI, "no id"), ("nowhere", made)):
        assert world.connections.join(app, unknown, "lobby") == Joined.UNKNOWN
        assert world.connections.leave(app, unknown, "lobby") == Left.UNKNOWN
        assert world.connections.rooms_of(app, unknown) is None
    assert len(heard) == 2
    with pytest.raises(RoomRefused):
        world.connections.join(MULTI, made, "")


def test_what_is_known_of_a_connection_is_told(world: World) -> None:
    ann, _ = world.login(MULTI, "ann", device="phone")
    made = world.connections.id_of(ann)
    world.rooms.join(MULTI, "lobby", ann)
    info, nothing = world.connections.about(MULTI, [made, "no id"])
    assert nothing is None
    assert info is not None
    assert (info.connection, info.user, info.device, info.dialect) == (made, "ann", "phone", "cmd")
    assert (info.node, info.rooms, info.peer) == ("node", ("lobby",), ann.peer)
    assert info.since == ann.since


def test_a_question_about_a_connection_is_put_to_its_node(world: World) -> None:
    ann, _ = world.login(MULTI, "ann")
    made = world.connections.id_of(ann)
    world.connections._queries.add("alive", AliveQuery, lambda asked: asked.session_id + 1)
    assert world.connections.ask(made, "alive", AliveQuery(MULTI, "ann", 41), int) == 42
    assert world.connections.ask("no id", "alive", AliveQuery(MULTI, "ann", 41), int) is None
