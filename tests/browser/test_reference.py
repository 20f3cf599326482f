"""The page that explains the HTTP interface, in a real browser."""

import pytest

from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)


def test_contents_lead_to_the_operations_and_say_where_one_is(pair: Pair, start_server: StartServer) -> None:
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang=en")
    assert page.texts("h1")[0].startswith("HTTP API")
    assert page.overflow <= 0
    page.find('.contents a[href="#post_ban"]').click()
    eventually(
        lambda: page.texts(".contents [aria-current]") == ["POST /ban"], what="the contents mark the place"
    )
    assert page.run("return document.querySelector('#post_ban').getBoundingClientRect().top") < 100


@pytest.mark.parametrize(("language", "dark"), [("en", False), ("zh", True)])
def test_on_a_phone_the_contents_are_folded_and_nothing_sticks_out(
    pair: Pair, start_server: StartServer, language: str, dark: bool
) -> None:
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang={language}", size=(320, 640), dark=dark)
    assert page.overflow <= 0
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


def test_a_line_for_the_shell_is_copied(pair: Pair, start_server: StartServer) -> None:
    server = start_server()
    page = pair[0].open(f"{server.http_url}/api/v1/docs?lang=en")
    page.command(
        "Browser.grantPermissions",
        origin=server.http_url,
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
    )
    button = page.find("#post_unban .curl").find_element("xpath", "..").find_element("css selector", ".copy")
    assert button.text == "Copy"
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    eventually(lambda: button.text == "Copied", what="it says so")
    copied = page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("curl ")
    assert copied.endswith("/api/v1/unban")
    eventually(lambda: button.text == "Copy", what="it can be pressed again")
