"""A crowd counts what it gets, and knows who of it was dropped."""

import pytest

from bench.crowd import EVERYBODY, Received, message_text
from bench.frames import server_frame


def frame(target: int, stamp: int = 1) -> bytes:
    return server_frame(b'{"seq":"1","cmd":"msg","msg":"' + message_text(stamp, target) + b'"}')


def test_the_same_broadcast_is_counted_for_everybody() -> None:
    received = Received(8)
    first = frame(EVERYBODY)
    received.message(3, 0, first)
    assert received.same(4, first)
    assert not received.same(5, frame(EVERYBODY, stamp=2))
    verdict = received.verdict([3, 4, 5], 1)
    assert (verdict["received"], verdict["lost"], verdict["doubled"]) == (2, 1, 0)


def test_a_broadcast_that_came_twice_is_doubled() -> None:
    received = Received(8)
    for _ in range(2):
        received.message(3, 0, frame(EVERYBODY))
    assert received.verdict([3], 1)["doubled"] == 1


@pytest.mark.parametrize(("target", "singles", "strays"), [(42, 1, 0), (43, 0, 1)])
def test_a_push_to_somebody_else_is_a_stray(target: int, singles: int, strays: int) -> None:
    received = Received(8)
    received.message(3, 42, frame(target))
    assert (received.singles, received.strays) == (singles, strays)
