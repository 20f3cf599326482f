"""The scenario chat: its figures against the real server, and that its count misses nothing."""

import pytest

from bench.chat_tally import ChatTally
from bench.frames import server_frame
from bench.latency import stamp_us
from bench.protobuf import BINARY
from bench.tally import Receipts
from imserver.dialects.protobuf import wire as protobuf
from imserver.messenger.messages.model import Message
from tests.bench.play import found
from tests.bench.test_tally import FakeConnections
from tests.support import Server

TAG = "tag123"
MEMBERS = 4


def options_of(server: Server) -> tuple[str, ...]:
    return "--url", server.http_url, "--ws", server.ws_url, "--pid", str(server.pid)


def push(number: int, position: int) -> bytes:
    """The frame of a push, by the server's own codec."""
    content = b"%b%07d%010d..." % (TAG.encode(), number, stamp_us())
    stored = Message(position, 300, 0, "1", body=content, time_ms=1_700_000_000_000)
    return server_frame(protobuf.ProtobufDialect().encode_message(stored) or b"", BINARY)


def ack(number: int, position: int) -> bytes:
    return server_frame(protobuf.uplink_ack(number, position), BINARY)


def streams() -> list[list[bytes]]:
    """What four members get when each has sent ten messages."""
    frames: list[list[bytes]] = [[] for _ in range(MEMBERS)]
    for number in range(10 * MEMBERS):
        for member in range(MEMBERS):
            own = number % MEMBERS == member
            position = 100 + 5 * number
            frames[member].append(ack(number // MEMBERS + 1, position) if own else push(number, position))
    return frames


def counted(frames: list[list[bytes]]) -> ChatTally:
    connections = FakeConnections(MEMBERS)
    tally = ChatTally(connections, TAG, shared=True)
    for number in range(10 * MEMBERS):
        tally.senders[number % MEMBERS].waiting.append((number, tally.last_ns))
    for conn, stream in zip(connections.by_fd.values(), frames, strict=True):
        data = b"".join(stream)
        for at in range(0, len(data), 333):
            connections.feed(conn, data[at : at + 333])
    return tally


def wrong(found: Receipts) -> tuple[int, int, int]:
    assert found.expected == 120
    return found.lost, found.doubled, found.other_order


def test_a_chat_that_reaches_everybody_is_good() -> None:
    tally = counted(streams())
    assert (tally.received, tally.acked, tally.unexpected) == (120, 40, 0)
    assert wrong(tally.verdict()) == (0, 0, 0)
    assert tally.latency.count == 120
    assert tally.ack_latency.count == 40


@pytest.mark.parametrize(
    ("member", "order", "faults"),
    [
        ("another", [0, 1, 2, 3, 4], (1, 0, 0)),
        ("the same", [0, 1, 2, 3, 4, 5, 5], (0, 1, 1)),
        ("in place of another", [0, 1, 2, 3, 4, 4], (1, 1, 1)),
        ("pushes", [0, 1, 2, 3, 5, 4], (0, 0, 1)),
        ("an acknowledgement", [0, 1, 2, 3, 4, 6, 5], (0, 0, 1)),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_is_found(
    member: str, order: list[int], faults: tuple[int, int, int]
) -> None:
    frames = streams()
    frames[2] = [*(frames[2][at] for at in order), *frames[2][max(6, len(set(order))) :]]
    assert wrong(counted(frames).verdict()) == faults, member


def test_a_position_other_than_was_acknowledged_is_found() -> None:
    frames = streams()
    frames[2][5] = push(5, 126)
    verdict = counted(frames).verdict()
    assert (verdict.lost, verdict.doubled) == (1, 1)


def test_an_acknowledgement_that_is_not_due_is_unexpected() -> None:
    frames = streams()
    frames[2].append(ack(3, 1000))
    frames[3].append(ack(11, 1000))
    tally = counted(frames)
    assert (tally.acked, tally.unexpected) == (40, 2)


@pytest.mark.linux
@pytest.mark.parametrize("server", ["front"], indirect=True)
@pytest.mark.parametrize(
    "way",
    [
        ("--rate", "100"),
        pytest.param(("--rate", "0"), marks=pytest.mark.full),
        pytest.param(("--rate", "100", "--single"), marks=pytest.mark.full),
        pytest.param(("--rate", "0", "--single"), marks=pytest.mark.full),
    ],
)
def test_chat(server: Server, way: tuple[str, ...]) -> None:
    figures = found("chat", *options_of(server), "--members", "8", "--seconds", "0.3", *way)["figures"]
    receivers = 1 if "--single" in way else 7
    assert figures["messages"] > 5
    assert figures["deliveries"] == figures["messages"] * receivers
    assert figures["cpu_us"] > 0
    assert 0 < figures["ack_p50_ms"] <= figures["ack_p99_ms"]


@pytest.mark.linux
@pytest.mark.parametrize("server", ["front"], indirect=True)
@pytest.mark.parametrize(("dialect", "pages"), [("cmd", 2), ("protobuf", 6)])
@pytest.mark.full
def test_a_member_who_missed_much_fetches_it(server: Server, dialect: str, pages: int) -> None:
    figures = found("chat", *options_of(server), "--sync", "260", "--dialect", dialect)["figures"]
    assert figures["messages"] == figures["entries_received"] == 260
    assert (figures["returned"], figures["missing"], figures["sync_pages"]) == (1, 0, pages)
    assert 0 < figures["seconds"] < 60


@pytest.mark.linux
@pytest.mark.parametrize("server", ["front"], indirect=True)
@pytest.mark.full
def test_all_members_come_back_at_once(server: Server) -> None:
    figures = found("chat", *options_of(server), "--storm", "6", "--members", "40")["figures"]
    assert figures["messages"] == figures["entries_received"] == 240
    assert figures["returned"] == figures["recovered"] == 40
    assert 0 < figures["login_p50_ms"] <= figures["login_p99_ms"]


@pytest.mark.full
@pytest.mark.linux
def test_chat_with_a_server_of_our_own_counts_what_is_stored() -> None:
    figures = found("chat", "--members", "4", "--seconds", "0.3", "--rate", "100")["figures"]
    assert figures["stored_rows"] == figures["messages"] == 30
    assert figures["unstored"] == figures["seq_holes"] == 0


@pytest.mark.linux
@pytest.mark.full
def test_members_on_several_nodes_chat_with_each_other() -> None:
    figures = found("chat", "--members", "6", "--seconds", "0.3", "--rate", "50", "--nodes", "2")["figures"]
    assert figures["stored_rows"] == figures["messages"] == 15
    assert figures["deliveries"] == 15 * 5
