"""The operators' pages of a node, and of all nodes, in a real browser."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from websockets.sync.client import connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.clusters import name_of, nodes_of
from tests.integration.cmd import logged_in
from tests.processes import pause
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

KEY = "an-admin-key-of-this-test"
ROWS = """return [...document.querySelectorAll('#nodes tr')].map((row) => [
    row.querySelector('bdi').textContent, [...row.querySelectorAll('td')].map((cell) => cell.textContent)])"""


@contextmanager
def visited(page: Page, one: Server, other: Server) -> Iterator[None]:
    """A time in which ann and somebody without a name are connected; the page says so."""
    with logged_in(one.ws, "ann", 102), connect(other.ws_url, proxy=None):
        for selector, text in (("#connections", "2"), ("#users", "1")):
            page.has(selector, text)
        page.has("#apps tr:first-child > :not(.share)", "102", "1")
        yield


def state_of(page: Page, name: str) -> str:
    """The state of a node as of now: going on after a pause reads at once."""
    page.run("document.getElementById('pause').click(); document.getElementById('pause').click()")
    return str(dict(page.run(ROWS)).get(name, [""])[0])


def fits(page: Page) -> None:
    for size in ((320, 640), (1280, 800)):
        page.resize(*size)
        page.fits()


def test_the_page_of_a_node_renews_itself(pair: Pair, start_server: StartServer) -> None:
    pair.expects("/system/state")
    server = start_server()
    page = pair[0].open(f"{server.http_url}/status?lang=en")
    page.has("#connections", "0")
    assert page.shown("#no-apps")
    with visited(page, server, server):
        page.has("#anonymous", "1 not logged in")
        assert page.texts("#memory")[0].endswith("MB")
        assert not page.shown("#no-apps")
    fits(page)
    server.stop()
    page.has_some("#problem", "the server does not answer")
    assert "Data from" in page.texts("#state-text")[0]


def test_it_asks_for_a_key_and_keeps_it_in_the_tab_only(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config={"api": {"keys": [{"key": KEY, "scopes": ["admin"]}]}})
    page = pair[0].open(f"{server.http_url}/status")
    page.sees("#key-form")
    assert not page.shown("#figures")
    assert page.focused == "key"
    page.press("wrong", Keys.ENTER)
    page.has_some("#key-problem", "admin")
    page.press(KEY, Keys.ENTER)
    page.sees("#figures")
    page.driver.refresh()
    page.sees("#figures")
    assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
    assert KEY not in page.driver.current_url
    page.driver.get(f"{server.http_url}/cluster")
    page.has("#count", "1")  # the page of all nodes has the key, too
    assert page.shown("#alone")
    page.click("nav a[href*='/status']", "#forget")
    page.sees("#key-form")
    assert page.run("return sessionStorage.length") == 0


def test_the_page_of_all_nodes_shows_what_becomes_of_one(pair: Pair, tmp_path: Path) -> None:
    quick = {"lease_seconds": 8, "renew_seconds": 0.5, "rpc_seconds": 1}
    with nodes_of(tmp_path, 2, cluster=quick) as nodes:
        shown, other = nodes.servers
        page = pair[0].open(f"{shown.http_url}/cluster?lang=en")
        page.has("#count", "2")
        assert [name for name, _ in page.run(ROWS)] == sorted(map(name_of, nodes.servers))
        page.has("#answering", "all respond")
        assert not page.shown("#alone")
        silent = name_of(other)
        with visited(page, other, shown):
            eventually(lambda: dict(page.run(ROWS))[silent][:3] == ["Up", "1", "1"], what="those of its node")
        pause(other.process.pid)
        try:
            eventually(lambda: state_of(page, silent) == "No response", what="the silent node")
            eventually(lambda: state_of(page, silent).startswith("Gone since"), what="the node is gone")
            page.has("#count", "1")
        finally:
            other.process.send_signal(signal.SIGCONT)
        eventually(lambda: state_of(page, silent) == "Up", what="the node is back")
        fits(page)
        pair[0].open("about:blank")
