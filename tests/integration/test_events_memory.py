"""What an idle event stream costs, beside a WebSocket."""

import sys
from collections.abc import Callable

import pytest

from tests.support import Server, eventually

from .raw import Raw, request
from .setting import Launch, open_files, rss_bytes
from .sse import PATH
from .test_memory import BAR_BYTES, connect, counted

CONNECTIONS = 4000
WARM_UP = 500
MORE_BYTES = 150
"""How much more a stream may seem to cost: memory is given out in pages, and what was freed is used again."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def listen(server: Server, count: int) -> list[Raw]:
    """So many streams, of users of their own, over the four apps."""
    raws = []
    for number in range(count):
        raw = Raw(server.http)
        raw.send(request(f"{PATH}?app={101 + number % 4}&user=user{number}"))
        raws.append(raw)
    eventually(lambda: counted(server) == (count, count), 60, "all are logged in")
    for raw in raws:
        assert raw.response(to_head=True).status == 200
    return raws


def cost(server: Server, make: Callable[[Server, int], list[Raw]]) -> float:
    """Bytes of memory each of many connections takes, after others have come and gone."""
    count = open_files(CONNECTIONS)
    for raw in make(server, min(WARM_UP, count)):
        raw.leave()
    eventually(lambda: counted(server) == (0, 0), 30, "the warm-up is over")
    before = rss_bytes(server.pid)
    raws = make(server, count)
    bytes_each = (rss_bytes(server.pid) - before) / count
    for raw in raws:
        raw.leave()
    return bytes_each


def test_an_idle_stream_costs_what_an_idle_websocket_does(launch: Launch, door: str) -> None:
    quiet = {"notice_members": 0}
    websocket = cost(launch(door, hub=quiet), connect)
    stream = cost(launch(door, hub=quiet), listen)
    print(f"{door}: a WebSocket {websocket:.0f} bytes, a stream {stream:.0f}")
    assert stream <= websocket + MORE_BYTES
    assert stream <= BAR_BYTES
