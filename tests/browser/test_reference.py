"""The page that explains the HTTP interface, in a real browser."""

import json

import pytest
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import eventually


@pytest.mark.full
def test_contents_lead_to_operations_and_lines_for_the_shell_are_copied(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang=en")
    assert page.texts("h1")[0].startswith("HTTP API")
    page.fits()
    page.click('.contents a[href="#post_ban"]')
    eventually(
        lambda: page.texts(".contents [aria-current]") == ["POST /ban"], what="the contents mark the place"
    )
    top = "return document.querySelector('#post_ban').getBoundingClientRect().top"
    eventually(lambda: page.run(top) < 100, what="the operation is at the top")

    page.command(
        "Browser.grantPermissions",
        origin=server.http_url,
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
    )
    button = page.find("#post_unban .curl").find_element("xpath", "..").find_element("css selector", ".copy")
    assert button.text == "Copy"
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    page.run(CLICK, button)
    button.click()
    eventually(lambda: "Copied" in page.run("return window.said"), what="it says so")
    copied = page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("curl ")
    assert copied.endswith("/api/v1/unban")
    eventually(lambda: button.text == "Copy", what="it can be pressed again")

    page.run("document.activeElement.blur()")
    page.press("/")
    page.press(*"apps/delete")
    eventually(
        lambda: [text for text in page.texts(".contents li:not([hidden])") if text] == ["POST /apps/delete"],
        what="one operation is left",
    )
    page.find("#search").send_keys(" nonsense")
    eventually(lambda: page.shown("#nothing"), what="nothing is left")
    assert page.find("#post_push .anchor").get_attribute("href").endswith("#post_push")


@pytest.mark.full
def test_on_a_phone_the_contents_are_folded_and_nothing_sticks_out(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang=en", size=(320, 640))
    page.fits()
    assert not page.shown(".contents nav")
    page.find(".contents summary").click()
    assert page.shown(".contents nav")
    page.find('.contents a[href="#post_push"]').click()
    eventually(lambda: not page.shown(".contents nav"), what="the contents fold again")
    wide = page.run(
        "return [...document.querySelectorAll('.operation')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0


CLICK = """
const [button] = arguments;
window.said = [];
new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
"""
"""Remember what a button says: it does so for two seconds."""


KEY = "a key of the tests that may push"
KEYS = {"api": {"keys": [{"key": KEY, "scopes": ["push"]}]}}


def try_it(page: Page, operation: str) -> WebElement:
    """Open the form of an operation."""
    button = page.find(f"#{operation} .try")
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    return page.find(f"#{operation} .trial")


def answer_of(page: Page, form: WebElement) -> tuple[str, str]:
    """Press Send; status and body of the answer."""
    button = form.find_element("css selector", ".send")
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    eventually(
        lambda: form.find_element("css selector", ".outcome").text and button.is_enabled(), what="an answer"
    )
    return (form.find_element("css selector", ".outcome").text, form.find_element("css selector", "pre").text)


@pytest.mark.full
def test_requests_are_tried_in_demo_mode(pair: Pair, start_server: StartServer) -> None:
    pair.expects("400 (Bad Request)")
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang=en")
    form = try_it(page, "post_push")
    body = form.find_element("css selector", "textarea")
    assert "app" in json.loads(body.get_property("value"))
    page.run("arguments[0].value = arguments[1]", body, '{"app":"101","user":"eve","text":"hi"}')
    status, text = answer_of(page, form)
    assert status.startswith("200")
    assert json.loads(text)["results"][0]["status"] == "absent"
    page.run('arguments[0].value = \'{"app":"101"}\'', body)
    assert answer_of(page, form)[0].startswith("400")
    page.run("arguments[0].value = '{'", body)
    assert answer_of(page, form)[0].startswith("The body is not valid JSON")
    form = try_it(page, "get_counts")
    assert answer_of(page, form)[0].startswith("200")


@pytest.mark.full
def test_a_key_stays_in_the_memory_of_the_page(pair: Pair, start_server: StartServer) -> None:
    pair.expects("401 (Unauthorized)")
    server = start_server(config=KEYS)
    address = f"{server.http_url}/api/v1/docs?lang=en"
    page = pair[0].open(address)
    form = try_it(page, "post_push")
    body = form.find_element("css selector", "textarea")
    page.run("arguments[0].value = arguments[1]", body, '{"app":"101","user":"eve","text":"hi"}')
    assert answer_of(page, form)[0].startswith("401")
    page.find("#key").send_keys(KEY)
    assert answer_of(page, form)[0].startswith("200")
    stored = page.run("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert stored == '[{},{},""]'
    assert page.run("return location.href") == address
    field = page.find("#key")
    assert (field.get_attribute("autocomplete"), field.get_attribute("name")) == ("off", "")
    assert page.run("return arguments[0].form === null", field)
    page.driver.refresh()
    assert page.find("#key").get_property("value") == ""
