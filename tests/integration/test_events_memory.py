"""What an idle event stream costs, beside a WebSocket."""

import sys
from pathlib import Path

import pytest

from tests.support import Server

from .raw import Raw, request
from .sse import PATH
from .test_memory import cost, log_in

COUNT = 1_000
MORE_BYTES = 100
"""What a stream may cost above a session of the cmd dialect: it keeps its place in what is stored."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def listen(server: Server, number: int) -> Raw:
    """A stream of a user of their own."""
    raw = Raw(server.http)
    raw.send(request(f"{PATH}?app=101&user=user{number}"))
    assert raw.response(to_head=True).status == 200
    return raw


@pytest.mark.full
def test_an_idle_stream_costs_little_more_than_an_idle_session(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    (tmp_path / "stream").mkdir()
    session, stream = cost(tmp_path / "session", log_in), cost(tmp_path / "stream", listen)
    print(f"{session:.0f} bytes a session, {stream:.0f} bytes a stream")
    assert stream <= session + MORE_BYTES
