"""The operators' pages of a node and of all nodes, and the page that explains
the HTTP interface."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

KEY = "an-admin-key-of-this-test"
ROWS = """return [...document.querySelectorAll('#nodes tr')].map((row) => [
    row.querySelector('bdi').textContent, [...row.querySelectorAll('td')].map((cell) => cell.textContent)])"""


@contextmanager
def visited(page: Page, one: Server, other: Server) -> Iterator[None]:
    """A time in which ann and somebody without a name are connected; the page
    says so."""
    with logged_in(one.ws, "ann", 102), connect(other.ws_url, proxy=None):
        for selector, text in (("#connections", "2"), ("#users", "1")):
            page.has(selector, text)
        page.has("#apps tr:first-child > :not(.share)", "102", "1")
        yield


def state_of(page: Page, name: str) -> str:
    """The state of a node as of now: going on after a pause reads at once."""
    page.run(
        "document.getElementById('pause').click(); document.getElementById('pause').click()"
    )
    return str(dict(page.run(ROWS)).get(name, [""])[0])


def fits(page: Page) -> None:
    for size in ((320, 640), (1280, 800)):
        page.resize(*size)
        page.fits()


@pytest.mark.full("browser")
def test_the_page_of_a_node_renews_itself(
    pair: Pair, start_server: StartServer
) -> None:
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


@pytest.mark.full("browser")
def test_it_asks_for_a_key_and_keeps_it_in_the_tab_only(
    pair: Pair, start_server: StartServer
) -> None:
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


@pytest.mark.full("browser")
def test_the_page_of_all_nodes_shows_what_becomes_of_one(
    pair: Pair, tmp_path: Path
) -> None:
    quick = {"lease_seconds": 8, "renew_seconds": 0.5, "rpc_seconds": 1}
    with nodes_of(tmp_path, 2, cluster=quick) as nodes:
        shown, other = nodes.servers
        page = pair[0].open(f"{shown.http_url}/cluster?lang=en")
        page.has("#count", "2")
        assert [name for name, _ in page.run(ROWS)] == sorted(
            map(name_of, nodes.servers)
        )
        page.has("#answering", "all respond")
        assert not page.shown("#alone")
        silent = name_of(other)
        with visited(page, other, shown):
            eventually(
                lambda: dict(page.run(ROWS))[silent][:3] == ["Up", "1", "1"],
                what="those of its node",
            )
        pause(other.process.pid)
        try:
            eventually(
                lambda: state_of(page, silent) == "No response", what="the silent node"
            )
            eventually(
                lambda: state_of(page, silent).startswith("Gone since"),
                what="the node is gone",
            )
            page.has("#count", "1")
        finally:
            other.process.send_signal(signal.SIGCONT)
        eventually(lambda: state_of(page, silent) == "Up", what="the node is back")
        fits(page)
        pair[0].open("about:blank")


CLICK = """
const [button] = arguments;
button.scrollIntoView({ block: "center" });
window.said = [];
new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
"""
"""Remember what a button says: it does so for two seconds."""
PUSH_KEY = "a key of the tests that may push"
PUSH = '{"app":"101","user":"eve","text":"hi"}'


class Reference(Page):
    """The page, and the form of one of its operations."""

    form = ""

    def try_it(self, operation: str) -> None:
        self.form = f"#{operation} .trial"
        self.pressed(f"#{operation} .try")

    def pressed(self, selector: str) -> None:
        self.run(
            "document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })",
            selector,
        )
        self.find(selector).click()

    def body(self, text: str) -> None:
        self.run(
            "document.querySelector(arguments[0]).value = arguments[1]",
            f"{self.form} textarea",
            text,
        )

    def answer(self) -> str:
        self.pressed(f"{self.form} .send")
        outcome = f"{self.form} .outcome"
        send = self.find(f"{self.form} .send")
        eventually(
            lambda: self.find(outcome).text and send.is_enabled(), what="an answer"
        )
        return self.find(outcome).text


def opened(pair: Pair, server: Server, **how: Any) -> Reference:
    return Reference(
        pair[0].open(f"{server.http_url}/api/v1/docs?lang=en", **how).driver
    )


DELETIONS = {"POST /apps/delete", "POST /apps/delete/undo", "GET /apps/delete/show"}


@pytest.mark.full("browser")
def test_contents_lead_to_operations_and_lines_for_the_shell_are_copied(
    pair: Pair, server: Server
) -> None:
    page = opened(pair, server)
    assert page.texts("h1")[0].startswith("HTTP API")
    page.fits()
    page.click('.contents a[href="#post_ban"]')
    page.has(".contents [aria-current]", "POST /ban")  # the contents mark the place
    page.gives(
        "return document.querySelector('#post_ban').getBoundingClientRect().top < 100",
        True,
    )

    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.command(
        "Browser.grantPermissions", origin=server.http_url, permissions=permissions
    )
    button = (
        page.find("#post_unban .curl")
        .find_element("xpath", "..")
        .find_element("css selector", ".copy")
    )
    assert button.text == "Copy"
    page.run(CLICK, button)
    button.click()
    eventually(lambda: "Copied" in page.run("return window.said"), what="it says so")
    copied = page.awaited("return navigator.clipboard.readText()")
    assert copied.startswith("curl ")
    assert copied.endswith("/api/v1/unban")
    eventually(lambda: button.text == "Copy", what="it can be pressed again")

    page.run("document.activeElement.blur()")
    page.press("/")
    page.press(*"apps/delete")
    left = "return [...document.querySelectorAll('.contents li:not([hidden])')].map((each) => each.textContent)"
    eventually(
        lambda: {name for name in page.run(left) if name} == DELETIONS,
        what="the operations of deletions are left",
    )
    page.write("#search", " nonsense")
    page.sees("#nothing")
    assert page.find("#post_push .anchor").get_attribute("href").endswith("#post_push")

    page = opened(pair, server, size=(320, 640))
    page.fits()
    assert not page.shown(".contents nav")
    page.click(".contents summary")
    assert page.shown(".contents nav")
    page.click('.contents a[href="#post_push"]')
    page.misses(".contents nav")  # the contents fold again
    right = "filter((each) => each.getBoundingClientRect().right > innerWidth).length"
    assert page.run(f"return [...document.querySelectorAll('.operation')].{right}") == 0


@pytest.mark.full("browser")
def test_requests_are_tried_in_demo_mode(pair: Pair, server: Server) -> None:
    pair.expects("400 (Bad Request)")
    page = opened(pair, server)
    page.try_it("post_push")
    assert "app" in json.loads(
        page.find("#post_push .trial textarea").get_property("value")
    )
    page.body(PUSH)
    assert page.answer().startswith("200")
    assert (
        json.loads(page.find("#post_push .trial pre").text)["results"][0]["status"]
        == "absent"
    )
    for body, outcome in (
        ('{"app":"101"}', "400"),
        ("{", "The body is not valid JSON"),
    ):
        page.body(body)
        assert page.answer().startswith(outcome)
    page.try_it("get_counts")
    assert page.answer().startswith("200")


@pytest.mark.full("browser")
def test_a_key_stays_in_the_memory_of_the_page(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("401 (Unauthorized)")
    server = start_server(
        config={"api": {"keys": [{"key": PUSH_KEY, "scopes": ["push"]}]}}
    )
    page = opened(pair, server)
    address = page.driver.current_url
    page.try_it("post_push")
    page.body(PUSH)
    assert page.answer().startswith("401")
    page.write("#key", PUSH_KEY)
    assert page.answer().startswith("200")
    stored = page.run(
        "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert stored == '[{},{},""]'
    assert page.driver.current_url == address
    field = "const { autocomplete, name, form } = document.querySelector('#key');"
    assert page.run(f"{field} return [autocomplete, name, form]") == ["off", "", None]
    page.driver.refresh()
    assert page.find("#key").get_property("value") == ""
