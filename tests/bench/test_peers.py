"""What the comparison reads from other servers: frames of several lines, positions, losses, the tables."""

from pathlib import Path
from typing import Any

import pytest

from bench import peer_losses, peers
from bench.connections import Target
from bench.frames import FINAL, TEXT, server_frame
from bench.latency import stamp_us
from bench.peer_losses import WIRES, Position, losses
from bench.push import PeerBroadcasts, PeerPushes
from checker.cli import check
from checker.history import read
from tests.bench.test_tally import TAG, FakeConnections, Tally

EPOCH = b'"epoch":"e"'


def line(number: int) -> bytes:
    return b'{"data":{"id":"%b%07d","msg":"%010d"}}' % (TAG.encode(), number, stamp_us())


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_messages_in_one_frame_and_a_message_in_two_frames_are_counted(size: int) -> None:
    connections = FakeConnections(2)
    tally = Tally(connections, TAG)
    lines = [line(number) for number in range(5)]
    first, second = server_frame(lines[3][:20]), server_frame(lines[3][20:], 0)
    unfinished = bytes((first[0] & ~FINAL, first[1])) + first[2:]
    together = server_frame(b"\n".join(lines[:2]) + b"\n") + server_frame(lines[2]) + unfinished + second
    apart = b"".join(map(server_frame, lines[:4]))
    for conn, stream in zip(tally.receivers, (together, apart), strict=True):
        stream += server_frame(lines[4], TEXT)
        for at in range(0, len(stream), size):
            connections.feed(conn, stream[at : at + size])
    receipts = tally.verdict(set(range(5)))
    assert (receipts.received, receipts.lost, receipts.doubled, receipts.other_order) == (10, 0, 0, 0)


@pytest.mark.parametrize(
    ("server", "payloads", "position"),
    [
        (
            "imserver",
            [b'{"id":2,"subscribe":{%b,"offset":3}}' % EPOCH, b'{"push":{"pub":{"offset":4}}}'],
            {"epoch": "e", "offset": 4},
        ),
        (
            "centrifuge",
            [b'{"id":1,"result":{"subs":{"all":{%b}}}}' % EPOCH, b'{"result":{"data":{"offset":1}}}'],
            {"epoch": "e", "offset": 1},
        ),
        (
            "socket.io",
            [b'40{"sid":"s","pid":"p"}', b'42["msg",{"n":"#0000001"},"xyz"]'],
            {"pid": "p", "offset": "xyz"},
        ),
        ("nchan", [b'id: 17:0\n\n{"n":"#0000001"}', b"id: 18:0\n\n#0000002"], {"id": "18:0"}),
    ],
)
def test_a_follower_reads_its_position(server: str, payloads: list[bytes], position: Position) -> None:
    found: Position = {}
    assert not any(WIRES[server].read(payload, found) for payload in payloads)
    assert found == position


@pytest.mark.parametrize(
    ("server", "position", "recovered", "missed"),
    [
        (
            "imserver",
            {"epoch": "e", "offset": 4},
            b'{"subscribe":{%b,"offset":4,"recovered":true}}' % EPOCH,
            b'{"subscribe":{"epoch":"f"}}',
        ),
        ("socket.io", {"pid": "p", "offset": "x"}, b'40{"sid":"s","pid":"p"}', b'40{"sid":"s","pid":"q"}'),
    ],
)
def test_a_follower_knows_whether_it_has_missed_something(
    server: str, position: Position, recovered: bytes, missed: bytes
) -> None:
    assert not WIRES[server].read(recovered, {**position})
    assert WIRES[server].read(missed, {**position})


@pytest.mark.full
@pytest.mark.linux
def test_followers_of_a_server_write_a_history_that_the_checker_reads(tmp_path: Path) -> None:
    found = peers.losses_of(peers.OWN, tmp_path, tmp_path / "histories")
    for fault in ("kill", "cut"):
        lines = (tmp_path / "histories" / f"imserver-{fault}.jsonl").read_text().splitlines()
        history = read(lines)
        assert check(history) == []
        assert len(history.sights) == found[fault]["due"]
        assert len(history.followers[peer_losses.CHANNEL]) == peer_losses.FOLLOWERS
        seen = [number for number, row in enumerate(lines) if '"see"' in row]
        assert {each.rule for each in check(read(lines[: seen[99]] + lines[seen[100] :]))} == {
            "missing",
            "skipped",
        }


def test_losses_are_counted_for_each_follower() -> None:
    assert losses([1, 2, 3], [[[1, 1], [2, 2], [3, 1]], [[1, 1], [9, 1]], [[3, 1]]], [0, 1, 0]) == {
        "acknowledged": 3,
        "due": 9,
        "missing": 4,
        "announced": 2,
        "repeated": 1,
    }


def test_pushes_name_the_user_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Users:
        target = Target("127.0.0.1", 1)
        loop = None

    for kind, name in ((PeerPushes, b"u0000001"), (PeerBroadcasts, b"all")):
        monkeypatch.setattr(kind, "receivers", lambda _self, _generator, name=name: [name])
        run: Any = kind(Users(), "tag", 0, 1, 0)  # type: ignore[arg-type]
        head, _, body = (run.templates[0] % (7, 8)).partition(b"\r\n\r\n")
        assert head.startswith(b"POST /push/" + name + b" HTTP/1.1\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert body.startswith(b'{"id":"tag0000007","msg":"0000000008')


def test_the_table_has_medians_with_ranges_and_names_a_peer_that_cannot_be_built() -> None:
    text = peers.tables(
        {
            "machine": {"cores": 2, "processor": "P", "kernel": "K", "python": "3"},
            "runs": 3,
            "rows": [
                {
                    "server": "nchan",
                    "version": "1",
                    **{name: [0, 0, 0] for name in peers.NUMBERS},
                    "memory_bytes": [11_000, 10_900, 12_000],
                    "flat_us": [3.25, 3.0, 12.3],
                }
            ],
            "missing": {"centrifuge": "no apt-get"},
        }
    )
    assert "| nchan  | 1 " in text
    assert " 11,000 (10,900–12,000) |" in text
    assert " 3.25 (3.00–12.3) |" in text
    assert "centrifuge is not measured: no apt-get" in text
    loss = losses([1], [[]], [0])
    assert "| nchan  | cut   |" in peers.losses_table(
        {"losses": [{"server": "nchan", "kill": loss, "cut": loss}]}
    )


@pytest.mark.full
def test_followers_of_our_own_server_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_losses, "FAULTS", 1)
    found = peers.losses_of(peers.OWN, peers.PROGRAMS)
    for fault in ("kill", "cut"):
        assert found[fault]["acknowledged"] > 0
        assert found[fault]["missing"] == 0
