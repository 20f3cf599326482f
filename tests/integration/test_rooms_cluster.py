"""Rooms and connections over three real nodes: reached from each of them, in order, isolated by app."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any

import pytest

from imserver import errors
from tests.support import eventually

from .clusters import Nodes, app_with, nodes_of
from .cmd import Speaker, logged_in
from .raw import Address
from .v1 import call, good, sessions_of

_rooms = itertools.count()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes; the second has the portable door."""
    with nodes_of(tmp_path_factory.mktemp("rooms"), 3) as three:
        yield three


@pytest.fixture
def app() -> int:
    return app_with("multi")


@pytest.fixture
def room() -> str:
    return f"room {next(_rooms)}"


def join(address: Address, app: int, room: str, *users: str) -> list[str]:
    """Put users' connections into a room; what became of each."""
    found = good(address, "rooms/join", {"app": str(app), "room": room, "users": list(users)})
    assert found["missing_nodes"] == []
    return [each["status"] for each in found["results"]]


def publish(address: Address, app: int, room: str, text: str, **more: Any) -> Any:
    """Publish to a room; the answer."""
    return good(address, "rooms/publish", {"app": str(app), "room": room, "text": text, **more})


def texts(one: Speaker, count: int) -> list[str]:
    """The next so many messages, notices left out."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


def nothing(*speakers: Speaker) -> None:
    """None of them was told anything more."""
    for one in speakers:
        one.no_push("msg")


def members(address: Address, app: int, room: str) -> list[str]:
    found = good(address, "rooms/members", app=app, room=room)
    assert found["missing_nodes"] == []
    assert found["count"] == len(found["members"])
    return [each["user"] for each in found["members"]]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_members_on_every_node_are_reached_from_every_node(
    nodes: Nodes, app: int, room: str, where: int
) -> None:
    with ExitStack() as stack:
        people = [stack.enter_context(logged_in(nodes.ws[n % 3], f"u{n}", app)) for n in range(6)]
        outside = stack.enter_context(logged_in(nodes.ws[2], "outside", app))
        assert join(nodes.http[where], app, room, *(f"u{n}" for n in range(6))) == ["joined"] * 6
        for address in nodes.http:
            publish(address, app, room, "hello")
        for one in people:
            assert texts(one, 3) == ["hello"] * 3
        nothing(outside, *people)


def test_a_join_that_was_answered_is_reached_by_the_next_publish_from_any_node(
    nodes: Nodes, app: int
) -> None:
    """Many rooms, each new: nothing of it may depend on time."""
    with logged_in(nodes.ws[1], "ann", app) as ann:
        for number in range(60):
            room = f"new room {number}"
            assert join(nodes.http[number % 3], app, room, "ann") == ["joined"]
            publish(nodes.http[(number + 1) % 3], app, room, str(number))
            assert texts(ann, 1) == [str(number)]


def test_whoever_left_is_not_told_any_more(nodes: Nodes, app: int, room: str) -> None:
    with logged_in(nodes.ws[0], "ann", app) as ann, logged_in(nodes.ws[1], "bob", app) as bob:
        join(nodes.http[2], app, room, "ann", "bob")
        left = good(nodes.http[2], "rooms/leave", {"app": str(app), "room": room, "users": ["ann"]})
        assert [each["status"] for each in left["results"]] == ["left"]
        publish(nodes.http[2], app, room, "hello")
        assert texts(bob, 1) == ["hello"]
        nothing(ann, bob)


def test_what_one_node_publishes_to_a_room_arrives_in_its_order(nodes: Nodes, app: int, room: str) -> None:
    with ExitStack() as stack:
        people = [stack.enter_context(logged_in(nodes.ws[n], f"u{n}", app)) for n in range(3)]
        join(nodes.http[0], app, room, "u0", "u1", "u2")

        def series(source: int) -> None:
            for number in range(100):
                publish(nodes.http[source], app, room, f"{source}:{number}")

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(series, range(3)))
        for one in people:
            heard = texts(one, 300)
            for source in range(3):
                own = [text for text in heard if text.startswith(f"{source}:")]
                assert own == [f"{source}:{number}" for number in range(100)]


@pytest.mark.full
def test_everybody_who_has_joined_hears_what_is_published_after_while_others_come_and_go(
    nodes: Nodes, app: int, room: str
) -> None:
    stop = threading.Event()

    def come_and_go(index: int) -> int:
        """Join, hear one message that was published after, leave; over and over, on one node."""
        rounds = 0
        user = f"u{index}"
        with logged_in(nodes.ws[index % 3], user, app) as one:
            while not stop.is_set():
                join(nodes.http[(index + 1) % 3], app, room, user)
                word = f"{user} {rounds}"
                publish(nodes.http[(index + 2) % 3], app, room, word)
                while texts(one, 1) != [word]:
                    pass
                good(nodes.http[index % 3], "rooms/leave", {"app": str(app), "room": room, "users": [user]})
                rounds += 1
        return rounds

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(come_and_go, index) for index in range(6)]
        done, _ = wait(running, 3, FIRST_COMPLETED)
        stop.set()
        rounds = [each.result(timeout=20) for each in running]
    assert not done, "nobody failed before the end"
    assert all(count > 3 for count in rounds), rounds


def test_the_same_room_of_another_app_is_another_room(nodes: Nodes, room: str) -> None:
    one_app, other_app = app_with("multi"), app_with("multi")
    with logged_in(nodes.ws[0], "ann", one_app) as ann, logged_in(nodes.ws[1], "ann", other_app) as other:
        join(nodes.http[0], one_app, room, "ann")
        join(nodes.http[0], other_app, room, "ann")
        publish(nodes.http[2], one_app, room, "one")
        publish(nodes.http[2], other_app, room, "other")
        assert (texts(ann, 1), texts(other, 1)) == (["one"], ["other"])
        nothing(ann, other)


def test_a_connection_does_not_join_a_room_of_another_app(nodes: Nodes, room: str) -> None:
    one_app, other_app = app_with("multi"), app_with("multi")
    with logged_in(nodes.ws[0], "ann", one_app) as ann:
        [session] = sessions_of(nodes.http[1], one_app, "ann")
        body = {"app": str(other_app), "room": room, "connections": [session["connection"]]}
        for address in nodes.http:
            assert good(address, "rooms/join", body)["results"][0]["status"] == "unknown"
            good(address, "push", {"app": str(other_app), "connection": session["connection"], "text": "x"})
        nothing(ann)


def test_members_and_rooms_are_listed_alike_by_every_node(nodes: Nodes, app: int) -> None:
    with ExitStack() as stack:
        order = [f"u{number}" for number in (3, 0, 2, 1)]
        for user in order:
            stack.enter_context(logged_in(nodes.ws[int(user[1]) % 3], user, app))
            join(nodes.http[0], app, "b", user)
        join(nodes.http[1], app, "a", "u1")
        for address in nodes.http:
            assert members(address, app, "b") == order
            listed = good(address, "rooms", app=app)
            assert [(each["room"], each["members"]) for each in listed["rooms"]] == [("a", 1), ("b", 4)]
            first = good(address, "rooms/members", app=app, room="b", limit=3)
            rest = good(address, "rooms/members", app=app, room="b", limit=3, cursor=first["next"])
            assert [each["user"] for each in (*first["members"], *rest["members"])] == order
            counted = good(address, "counts", app=app)["apps"][0]
            assert (counted["users"], counted["sessions"], counted["rooms"]) == (4, 4, 2)


def test_a_connection_that_ends_is_out_of_its_rooms_at_once(nodes: Nodes, app: int, room: str) -> None:
    with logged_in(nodes.ws[0], "ann", app) as ann:
        with logged_in(nodes.ws[1], "bob", app):
            for user in ("ann", "bob"):
                join(nodes.http[2], app, room, user)
            assert members(nodes.http[0], app, room) == ["ann", "bob"]
        eventually(lambda: members(nodes.http[0], app, room) == ["ann"])
        publish(nodes.http[2], app, room, "hello")
        assert texts(ann, 1) == ["hello"]
    eventually(lambda: members(nodes.http[2], app, room) == [])
    eventually(lambda: publish(nodes.http[2], app, room, "nobody")["sent"] == 0)


def test_a_connection_is_told_and_closed_by_its_id_from_any_node(nodes: Nodes, app: int) -> None:
    with (
        logged_in(nodes.ws[0], "ann", app, device="phone") as phone,
        logged_in(nodes.ws[0], "ann", app) as desk,
    ):
        sessions = sessions_of(nodes.http[2], app, "ann")
        assert {each["device"] for each in sessions} == {"phone", ""}
        [made] = [each["connection"] for each in sessions if each["device"] == "phone"]
        for address in nodes.http:
            assert good(address, "push", {"app": str(app), "connection": made, "text": "hello"})["sent"] == 1
            assert good(address, "connections/show", app=app, connection=made)["user"] == "ann"
        assert texts(phone, 3) == ["hello"] * 3
        nothing(desk)
        good(nodes.http[1], "disconnect", {"app": str(app), "connections": [made]})
        phone.closed(errors.CLOSE_KICKED)
        eventually(lambda: call(nodes.http[2], "connections/show", app=app, connection=made).status == 404)
        nothing(desk)


def test_a_device_of_a_user_is_told_from_any_node(nodes: Nodes, app: int) -> None:
    with (
        logged_in(nodes.ws[0], "ann", app, device="phone") as phone,
        logged_in(nodes.ws[1], "ann", app) as desk,
    ):
        for address in nodes.http:
            body = {"app": str(app), "user": "ann", "device": "phone", "text": "hello"}
            assert good(address, "push", body)["sent"] == 1
        assert texts(phone, 3) == ["hello"] * 3
        nothing(desk)


def test_users_are_left_out_on_every_node(nodes: Nodes, app: int, room: str) -> None:
    with ExitStack() as stack:
        ann, bob, cid = (
            stack.enter_context(logged_in(nodes.ws[n], user, app))
            for n, user in enumerate(("ann", "bob", "cid"))
        )
        join(nodes.http[0], app, room, "ann", "bob", "cid")
        body = {"app": str(app), "targets": [{"room": room}], "text": "hello", "except_users": ["ann", "cid"]}
        good(nodes.http[0], "push", body)
        assert texts(bob, 1) == ["hello"]
        nothing(ann, bob, cid)
