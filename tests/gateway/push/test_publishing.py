"""Publishing to targets of mixed kinds: each gets its own, in order, and says
what became of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock

import gevent
import msgspec
import pytest

from imserver.gateway.auth.observer import Observer
from imserver.gateway.channels.histories import Published, StoredHistory
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import Problems, StorageUnavailable
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event, Outcome
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.pending import PendingPushes
from imserver.gateway.push.push import (
    LocalReach,
    OnAbsent,
    Publishing,
    Pushes,
    UserPush,
    nothing_accepted,
)
from imserver.gateway.push.targets import PushToStore, Target, UserChannels
from tests.gateway.channels.test_channels import subscriber
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness as Node
from tests.gateway.hub.harness import texts

SENT = Outcome.SENT
ABSENT = Outcome.NOT_SENT
PENDING = Outcome.PENDING
HELLO = Event("msg", "shop", "hello", "7")


class Harness:
    """Users, channels and connections that are there, and everything that was
    told, in order."""

    def __init__(self) -> None:
        self.users = {"ann", "bob"}
        self.options = self.publishing = self.histories = self
        self.history_apps: set[str] = set()
        self.stored = StoredHistory()
        self.received: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        """Texts of the pushes to users."""
        self.is_blind = False
        """Whether the registry does not answer."""

    def ask(self, stored: StoredHistory) -> None:
        self.stored = stored

    def to_user(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> Outcome:
        return self.to_each(app, [user], [event], device)[0]

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
    ) -> list[Outcome]:
        self.received.append(
            ("users", app, *users, *(() if device is None else (f"on {device}",)))
        )
        pairs = list(zip(users, events, strict=False))
        self.texts += [event.text for _, event in pairs]
        absent = Outcome.UNKNOWN if self.is_blind else ABSENT
        return [SENT if user in self.users else absent for user, _ in pairs]

    def to_app(
        self,
        app: str,
        event: Event,
        except_user: str = "",
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        self.received.append(("all", app, *except_users))
        return SENT

    def publish(
        self,
        app: str,
        channel: str,
        event: Event,
        except_users: tuple[str, ...] = (),
        key: str = "",
    ) -> Outcome:
        self.received.append(("channel", app, channel, *except_users))
        return Outcome.PARTLY

    def push(self, app: str, connection_id: str, event: Event) -> Outcome:
        self.received.append(("connection", app, connection_id))
        return SENT if connection_id == "c1" else ABSENT

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        return [user in self.users for user in users]


@pytest.fixture
def harness() -> Harness:
    return Harness()


def publishing_of(
    harness: Harness, on_absent: OnAbsent | None = None, room: int = 100
) -> Publishing:
    pending = PendingPushes(harness.to_user, harness, room, 100_000)
    return Publishing(harness, harness, harness, pending, Mock(), on_absent)  # type: ignore[arg-type]


def test_targets_of_all_kinds_receive_the_event_in_order(harness: Harness) -> None:
    users = [Target(user=user) for user in ("ann", "nobody", "bob")]
    others = [
        Target(user="bob", device="phone"),
        *(Target(connection=id) for id in ("c1", "gone")),
    ]
    targets = [*users[:2], Target(channel="r"), users[2], *others, Target(all=True)]
    outcomes = publishing_of(harness).to_targets("101", targets, HELLO, ("eve",))
    assert outcomes == [SENT, ABSENT, Outcome.PARTLY, SENT, SENT, SENT, ABSENT, SENT]
    assert harness.received == [
        ("users", "101", "ann", "nobody"),
        ("channel", "101", "r", "eve"),
        ("users", "101", "bob"),
        ("users", "101", "bob", "on phone"),
        ("connection", "101", "c1"),
        ("connection", "101", "gone"),
        ("all", "101", "eve"),
    ]


def test_without_stored_messages_a_group_has_no_members_and_nothing_is_stored(
    harness: Harness,
) -> None:
    publishing = publishing_of(harness)
    assert publishing.to_targets(
        "101", [Target(group="7"), Target(user="ann")], HELLO
    ) == [ABSENT, SENT]
    pushes = [PushToStore([Target(user="ann")], HELLO)]
    assert publishing.stored_pushes.store_each("101", pushes) == [
        Problems.STORE_UNAVAILABLE
    ]
    assert harness.received == [("users", "101"), ("users", "101", "ann")]


@pytest.mark.parametrize("others", [[], [ABSENT], [Outcome.REFUSED, ABSENT]])
def test_a_push_has_failed_if_a_target_failed_and_none_accepted_it(
    others: list[Outcome],
) -> None:
    assert nothing_accepted([Outcome.FAILED, *others])
    assert not nothing_accepted(others)
    for accepted in (SENT, PENDING, Outcome.PARTLY, Outcome.STORED, Outcome.REPEATED):
        assert not nothing_accepted([*others, Outcome.FAILED, accepted])


@pytest.mark.parametrize(
    "channel", ["user:", "group:", "group:0", "group:x", "users:ann"]
)
def test_other_names_are_channels_and_users_of_systems_connections(
    harness: Harness, channel: str
) -> None:
    publishing = publishing_of(harness)
    for app, name in (("101", channel), ("system:shop", "user:ann")):
        publishing.to_targets(app, [Target(channel=name)], HELLO)
    assert harness.received == [
        ("channel", "101", channel),
        ("channel", "system:shop", "user:ann"),
    ]
    harness.received.clear()
    assert publishing.to_users("system:shop", ["c1", "c2"], HELLO, 60) == [SENT, ABSENT]
    assert publishing.to_each("system:shop", ["c1", "c2"], [HELLO, HELLO]) == [
        SENT,
        ABSENT,
    ]
    assert {received[0] for received in harness.received} == {"connection"}


@pytest.mark.parametrize("blind", [False, True])
def test_absent_users_are_reported_unless_elsewhere_and_pushes_may_wait(
    harness: Harness, blind: bool
) -> None:
    absent: list[str] = []
    publishing = publishing_of(
        harness,
        lambda app, pushes: absent.extend(
            f"{app} {user} {event.text}" for user, event in pushes
        ),
    )
    harness.is_blind = blind
    missed = Outcome.FAILED if blind else ABSENT
    assert publishing.to_users("101", ["ann", "x"], HELLO) == [SENT, missed]
    assert publishing.to_users("101", ["y", "bob"], HELLO, 60) == [PENDING, SENT]
    assert publishing.to_each("101", ["z", "bob"], [HELLO, HELLO]) == [missed, SENT]
    assert absent == ([] if blind else ["101 x hello", "101 y hello", "101 z hello"])


def test_pending_pushes_arrive_before_a_later_push_and_without_room_they_are_absent(
    harness: Harness,
) -> None:
    publishing = publishing_of(harness)
    assert publishing.to_users("101", ["zoe"], Event("msg", "", "first"), 60) == [
        PENDING
    ]
    harness.users.add("zoe")
    harness.texts.clear()
    publishing.to_users("101", ["ann", "zoe"], Event("msg", "", "second"))
    assert harness.texts == ["first", "second", "second"]
    assert publishing_of(harness, room=0).to_users("101", ["x"], HELLO, 60) == [ABSENT]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"all": False},
        {"user": "a", "channel": "r"},
        {"device": "phone", "channel": "r"},
        {"user": ""},
        {"user": "a", "nick": "b"},
        {"user": "x" * 513},
    ],
)
def test_a_target_is_one_thing(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Target)


def test_what_a_node_remembers_of_a_stored_channel_is_not_published_again() -> None:
    """The log may have removed it meanwhile."""
    channels = Mock()
    sent, repeated = (
        Published(each, Position("e", 1)) for each in (SENT, Outcome.REPEATED)
    )
    channels.publishing.publish_event.side_effect = [sent, repeated]
    nodes = [
        Publishing(Mock(), channels, Mock(), Mock(), Idempotency(100, 100))
        for _ in range(2)
    ]
    for node, expected, calls in ((0, sent, 1), (0, repeated, 1), (1, repeated, 2)):
        assert nodes[node].to_channels(
            "shop", ["news"], HELLO, key="m-1", digest=1
        ) == [expected]
        assert channels.publishing.publish_event.call_count == calls


BROKEN: Any = Mock(
    to_sessions=lambda _app, user, *_: 1 // (user != "broken"), to_app=lambda *_: 0
)
"""A fan-out that reaches everybody up to a user whose turn fails."""


@pytest.mark.parametrize(
    ("users", "again"),
    [(["ann", "broken"], None), (["broken", "ann"], [Outcome.SENT])],
    ids=str,
)
def test_an_interrupted_push_counts_if_one_is_reached(
    users: list[str], again: list[Outcome] | None
) -> None:
    ids = Idempotency(100, 60)
    pushes = Pushes(ids, LocalReach(ids, BROKEN, Metrics()), Metrics())
    with pytest.raises(ZeroDivisionError):
        pushes.to_many("101", users, "m1", "hello")
    assert pushes.to_many("101", ["ann"], "m1", "hello") == again


def test_a_push_to_one_user_that_fails_frees_its_id() -> None:
    ids = Idempotency(100, 60)
    pushes = Pushes(ids, LocalReach(ids, BROKEN, Metrics()), Metrics())
    ways = (pushes.from_back_end, lambda app, push: pushes.from_user(app, "bob", push))
    for number, way in enumerate(
        (*ways, lambda app, push: pushes.to_each(app, [push])[0])
    ):
        with pytest.raises(ZeroDivisionError):
            way("101", UserPush("broken", f"m{number}"))
        assert way("101", UserPush("ann", f"m{number}")) is Outcome.SENT


@pytest.mark.parametrize("how", ["each", "many", "to channels"])
def test_others_are_served_during_a_large_push(how: str) -> None:
    ids = Idempotency(100, 60)
    metrics = Metrics()
    served = list[str]()
    channels: Any = (
        Mock(push=lambda *_: Outcome.SENT, apps={"101"})
        if how == "to channels"
        else None
    )
    pushes = Pushes(ids, LocalReach(ids, BROKEN, metrics), metrics, channels)
    gevent.spawn(served.append, "another")
    if how == "each":
        found = pushes.to_each("101", [UserPush("ann", "", "x")] * 2000)
    else:
        found = pushes.to_many("101", ["ann"] * 2000, "m1", "x")
    assert (found, served) == ([Outcome.SENT] * 2000, ["another"])
    assert metrics.pushes.total == (0 if channels else 2000)


# --- users whose channels have a history --------------------------------------

OWN = "user:ann"


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as node:
        node.channel_settings = {
            "user": ChannelSettings(history_size=5, history_seconds=60, max_bytes=9)
        }
        node.channels.options.history_apps = {MULTI}
        yield node


def offsets(node: Node) -> list[tuple[int, str]]:
    """The history of the channel of the user ann."""
    page = node.channels.histories.read(MULTI, OWN, limit=-1)
    return [
        (each.channel.offset, each.text)
        for each in page.publications
        if each.channel is not None
    ]


def publishing_on(node: Node) -> Publishing:
    ids = Idempotency(100, 60)
    services = (node.channels, node.connections, node.pending)
    return Publishing(node.reach, *services, ids, Observer().absent)


def pushes_of(node: Node) -> Pushes:
    channels = UserChannels(node.channels, node.reach.to_user)
    return Pushes(Idempotency(100, 60), node.reach, node.metrics, channels)


def test_subscribers_receive_a_publication_and_other_sessions_a_push(
    node: Node,
) -> None:
    _, client, _ = subscriber(node, channel=OWN)
    _, other = node.login(MULTI, "ann", device="desk")
    publishing = publishing_on(node)
    targets = [
        Target(user="ann"),
        Target(channel=OWN),
        Target(user="ann", device="desk"),
    ]
    assert publishing.to_targets(MULTI, targets, HELLO) == [Outcome.SENT] * 3
    (published,) = publishing.to_channels(
        MULTI, [OWN], HELLO, tags=b'{"a":"b"}', key="1"
    )
    assert published.refusal is None
    assert texts(client, other) == [["hello"] * 3, ["hello"] * 4]
    assert offsets(node) == [(1, "hello"), (2, "hello"), (3, "hello")], (
        "not what is for one device"
    )
    publishing.to_channels(MULTI, [OWN], HELLO, with_history=False)
    assert texts(client, other) == [["hello"], ["hello"]]
    assert len(offsets(node)) == 3


def test_the_history_has_what_absent_users_miss_and_they_are_reported(
    node: Node,
) -> None:
    publishing = publishing_on(node)
    assert (
        publishing.to_users(MULTI, ["ann", "bob"], HELLO, ttl_seconds=60)
        == [Outcome.SENT] * 2
    )
    assert publishing.to_each(MULTI, ["ann"], [HELLO]) == [Outcome.SENT]
    assert offsets(node) == [(1, "hello"), (2, "hello")]
    _, client, _ = subscriber(node, channel=OWN)
    _, other = node.login(MULTI, "ann", device="desk")
    node.pending.deliver_to_present()
    assert texts(client, other) == [[], ["hello"]], (
        "subscribers have it from the history"
    )


def test_a_deleted_user_leaves_no_publications(node: Node) -> None:
    publishing_on(node).to_users(MULTI, ["ann"], HELLO)
    node.channels.histories.erase_user(MULTI, "bob", "deleted:1")
    assert offsets(node) == [(1, "hello")]
    node.channels.histories.erase_user(MULTI, "ann", "deleted:1")
    assert offsets(node) == []
    node.history.erase_user = lambda *_: None  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageUnavailable):
        node.channels.histories.erase_user(MULTI, "ann", "deleted:1")


def test_a_user_whose_id_is_too_long_for_a_channel_receives_plain_pushes(
    node: Node,
) -> None:
    publishing = publishing_on(node)
    longest = "u" * 250
    assert publishing.to_users(MULTI, [longest, f"{longest}u"], HELLO) == [
        Outcome.SENT,
        Outcome.NOT_SENT,
    ]


def test_a_push_that_the_channel_refuses_reaches_nobody(node: Node) -> None:
    _, client = node.login(MULTI, "ann")
    (outcome,) = publishing_on(node).to_users(
        MULTI, ["ann"], Event("msg", "shop", "ten bytes.")
    )
    assert outcome is Outcome.REFUSED
    assert texts(client) == [[]]


def test_pushes_of_the_original_are_publications_once_for_each_id(node: Node) -> None:
    pushes = pushes_of(node)
    _, client, _ = subscriber(node, channel=OWN)
    found = [
        pushes.from_back_end(MULTI, UserPush("ann", "m1", "one")) for _ in range(2)
    ]
    found.append(pushes.from_user(MULTI, "bob", UserPush("ann", "m1", "two")))
    found += pushes.to_each(
        MULTI,
        [UserPush("ann", "m1", "one"), UserPush("ann", "m2", "three"), UserPush()],
    )
    assert pushes.to_many(MULTI, ["ann", ""], "m3", "four") == [
        Outcome.SENT,
        Outcome.NOT_SENT,
    ]
    sent = Outcome.SENT
    repeated = Outcome.REPEATED
    assert found == [sent, repeated, sent, repeated, sent, Outcome.NOT_SENT]
    assert texts(client) == [["one", "two", "three", "four"]]
    assert offsets(node) == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]
