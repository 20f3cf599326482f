"""A crowd counts what it gets, and knows who of it was dropped."""

import pytest

from bench.connections import Connection
from bench.frames import server_frame
from bench.user_tasks import EVERYBODY, Received, message_text
from tests.bench.test_tally import FakeSocket


def frame(target: int, stamp: int = 1) -> bytes:
    return server_frame(b'{"seq":"1","cmd":"msg","msg":"' + message_text(stamp, target) + b'"}')


def conn(number: int) -> Connection:
    return Connection(FakeSocket(number), number)  # type: ignore[arg-type]


def test_a_broadcast_is_counted_for_everybody_and_what_is_lost_or_doubled_is_found() -> None:
    received = Received()
    first = frame(EVERYBODY)
    conns = [conn(3), conn(4), conn(5)]
    received.message(conns[0], first)
    assert received.same(conns[1], first)
    assert not received.same(conns[2], frame(EVERYBODY, stamp=2))
    received.message(conns[1], first)
    verdict = received.verdict(conns, 1)
    assert (verdict["received"], verdict["lost"], verdict["doubled"]) == (3, 1, 1)


@pytest.mark.parametrize(("target", "singles", "misdelivered"), [(42, 1, 0), (43, 0, 1)])
def test_a_push_to_somebody_else_is_unexpected(target: int, singles: int, misdelivered: int) -> None:
    received = Received()
    received.message(conn(42), frame(target))
    assert (received.singles, received.misdelivered) == (singles, misdelivered)
