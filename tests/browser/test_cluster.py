"""The page of all nodes in a real browser."""

import json
import signal
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.integration.clusters import Nodes, name_of, nodes_of
from tests.processes import pause
from tests.support import eventually

pytestmark = pytest.mark.full

KEY = "an-admin-key-of-this-test"


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, quickly given up by each other."""
    with nodes_of(
        tmp_path_factory.mktemp("cluster"),
        2,
        cluster={"lease_seconds": 8, "renew_seconds": 0.5, "rpc_seconds": 1},
    ) as two:
        yield two


ROWS = """return [...document.querySelectorAll('#nodes tr')].map((row) => [
    row.querySelector('bdi').textContent, [...row.querySelectorAll('td')].map((cell) => cell.textContent)])"""


def rows(page: Page) -> dict[str, list[str]]:
    """The table of nodes: the cells by the name of the node."""
    return dict(page.run(ROWS))


def state_of(page: Page, name: str) -> str:
    """The state of a node as of now: going on after a pause reads at once."""
    page.run("document.getElementById('pause').click(); document.getElementById('pause').click()")
    return rows(page).get(name, [""])[0]


def test_it_shows_all_nodes_and_what_becomes_of_one(pair: Pair, nodes: Nodes) -> None:
    shown, other = nodes.servers
    names = sorted((name_of(shown), name_of(other)))
    page = pair[0].open(f"{shown.http_url}/cluster?lang=en")
    eventually(lambda: page.texts("#count") == ["2"], what="two nodes")
    assert list(rows(page)) == names
    eventually(lambda: page.texts("#answering") == ["all respond"], what="answers of both")
    assert not page.shown("#alone")
    with connect(other.ws_url, proxy=None) as socket, connect(shown.ws_url, proxy=None):
        socket.send(json.dumps({"seq": "1", "cmd": "login", "data": {"userID": "ann", "appID": 102}}))
        socket.recv(60)
        figures = ("#connections", "#users", "#apps tr:first-child > :not(.share)")
        wanted = [["2"], ["1"], ["102", "1"]]
        eventually(lambda: [page.texts(each) for each in figures] == wanted, what="the figures are renewed")
        eventually(lambda: rows(page)[name_of(other)][:3] == ["Up", "1", "1"], what="those of its node")
    silent = name_of(other)
    pause(other.process.pid)
    try:
        eventually(lambda: state_of(page, silent) == "No response", what="the silent node")
        eventually(lambda: state_of(page, silent).startswith("Gone since"), what="the node that is gone")
        eventually(lambda: page.texts("#count") == ["1"], what="one node is left")
    finally:
        other.process.send_signal(signal.SIGCONT)
    eventually(lambda: state_of(page, silent) == "Up", what="the node is back")
    for size in ((320, 640), (1280, 800)):
        page.resize(*size)
        page.fits()
