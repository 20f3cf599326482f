"""The histories of channels: one contract for that of a lone node and for the
one in Redis."""

import pytest

from imserver.gateway.channels.histories import ChannelHistory
from imserver.gateway.cluster.history import (
    EPOCH_SECONDS,
    HistoryPage,
    LocalHistory,
    Position,
    Retained,
)
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.model import ChannelPart, Event
from tests.gateway.cluster.conftest import StartNode, StartServer
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import until

NEWS = "news"
AT_ONCE = ("--repl-diskless-sync-delay", "0")
RARELY = ClusterSettings(lease_seconds=60.0, renew_seconds=20.0, redis_seconds=10.0)
"""Nodes that learn of another server by their next command, and not by the
lease."""


def retained(
    text: str, size: int = 3, seconds: float = 60, channel: str = NEWS
) -> Retained:
    part = ChannelPart(channel, info=b'{"user":"ann"}', tags=b'{"a":"b"}')
    return Retained(
        channel,
        Event("msg", "shop", text, data=b'{"n":1}', channel=part),
        size,
        seconds,
    )


def nobody(_app: str, _channel: str) -> int:
    """The number of subscribers."""
    return 0


@pytest.fixture(params=["local", "redis"])
def history(request: pytest.FixtureRequest) -> ChannelHistory:
    if request.param == "local":
        return LocalHistory(1_000_000, nobody)
    server: RedisServer = request.getfixturevalue("server")
    start_node: StartNode = request.getfixturevalue("start_node")
    return start_node(server).history


def append(
    history: ChannelHistory,
    *texts: str,
    size: int = 3,
    channel: str = NEWS,
    app: str = "101",
) -> list[int]:
    events: list[Event] = []

    def stores() -> bool:  # it does not while the lease of a busy node is lost
        events[:] = (
            history.append_each(
                app, [retained(text, size, channel=channel) for text in texts]
            )
            or []
        )
        return bool(events)

    until(stores)
    return [each.channel.offset for each in events if each.channel]


def read(
    history: ChannelHistory,
    since: Position | None = None,
    limit: int = -1,
    reverse: bool = False,
    channel: str = NEWS,
) -> tuple[list[tuple[int, str]], int]:
    page = history.read("101", channel, since, limit, reverse)
    return [
        (each.channel.offset, each.text) for each in page.publications if each.channel
    ], page.position.offset


def position_of(history: ChannelHistory) -> Position:
    """The position of the channel, as soon as the node knows it: its lease may
    be lost for a moment."""
    found: list[Position] = []

    def knows() -> bool:
        found[:] = history.positions("101", [NEWS]) or []
        return bool(found)

    until(knows)
    return found[0]


def test_publications_are_numbered_the_newest_stay_and_a_removed_history_goes_on(
    history: ChannelHistory,
) -> None:
    assert read(history) == ([], 0)
    assert append(history, "a", "b") == [1, 2]
    assert append(history, "c", "d") == [3, 4]
    assert read(history) == ([(2, "b"), (3, "c"), (4, "d")], 4)
    assert append(history, "e", size=2) == [5]
    assert read(history) == ([(4, "d"), (5, "e")], 5)
    page = history.read("101", NEWS, limit=1)
    (event,) = page.publications
    assert (event.kind, event.sender, event.text, event.data) == (
        "msg",
        "shop",
        "d",
        b'{"n":1}',
    )
    assert (event.channel.info, event.channel.tags) == (b'{"user":"ann"}', b'{"a":"b"}')
    assert event.channel.epoch == page.position.epoch != ""
    append(history, "b", channel="other")
    append(history, "c", channel="eu:news", app="shop")
    for app, channel in (("102", NEWS), ("shop:eu", "news"), ("shop", "news")):
        page = history.read(app, channel, limit=-1)
        assert page.publications == []
    positions = history.positions("101", [NEWS, "other", "third"])
    assert [each.offset for each in positions] == [5, 1, 0]
    assert history.remove("101", NEWS)
    assert read(history) == ([], 5)
    assert append(history, "c") == [6]
    assert read(history, channel="other") == ([(1, "b")], 1)


@pytest.mark.parametrize("offset", range(7))
@pytest.mark.parametrize("limit", [0, 1, 2, -1])
def test_pages_begin_after_a_position(
    history: ChannelHistory, offset: int, limit: int
) -> None:
    append(history, *"abcde")
    stay = [(3, "c"), (4, "d"), (5, "e")]
    since = Position("", offset)
    after = [row for row in stay if row[0] > offset]
    before = [row for row in reversed(stay) if row[0] < offset]
    assert read(history, since, limit) == (after if limit < 0 else after[:limit], 5)
    assert read(history, since, limit, reverse=True) == (
        before if limit < 0 else before[:limit],
        5,
    )


def test_publications_expire_and_the_position_stays(history: ChannelHistory) -> None:
    events = history.append_each("101", [retained("a", seconds=0.05)])
    assert events is not None
    until(lambda: read(history) == ([], 1))
    assert append(history, "b") == [2]


# --- of one node --------------------------------------------------------------


def test_a_lone_node_forgets_the_channels_that_rest_longest() -> None:
    history = LocalHistory(20_000, nobody)
    for number in range(100):
        append(history, "x" * 100, channel=f"c{number}")
    assert history.bytes <= 20_000
    assert read(history, channel="c99")[1] == 1
    assert read(history, channel="c0")[1] == 0
    for _ in range(100):
        append(history, "x" * 1000, size=1000)
    assert history.bytes <= 20_000


def test_silent_channels_with_subscribers_take_room_from_one_history_after_the_other() -> (
    None
):
    limit = 200_000
    channels = [f"news{number}" for number in range(200)]
    history = LocalHistory(limit, lambda _app, channel: int(channel.startswith("user")))

    def left() -> int:
        return sum(read(history, channel=channel)[0] != [] for channel in channels)

    for channel in channels:
        append(history, "x" * 1000, channel=channel)
    before = left()
    for number in range(300):
        assert read(history, channel=f"user{number}") == ([], 0)
        assert history.bytes <= limit
    after = left()
    assert after > before // 3, "silent channels have at most half of the room"
    append(history, "x" * 1000, channel="other")
    assert history.bytes <= limit
    assert left() >= after - 2


def test_channels_that_were_only_asked_for_push_no_history_out() -> None:
    subscribed = {"quiet": 1}
    history = LocalHistory(20_000, lambda _app, channel: subscribed.get(channel, 0))
    append(history, "a")
    before = history.positions("101", [NEWS, "quiet", "left"])
    for number in range(100):
        assert read(history, channel=f"c{number}") == ([], 0)
        assert history.bytes <= 20_000
    append(history, "b", channel="other")
    assert history.bytes <= 20_000
    assert read(history) == ([(1, "a")], 1)
    after = history.positions("101", [NEWS, "quiet", "left"])
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    history.forget("101")
    assert history.bytes == 0


def test_channels_without_use_are_forgotten_in_the_end_but_not_those_with_subscribers() -> (
    None
):
    now = [0.0]
    subscribed = {NEWS: 1}
    history = LocalHistory(
        1_000_000, lambda _app, channel: subscribed.get(channel, 0), lambda: now[0]
    )
    append(history, "a")
    before = history.read("101", NEWS).position
    for _ in range(3):
        now[0] += EPOCH_SECONDS + 100
        append(history, "b", channel=f"other{now[0]}")
        assert history.read("101", NEWS) == HistoryPage([], before)
    assert append(history, "c") == [2]
    subscribed.clear()
    now[0] += EPOCH_SECONDS + 100
    append(history, "d", channel="other")
    assert history.read("101", NEWS).position.offset == 0
    history.forget("101")
    assert history.bytes == 0


# --- of Redis -----------------------------------------------------------------


def test_an_app_made_anew_has_not_the_history_of_the_former(
    server: RedisServer, start_node: StartNode
) -> None:
    created = {"101": 1_800_000_000}
    one = start_node(server, 1, created=lambda app: created.get(app, 0)).history
    other = start_node(server, 2, created=lambda _: 1_800_000_000).history
    append(one, "secret")
    before = one.positions("101", [NEWS])
    assert before == other.positions("101", [NEWS])
    created["101"] += 10
    after = one.positions("101", [NEWS])
    assert before[0].epoch != after[0].epoch
    assert append(one, "a") == [1]
    assert read(one) == ([(1, "a")], 1)
    assert read(other) == ([(1, "secret")], 1), "it has not learned of the deletion yet"


@pytest.mark.parametrize(
    "persistence", [("--appendonly", "yes"), ()], ids=["append-only", "none"]
)
def test_a_redis_that_is_back_at_once_gives_no_position_twice(
    start_server: StartServer, start_node: StartNode, persistence: tuple[str, ...]
) -> None:
    server = start_server(*persistence)
    one, other = (start_node(server, number, RARELY).history for number in (1, 2))
    append(one, "a", "b")
    append(other, "c")
    before = position_of(one)
    server.kill()
    server.start()
    epochs = []
    for history, text, offset in (
        (one, "d", 1),
        (other, "e", 2),
        (one, "f", 3),
        (other, "g", 4),
    ):
        assert append(history, text) == [offset]
        epochs.append(position_of(history).epoch)
    assert len(set(epochs)) == 1, (
        "a new life of the data begins one epoch, which both nodes share"
    )
    assert before.epoch not in epochs


@pytest.mark.parametrize("back", [False, True], ids=["once", "there and back"])
def test_a_replica_that_lags_and_becomes_the_master_gives_no_position_twice(
    start_server: StartServer, start_node: StartNode, back: bool
) -> None:
    master = start_server(*AT_ONCE)
    replica = start_server(*AT_ONCE)
    follow(replica, master.port)
    one = start_node(master, 1, RARELY).history
    append(one, "a", "b")
    with master.client() as client:
        client.set("last", 1)
        assert client.wait(1, 10_000) == 1
    promote(replica)
    append(one, "c")
    before = position_of(one)
    assert before.offset == 3
    if back:  # before a node has used the other one
        follow(master, replica.port)
        promote(master)
    other = start_node(master if back else replica, 2, RARELY).history
    assert append(other, "d") == [1]
    after = position_of(other)
    assert after.epoch != before.epoch
    if back:
        assert append(one, "e") == [2]
        assert position_of(one).epoch == after.epoch, "both nodes share the new one"


def test_the_first_replica_begins_no_epoch(
    start_server: StartServer, start_node: StartNode
) -> None:
    master = start_server(*AT_ONCE)
    replica = start_server(*AT_ONCE)
    one = start_node(master, 1).history
    assert append(one, "a") == [1]
    with master.client() as client:
        id = client.info("replication")["master_replid"]
        follow(replica, master.port)
        assert client.info("replication")["master_replid"] != id
    other = start_node(master, 2).history
    assert append(other, "b") == [2]
    assert append(one, "c") == [3]


def test_a_flushed_history_begins_one_epoch(
    own_server: RedisServer, start_node: StartNode
) -> None:
    one = start_node(own_server, 1).history
    append(one, "a")
    before = position_of(one)
    with own_server.client() as client:
        # The name that nodes of the version before use: otherwise each would
        # begin an epoch after the other.
        life = client.hget(f"imserver:history:0:{{101\0{NEWS}}}", "life")
        assert life == client.info("server")["run_id"]
        client.flushall()
    assert append(one, "b") == [1]
    assert append(start_node(own_server, 2).history, "c") == [2]
    assert append(one, "d") == [3]
    assert position_of(one).epoch != before.epoch


def follow(replica: RedisServer, port: int) -> None:
    """Make a server a replica of the one at a port, and wait until it has its
    data."""
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", port)
        until(lambda: client.info("replication").get("master_link_status") == "up")


def promote(replica: RedisServer) -> None:
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


def test_a_repeated_long_call_appends_nothing(
    server: RedisServer, start_node: StartNode
) -> None:
    history = start_node(server).history
    execute = history.pipeline.execute

    def twice(given):  # type: ignore[no-untyped-def]
        execute(given)
        return execute(given)

    history.pipeline.execute = twice  # type: ignore[method-assign]
    letters = "abcdefghijklmnopqrst"
    assert append(history, *letters, size=100) == list(range(1, 21))
    assert read(history)[0] == list(enumerate(letters, 1))


def test_a_publication_tried_again_elsewhere_is_stored_once(
    server: RedisServer, start_node: StartNode
) -> None:
    one = start_node(server, 1).history
    other = start_node(server, 2).history

    def publish(history: ChannelHistory, id: str, channel: str = NEWS) -> int:
        event = Event("msg", "shop", "x", id, channel=ChannelPart(channel))
        (found,) = (
            history.append_each("101", [Retained(channel, event, 3, 60, event.id)])
            or ()
        )
        return found.channel.offset

    assert publish(one, "order 17") == 1
    assert publish(other, "order 17") == 1
    assert publish(other, "order 18") == 2
    assert publish(one, "order 17", "other") == 1
    assert read(one)[1] == 2


def test_an_erased_user_leaves_places_without_content_and_others_recover(
    history: ChannelHistory,
) -> None:
    append(history, *[f"text {number}" for number in range(250)], size=1000)
    for channel in ("user:ann", "talk#ann,bob"):
        append(history, "a", channel=channel)
    part = ChannelPart(NEWS, info=b'{"user":"bob"}')
    history.append_each(
        "101",
        [
            Retained(
                NEWS, Event("msg", "bob", "by bob, for shop", channel=part), 1000, 60
            )
        ],
    )
    append(history, "of another app", app="10")
    before = history.positions("101", [NEWS, "user:ann"])
    for _ in range(2):
        is_own = {"user:ann", "talk#ann,bob"}.__contains__
        assert history.erase_user("101", "shop", "deleted:1", is_own)
    after = history.positions("101", [NEWS, "user:ann"])
    assert (after[0], after[1].offset) == (before[0], 0)
    assert after[1].epoch != before[1].epoch
    page = history.read("101", NEWS, Position(before[0].epoch, 0), -1)
    *erased, last = page.publications
    assert [each.channel and each.channel.offset for each in erased] == list(
        range(1, 251)
    )
    assert {(each.sender, each.text, each.data) for each in erased} == {
        ("deleted:1", "", b"")
    }
    assert {
        each.channel and (each.channel.info, each.channel.tags) for each in erased
    } == {(b"", b"")}
    assert (last.sender, last.text) == ("bob", "by bob, for shop")
    assert last.channel.info == b'{"user":"bob"}'
    page = history.read("10", NEWS, limit=-1)
    assert [each.sender for each in page.publications] == ["shop"]
