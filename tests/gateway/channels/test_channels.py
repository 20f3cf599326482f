"""Channels: subscriptions that come back with a position, on one node and over several."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import ClassVar
from unittest.mock import Mock

import gevent
import pytest
from msgspec import Raw
from msgspec.structs import replace

from imserver.gateway.auth.rules import ALLOWED
from imserver.gateway.channels import members
from imserver.gateway.channels.client_commands import ChannelAnswers, ChannelCommands
from imserver.gateway.channels.connections import Joined, Left
from imserver.gateway.channels.members import ChannelRefused, Publication
from imserver.gateway.channels.subscriptions import Channels, Subscribed
from imserver.gateway.cluster.history import PAGE_BYTES, LocalHistory, Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers
from imserver.gateway.model import AskHistory, ChannelPart, DialectState, Event, Login, Outcome
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import MULTI, NEWEST, ClusterHarness, Several
from tests.gateway.hub.harness import Harness, received
from tests.gateway.hub.test_channels import texts
from tests.gateway.transport.harness import Client, turn, until

NEWS = "news"
CHANNELS: Mapping[str, ChannelSettings] = {
    "*": ChannelSettings(history_size=5, history_seconds=60),
    "plain": ChannelSettings(),
    "short": ChannelSettings(max_bytes=3),
    "small": ChannelSettings(max_subscribers=1),
    "lively": ChannelSettings(join_leave=True),
}


class Recovering(DialectState):
    """The state of a client that subscribes again when it is told to."""

    def resubscribes(self, _channel: str) -> bool:
        return True


def event(text: str) -> Event:
    return Event("msg", "shop", text)


def publish(harness: Harness, *messages: str, channel: str = NEWS) -> list[int]:
    """Publish these texts; their offsets."""
    positions = [
        harness.channels.publishing.publish_event(MULTI, channel, event(text)).position for text in messages
    ]
    return [0 if position is None else position.offset for position in positions]


def subscribe(
    harness: Harness, connection: Connection, channel: str = NEWS, since: Position | None = None
) -> Subscribed:
    channels = harness.channels
    found = channels.subscriptions.subscribe(connection, channel, channels.options.of(MULTI, channel), since)
    channels.subscriptions.answered(connection, channel, found)
    return found


def subscriber(
    harness: Harness, user: str = "ann", channel: str = NEWS, since: Position | None = None
) -> tuple[Connection, Client, Subscribed]:
    connection, client = harness.login(MULTI, user)
    connection.dialect_state = Recovering()
    return connection, client, subscribe(harness, connection, channel, since)


def reported(harness: Harness) -> list[tuple[str, str]]:
    """The kind and sender of each event that members are sent from now on."""
    heard: list[tuple[str, str]] = []
    harness.fanout.to_channel = lambda _name, event, *_skipped: heard.append((event.kind, event.sender)) or 1  # type: ignore[method-assign, assignment]
    return heard


def texts_of(subscribed: Subscribed) -> list[str]:
    return [each.text for each in subscribed.publications]


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as harness:
        harness.channel_settings = CHANNELS
        yield harness


@pytest.fixture
def nodes() -> Iterator[Several]:
    with Several(3) as several:
        for node in several.nodes.values():
            node.channel_settings = CHANNELS
        yield several


# --- one node -----------------------------------------------------------------------------------------------


def test_a_client_that_comes_back_receives_what_it_missed_and_then_what_is_new(harness: Harness) -> None:
    connection, client, first = subscriber(harness)
    assert first.position is not None
    assert first.position.offset == 0
    assert publish(harness, "one", "two") == [1, 2]
    assert texts(client) == [["one", "two"]]
    assert harness.channels.subscriptions.unsubscribe(connection, NEWS)
    publish(harness, "three", "four")
    assert texts(client) == [[]]
    again = subscribe(harness, connection, since=Position(first.position.epoch, 2))
    assert texts_of(again) == ["three", "four"]
    assert again.recovered
    publish(harness, "five")
    assert texts(client) == [["five"]]


def test_a_page_of_a_history_ends_where_it_is_full_and_its_reader_goes_on(harness: Harness) -> None:
    texts = [f"{number}".ljust(PAGE_BYTES // 3, ".") for number in range(5)]
    publish(harness, *texts)
    read: list[str] = []
    since = Position("", 0)
    for expected in (2, 2, 1, 0):
        page = harness.channels.histories.read(MULTI, NEWS, since, limit=-1)
        assert (len(page.publications), page.position.offset) == (expected, 5)
        read += [each.text for each in page.publications]
        since = Position(page.position.epoch, len(read))
    assert read == texts
    backwards = harness.channels.histories.read(MULTI, NEWS, limit=10, reverse=True)
    assert [each.text[0] for each in backwards.publications] == ["4", "3"]


@pytest.mark.parametrize(
    ("published", "since", "received"),
    [
        ([*"abcdefg"], Position("", 0), [*"cdefg"]),  # more than the history has
        (["." * (PAGE_BYTES // 2)] * 3 + ["newest"], Position("", 0), ["newest"]),  # more than a page
        (["one"], Position("other", 1), []),
        (["one"], Position("other", 0), ["one"]),
        (["one"], Position("", 3), []),
    ],
)
def test_a_client_that_missed_more_than_it_can_receive_or_comes_from_another_life_learns_it(
    harness: Harness, published: list[str], since: Position, received: list[str]
) -> None:
    _, _, first = subscriber(harness)
    assert first.position is not None
    publish(harness, *published)
    since = Position(since.epoch or first.position.epoch, since.offset)
    _, _, found = subscriber(harness, "bob", since=since)
    assert (found.recovered, texts_of(found)) == (False, received)


def test_users_are_counted_exactly_until_a_channel_is_too_large(harness: Harness) -> None:
    assert harness.channels.members.count_users(MULTI, "plain:1", 5) == (0, 0)
    connections = [subscriber(harness, user, "plain:1")[0] for user in ("ann", "bob", "eve")]
    nameless, _ = harness.connect()
    assert harness.sessions.begin_without_user(nameless, MULTI, ALLOWED) == 200
    connections.insert(1, nameless)
    subscribe(harness, nameless, "plain:1")
    for count, users in ((4, 4), (3, 3)):
        assert harness.channels.members.count_users(MULTI, "plain:1", 5) == (count, users)
        harness.channels.subscriptions.unsubscribe(connections[count - 1], "plain:1")
    subscribe(harness, connections[2], "plain:1")
    assert harness.channels.members.count_users(MULTI, "plain:1", 5) == (3, 3)
    assert harness.sessions.login(nameless, Login(MULTI, "ann"), again=True) == 200
    assert harness.channels.members.count_users(MULTI, "plain:1", 5) == (3, 2)
    assert harness.channels.members.count_users(MULTI, "plain:1", 2) == (3, 3)


def test_others_are_served_while_many_subscribers_are_listed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "is_long_turn", lambda: True)
    connections = [subscriber(harness, f"user {number}", "plain:1")[0] for number in range(200)]
    leaving = gevent.spawn(harness.channels.subscriptions.unsubscribe, connections[-1], "plain:1")
    page = harness.channels.members.page(MULTI, "plain:1")
    assert leaving.ready()
    assert page.total == len(page.members) == 200


def test_readers_of_the_same_page_share_its_bytes(harness: Harness) -> None:
    check_that_readers_share_pages(harness, CmdAnswers(ChannelCmdDialect()), ChannelCmdDialect())


def check_that_readers_share_pages(harness: Harness, answers: ChannelAnswers, dialect: Dialect) -> None:
    publish(harness, "one", "." * 5000)
    commands = ChannelCommands(harness.channels, Mock(), Mock(), {dialect.name: answers}, harness.table)
    connections = [harness.login(MULTI, user, dialect=dialect)[0] for user in ("ann", "bob")]
    for connection in connections:
        subscribe(harness, connection)

    def read(limit: int = 10) -> list[Raw]:
        command = AskHistory(NEWS, limit)
        return [commands.history(each, command).data for each in connections]  # type: ignore[misc]

    before, again = read()
    assert before is again
    for _ in range(2):
        publish(harness, "." * 5000)
        after, again = read()
        assert after is again
        assert len(after) > len(before) + 5000
        before = after
    assert len({bytes(each[0]) for each in map(read, (1, 2, 10))}) == 3


def test_refusals_have_a_reason(harness: Harness) -> None:
    connection, _, _ = subscriber(harness)
    other, _ = harness.login(MULTI, "bob")

    def reason(to: Connection, channel: str) -> str:
        with pytest.raises(ChannelRefused) as refused:
            subscribe(harness, to, channel)
        return refused.value.reason

    assert reason(connection, NEWS) == "exists"
    assert reason(other, "") == "name"
    assert reason(other, "x" * 256) == "name"
    subscribe(harness, connection, "small:1")
    assert reason(other, "small:1") == "full"
    assert reason(connection, "small:1") == "exists"
    with pytest.raises(ChannelRefused) as refused:
        publish(harness, "four", channel="short:1")
    assert refused.value.reason == "limit"
    other.lost()
    assert reason(other, "late") == "ended"


def test_joins_and_leaves_reach_the_others_with_what_clients_say_of_themselves_as_presence_shows_it(
    harness: Harness,
) -> None:
    heard: list[Event] = []
    harness.fanout.to_channel = lambda _name, event, *_skipped: heard.append(event) or 1  # type: ignore[method-assign, assignment]
    channel = "lively:1"
    connection, _, _ = subscriber(harness, channel=channel)
    connection.dialect_state = DialectState(info=b'{"name":"Ann"}', channel_infos={channel: b'{"b":2}'})
    (member,) = harness.channels.members.page(MULTI, channel).members
    assert (member.user, member.info, member.channel_info) == ("ann", '{"name":"Ann"}', '{"b":2}')
    subscriber(harness, "bob", channel=channel)
    harness.channels.subscriptions.unsubscribe(connection, channel)
    kinds = [(each.kind, each.sender) for each in heard]
    assert kinds == [("join", "ann"), ("join", "bob"), ("leave", "ann")]
    assert heard[2].channel is not None
    assert b'"conn_info":{"name":"Ann"}' in heard[2].channel.info


@pytest.mark.parametrize("how", ["connection", "back end", "gap"])
def test_the_end_of_a_subscription_is_announced_as_a_leave_whatever_ends_it(
    harness: Harness, how: str
) -> None:
    harness.channel_settings = {"*": ChannelSettings(join_leave=True, history_size=5, history_seconds=60)}
    plain, _ = harness.login(MULTI, "bob")
    harness.channels.subscriptions.join(MULTI, NEWS, plain)  # its client cannot subscribe again
    ended = endings(harness)
    connection, client, _ = subscriber(harness)
    heard = reported(harness)
    if how == "connection":
        client.hang_up()
    elif how == "back end":
        one = harness.connections.id_of(connection)
        assert harness.connections.leave(MULTI, one, NEWS) is Left.LEFT
        assert harness.connections.leave(MULTI, one, NEWS) is Left.ABSENT
    else:
        publish(harness, "one")
        assert isinstance(harness.history, LocalHistory)
        harness.history.forget(MULTI)
        publish(harness, "two")
        assert ended == [(connection, 2500)]
        assert harness.channels.members.channels_of(connection) == ()
    until(lambda: ("leave", "ann") in heard)


def test_a_client_that_comes_and_goes_all_the_time_disconnects_no_other_subscriber(harness: Harness) -> None:
    channel, refused = "lively:1", set[str]()
    other, client = harness.login(MULTI, "bob", dialect=ChannelCmdDialect())
    subscribe(harness, other, channel)
    connection, _ = harness.login(MULTI, "ann")
    connection.dialect_state = DialectState(info=b'"%b"' % (b"i" * 5000))
    for _ in range(1000):
        try:
            subscribe(harness, connection, channel)
        except ChannelRefused as refusal:
            refused.add(refusal.reason)
        harness.channels.subscriptions.unsubscribe(connection, channel)
        turn()
    assert (other.is_open, refused) == (True, {"rate"})
    assert any(b'"cmd":"join"' in payload for payload in client.payloads())
    same_name, charge = harness.login(NEWEST, "ann")[0], harness.channels.notices.charge
    with pytest.raises(ChannelRefused, match="subscribes too often"):
        list(map(charge, [connection] * 1000, [channel] * 1000))
    charge(same_name, channel)  # neither another client nor one of another app pays for it
    subscriber(harness, "eve", channel)
    large = subscriber(harness, "zoe", "plain:1")[0]
    large.dialect_state = DialectState(info=b'"%b"' % (b"i" * 200_000))
    assert subscribe(harness, large, "lively:2").local.name == "lively:2", "now and then"


def test_a_user_who_connects_all_the_time_disconnects_no_other_subscriber(harness: Harness) -> None:
    wanted, refused = dict.fromkeys([f"lively:{number}" for number in range(20)]), set[str]()
    other, _ = harness.login(MULTI, "bob", dialect=ChannelCmdDialect())
    for channel in wanted:
        subscribe(harness, other, channel)
    for _ in range(50):
        connection, _ = harness.login(MULTI, "ann")
        connection.dialect_state = DialectState(info=b'"%b"' % (b"i" * 5000))
        try:
            found = harness.channels.subscriptions.subscribe_each(connection, wanted)
        except ChannelRefused as refusal:
            refused.add(refusal.reason)
            assert not harness.channels.members.channels_of(connection)
        else:
            for channel, each in found.items():
                harness.channels.subscriptions.answered(connection, channel, each)
        connection.close(1000)
        turn()
    assert (other.is_open, refused) == (True, {"rate"})


def endings(harness: Harness) -> list[tuple[Connection, int]]:
    """The subscriptions that the server ends from now on, with their codes."""
    ended: list[tuple[Connection, int]] = []
    send = harness.fanout.to_connection

    def to_connection(connection: Connection, event: Event) -> None:
        if event.kind == "unsubscribed":
            ended.append((connection, event.code))
        else:
            send(connection, event)

    harness.fanout.to_connection = to_connection  # type: ignore[method-assign, assignment]
    return ended


# --- subscribed by the back end -----------------------------------------------------------------------------


def test_a_client_that_the_back_end_subscribes_has_a_position_and_misses_nothing(nodes: Several) -> None:
    a, history = nodes[1], nodes.book.history
    connection, client = a.login(MULTI, "ann")
    connection.dialect_state = Recovering()
    publish(a, "before")
    history.holding = True
    positions: list[tuple[Position | None, list[str]]] = []
    a.connections.report_to(lambda *what: positions.append((what[4], received_texts(client))))
    joining = gevent.spawn(a.connections.join, MULTI, a.connections.id_of(connection), NEWS)
    until(lambda: history.reads)
    history.holding = False
    publish(a, "during")
    history.reads[0].set()
    assert joining.get() == Joined.JOINED
    publish(a, "after")
    ((position, received_before),) = positions
    assert position is not None
    assert (position.offset, received_before) == (1, [])
    assert texts(client) == [["during", "after"]]


@pytest.mark.parametrize("why", ["no recovery", "no history", "no answer", "member"])
def test_a_client_that_cannot_recover_is_subscribed_without_a_position(harness: Harness, why: str) -> None:
    connection, client = harness.login(MULTI, "ann")
    channel = "plain:1" if why == "no history" else NEWS
    positions: list[Position | None] = []
    join = partial(harness.connections.join, MULTI, harness.connections.id_of(connection), channel)
    if why == "member":
        join()
    if why != "no recovery":
        connection.dialect_state = Recovering()
    if why == "no answer":
        harness.history.read = lambda *_: None  # type: ignore[method-assign, assignment]
    harness.connections.report_to(lambda *what: positions.append(what[4]))
    assert join() == (Joined.MEMBER if why == "member" else Joined.JOINED)
    assert positions == [None]
    publish(harness, "one", channel=channel)
    assert texts(client) == [["one"]]


# --- several nodes ------------------------------------------------------------------------------------------


def play(nodes: Several, client: Client, steps: str) -> None:
    """Go through steps: ``a texts`` and ``b texts`` publish on these nodes; ``hold`` and ``release`` what a
    sends; ``stop`` the pages of the history until they ``go``, and ``read`` waits for one; ``forget`` or
    ``check`` it, or wait until it was ``filled``; ``= texts``: the client, of node c, has received them."""
    a, b, c = nodes.nodes.values()
    history = nodes.book.history
    for step in steps.split("; "):
        what, *words = step.split()
        if what in ("a", "b"):
            publish(a if what == "a" else b, *words)
        elif what == "=":
            until(lambda words=words: received_texts(client) == words)  # type: ignore[misc]
        elif what == "hold":
            a.rpc.holding = True
        elif what == "release":
            a.rpc.release()
        elif what == "stop":
            history.holding = True
        elif what == "read":
            until(lambda: len(history.reads) == 1)
        elif what == "go":
            history.holding = False
            history.reads[0].set()
            turn()
        elif what == "forget":
            history.forget(MULTI)
        elif what == "check":
            c.channels.subscriptions.check_positions()
        else:
            assert what == "filled"
            until(lambda: not c.hub.apps[MULTI].channels[NEWS].position.filling)  # type: ignore[union-attr]


FOUR = "one two three four"
NEW_EPOCH = "a old; = old; forget; hold; a one two"


@pytest.mark.parametrize(
    ("steps", "received", "ended"),
    [
        ("hold; a one; b two; release", "one two", False),
        ("hold; a one; b two; = one two; release", "one two", False),  # too late: nothing arrives twice
        ("hold; a one; check; = one", "one", False),
        ("stop; hold; a one; b two; read; release; a three; go; a four", FOUR, False),
        (
            "stop; hold; a one; b two; read; a three; b four; go; = one two three four",
            "one two three four",
            False,
        ),
        ("stop; hold; a lost; b old; read; forget; a one; b two; go; = one two", "one two", True),
        (f"{NEW_EPOCH}; check; = old one two; release; b last", "old one two last", True),
        (f"{NEW_EPOCH}; b three; = old one two three; release; b last", "old one two three last", True),
        (
            "b old; hold; a late; forget; b one two; = old one two; release; filled; b three",
            "old one two late three",
            True,
        ),
    ],
)
def test_publications_of_two_nodes_arrive_once_and_in_order_whatever_is_lost(
    nodes: Several, steps: str, received: str, ended: bool
) -> None:
    """Members that cannot begin again miss nothing of a new epoch; those that can are expelled to, once."""
    c = nodes[3]
    plain, client = c.login(MULTI, "bob")
    subscribe(c, plain)
    connection, other, _ = subscriber(c)
    expelled = endings(c)
    play(nodes, client, steps)
    assert texts(client) == [received.split()]
    assert expelled == ([(connection, 2500)] if ended else [])
    if not ended:
        assert texts(other) == [received.split()]


def test_who_is_left_out_stays_left_out_if_a_publication_comes_early(nodes: Several) -> None:
    a, b, c = nodes.nodes.values()
    _, ann, _ = subscriber(c)
    _, bob, _ = subscriber(c, "bob")
    a.rpc.holding = True
    publish(a, "one")
    b.channels.publishing.publish(MULTI, NEWS, event("two"), except_users=("bob",))
    a.rpc.release()
    assert texts(ann, bob) == [["one", "two"], ["one"]]


def test_subscriptions_during_a_storm_have_no_hole_and_no_double(nodes: Several) -> None:
    publishers = list(nodes.nodes.values())
    for node in publishers:
        node.channel_settings = {"*": ChannelSettings(history_size=10_000, history_seconds=60)}
    seen: dict[str, list[int]] = {}
    clients: list[tuple[str, Client]] = []

    def publish_many(node: ClusterHarness) -> None:
        for _ in range(100):
            publish(node, "x")
            gevent.sleep(0)

    def come(number: int) -> None:
        gevent.sleep(number / 2000)
        user = f"u{number}"
        connection, client = publishers[number % 3].login(MULTI, user)
        connection.dialect_state = Recovering()
        clients.append((user, client))
        found = subscribe(publishers[number % 3], connection, NEWS, Position("", 0))
        seen[user] = [each.channel.offset for each in found.publications if each.channel]

    greenlets = [gevent.spawn(publish_many, node) for node in publishers]
    greenlets += [gevent.spawn(come, number) for number in range(12)]
    gevent.joinall(greenlets, timeout=60, raise_error=True)
    turn()
    for user, client in clients:
        until(lambda u=user, c=client: len(seen[u]) + len(received_texts(c)) >= 300)  # type: ignore[misc]
        assert seen[user] == list(range(1, len(seen[user]) + 1))
        assert len(seen[user]) + len(received_texts(client)) == 300


def received_texts(client: Client) -> list[str]:
    return [text for kind, _, text in received(client) if kind == "msg"]


def test_the_first_subscriber_of_a_node_receives_in_order_what_comes_while_it_waits(nodes: Several) -> None:
    a, b, c = nodes.nodes.values()
    history = nodes.book.history
    history.holding = True
    connection, client = c.login(MULTI, "ann")
    connection.dialect_state = Recovering()
    coming = gevent.spawn(subscribe, c, connection)
    until(lambda: len(history.reads) == 1)
    a.rpc.holding = True
    publish(a, "one")
    publish(b, "two")
    a.rpc.release()
    history.holding = False
    history.reads[0].set()
    coming.get()
    publish(b, "three")
    until(lambda: "three" in received_texts(client))
    assert received_texts(client) == ["one", "two", "three"]
    state = c.hub.apps[MULTI].channels[NEWS].position
    assert state is not None
    assert (state.offset, state.early, state.filling) == (3, {}, False), "no gap, so nothing is read again"


def test_the_subscription_of_a_subscriber_with_a_position_of_before_ends(nodes: Several) -> None:
    a, _, c = nodes.nodes.values()
    history, ended = nodes.book.history, endings(c)
    history.holding = True
    connections = [c.login(MULTI, user)[0] for user in ("ann", "bob")]
    greenlets = []
    for number, connection in enumerate(connections, 1):
        connection.dialect_state = Recovering()
        greenlets.append(gevent.spawn(subscribe, c, connection))
        until(lambda n=number: len(history.reads) == n)  # type: ignore[misc]
        a.rpc.holding = True
        publish(a, str(number))
    second, first = greenlets[1], greenlets[0]
    history.reads[1].set()
    second.get()
    history.reads[0].set()
    assert first.get().position.offset == 0  # and publication 1 will not come any more
    assert ended == [(connections[0], 2500)]


def test_a_newcomer_that_finds_another_epoch_ends_the_old_subscriptions(nodes: Several) -> None:
    c = nodes[3]
    plain, client = c.login(MULTI, "bob")
    subscribe(c, plain)
    old, _, _ = subscriber(c)
    play(nodes, client, NEW_EPOCH)
    ended = endings(c)
    _, newcomer, found = subscriber(c, "carol")
    assert found.position is not None
    assert found.position.offset == 2
    play(nodes, client, "= old one two; release; b last")
    assert texts(client, newcomer) == [["old", "one", "two", "last"], ["last"]]
    assert ended == [(old, 2500)]


def test_members_receive_what_a_failed_subscription_has_held_up(nodes: Several) -> None:
    a, b, _ = nodes.nodes.values()
    plain, client = a.login(MULTI, "bob")
    assert a.channels.subscriptions.join(MULTI, NEWS, plain)
    history = nodes.book.history
    history.holding = history.away = True
    connection, _ = a.login(MULTI, "ann")
    coming = gevent.spawn(subscribe, a, connection)
    until(lambda: len(history.reads) == 1)
    history.away = False
    publish(b, "one")
    history.reads[0].set()
    with pytest.raises(ChannelRefused):
        coming.get()
    publish(b, "two")
    assert texts(client) == [["one", "two"]]


def test_members_that_came_behind_a_gap_do_not_receive_what_is_before_them(nodes: Several) -> None:
    a, b, c = nodes.nodes.values()
    for node in (a, b, c):
        node.channel_settings = {"*": ChannelSettings(history_size=2, history_seconds=60)}
    ended, ann = endings(c), subscriber(c)[0]
    early, early_client = c.login(MULTI, "bob")
    subscribe(c, early)
    a.rpc.holding = True
    publish(a, "one", "two", "three")
    late, late_client = c.login(MULTI, "carol")
    position = subscribe(c, late).position
    assert position is not None
    assert position.offset == 3
    publish(b, "four")
    until(lambda: received_texts(late_client) == ["four"])
    assert received_texts(early_client) == ["three", "four"]
    assert ended == [(ann, 2500)]
    publish(b, "five")
    assert texts(early_client, late_client) == [["three", "four", "five"], ["four", "five"]]


def test_without_an_answer_of_the_history_nothing_is_published_or_subscribed(nodes: Several) -> None:
    a, _, _ = nodes.nodes.values()
    connection, client, _ = subscriber(a)
    nodes.book.history.away = True
    with pytest.raises(ChannelRefused) as refused:
        publish(a, "one")
    assert refused.value.reason == "unavailable"
    assert a.channels.publishing.publish(MULTI, NEWS, event("two")) is Outcome.FAILED
    a.channels.subscriptions.unsubscribe(connection, NEWS)
    with pytest.raises(ChannelRefused) as refused:
        subscribe(a, connection)
    assert refused.value.reason == "unavailable"
    assert a.channels.members.channels_of(connection) == ()
    assert texts(client) == [[]]


def test_a_key_is_in_the_history_once(nodes: Several) -> None:
    found = []
    for id, key in (("", "a"), ("", "a"), ("a", ""), ("", "b"), ("", "")):
        for node in nodes.nodes.values():
            what = Event("msg", "shop", "text", id)
            position = node.channels.publishing.publish_event(MULTI, NEWS, what, key=key).position
            assert position is not None
            found.append(position.offset)
    assert found == [1] * 9 + [2] * 3 + [3, 4, 5]


def test_who_missed_what_another_node_removed_has_to_begin_again(nodes: Several) -> None:
    a, b, c = nodes.nodes.values()
    connection, client, _ = subscriber(c)
    ended = endings(c)
    a.rpc.holding = True
    publish(a, "missed")
    b.channels.histories.remove(MULTI, NEWS)
    assert publish(b, "new") == [2]
    until(lambda: ended == [(connection, 2500)])
    a.rpc.release()
    assert texts(client) == [[]]


def test_a_client_that_wants_all_or_nothing_is_no_member_if_it_cannot_recover(harness: Harness) -> None:
    publish(harness, "one")
    connection, _ = harness.login(MULTI, "ann")
    options, since = harness.channels.options.of(MULTI, NEWS), Position("another", 1)
    with pytest.raises(ChannelRefused) as refused:
        harness.channels.subscriptions.subscribe(connection, NEWS, options, since, reject_unrecovered=True)
    assert refused.value.reason == "unrecoverable"
    assert not harness.channels.members.has(connection, NEWS)
    found = harness.channels.subscriptions.subscribe(connection, NEWS, options, reject_unrecovered=True)
    assert not found.recovered
    # It would come again and again: a channel without a history has no position that fits.
    plain = harness.channels.options.of(MULTI, "plain:1")
    harness.channels.subscriptions.subscribe(connection, "plain:1", plain, since, reject_unrecovered=True)
    assert harness.channels.members.has(connection, "plain:1")


def test_of_several_subscriptions_all_or_none_stay(harness: Harness) -> None:
    publish(harness, "one", "two", channel="a")
    publish(harness, "one", channel="b")
    connection, _ = harness.login(MULTI, "ann")
    found = harness.channels.subscriptions.subscribe_each(connection, {"a": None, "b": None, "plain:1": None})
    offsets = {channel: each.position and each.position.offset for channel, each in found.items()}
    assert offsets == {"a": 2, "b": 1, "plain:1": None}
    subscriber(harness, "bob", "small:2")
    with pytest.raises(ChannelRefused):
        harness.channels.subscriptions.subscribe_each(connection, {"c": None, "small:2": None})
    assert harness.channels.members.channels_of(connection) == ("a", "b", "plain:1")
    assert harness.channels.subscriptions.subscribe_each(connection, {}) == {}


STORED = "stored:1"
EVENT = Event("msg", "shop", "x")


class Gateway(Harness):
    """A node whose channels in the namespace ``stored`` are stored."""

    channel_settings: ClassVar = {"stored": ChannelSettings(history="log")}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as node:
        yield node


@pytest.mark.parametrize(
    "act",
    [
        lambda channels, ann: channels.publishing.publish_event(MULTI, STORED, EVENT),
        lambda channels, ann: channels.histories.read(MULTI, STORED),
        lambda channels, ann: channels.subscriptions.join(MULTI, STORED, ann),
        lambda channels, ann: channels.subscriptions.subscribe(
            ann, STORED, channels.options.of(MULTI, STORED)
        ),
    ],
    ids=["publish", "history", "join", "subscribe"],
)
def test_a_node_without_the_log_refuses_stored_channels_by_name(
    gateway: Gateway, act: Callable[[Channels, Connection], object]
) -> None:
    ann, _ = gateway.login(MULTI, "ann")
    with pytest.raises(ChannelRefused, match="message log, which this node does not have") as refused:
        act(gateway.channels, ann)
    assert refused.value.reason == "not_available"
    assert gateway.channels.members.channels_of(ann) == ()
    assert gateway.channels.publishing.publish(MULTI, STORED, EVENT) is Outcome.REFUSED


def test_what_a_new_member_has_read_from_the_log_does_not_come_again(gateway: Gateway) -> None:
    (ann, client), (bob, other) = (gateway.login(MULTI, user) for user in ("ann", "bob"))
    for connection in (ann, bob):
        gateway.channels.subscriptions.join(MULTI, "plain", connection)
    local, ordered = gateway.hub.apps[MULTI].channels["plain"], gateway.channels.subscriptions.ordered
    ordered.wait(local, ann, False)
    for offset in range(1, 5):
        if offset == 2:
            ordered.release(local, ann, Position("e", 3), is_stored=True)
        part = ChannelPart("plain", offset, "e")
        ordered.to_ready(local, Publication("plain", replace(EVENT, text=str(offset), channel=part)))
    assert texts(client, other) == [["4"], ["1", "2", "3", "4"]]


@pytest.mark.parametrize(("epoch", "basis"), [("", 1), ("other", 0)])
def test_a_delta_is_for_who_has_received_what_was_before(gateway: Gateway, epoch: str, basis: int) -> None:
    gateway.channel_settings = {"*": ChannelSettings(history_size=5, history_seconds=60, delta=True)}  # type: ignore[misc]
    ann, _ = gateway.login(MULTI, "ann")
    position = gateway.channels.publishing.publish_event(MULTI, "news", EVENT).position
    assert position is not None
    since, options = Position(epoch or position.epoch, 0), gateway.channels.options.of(MULTI, "news")
    found = gateway.channels.subscriptions.subscribe(ann, "news", options, since, delta=True)
    gateway.channels.subscriptions.answered(ann, "news", found)
    state = gateway.hub.apps[MULTI].channels["news"].position
    assert state is not None
    assert (found.recovered, state.deltas) == (not epoch, {ann: basis})
