"""Users who publish to a channel of their own and to one of six: losses, doubles and refusals are found."""

from collections import Counter
from collections.abc import Iterable
from typing import cast

import pytest

from bench.frames import MASK, server_frame
from bench.generator import Generator
from bench.realtime import MEMBERS, PING, RealtimeRun, channels_of
from tests.bench.test_tally import TAG, FakeConnections, FakeSocket

USERS = 8
"""A channel of six, and one of two."""
TURNS = 3 * USERS


class FakeLoop:
    """Counts turns without waiting."""

    def paced(self, rate: float, seconds: float) -> Iterable[int]:
        return range(int(rate * seconds))

    def each(self, items: Iterable[int]) -> Iterable[int]:
        return items


class FakeGenerator:
    """The loop and the connections of a process."""

    def __init__(self) -> None:
        self.loop, self.connections = FakeLoop(), FakeConnections(USERS)


def published() -> RealtimeRun:
    """Return a run whose users have published three times each."""
    run = RealtimeRun(cast(Generator, FakeGenerator()), TAG)
    run.publish(rate=1, seconds=TURNS / USERS)
    return run


def deliver(run: RealtimeRun) -> Counter[tuple[int, str]]:
    """Answer each publication, and deliver it to the users of its channel.

    Returns how many publications each user received in each channel.
    """
    delivered: Counter[tuple[int, str]] = Counter()
    connections = cast(FakeConnections, run.connections)
    for sender in run.receivers:
        for frame in cast(FakeSocket, sender.sock).sent:
            command = frame[frame.index(b"{") :]
            channel = command.split(b'"channel":"')[1].split(b'"')[0].decode()
            data = command[command.index(b'"data":') : -2]
            push = server_frame(b'{"push":{"channel":"%b","pub":{%b}}}' % (channel.encode(), data))
            connections.feed(sender, server_frame(b'{"id":1,"publish":{}}'))
            for conn in run.receivers:
                if channel in channels_of(conn.number):
                    delivered[conn.number, channel] += 1
                    connections.feed(conn, push)
    return delivered


def test_each_user_has_a_channel_of_its_own_and_one_with_five_others() -> None:
    names = [channels_of(number) for number in range(2 * MEMBERS)]
    assert len({own for own, _ in names}) == 2 * MEMBERS
    assert Counter(six for _, six in names) == {"six:0000000": MEMBERS, "six:0000001": MEMBERS}


def test_users_publish_in_turn_to_both_channels_and_all_of_them_have_every_publication() -> None:
    run = published()
    delivered = deliver(run)
    assert delivered[0, "own:0000000"] == 2
    assert delivered[0, "six:0000000"] == MEMBERS
    assert delivered[7, "six:0000001"] == USERS - MEMBERS
    receipts = run.compare(run.wanted())
    assert (receipts.expected, receipts.received) == (delivered.total(), delivered.total())
    assert (receipts.lost, receipts.doubled, run.refused) == (0, 0, 0)
    assert run.latency.count == delivered.total()
    assert run.others == run.published == TURNS


def test_frames_of_publications_are_equally_long() -> None:
    assert len({len(frame % (0, 0)) for _, frame in published().frames}) == 1


@pytest.mark.parametrize(("frames", "verdict"), [(-1, (1, 0)), (1, (0, 1))])
def test_a_lost_and_a_doubled_publication_are_found(frames: int, verdict: tuple[int, int]) -> None:
    run = published()
    deliver(run)
    run.receivers[3].frames += frames
    receipts = run.compare(run.wanted())
    assert (receipts.lost, receipts.doubled) == verdict


def test_a_publication_in_place_of_another_is_found() -> None:
    run = published()
    deliver(run)
    run.receivers[3].checksum += 1
    assert run.compare(run.wanted()).doubled == 1


def test_refusals_are_counted_and_pings_are_answered() -> None:
    run = published()
    conn = run.receivers[0]
    connections = cast(FakeConnections, run.connections)
    sent = cast(FakeSocket, conn.sock).sent
    before = len(sent)
    connections.feed(conn, server_frame(b'{"id":1,"error":{"code":103,"message":"permission denied"}}'))
    assert (run.refused, len(sent)) == (1, before)
    connections.feed(conn, server_frame(PING))
    assert (run.refused, len(sent)) == (1, before + 1)
    assert sent[-1][2:6] == MASK
