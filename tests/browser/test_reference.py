"""The page that explains the HTTP interface, in a real browser."""

import json
from typing import Any

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import Server, eventually

CLICK = """
const [button] = arguments;
button.scrollIntoView({ block: "center" });
window.said = [];
new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
"""
"""Remember what a button says: it does so for two seconds."""
KEY = "a key of the tests that may push"
PUSH = '{"app":"101","user":"eve","text":"hi"}'


class Reference(Page):
    """The page, and the form of one of its operations."""

    form = ""

    def try_it(self, operation: str) -> None:
        """Open the form of an operation."""
        self.form = f"#{operation} .trial"
        self.pressed(f"#{operation} .try")

    def pressed(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })", selector)
        self.find(selector).click()

    def body(self, text: str) -> None:
        self.run("document.querySelector(arguments[0]).value = arguments[1]", f"{self.form} textarea", text)

    def answer(self) -> str:
        """Press Send; the status of the answer."""
        self.pressed(f"{self.form} .send")
        outcome, send = f"{self.form} .outcome", self.find(f"{self.form} .send")
        eventually(lambda: self.find(outcome).text and send.is_enabled(), what="an answer")
        return self.find(outcome).text


def opened(pair: Pair, server: Server, **how: Any) -> Reference:
    return Reference(pair[0].open(f"{server.http_url}/api/v1/docs?lang=en", **how).driver)


@pytest.mark.full("browser")
def test_contents_lead_to_operations_and_lines_for_the_shell_are_copied(pair: Pair, server: Server) -> None:
    page = opened(pair, server)
    assert page.texts("h1")[0].startswith("HTTP API")
    page.fits()
    page.click('.contents a[href="#post_ban"]')
    page.has(".contents [aria-current]", "POST /ban")  # the contents mark the place
    page.gives("return document.querySelector('#post_ban').getBoundingClientRect().top < 100", True)

    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.command("Browser.grantPermissions", origin=server.http_url, permissions=permissions)
    button = page.find("#post_unban .curl").find_element("xpath", "..").find_element("css selector", ".copy")
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
    left = (
        "return [...document.querySelectorAll('.contents li:not([hidden])')].map((each) => each.textContent)"
    )
    eventually(lambda: list(filter(None, page.run(left))) == ["POST /apps/delete"], what="one is left")
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
    assert "app" in json.loads(page.find("#post_push .trial textarea").get_property("value"))
    page.body(PUSH)
    assert page.answer().startswith("200")
    assert json.loads(page.find("#post_push .trial pre").text)["results"][0]["status"] == "absent"
    for body, outcome in (('{"app":"101"}', "400"), ("{", "The body is not valid JSON")):
        page.body(body)
        assert page.answer().startswith(outcome)
    page.try_it("get_counts")
    assert page.answer().startswith("200")


@pytest.mark.full("browser")
def test_a_key_stays_in_the_memory_of_the_page(pair: Pair, start_server: StartServer) -> None:
    pair.expects("401 (Unauthorized)")
    server = start_server(config={"api": {"keys": [{"key": KEY, "scopes": ["push"]}]}})
    page = opened(pair, server)
    address = page.driver.current_url
    page.try_it("post_push")
    page.body(PUSH)
    assert page.answer().startswith("401")
    page.write("#key", KEY)
    assert page.answer().startswith("200")
    stored = page.run("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert stored == '[{},{},""]'
    assert page.driver.current_url == address
    field = "const { autocomplete, name, form } = document.querySelector('#key');"
    assert page.run(f"{field} return [autocomplete, name, form]") == ["off", "", None]
    page.driver.refresh()
    assert page.find("#key").get_property("value") == ""
