"""Publishing to targets of mixed kinds: each gets its own, in order, and says what became of it."""

from collections.abc import Sequence

import msgspec
import pytest

from imserver.model import Event, Outcome
from imserver.services.push.pending import PendingPushes
from imserver.services.push.publish import OnAbsent, Publishing, Target

SENT, ABSENT, HELD = Outcome.SENT, Outcome.NOT_SENT, Outcome.HELD
HELLO = Event("msg", "shop", "hello", "7")


class World:
    """Users, rooms and connections that are there, and everything that was told, in order."""

    def __init__(self) -> None:
        self.users = {"ann", "bob"}
        self.told: list[tuple[str, ...]] = []

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        self.told.append(("users", app, *users, *(() if device is None else (f"on {device}",))))
        return [SENT if user in self.users else ABSENT for user in users]

    def reach_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        self.told.append(("each", app, *(f"{u}:{e.text}" for u, e in zip(users, events, strict=True))))
        return [SENT if user in self.users else ABSENT for user in users]

    def spread(self, app: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        self.told.append(("all", app, *except_users))
        return SENT

    def publish(self, app: str, room: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        self.told.append(("room", app, room, *except_users))
        return Outcome.PARTLY

    def push_each(self, app: str, connection_ids: Sequence[str], event: Event) -> list[Outcome]:
        self.told.append(("connections", app, *connection_ids))
        return [SENT if name == "c1" else ABSENT for name in connection_ids]

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        return [user in self.users for user in users]


@pytest.fixture
def world() -> World:
    return World()


def publishing_of(world: World, on_absent: OnAbsent | None = None) -> Publishing:
    pending = PendingPushes(world, world, 100, 100_000)
    return Publishing(world, world, world, pending, on_absent)  # type: ignore[arg-type]


def test_targets_of_all_kinds_are_told_in_their_order(world: World) -> None:
    targets = [
        Target(user="ann"),
        Target(user="nobody"),
        Target(room="r"),
        Target(user="bob"),
        Target(user="bob", device="phone"),
        Target(connection="c1"),
        Target(connection="gone"),
        Target(all=True),
    ]
    outcomes = publishing_of(world).to_targets("101", targets, HELLO, ("eve",))
    assert outcomes == [SENT, ABSENT, Outcome.PARTLY, SENT, SENT, SENT, ABSENT, SENT]
    assert world.told == [
        ("users", "101", "ann", "nobody"),
        ("room", "101", "r", "eve"),
        ("users", "101", "bob"),
        ("users", "101", "bob", "on phone"),
        ("connections", "101", "c1"),
        ("connections", "101", "gone"),
        ("all", "101", "eve"),
    ]


def test_users_of_a_system_are_connections(world: World) -> None:
    publishing = publishing_of(world)
    assert publishing.to_users("system:shop", ["c1", "c2"], HELLO, 60) == [SENT, ABSENT]
    assert publishing.to_each("system:shop", ["c1", "c2"], [HELLO, HELLO]) == [SENT, ABSENT]
    assert {told[0] for told in world.told} == {"connections"}


def test_absent_users_are_told_of_and_held_if_that_is_wanted(world: World) -> None:
    absent: list[str] = []
    publishing = publishing_of(world, lambda app, user, event: absent.append(f"{app} {user} {event.text}"))
    assert publishing.to_users("101", ["ann", "x"], HELLO) == [SENT, ABSENT]
    assert publishing.to_users("101", ["y", "bob"], HELLO, 60) == [HELD, SENT]
    assert publishing.to_each("101", ["z", "bob"], [HELLO, HELLO]) == [ABSENT, SENT]
    assert absent == ["101 x hello", "101 y hello", "101 z hello"]


def test_what_is_held_goes_before_a_later_push(world: World) -> None:
    publishing = publishing_of(world)
    assert publishing.to_users("101", ["zoe"], Event("msg", "", "first"), 60) == [HELD]
    world.users.add("zoe")
    world.told.clear()
    texts: list[str] = []
    usual = world.reach

    def reach(app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        texts.append(event.text)
        return usual(app, users, event, device)

    world.reach = reach  # type: ignore[method-assign]
    publishing.to_users("101", ["ann", "zoe"], Event("msg", "", "second"))
    assert texts == ["first", "second"]


def test_a_push_for_which_there_is_no_room_to_hold_it_is_absent(world: World) -> None:
    pending = PendingPushes(world, world, 0, 0)
    publishing = Publishing(world, world, world, pending)  # type: ignore[arg-type]
    assert publishing.to_users("101", ["zoe"], HELLO, 60) == [ABSENT]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"all": False},
        {"user": "a", "room": "r"},
        {"user": "a", "all": True},
        {"connection": "c", "room": "r"},
        {"device": "phone", "room": "r"},
        {"user": ""},
        {"user": None},
        {"user": "a", "nick": "b"},
        {"user": "x" * 513},
    ],
)
def test_a_target_is_one_thing(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Target)


def test_a_target_is_written_as_it_was_read() -> None:
    for written in (b'{"user":"a"}', b'{"user":"a","device":""}', b'{"room":"r"}', b'{"all":true}'):
        assert msgspec.json.encode(msgspec.json.decode(written, type=Target)) == written
