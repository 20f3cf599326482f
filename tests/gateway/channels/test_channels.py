"""Channels: subscriptions that come back with a position, on one node and over
several."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
from imserver.gateway.cluster.history import PAGE_BYTES, Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers
from imserver.gateway.model import (
    AskHistory,
    ChannelPart,
    DialectState,
    Event,
    Login,
    Outcome,
)
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import MULTI, NEWEST, ClusterHarness, Several
from tests.gateway.hub.harness import Harness, received, texts
from tests.gateway.transport.harness import Client, turn, until

NEWS = "news"
CHANNELS: Mapping[str, ChannelSettings] = {
    "*": ChannelSettings(history_size=5, history_seconds=60),
    "plain": ChannelSettings(),
    "short": ChannelSettings(max_bytes=3),
    "small": ChannelSettings(max_subscribers=1),
    "lively": ChannelSettings(join_leave=True),
    "stored": ChannelSettings(history="log"),
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
        harness.channels.publishing.publish_event(MULTI, channel, event(text)).position
        for text in messages
    ]
    return [0 if position is None else position.offset for position in positions]


def subscribe(
    harness: Harness,
    connection: Connection,
    channel: str = NEWS,
    since: Position | None = None,
) -> Subscribed:
    channels = harness.channels
    found = channels.subscriptions.subscribe(
        connection, channel, channels.options.of(MULTI, channel), since
    )
    channels.subscriptions.answered(connection, channel, found)
    return found


def subscriber(
    harness: Harness,
    user: str = "ann",
    channel: str = NEWS,
    since: Position | None = None,
) -> tuple[Connection, Client, Subscribed]:
    connection, client = harness.login(MULTI, user)
    connection.dialect_state = Recovering()
    return connection, client, subscribe(harness, connection, channel, since)


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


# --- one node -----------------------------------------------------------------


def test_a_page_of_a_history_ends_where_it_is_full_and_its_reader_goes_on(
    harness: Harness,
) -> None:
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
    ("published", "since", "received", "recovered"),
    [
        ([*"abcd"], Position("", 2), ["c", "d"], True),
        ([*"abcdefg"], Position("", 0), [*"cdefg"], False),  # more than the history has
        # more than a page
        (
            ["." * (PAGE_BYTES // 2)] * 3 + ["newest"],
            Position("", 0),
            ["newest"],
            False,
        ),
        (["one"], Position("other", 1), [], False),
        (["one"], Position("other", 0), ["one"], False),
        (["one"], Position("", 3), [], False),
    ],
)
def test_a_client_that_comes_back_receives_what_it_missed_or_learns_that_it_cannot(
    harness: Harness,
    published: list[str],
    since: Position,
    received: list[str],
    recovered: bool,
) -> None:
    _, _, first = subscriber(harness)
    assert first.position.offset == 0
    assert publish(harness, *published) == list(range(1, len(published) + 1))
    since = Position(since.epoch or first.position.epoch, since.offset)
    _, client, found = subscriber(harness, "bob", since=since)
    assert (found.recovered, texts_of(found)) == (recovered, received)
    publish(harness, "new")
    assert texts(client) == [["new"]]


def test_users_are_counted_exactly_until_a_channel_is_too_large(
    harness: Harness,
) -> None:
    count = partial(harness.channels.members.count_users, MULTI)
    channel = "plain:1"
    assert count(channel, 5) == (0, 0)
    connections = [
        subscriber(harness, user, channel)[0] for user in ("ann", "bob", "eve")
    ]
    nameless, _ = harness.connect()
    assert harness.sessions.begin_without_user(nameless, MULTI, ALLOWED) == 200
    connections.insert(1, nameless)
    subscribe(harness, nameless, channel)
    for number in (4, 3):
        assert count(channel, 5) == (number, number)
        harness.channels.subscriptions.unsubscribe(connections[number - 1], channel)
    subscribe(harness, connections[2], channel)
    assert count(channel, 5) == (3, 3)
    assert harness.sessions.login(nameless, Login(MULTI, "ann"), again=True) == 200
    assert [count(channel, most) for most in (5, 2)] == [(3, 2), (3, 3)]


def test_others_are_served_while_many_are_listed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "is_long_turn", lambda: True)
    connections = [
        subscriber(harness, f"user {number}", "plain:1")[0] for number in range(200)
    ]
    leaving = gevent.spawn(
        harness.channels.subscriptions.unsubscribe, connections[-1], "plain:1"
    )
    page = harness.channels.members.page(MULTI, "plain:1")
    assert leaving.ready()
    assert page.total == len(page.members) == 200


def test_readers_of_the_same_page_share_its_bytes(harness: Harness) -> None:
    check_that_readers_share_pages(
        harness, CmdAnswers(ChannelCmdDialect()), ChannelCmdDialect()
    )


def check_that_readers_share_pages(
    harness: Harness, answers: ChannelAnswers, dialect: Dialect
) -> None:
    publish(harness, "one", "." * 5000)
    commands = ChannelCommands(
        harness.channels, Mock(), Mock(), {dialect.name: answers}, harness.table
    )
    connections = [
        harness.login(MULTI, user, dialect=dialect)[0] for user in ("ann", "bob")
    ]
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
    (connection, _, _), (other, _) = subscriber(harness), harness.login(MULTI, "bob")

    def reason(act: Callable[..., object], *arguments: object, **options: str) -> str:
        with pytest.raises(ChannelRefused) as refused:
            act(harness, *arguments, **options)
        return refused.value.reason

    assert reason(subscribe, connection, NEWS) == "exists"
    assert reason(subscribe, other, "") == "name"
    subscribe(harness, connection, "small:1")
    assert reason(subscribe, other, "small:1") == "full"
    assert reason(subscribe, connection, "small:1") == "exists"
    assert reason(publish, "four", channel="short:1") == "limit"
    other.lost()
    assert reason(subscribe, other, "late") == "ended"


def test_joins_and_leaves_reach_the_others_with_what_clients_say_of_themselves(
    harness: Harness,
) -> None:
    heard: list[Event] = []
    harness.fanout.to_channel = lambda _name, event, *_skipped: heard.append(event) or 1  # type: ignore[method-assign, assignment]
    channel = "lively:1"
    connection, _, _ = subscriber(harness, channel=channel)
    connection.dialect_state = DialectState(
        info=b'{"name":"Ann"}', channel_infos={channel: b'{"b":2}'}
    )
    (member,) = harness.channels.members.page(MULTI, channel).members
    assert (member.user, member.info, member.channel_info) == (
        "ann",
        '{"name":"Ann"}',
        '{"b":2}',
    )
    subscriber(harness, "bob", channel=channel)
    harness.channels.subscriptions.unsubscribe(connection, channel)
    kinds = [(each.kind, each.sender) for each in heard]
    assert kinds == [("join", "ann"), ("join", "bob"), ("leave", "ann")]
    assert b'"conn_info":{"name":"Ann"}' in heard[2].channel.info


@pytest.mark.parametrize("how", ["connection", "back end", "gap"])
def test_the_end_of_a_subscription_is_a_leave_whatever_ends_it(
    harness: Harness, how: str
) -> None:
    harness.channel_settings = {
        "*": ChannelSettings(join_leave=True, history_size=5, history_seconds=60)
    }
    ended, (plain, _) = endings(harness), harness.login(MULTI, "bob")
    # its client cannot subscribe again
    harness.channels.subscriptions.join(MULTI, NEWS, plain)
    connection, client, _ = subscriber(harness)
    heard: list[tuple[str, str]] = []
    harness.fanout.to_channel = lambda _name, event, *_skipped: (
        heard.append((event.kind, event.sender)) or 1
    )  # type: ignore[method-assign, assignment]
    if how == "connection":
        client.hang_up()
    elif how == "back end":
        one = harness.connections.id_of(connection)
        assert [harness.connections.leave(MULTI, one, NEWS) for _ in range(2)] == [
            Left.LEFT,
            Left.ABSENT,
        ]
    else:
        publish(harness, "one")
        harness.history.forget(MULTI)
        publish(harness, "two")
        assert ended == [(connection, 2500)]
        assert harness.channels.members.channels_of(connection) == ()
    until(lambda: ("leave", "ann") in heard)


def test_a_client_that_comes_and_goes_all_the_time_disconnects_no_other_subscriber(
    harness: Harness,
) -> None:
    channel = "lively:1"
    refused = set[str]()
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
    same_name = harness.login(NEWEST, "ann")[0]
    charge = harness.channels.notices.charge
    with pytest.raises(ChannelRefused, match="subscribes too often"):
        list(map(charge, [connection] * 1000, [channel] * 1000))
    # neither another client nor one of another app pays for it
    charge(same_name, channel)
    subscriber(harness, "eve", channel)
    large = subscriber(harness, "zoe", "plain:1")[0]
    large.dialect_state = DialectState(info=b'"%b"' % (b"i" * 200_000))
    assert subscribe(harness, large, "lively:2").local.name == "lively:2", (
        "now and then"
    )


def test_a_user_who_connects_all_the_time_disconnects_no_other_subscriber(
    harness: Harness,
) -> None:
    wanted = dict.fromkeys([f"lively:{number}" for number in range(20)])
    refused = set[str]()
    other, _ = harness.login(MULTI, "bob", dialect=ChannelCmdDialect())
    for channel in wanted:
        subscribe(harness, other, channel)
    for _ in range(50):
        connection, _ = harness.login(MULTI, "ann")
        connection.dialect_state = DialectState(info=b'"%b"' % (b"i" * 5000))
        try:
            found = harness.channels.subscriptions.subscribe_each(connection, wanted)
            for channel, each in found.items():
                harness.channels.subscriptions.answered(connection, channel, each)
        except ChannelRefused as refusal:
            refused.add(refusal.reason)
            assert not harness.channels.members.channels_of(connection)
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


# --- subscribed by the back end -----------------------------------------------


def test_a_client_that_the_back_end_subscribes_has_a_position_and_misses_nothing(
    nodes: Several,
) -> None:
    a = nodes[1]
    history = nodes.book.history
    connection, client = a.login(MULTI, "ann")
    connection.dialect_state = Recovering()
    publish(a, "before")
    history.holding = True
    heard: list[tuple[int, list[str]]] = []
    a.connections.report_to(
        lambda *what: heard.append((what[4].offset, received_texts(client)))
    )
    joining = gevent.spawn(
        a.connections.join, MULTI, a.connections.id_of(connection), NEWS
    )
    until(lambda: history.reads)
    history.holding = False
    publish(a, "during")
    history.reads[0].set()
    assert joining.get() == Joined.JOINED
    publish(a, "after")
    assert heard == [(1, [])]
    assert texts(client) == [["during", "after"]]


@pytest.mark.parametrize("why", ["no recovery", "no history", "no answer", "member"])
def test_a_client_that_cannot_recover_is_subscribed_without_a_position(
    harness: Harness, why: str
) -> None:
    connection, client = harness.login(MULTI, "ann")
    channel = "plain:1" if why == "no history" else NEWS
    positions: list[Position | None] = []
    join = partial(
        harness.connections.join, MULTI, harness.connections.id_of(connection), channel
    )
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


# --- several nodes ------------------------------------------------------------


def received_texts(client: Client) -> list[str]:
    return [text for kind, _, text in received(client) if kind == "msg"]


def play(nodes: Several, steps: str) -> None:
    """Go through steps: ``a one -bob`` publishes on node a, not to bob;
    ``c+bob`` subscribes, ``c*ann`` a client that can begin again; ``at bob 3``:
    its position; ``bob = one two``: it has received them; ``ended ann``: ann
    has to begin again; ``hold`` and ``release`` what a sends; ``stop`` the
    pages of the history until they ``go``; ``refused ann``: the history was
    ``away``. Nobody receives anything else."""
    a, b, c = nodes.nodes.values()
    history = nodes.book.history
    ended = endings(c)
    rpc = a.rpc
    people: dict[str, tuple[Connection, Client]] = {}
    spawned: dict[str, gevent.Greenlet] = {}
    expected: dict[str, list[str]] = {}
    expelled: list[tuple[Connection, int]] = []
    simple: dict[str, Callable[[], object]] = {
        "release": rpc.release,
        "read": lambda: until(lambda: len(history.reads) == 1),
        "forget": lambda: history.forget(MULTI),
        "check": c.channels.subscriptions.check_positions,
        "remove": lambda: b.channels.histories.remove(MULTI, NEWS),
        "filled": lambda: until(
            lambda: not c.hub.apps[MULTI].channels[NEWS].position.filling
        ),
    }
    for step in steps.split("; "):
        what, *words = step.split()
        if what in ("a", "b"):
            left_out = tuple(word[1:] for word in words if word[0] == "-")
            publish_event = (a if what == "a" else b).channels.publishing.publish_event
            for word in words[: len(words) - len(left_out)]:
                publish_event(MULTI, NEWS, event(word), except_users=left_out)
        elif what[1:2] in ("+", "*"):
            node = nodes["abc".index(what[0]) + 1]
            reads = len(history.reads)
            connection, _ = people[what[2:]] = node.login(MULTI, what[2:])
            if what[1] == "*":
                connection.dialect_state = Recovering()
            coming = gevent.spawn(subscribe, node, connection)
            spawned[what[2:]] = coming
            until(
                lambda coming=coming, reads=reads: (
                    coming.ready() or len(history.reads) > reads
                )
            )  # type: ignore[misc]
        elif words[:1] == ["="]:
            expected[what] = words[1:]
            until(
                lambda what=what, words=words: (
                    received_texts(people[what][1]) == words[1:]
                )
            )  # type: ignore[misc]
        elif what == "at":
            assert spawned[words[0]].get().position.offset == int(words[1])
        elif what == "ended":
            expelled.append((people[words[0]][0], 2500))
            until(lambda: ended == expelled)
        elif what == "refused":
            with pytest.raises(ChannelRefused):
                spawned[words[0]].get()
        elif what in ("hold", "stop"):
            (rpc if what == "hold" else history).holding = True
        elif what in ("away", "back"):
            history.away = what == "away"
        elif what == "go":
            history.holding = False
            history.reads[int(*words or "0")].set()
            turn()
        elif what == "size":
            few = ChannelSettings(history_size=int(words[0]), history_seconds=60)
            for node in (a, b, c):
                node.channel_settings = {"*": few}
        else:
            simple[what]()
    for name, (_, client) in people.items():
        turn()
        client.probe(b"settled")
        assert received_texts(client) == expected.get(name, expected.get("bob"))
    assert ended == expelled


TWO = "c+bob; c*ann"
NEW_EPOCH = f"{TWO}; a old; ann = old; bob = old; forget; hold; a one two"
STOPPED = f"{TWO}; stop; hold"


@pytest.mark.parametrize(
    "steps",
    [
        f"{TWO}; hold; a one; b two; release; bob = one two",
        # Too late: nothing arrives twice.
        f"{TWO}; hold; a one; b two; bob = one two; release",
        f"{TWO}; hold; a one; check; bob = one",
        f"{STOPPED}; a one; b two; read; release; a three; go; a four; bob = one two three four",
        f"{STOPPED}; a one; b two; read; a three; b four; go; bob = one two three four",
        # Members that cannot begin again miss nothing of a new epoch; those
        # that can are expelled, once.
        f"{STOPPED}; a lost; b old; read; forget; a one; b two; go; bob = one two; ended ann; ann =",
        f"{NEW_EPOCH}; check; bob = old one two; release; b last; bob = old one two last; ended ann",
        f"{NEW_EPOCH}; b last; bob = old one two last; release; b x; bob = old one two last x; ended ann",
        f"{TWO}; b old; ann = old; hold; a late; forget; b one two; bob = old one two; release; filled; "
        "b three; bob = old one two late three; ended ann",
        # A newcomer finds another epoch.
        f"{NEW_EPOCH}; c*cid; at cid 2; ended ann; bob = old one two; release; b last; "
        "bob = old one two last; cid = last",
        # Who is left out stays left out if a publication comes early.
        f"{TWO}; hold; a one; b two -bob; release; ann = one two; bob = one",
        # The first subscriber of a node receives in order what comes while it
        # waits.
        "stop; c*ann; hold; a one; b two; release; go; b three; ann = one two three; read; filled",
        # Publication 1 will not come any more.
        "stop; c*ann; hold; a one; c*bob; a two; go 1; at bob 1; go 0; at ann 0; ended ann; ann =; bob =",
        # Members receive what a failed subscription has held up.
        "a+bob; stop; away; a*ann; back; b one; go; refused ann; ann =; b two; bob = one two",
        # Members that came behind a gap do not receive what is before them.
        "size 2; c*ann; c+bob; hold; a one two three; c+cid; at cid 3; b four; cid = four; bob = three four; "
        "ended ann; ann =; b five; bob = three four five; cid = four five",
        # Who missed what another node removed has to begin again.
        "c*ann; hold; a missed; remove; b new; ended ann; release; ann =",
    ],
)
def test_publications_of_two_nodes_arrive_once_in_order_whatever_is_lost(
    nodes: Several, steps: str
) -> None:
    play(nodes, steps)


def test_subscriptions_during_a_storm_have_no_hole_and_no_double(
    nodes: Several,
) -> None:
    publishers = list(nodes.nodes.values())
    for node in publishers:
        node.channel_settings = {
            "*": ChannelSettings(history_size=10_000, history_seconds=60)
        }
    seen: dict[str, list[int]] = {}
    clients: list[tuple[str, Client]] = []

    def publish_many(node: ClusterHarness) -> None:
        for _ in range(100):
            publish(node, "x")
            gevent.sleep(0)

    def come(number: int) -> None:
        gevent.sleep(number / 2000)
        user = f"u{number}"
        _, client, found = subscriber(
            publishers[number % 3], user, since=Position("", 0)
        )
        clients.append((user, client))
        seen[user] = [
            each.channel.offset for each in found.publications if each.channel
        ]

    greenlets = [gevent.spawn(publish_many, node) for node in publishers]
    greenlets += [gevent.spawn(come, number) for number in range(12)]
    gevent.joinall(greenlets, timeout=60, raise_error=True)
    turn()
    for user, client in clients:
        until(lambda u=user, c=client: len(seen[u]) + len(received_texts(c)) >= 300)  # type: ignore[misc]
        assert seen[user] == list(range(1, len(seen[user]) + 1))
        assert len(seen[user]) + len(received_texts(client)) == 300


def test_without_an_answer_of_the_history_nothing_is_published_or_subscribed(
    nodes: Several,
) -> None:
    a = nodes[1]
    connection, client, _ = subscriber(a)
    nodes.book.history.away = True
    assert a.channels.publishing.publish(MULTI, NEWS, event("two")) is Outcome.FAILED
    for attempt in (lambda: publish(a, "one"), lambda: subscribe(a, connection)):
        with pytest.raises(ChannelRefused) as refused:
            attempt()
        assert refused.value.reason == "unavailable"
        a.channels.subscriptions.unsubscribe(connection, NEWS)
    assert a.channels.members.channels_of(connection) == ()
    assert texts(client) == [[]]


def test_a_key_is_in_the_history_once(nodes: Several) -> None:
    found = []
    for id, key in (("", "a"), ("", "a"), ("a", ""), ("", "b"), ("", "")):
        for node in nodes.nodes.values():
            what = Event("msg", "shop", "text", id)
            position = node.channels.publishing.publish_event(
                MULTI, NEWS, what, key=key
            ).position
            found.append(position and position.offset)
    assert found == [1] * 9 + [2] * 3 + [3, 4, 5]


def test_a_client_that_wants_all_or_nothing_is_no_member_if_it_cannot_recover(
    harness: Harness,
) -> None:
    publish(harness, "one")
    connection, _ = harness.login(MULTI, "ann")

    def subscribe(channel: str = NEWS, since: Position | None = None) -> Subscribed:
        options = harness.channels.options.of(MULTI, channel)
        return harness.channels.subscriptions.subscribe(
            connection, channel, options, since, reject_unrecovered=True
        )

    with pytest.raises(ChannelRefused) as refused:
        subscribe(since=Position("another", 1))
    assert refused.value.reason == "unrecoverable"
    assert not harness.channels.members.has(connection, NEWS)
    assert not subscribe().recovered
    # It would come again and again: a channel without a history has no position
    # that fits.
    subscribe("plain:1", Position("another", 1))
    assert harness.channels.members.has(connection, "plain:1")


def test_of_several_subscriptions_all_or_none_stay(harness: Harness) -> None:
    for channel, messages in (("a", ("one", "two")), ("b", ("one",))):
        publish(harness, *messages, channel=channel)
    (connection, _), each = (
        harness.login(MULTI, "ann"),
        harness.channels.subscriptions.subscribe_each,
    )
    found = each(connection, {"a": None, "b": None, "plain:1": None})
    offsets = {
        channel: one.position and one.position.offset for channel, one in found.items()
    }
    assert offsets == {"a": 2, "b": 1, "plain:1": None}
    subscriber(harness, "bob", "small:2")
    with pytest.raises(ChannelRefused):
        each(connection, {"c": None, "small:2": None})
    assert harness.channels.members.channels_of(connection) == ("a", "b", "plain:1")
    assert each(connection, {}) == {}


STORED = "stored:1"


@pytest.mark.parametrize(
    "act",
    [
        lambda channels, _: channels.publishing.publish_event(
            MULTI, STORED, event("x")
        ),
        lambda channels, _: channels.histories.read(MULTI, STORED),
        lambda channels, ann: channels.subscriptions.join(MULTI, STORED, ann),
        lambda channels, ann: channels.subscriptions.subscribe(
            ann, STORED, channels.options.of(MULTI, STORED)
        ),
    ],
    ids=["publish", "history", "join", "subscribe"],
)
def test_a_node_without_the_log_refuses_stored_channels_by_name(
    harness: Harness, act: Callable[[Channels, Connection], object]
) -> None:
    ann, _ = harness.login(MULTI, "ann")
    with pytest.raises(
        ChannelRefused, match="message log, which this node does not have"
    ) as refused:
        act(harness.channels, ann)
    assert refused.value.reason == "not_available"
    assert harness.channels.members.channels_of(ann) == ()
    assert (
        harness.channels.publishing.publish(MULTI, STORED, event("x"))
        is Outcome.REFUSED
    )


def test_what_a_new_member_has_read_from_the_log_does_not_come_again(
    harness: Harness,
) -> None:
    (ann, client), (bob, other) = (
        harness.login(MULTI, user) for user in ("ann", "bob")
    )
    for connection in (ann, bob):
        harness.channels.subscriptions.join(MULTI, "plain:1", connection)
    local = harness.hub.apps[MULTI].channels["plain:1"]
    ordered = harness.channels.subscriptions.ordered
    ordered.wait(local, ann, False)
    for offset in range(1, 5):
        if offset == 2:
            ordered.release(local, ann, Position("e", 3), is_stored=True)
        part = ChannelPart("plain:1", offset, "e")
        ordered.to_ready(
            local, Publication("plain:1", replace(event(str(offset)), channel=part))
        )
    assert texts(client, other) == [["4"], ["1", "2", "3", "4"]]


@pytest.mark.parametrize(("epoch", "basis"), [("", 1), ("other", 0)])
def test_a_delta_is_for_who_has_received_what_was_before(
    harness: Harness, epoch: str, basis: int
) -> None:
    harness.channel_settings = {
        "*": ChannelSettings(history_size=5, history_seconds=60, delta=True)
    }
    ann, _ = harness.login(MULTI, "ann")
    position = harness.channels.publishing.publish_event(
        MULTI, NEWS, event("x")
    ).position
    since = Position(epoch or position.epoch, 0)
    options = harness.channels.options.of(MULTI, NEWS)
    found = harness.channels.subscriptions.subscribe(
        ann, NEWS, options, since, delta=True
    )
    harness.channels.subscriptions.answered(ann, NEWS, found)
    state = harness.hub.apps[MULTI].channels[NEWS].position
    assert (found.recovered, state.deltas) == (not epoch, {ann: basis})
