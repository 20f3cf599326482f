"""Streamed messages: pieces, late subscribers, ends and time-outs, on one node
and over several."""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag
from msgspec import json

from imserver.gateway import errors
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import NodeQueries
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect
from imserver.gateway.model import YIELD_TARGETS, ChannelPart, Event
from imserver.messenger.delivery.open_streams import OpenStream, OpenStreams
from imserver.messenger.messages.api.streamed import routes
from imserver.messenger.streams import streamed_messages as module
from imserver.messenger.streams.limits import StreamLimits
from imserver.messenger.streams.streamed_messages import (
    CHECK_SECONDS,
    LOOK_SECONDS,
    MOST_BYTES,
    SILENT_SECONDS,
    AppendStatus,
    ChannelStreams,
    ClosedStream,
    StreamedMessages,
)
from tests.gateway.channels.test_channel_options import OptionsHarness
from tests.gateway.channels.test_channels import Recovering, publish, subscribe
from tests.gateway.core.cluster_harness import MULTI, ClusterHarness, Several
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import Client, turn, until

PLAIN = "plain:1"
PAST = "past:1"
CHANNELS = {
    "past": ChannelSettings(history_size=5, history_seconds=60),
    "short": ChannelSettings(max_bytes=3),
    "kept": ChannelSettings(history="log"),
}
LIMITS = StreamLimits(open_streams=3, stream_bytes=20, stream_seconds=30)
DIALECT = ChannelCmdDialect()


def head(channel: str, sender: str = "bot") -> Event:
    return Event(
        "stream", sender, "", type="answer", time=7, channel=ChannelPart(channel)
    )


def frames(client: Client) -> list[Any]:
    """The frames of streams and publications that a client has received since
    the last time."""
    turn()
    client.probe(b"settled")
    found = [json.decode(payload) for payload in client.payloads()]
    client.frames.clear()
    return [frame for frame in found if frame["cmd"] in ("stream", "publication")]


class Reader:
    """A subscriber: what it receives of streams, as (stream, piece, text) with
    the flags that are set."""

    def __init__(self, harness: Harness, channel: str, user: str = "ann") -> None:
        self.connection, self.client = harness.login(MULTI, user)
        self.connection.encoding = self.connection.encoding.with_dialect(DIALECT)
        self.connection.dialect_state = Recovering()
        subscribe(harness, self.connection, channel)

    def seen(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for frame in frames(self.client):
            data = frame["response"]["data"]
            if frame["cmd"] == "stream":
                flags = [
                    name for name in ("whole", "done", "incomplete") if data.get(name)
                ]
                found.append((data["piece"], data["text"], *flags))
            elif frame["cmd"] == "publication":
                flags = ["incomplete"] if data.get("incomplete") else []
                found.append(("end", data["text"], data.get("offset", 0), *flags))
        return found


class Target(ChannelStreams):
    """Channels. ``allows``: senders are users, and whether they may go on.
    ``silent``: the history of one kind of channels does not answer.
    ``requests``: the channels whose end it had to store."""

    def __init__(
        self,
        harness: Harness,
        allows: Callable[[OpenStream], bool] | None = None,
        silent: bool = False,
    ) -> None:
        super().__init__(harness.channels, harness.hub, harness.connections)
        self.of_users = allows is not None
        self.silent = silent
        self.requests: list[str] = []
        self._allows = allows

    def may_continue(self, stream: OpenStream) -> bool:
        return self._allows is None or self._allows(stream)

    def publish_end(self, app: str, channel: str, event: Event) -> Position | None:
        if channel != PAST or not self.silent:
            return super().publish_end(app, channel, event)
        self.requests.append(channel)
        raise ChannelRefused("unavailable")


def streams_of(
    harness: Harness, limits: StreamLimits = LIMITS, target: Target | None = None
) -> StreamedMessages:
    is_alone = not isinstance(harness, ClusterHarness)
    return StreamedMessages(
        target or Target(harness),
        harness.table,
        NodeQueries() if is_alone else harness.queries,  # type: ignore[attr-defined]
        limits,
        64 * MOST_BYTES,
        None if is_alone else harness.others,  # type: ignore[attr-defined]
    )


def open_streams(harness: Harness) -> OpenStreams:
    streams = harness.channels.ordered.accept_stream.__self__  # type: ignore[attr-defined]
    assert isinstance(streams, OpenStreams)
    return streams


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as harness:
        harness.channel_settings = CHANNELS
        yield harness


@pytest.fixture
def streams(harness: Harness) -> StreamedMessages:
    return streams_of(harness)


def append(
    streams: StreamedMessages, id: str, number: int, text: str, app: str = MULTI
) -> tuple[str, int]:
    (found,) = streams.append(app, [(id, number, text)])
    return found.status.value, found.piece


# --- one node -----------------------------------------------------------------


def test_connections_that_the_back_end_subscribes_receive_the_message_so_far(
    harness: Harness, streams: StreamedMessages
) -> None:
    id = streams.open(MULTI, head(PLAIN), "Hel")
    connection, client = harness.login(MULTI, "ann")
    connection.encoding = connection.encoding.with_dialect(DIALECT)
    harness.connections.join(MULTI, harness.connections.id_of(connection), PLAIN)
    (frame,) = frames(client)
    about = {"stream": id, "channel": PLAIN, "from": "bot", "type": "answer"}
    assert frame["response"]["data"] == {
        "piece": 0,
        "text": "Hel",
        "whole": True,
        **about,
    }


def test_repeated_pieces_are_ignored_and_missing_ones_asked_for(
    harness: Harness, streams: StreamedMessages
) -> None:
    reader = Reader(harness, PLAIN)
    id = streams.open(MULTI, head(PLAIN), "a")
    assert append(streams, id, 2, "c") == ("gap", 0)
    assert append(streams, id, 1, "b") == ("appended", 1)
    assert append(streams, id, 1, "b") == ("repeated", 1)
    found = streams.append(MULTI, [(id, 1, "b"), (id, 2, "c"), (id, 3, "d")])
    assert [each.status.value for each in found] == ["repeated", "appended", "appended"]
    assert streams.close(MULTI, id).status == "closed"
    assert append(streams, id, 4, "e") == ("closed", 0)
    assert streams.close(MULTI, id).status == "repeated"
    assert reader.seen() == [(0, "a", "whole"), (1, "b"), (2, "cd"), ("end", "abcd", 0)]


def test_streams_of_other_apps_and_invented_ones_are_unknown(
    harness: Harness, streams: StreamedMessages
) -> None:
    id = streams.open(MULTI, head(PLAIN), "a")
    connection, _ = harness.login(MULTI, "ann")
    for app, wrong in (
        ("101", id),
        (MULTI, "x"),
        (MULTI, harness.connections.id_of(connection)),
    ):
        assert append(streams, wrong, 1, "b", app) == ("unknown", 0)
        assert streams.close(app, wrong) == ClosedStream("unknown")
    assert streams.close(MULTI, id).status == "closed"
    assert streams.close("101", id) == ClosedStream("unknown")
    assert append(streams, id, 1, "b", "101") == ("unknown", 0)
    again = streams.open(MULTI, head(PLAIN), "a")
    for is_closed in (False, True):  # to another sender
        assert (
            streams.append(MULTI, [(again, 0, "")], "other")[0].status
            is AppendStatus.UNKNOWN
        )
        assert streams.close(MULTI, again, sender="other").status == "unknown"
        assert streams.close(MULTI, again, sender="bot").status == (
            "repeated" if is_closed else "closed"
        )
    deleted = streams.open(MULTI, head(PLAIN), "a")
    other = streams.open("101", head(PLAIN), "a")
    streams.forget(MULTI)
    assert append(streams, deleted, 1, "b") == ("unknown", 0)
    assert append(streams, other, 1, "b", "101") == ("appended", 1)


def test_limits_have_names_and_leave_nothing_behind(
    harness: Harness, streams: StreamedMessages
) -> None:
    with pytest.raises(ChannelRefused, match="at most 3 bytes"):
        streams.open(MULTI, head("short:1"), "abcd")
    with pytest.raises(ChannelRefused, match="255"):
        streams.open(MULTI, head("x" * 256), "")
    with pytest.raises(ChannelRefused, match="sender: at most 255 bytes"):
        streams.open(MULTI, head("kept:1", "x" * 256), "")
    assert open_streams(harness).all() == []
    short = streams.open(MULTI, head("short:1"), "ab")
    assert append(streams, short, 1, "cd") == ("too_long", 0)
    assert append(streams, short, 1, "c") == ("appended", 1)
    long = streams.open(MULTI, head(PLAIN), "a" * 20)
    assert append(streams, long, 1, "b") == ("too_long", 0)
    streams.open(MULTI, head(PLAIN), "")
    with pytest.raises(ChannelRefused, match="3 open streams") as refused:
        streams.open(MULTI, head(PLAIN), "")
    assert refused.value.reason == "full"
    assert streams.open("101", head(PLAIN), "")
    assert streams.close(MULTI, short).status == "closed"
    assert streams.open(MULTI, head(PLAIN), "")


def test_no_stream_is_opened_in_a_channel_that_the_app_does_not_have() -> None:
    with OptionsHarness() as harness:
        harness.known_channels_only = True
        with pytest.raises(ChannelRefused) as refused:
            streams_of(harness).open(MULTI, head(PLAIN), "")
    assert refused.value.reason == "unknown"


@pytest.mark.parametrize("channel", [PLAIN, PAST])
def test_a_stream_whose_publisher_dies_is_closed_as_incomplete(
    harness: Harness, streams: StreamedMessages, channel: str
) -> None:
    reader = Reader(harness, channel)
    id = streams.open(MULTI, head(channel), "a")
    append(streams, id, 1, "b")
    opened = open_streams(harness).of(MULTI, channel)[id].heard
    streams.look(opened + LIMITS.stream_seconds - 1)
    assert append(streams, id, 2, "c") == ("appended", 2)
    streams.look(opened + LIMITS.stream_seconds + 5)
    assert reader.seen()[-1] == ("end", "abc", int(channel == PAST), "incomplete")
    assert append(streams, id, 3, "d") == ("closed", 0)
    id = streams.open(MULTI, head(channel), "")
    assert streams.close(MULTI, id, incomplete=True) == ClosedStream("closed", channel)
    assert reader.seen() == [(0, "", "whole"), (0, "", "whole", "done", "incomplete")]
    assert harness.channels.histories.read(MULTI, PAST).position.offset == int(
        channel == PAST
    )
    assert open_streams(harness).all() == []


def test_a_client_that_recovers_during_a_stream_has_neither_hole_nor_double(
    harness: Harness, streams: StreamedMessages
) -> None:
    reader = Reader(harness, PAST)
    publish(harness, "one", channel=PAST)
    id = streams.open(MULTI, head(PAST), "")
    append(streams, id, 1, "a")
    harness.channels.subscriptions.unsubscribe(reader.connection, PAST)
    publish(harness, "two", channel=PAST)
    append(streams, id, 2, "b")
    reader.seen()
    epoch = harness.channels.histories.read(MULTI, PAST).position.epoch
    again = subscribe(harness, reader.connection, PAST, Position(epoch, 1))
    assert [each.text for each in again.publications] == ["two"]
    append(streams, id, 3, "c")
    publish(harness, "three", channel=PAST)
    streams.close(MULTI, id)
    assert reader.seen() == [
        (2, "ab", "whole"),
        (3, "c"),
        ("end", "three", 3),
        ("end", "abc", 4),
    ]


@pytest.mark.parametrize("patience", [3.0, -1.0, 0.0])
def test_a_history_that_does_not_answer_keeps_no_other_streams_open_and_no_node_up(
    harness: Harness, constants: Callable[..., None], patience: float
) -> None:
    target = Target(harness, silent=True)
    streams = streams_of(harness, target=target)
    reader = Reader(harness, PLAIN)
    for channel in (PAST, PAST, PLAIN):
        streams.open(MULTI, head(channel), "a")
    constants(module, CLOSE_ALL_SECONDS=patience)
    if patience:
        streams.close_all()
    else:
        streams.look(monotonic() + LIMITS.stream_seconds)
    assert target.requests == [PAST] * (patience >= 0)
    assert reader.seen()[1:] == [("end", "a", 0, "incomplete")] * (patience >= 0)
    if patience:
        return
    target.silent = False
    streams.look(monotonic() + LIMITS.stream_seconds)
    assert open_streams(harness).all() == []
    assert len(harness.channels.histories.read(MULTI, PAST, limit=-1).publications) == 2


def test_pieces_do_not_overtake_those_that_wait_for_a_check(
    harness: Harness, constants: Callable[..., None]
) -> None:
    reader = Reader(harness, PLAIN)
    checking = Flag()
    checked = Flag()

    def may_continue(stream: OpenStream) -> bool:
        if stream.id == other:
            checking.set()
            checked.wait()
        return True

    streams = streams_of(harness, target=Target(harness, may_continue))
    id, other = (streams.open(MULTI, head(channel), "") for channel in (PLAIN, PAST))
    constants(module, CHECK_SECONDS=0.0)
    waiting = gevent.spawn(streams.append, MULTI, [(id, 1, "a"), (other, 1, "x")])
    checking.wait()
    append(streams, id, 2, "b")
    checked.set()
    assert [each.status for each in waiting.get()] == [AppendStatus.APPENDED] * 2
    append(streams, id, 2, "b")
    assert reader.seen() == [(0, "", "whole"), (1, "a"), (2, "b")]


def test_pieces_do_not_overtake_those_of_a_long_request(harness: Harness) -> None:
    streams = streams_of(harness, StreamLimits())
    reader = Reader(harness, PLAIN)
    count = YIELD_TARGETS + 1
    ids = [streams.open(MULTI, head(PLAIN), "") for _ in range(count)]
    waiting = gevent.spawn(streams.append, MULTI, [(id, 1, "a") for id in ids])
    while append(streams, ids[-1], 2, "b")[0] == "gap":
        gevent.sleep(0)
    waiting.join()
    assert [piece for piece, *_ in reader.seen()] == [0] * count + [1] * count + [2]


def test_a_sender_that_may_not_go_on_ends_a_stream_once(
    harness: Harness, constants: Callable[..., None]
) -> None:
    reader = Reader(harness, PLAIN)

    def may_continue(stream: OpenStream) -> bool:
        streams.close(MULTI, id)  # as another request does, while the check waits
        return False

    streams = streams_of(harness, target=Target(harness, may_continue))
    id = streams.open(MULTI, head(PLAIN), "a")
    constants(module, CHECK_SECONDS=0.0)
    assert append(streams, id, 1, "b") == ("closed", 0)
    assert reader.seen() == [(0, "a", "whole"), ("end", "a", 0)]


def test_silent_streams_of_a_sender_who_may_not_go_on_end_with_one_check(
    harness: Harness,
) -> None:
    reader = Reader(harness, PLAIN)
    checks: list[str] = []
    streams = streams_of(
        harness, target=Target(harness, lambda stream: bool(checks.append(stream.id)))
    )
    for _ in range(2):
        streams.open(MULTI, head(PLAIN), "a")
    streams.look(monotonic())
    assert checks == []
    streams.look(monotonic() + CHECK_SECONDS)
    assert len(checks) == 1
    assert (
        reader.seen() == [(0, "a", "whole")] * 2 + [("end", "a", 0, "incomplete")] * 2
    )


# --- several nodes ------------------------------------------------------------


class Cluster:
    """Three nodes with streams. Their greenlets run only when a test calls
    :meth:`settle`."""

    def __init__(self, nodes: Several, limits: StreamLimits) -> None:
        self.nodes = nodes
        self.streams = {
            epoch: streams_of(node, limits) for epoch, node in nodes.nodes.items()
        }
        self.running = [gevent.spawn(each.run) for each in self.streams.values()]

    def copy(self, epoch: int, channel: str) -> str | None:
        """The text that a node has of the open stream of a channel."""
        found = open_streams(self.nodes[epoch]).of(MULTI, channel)
        return next((each.text.decode() for each in found.values()), None)

    def kill(self, epoch: int) -> None:
        """A node ends without a word."""
        self.running[epoch - 1].kill()
        leases = self.nodes.book.leases
        self.nodes.book.leases = {
            each: lease for each, lease in leases.items() if each != epoch
        }
        for node in self.nodes.nodes.values():
            node.rpc.cut.add(epoch)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    limits = getattr(request, "param", LIMITS)
    with Several(3) as several:
        for node in several.nodes.values():
            node.channel_settings = CHANNELS
        cluster = Cluster(several, limits)
        yield cluster
        gevent.killall(cluster.running)


@pytest.mark.parametrize(("channel", "offset"), [(PLAIN, 0), (PAST, 1)])
def test_pieces_through_any_node_and_one_message_at_the_end_reach_subscribers_of_all(
    cluster: Cluster, channel: str, offset: int
) -> None:
    readers = [
        Reader(cluster.nodes[epoch], channel, f"u{epoch}") for epoch in (1, 2, 3)
    ]
    id = cluster.streams[1].open(MULTI, head(channel), "")
    for number in range(1, 7):
        assert append(cluster.streams[number % 3 + 1], id, number, str(number)) == (
            "appended",
            number,
        )
        if number == 3:
            late = Reader(cluster.nodes[1], channel, "late")
    closed = cluster.streams[3].close(MULTI, id)
    assert (closed.status, closed.channel, closed.offset) == ("closed", channel, offset)
    assert cluster.streams[2].close(MULTI, id).status == "repeated"
    pieces = [(number, str(number)) for number in range(1, 7)]
    end = ("end", "123456", offset)
    for reader in readers:
        assert reader.seen() == [(0, "", "whole"), *pieces, end]
    assert late.seen() == [(3, "123", "whole"), *pieces[3:], end]
    page = cluster.nodes[2].channels.histories.read(MULTI, channel, limit=-1)
    assert [each.text for each in page.publications] == ["123456"] * offset


def test_pieces_of_streams_of_several_nodes_go_in_one_call(cluster: Cluster) -> None:
    ids = [cluster.streams[epoch].open(MULTI, head(PLAIN), "") for epoch in (1, 2, 3)]
    pieces = [(id, number, "x") for number in (1, 2) for id in ids]
    found = cluster.streams[2].append(MULTI, [*pieces, ("x", 1, "x")])
    assert [each.status for each in found] == [AppendStatus.APPENDED] * 6 + [
        AppendStatus.UNKNOWN
    ]
    cluster.nodes[1].rpc.cut.add(3)
    with pytest.raises(ChannelRefused, match="unavailable"):
        append(cluster.streams[1], ids[2], 3, "x")
    with pytest.raises(ChannelRefused, match="unavailable") as refused:
        cluster.streams[1].close(MULTI, ids[2])
    assert (
        routes.rows[1].refusals[ChannelRefused](refused.value).problem
        is errors.Problems.NOT_ACCEPTED
    )
    lost = (ids[2], 3, "x")
    taken = (ids[0], 3, "x")
    found = cluster.streams[1].append(MULTI, [lost, taken])
    assert [each.status for each in found] == ["failed", "appended"]
    cluster.nodes[1].rpc.cut.clear()
    assert append(cluster.streams[1], ids[2], 3, "x") == ("appended", 3)


@pytest.mark.parametrize(
    "cluster", [StreamLimits(stream_bytes=4 * MOST_BYTES)], indirect=True
)
def test_long_pieces_for_another_node_are_divided_and_too_long_ones_refused(
    cluster: Cluster,
) -> None:
    owner = cluster.streams[1]
    other = cluster.streams[2]
    ids = [owner.open(MULTI, head(PLAIN), "") for _ in range(3)]
    text = "ä" * (MOST_BYTES // 3)
    found = other.append(MULTI, [(id, 1, text) for id in ids])
    assert [each.status for each in found] == [AppendStatus.APPENDED] * 3
    assert append(other, ids[0], 2, text) == ("too_long", 1)
    assert append(other, ids[0], 2, "x" * (MOST_BYTES + 1)) == ("too_long", 0)
    assert append(other, ids[0], 2, "x") == ("appended", 2)


def test_the_first_subscriber_of_a_node_gets_the_message_with_the_next_piece(
    cluster: Cluster,
) -> None:
    id = cluster.streams[1].open(MULTI, head(PLAIN), "a")
    append(cluster.streams[1], id, 1, "b")
    reader = Reader(cluster.nodes[2], PLAIN)
    assert reader.seen() == []
    append(cluster.streams[1], id, 2, "c")
    until(lambda: cluster.copy(2, PLAIN) == "abc")
    late = Reader(cluster.nodes[2], PLAIN, "bob")
    append(cluster.streams[1], id, 3, "d")
    assert reader.seen() == [(2, "abc", "whole"), (3, "d")]
    assert late.seen() == [(2, "abc", "whole"), (3, "d")]
    for each in (reader, late):
        cluster.nodes[2].channels.subscriptions.unsubscribe(each.connection, PLAIN)
    cluster.streams[2].look(0)
    assert cluster.copy(2, PLAIN) is None, "a copy without subscribers is forgotten"
    assert append(cluster.streams[2], id, 4, "e") == ("appended", 4)


def test_a_silent_publisher_is_heard_of_and_a_lost_piece_is_read_from_the_owner(
    cluster: Cluster,
) -> None:
    id = cluster.streams[1].open(MULTI, head(PLAIN), "a")
    reader = Reader(cluster.nodes[2], PLAIN)
    for _ in range(2):
        cluster.streams[1].look(monotonic() + LOOK_SECONDS)
        until(lambda: cluster.copy(2, PLAIN) == "a")
    cluster.nodes[1].rpc.cut.add(2)
    append(cluster.streams[1], id, 1, "b")
    cluster.nodes[1].rpc.cut.clear()
    cluster.streams[1].look(monotonic() + LOOK_SECONDS)
    until(lambda: cluster.copy(2, PLAIN) == "ab")
    append(cluster.streams[1], id, 2, "c")
    assert reader.seen() == [(0, "a", "whole"), (1, "ab", "whole"), (2, "c")]


def silence(cluster: Cluster, epoch: int, channel: str) -> None:
    """A node looks at its streams after nothing was heard of them for long."""
    (copy,) = open_streams(cluster.nodes[epoch]).of(MULTI, channel).values()
    cluster.streams[epoch].look(copy.heard + SILENT_SECONDS)


@pytest.mark.parametrize(("channel", "offset"), [(PLAIN, 0), (PAST, 1)])
def test_the_message_of_a_killed_node_is_closed_once(
    cluster: Cluster, channel: str, offset: int
) -> None:
    readers = [Reader(cluster.nodes[epoch], channel, f"u{epoch}") for epoch in (2, 3)]
    id = cluster.streams[1].open(MULTI, head(channel), "a")
    append(cluster.streams[2], id, 1, "b")
    cluster.kill(1)
    assert append(cluster.streams[2], id, 2, "c") == ("unknown", 0)
    for epoch in (2, 3):
        silence(cluster, epoch, channel)
    until(lambda: cluster.copy(2, channel) is None and cluster.copy(3, channel) is None)
    gevent.sleep(0.1)
    for reader in readers:
        assert reader.seen() == [
            (0, "a", "whole"),
            (1, "b"),
            ("end", "ab", offset, "incomplete"),
        ]
    page = cluster.nodes[2].channels.histories.read(MULTI, channel, limit=-1)
    assert [each.text for each in page.publications] == ["ab"] * offset
