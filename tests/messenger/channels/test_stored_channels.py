"""Channels whose history is the message log, in its order, without hole or
double; and those of groups."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest.mock import Mock

import gevent
import pytest
from msgspec import json

from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.histories import Published
from imserver.gateway.channels.members import ChannelRefused, Publication
from imserver.gateway.channels.subscriptions import Subscribed
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers, CmdState
from imserver.gateway.model import ChannelPart, Event, Outcome, StreamPart, Subscribe
from imserver.gateway.push.targets import Target
from imserver.gateway.transport.connection import Connection
from imserver.messenger.channels.stored_channels import ChannelLog, draft_of
from imserver.messenger.log.contract import Appended, Commit, Draft, Entry
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.hub.harness import texts
from tests.gateway.push.test_publishing import HELLO, Harness, publishing_of
from tests.gateway.transport.harness import Client, until
from tests.messenger.log_file import DATABASE_ID, Gates, LogFile
from tests.messenger.messaging_harness import APP, MessageClient, Node

NEWS = "news:1"
EPOCH = DATABASE_ID[:8]


class ChannelNode(Node):
    """A node whose channels in the namespace ``news`` are stored."""

    channel_settings: ClassVar = {
        "news": ChannelSettings(history="log"),
        "live": ChannelSettings(),
    }


@pytest.fixture
def node() -> Iterator[ChannelNode]:
    with ChannelNode() as node:
        yield node


@pytest.fixture
def nodes() -> Iterator[tuple[ChannelNode, ChannelNode]]:
    file = LogFile()
    with ChannelNode(file) as one, ChannelNode(file) as two:
        one.others, two.others = [two], [one]
        yield one, two


def event(text: str, id: str = "") -> Event:
    return Event("msg", "shop", text, id)


def publish(node: Node, *messages: str, channel: str = NEWS) -> list[int]:
    """Publish these texts; their offsets."""
    positions = [
        node.channels.publishing.publish_event(APP, channel, event(text)).position
        for text in messages
    ]
    assert all(
        position is not None and position.epoch == EPOCH for position in positions
    )
    return [position.offset for position in positions if position is not None]


def subscribe(
    node: Node,
    connection: Connection,
    since: Position | None = None,
    channel: str = NEWS,
) -> Subscribed:
    found = node.channels.subscriptions.subscribe(
        connection, channel, node.channels.options.of(APP, channel), since
    )
    node.channels.subscriptions.answered(connection, channel, found)
    return found


def subscriber(
    node: Node, user: str = "ann", since: Position | None = None, channel: str = NEWS
) -> tuple[Connection, Client, Subscribed]:
    connection, client = node.login(APP, user)
    return connection, client, subscribe(node, connection, since, channel)


def texts_of(subscribed: Subscribed) -> list[str]:
    return [each.text for each in subscribed.publications]


@pytest.mark.parametrize(
    ("since", "begin", "missed"),
    [
        (Position(EPOCH, 1), 1, ["two", "three"]),
        (Position(EPOCH, 3), 3, []),
        (Position("other", 1), 3, []),
        (None, 3, []),
    ],
)
def test_a_back_end_subscribes_a_client_from_a_position(
    node: ChannelNode, since: Position | None, begin: int, missed: list[str]
) -> None:
    publish(node, "one", "two", "three")
    connection, client = node.login(APP, "ann")
    connection.dialect_state = CmdState(channels=(NEWS,))
    answers: list[Position] = []
    assert node.channels.subscriptions.join_with_position(
        connection, NEWS, answers.append, since
    )
    assert answers == [Position(EPOCH, begin)]
    publish(node, "four")
    assert texts(client) == [[*missed, "four"]]


@pytest.mark.usefixtures("small")
def test_a_client_that_missed_too_much_or_saw_another_log_must_reload(
    node: ChannelNode,
) -> None:
    publish(node, "one", "two", "three")
    for since in (Position("other", 1), Position(EPOCH, 4)):
        assert not subscriber(node, since=since)[2].recovered
    _, client, subscribed = subscriber(node, since=Position(EPOCH, 0))
    assert not subscribed.recovered
    assert subscriber(node, "bob", since=Position(EPOCH, 1))[2].recovered
    publish(node, "four")
    assert texts(client) == [["four"]]


@pytest.mark.parametrize("arrives", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("others", [0, 1])
def test_what_another_node_commits_at_any_moment_of_a_subscription_arrives_once(
    nodes: tuple[ChannelNode, ChannelNode], others: int, arrives: bool
) -> None:
    """Before and after each read of the node that subscribes, until there is no
    such read any more."""
    one, two = nodes
    publish(one, "before")
    for number in range(others):
        subscriber(two, f"other {number}")
    one.wire = lambda _first, _last: arrives
    connection, client = two.login(APP, "ann")
    left = 0

    def commit() -> None:
        nonlocal left
        left -= 1
        if not left:
            publish(one, "meanwhile")

    two.gates.around = commit
    moments = 0
    since = 1
    reached = True
    while reached:
        moments += 1
        left = moments
        found = subscribe(two, connection, Position(EPOCH, since))
        reached = left <= 0
        left = 0
        live = publish(one, "behind")[0]
        two.messaging.follower.expect(APP, live)
        until(lambda live=live: two.messaging.follower.position(APP) == live)
        assert found.recovered
        assert found.position is not None
        offsets = [
            each.channel.offset
            for each in found.publications
            if each.channel is not None
        ]
        assert offsets == [*range(since + 1, found.position.offset + 1)]
        row = texts(client)[0]
        assert len(row) == live - found.position.offset
        assert [*texts_of(found), *row] == ["meanwhile"] * reached + ["behind"]
        assert two.channels.subscriptions.unsubscribe(connection, NEWS)
        since = live
        if not others:
            two.messaging.follower.forget_unwanted(APP)
    assert moments > (2 if others else 4)


def test_publications_of_other_ways_are_stored_and_notices_are_not(
    node: ChannelNode,
) -> None:
    _, client, _ = subscriber(node)
    ways = [
        (NEWS, event("one")),
        ("live:1", event("live")),
        (NEWS, event("two")),
        (NEWS, Event("left", "eve", "bye")),
    ]
    outcomes = [node.channels.publishing.publish(APP, *each) for each in ways]
    assert outcomes == [Outcome.SENT, Outcome.NOT_SENT, Outcome.SENT, Outcome.SENT]
    page = node.channels.histories.read(APP, NEWS, limit=-1)
    assert [each.text for each in page.publications] == ["one", "two"]
    assert (
        node.channels.publishing.publish_event(
            APP, NEWS, event("unstored"), with_history=False
        ).position
        is None
    )
    assert page.position == node.channels.histories.read(APP, NEWS).position
    assert client.payloads()


def test_users_and_a_connection_are_left_out(
    nodes: tuple[ChannelNode, ChannelNode],
) -> None:
    one, two = nodes
    own, ann, _ = subscriber(one, "ann")
    _, bob, _ = subscriber(two, "bob")
    _, cid, _ = subscriber(two, "cid")
    one.channels.publishing.publish_event(
        APP, NEWS, event("x"), except_users=("bob",), except_connection=own
    )
    until(lambda: cid.payloads())
    assert (texts(ann), texts(bob), texts(cid)) == ([[]], [[]], [["x"]])


def test_an_id_is_stored_once_in_each_channel(node: ChannelNode) -> None:
    _, client, _ = subscriber(node)
    ask = [(NEWS, "a"), (NEWS, "a"), ("news:2", "a"), (NEWS, "b")]
    found = [
        node.channels.publishing.publish_event(APP, channel, event("x", id)).position
        for channel, id in ask
    ]
    assert [position.offset for position in found if position is not None] == [
        1,
        1,
        2,
        3,
    ]
    assert texts(client) == [["x", "x"]]
    again = node.channels.publishing.publish_event(
        APP, NEWS, event("x", "shown"), key="a"
    )
    assert again == Published(Outcome.REPEATED, Position(EPOCH, 1))


def test_what_is_invalid_or_finds_no_database_is_refused_and_no_history_is_removed(
    node: ChannelNode,
) -> None:
    with pytest.raises(ChannelRefused) as refused:
        node.channels.publishing.publish_event(
            APP, NEWS, Event("msg", "x" * 256, "too long a sender")
        )
    assert refused.value.reason == "limit"
    assert (
        node.channels.publishing.publish(APP, NEWS, Event("msg", "x" * 256, ""))
        is Outcome.REFUSED
    )
    with pytest.raises(ChannelRefused) as refused:
        node.channels.histories.remove(APP, NEWS)
    assert refused.value.reason == "not_available"
    node.gates.away = True
    with pytest.raises(ChannelRefused) as refused:
        node.channels.publishing.publish_event(APP, NEWS, event("x"))
    assert refused.value.reason == "unavailable"
    assert node.channels.publishing.publish(APP, NEWS, event("x")) is Outcome.FAILED
    connection, _ = node.login(APP, "ann")
    with pytest.raises(ChannelRefused) as refused:
        subscribe(node, connection)
    assert refused.value.reason == "unavailable"
    assert node.channels.members.channels_of(connection) == ()


@pytest.mark.full("processes")
def test_a_channel_that_becomes_stored_is_delivered_from_the_log(
    node: ChannelNode,
) -> None:
    node.channel_settings = {}
    connection, client = node.login(APP, "ann")
    node.channels.subscriptions.join(APP, NEWS, connection)
    node.channel_settings = ChannelNode.channel_settings
    checking = gevent.spawn(node.channels.subscriptions.run)
    try:
        until(lambda: NEWS in node.channel_log.channels.get(APP, ()))
    finally:
        checking.kill()
    publish(node, "one")
    assert texts(client) == [["one"]]


class RoomNode(ChannelNode):
    """A node whose apps also store the messages of the action dialect."""

    store_conversations = True


def store(node: Node, draft: Draft) -> None:
    """Store a message of a user."""
    results: list[Any] = []
    node.messaging.send_of_user(APP, draft, results.append)
    until(lambda: results)
    assert isinstance(results[0], Appended)


def test_subscribers_on_every_node_receive_stored_messages_of_a_room_from_the_log() -> (
    None
):
    file = LogFile()
    with RoomNode(file) as one, RoomNode(file) as two:
        one.others, two.others = [two], [one]
        _, ann, subscribed = subscriber(one, "ann", channel="tea")
        _, bob, _ = subscriber(two, "bob", channel="tea")
        assert subscribed.position is None
        store(one, Draft(sender="cid", body=b"one", meta=b'{"seq":"s1"}', room="tea"))
        store(two, Draft(sender="cid", body=b"two", room="tea"))
        until(lambda: len(bob.payloads()) >= 2)
        assert [json.decode(payload)["seq"] for payload in bob.payloads()] == [
            "s1",
            "2",
        ]
        assert texts(ann, bob) == [["one", "two"], ["one", "two"]]
        assert (
            one.channels.publishing.publish(APP, "tea", event("live")) is Outcome.SENT
        )
        assert texts(ann) == [["live"]]
        assert len(one.entries()) == 2


def test_a_codec_with_channels_names_the_channel_and_without_a_database_nobody_subscribes_to_a_room() -> (
    None
):
    with RoomNode() as node:
        connection, _ = node.login(APP, "bob")
        node.gates.away = True
        with pytest.raises(ChannelRefused) as refused:
            node.channels.subscriptions.join(APP, "tea", connection)
        assert refused.value.reason == "unavailable"
        node.gates.away = False
        connection, client = node.connect(dialect=ChannelCmdDialect())
        node.hub.join(node.hub.open(APP, "multi"), connection, "ann", "")
        subscribe(node, connection, channel="tea")
        store(node, Draft(sender="cid", body=b"one", room="tea"))
        until(client.payloads)
        (found,) = [json.decode(payload) for payload in client.payloads()]
        assert (found["cmd"], found["response"]["data"]["channel"]) == (
            "publication",
            "tea",
        )


@pytest.mark.parametrize(
    "wanted",
    [
        Event("msg", "ann", "text"),
        Event("msg", "ann", "", "id", "text", b'{"a":1}'),
        Event("msg", "", "", "id", "order", b"[1]"),
        Event("msg", "ann", "x", type="a-name-of-an-event-that-the-log-would-not-take"),
    ],
)
def test_a_publication_is_read_as_it_was_published(
    node: ChannelNode, wanted: Event
) -> None:
    stream = StreamPart("s", 2, whole=True, done=True)
    part = ChannelPart(
        NEWS, info=b'{"user":"ann"}', tags=b'{"lang":"en"}', stream=stream
    )
    outcome = node.log.writer.append(
        APP, [draft_of(Publication(NEWS, _with(wanted, part)))]
    )[0]
    found = node.channels.histories.read(APP, NEWS, limit=1).publications[0]
    assert found == _with(
        wanted, ChannelPart(NEWS, 1, EPOCH, part.info, part.tags, stream), found.time
    )
    assert outcome is not None


@pytest.mark.parametrize(
    "meta", [b"[1]", b'{"info":%b%b}' % (b"[" * 5000, b"]" * 5000)]
)
def test_a_message_whose_meta_is_of_somebody_else_is_a_publication_too(
    node: ChannelNode, meta: bytes
) -> None:
    _, client, _ = subscriber(node)
    commit(node, of_ann("x", meta), of_ann("y"))
    assert [
        each.text
        for each in node.channels.histories.read(APP, NEWS, limit=9).publications
    ] == ["x", "y"]
    assert texts(client) == [["x", "y"]]


def test_an_entry_that_cannot_be_delivered_does_not_hold_up_others(
    node: ChannelNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, client, _ = subscriber(node)
    deliver = node.channel_log.deliver

    def deliver_some(app: str, entry: Entry) -> int:
        if entry.body == b"x":
            raise RuntimeError("not this one")
        return deliver(app, entry)

    monkeypatch.setattr(node.channel_log, "deliver", deliver_some)
    commit(node, of_ann("x"), of_ann("y"))
    assert texts(client) == [["y"]]
    assert "could not be delivered to channels" in caplog.text


def of_ann(text: str, meta: bytes = b"") -> Draft:
    return Draft(sender="ann", body=text.encode(), meta=meta, room=NEWS)


def commit(node: Node, *drafts: Draft) -> None:
    """Store the first messages of the log together."""
    node.log.writer.append(APP, drafts)
    node.messaging.committed(Commit(APP, 1, len(drafts), node.entries()))


def _with(wanted: Event, part: ChannelPart, time: int = 0) -> Event:
    return Event(
        wanted.kind,
        wanted.sender,
        wanted.text,
        wanted.id,
        wanted.type,
        wanted.data,
        time=time,
        channel=part,
    )


def test_channels_without_subscribers_are_forgotten(node: ChannelNode) -> None:
    stays, _, _ = subscriber(node)
    connection, _ = node.login(APP, "bob")
    names = node.channel_log.channels[APP]
    for number in range(10):
        channel = f"news:other{number}"
        subscribe(node, connection, channel=channel)
        assert names == {NEWS, channel}
        node.channels.subscriptions.unsubscribe(connection, channel)
    with pytest.raises(ChannelRefused):
        subscribe(node, connection, channel="news:" + "x" * 1000)
    assert names == {NEWS}
    node.channels.subscriptions.unsubscribe(stays, NEWS)
    assert not names
    assert not node.channel_log.follows(APP)


# --- subscriptions of users who leave a group, at any moment ------------------


class Consent(ChannelConsent):
    """``between``: runs after the first check of a member, and before the
    subscription."""

    between: Callable[[], object] | None = None

    def check_member(self, connection: Connection, channel: str) -> None:
        super().check_member(connection, channel)
        between = self.between
        self.between = None
        if between is not None:
            between()


def ask_to_subscribe(
    node: Node, consent: Consent, client: MessageClient, channel: str
) -> int:
    """Subscribe; the code of the answer."""
    commands = ChannelCommands(
        node.channels, Mock(), consent, {"cmd": CmdAnswers(ChannelCmdDialect())}, Mock()
    )
    codes: list[int] = []
    refused = commands.subscribe(
        client.connection, Subscribe(channel), lambda reply: codes.append(reply.code)
    )
    return refused.code if refused is not None else codes.pop()


@pytest.mark.parametrize("failure", [False, True])
def test_who_leaves_while_subscribing_does_not_stay_subscribed(failure: bool) -> None:
    with Node() as node:
        group = node.group("ann", "ann", "bob")
        ann = node.speaker("ann")
        bob = node.speaker("bob")
        consent = Consent(Mock(), Mock(hooks={}), node.channels, MutedUsers())
        channel = f"group:{group}"

        def go_away() -> None:
            node.gates.away = failure

        def leave() -> None:
            node.log.groups.leave(APP, group, ["ann"])
            node.during(2, go_away)

        consent.between = leave
        assert ask_to_subscribe(node, consent, ann, channel) == 200
        ended = until(
            lambda: [body for body in ann.bodies() if body["cmd"] == "unsubscribed"]
        )
        assert [body["response"]["data"]["code"] for body in ended] == [
            2500 if failure else 2000
        ]
        assert node.channels.members.channels_of(ann.connection) == ()
        assert ask_to_subscribe(node, consent, bob, channel) == (
            1008 if failure else 200
        )


def test_the_channels_of_users_and_groups_reach_their_sessions() -> None:
    harness = Harness()
    gates = Gates()
    store = LogFile().open(gates)
    log = store.part(MessageLog)
    group = log.groups.create("101", "ann", "", ["bob", "eve", "zoe"]).conversation
    targets = [
        Target(channel=f"group:{group}"),
        Target(channel="user:ann"),
        Target(group=str(group)),
    ]
    publishing = publishing_of(harness)
    harness.histories.ask(ChannelLog(store, Mock(), Mock(), Mock(), Mock()))
    assert publishing.to_targets("101", targets, HELLO, ("eve",)) == [Outcome.SENT] * 3
    everybody = ("users", "101", "ann", "bob", "zoe")
    assert harness.received == [everybody, ("users", "101", "ann"), everybody]
    log.groups.leave("101", group, ["ann", "bob"])
    assert publishing.to_targets("101", targets[:1], HELLO, ("eve",)) == [
        Outcome.NOT_SENT
    ]
    log.writer.append("101", [Draft(sender="ann", to_user="bob")])
    for name in (f"group:{group + 1}", "group:99"):
        assert publishing.to_targets("101", [Target(channel=name)], HELLO) == [
            Outcome.NOT_SENT
        ], "it is no group"
    gates.away = True
    assert publishing.to_targets("101", targets[:1], HELLO) == [Outcome.FAILED]
    (published,) = publishing.to_channels("101", [f"group:{group}"], HELLO)
    assert isinstance(published.refusal, ChannelRefused)
    assert published.outcome is Outcome.FAILED


def test_bytes_are_shown_as_base64(node: ChannelNode) -> None:
    draft = Draft(sender="shop", room=NEWS, body=b"\0\xff", meta=b'{"base64":true}')
    assert isinstance(node.log.writer.append(APP, [draft])[0], Appended)
    (event,) = node.channels.histories.read(APP, NEWS, None, 10).publications
    assert (event.text, event.data) == ("AP8=", b"")
