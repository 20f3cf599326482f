"""A new chat: the owner and a guest open the links of ``imserver chat``, and
talk within a minute."""

import re
from collections.abc import Iterator
from time import monotonic

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.support import Server, run_cli
from tests.tools import require
from tests.users import User

pytestmark = [pytest.mark.full("browser"), pytest.mark.needs("axe-core")]

KEY = "k" * 40
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {
        "apps": {"gochat": {"accounts": {"guests": True}}},
        "api": {"keys": [{"key": KEY, "scopes": ["admin"], "apps": ["gochat"]}]},
    }
    require("axe-core")
    with Server(tmp_path_factory.mktemp("server"), config=config) as server:
        yield server


def links(server: Server) -> dict[str, str]:
    """Links of a running server, in English: that of the owner, and that of
    others."""
    done = run_cli("chat", "-c", str(server.config_file), folder=server.folder)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"http://[^/]+(/home/messages)#((\w+)=\S+)", done.stdout)
    return {
        name: f"{server.http_url}{path}?lang=en#{hash}" for path, hash, name in found
    }


def say(page: Page, text: str) -> None:
    page.write("#message", text + Keys.ENTER)


def test_owner_and_guest_talk_in_a_minute_and_the_guest_becomes_a_member(
    pair: Pair, server: Server
) -> None:
    pair.expects("404", "401")
    began = monotonic()
    first = links(server)
    ann = pair[0].open(first["owner"], size=(1280, 800))
    ann.sees("#welcome-form")
    assert violations(ann) == []
    ann.driver.refresh()
    ann.sees("#welcome-form")
    ann.press(Keys.TAB)
    ann.write("#nickname", "Ann" + Keys.TAB + PASSWORD + Keys.ENTER)
    ann.sees("#message")
    assert "owner" not in ann.driver.current_url, "the code is used"
    say(ann, "Who is there?")
    gil = pair[1].open(first["invite"], size=(390, 844), dark=True)
    gil.sees("#guest-form")
    assert violations(gil) == []
    gil.write("#nickname", "Gil" + Keys.ENTER)
    gil.has_some("#log", "Who is there?")
    gil.sees(
        ".newcomer [data-key=hello]",
        ".newcomer [data-key=face]",
        ".newcomer [data-key=notify]",
    )
    say(gil, "It is me")
    ann.has_some("#log", "It is me")
    assert monotonic() - began < 60
    # on a phone the card makes room for the keyboard
    gil.run("document.activeElement.blur()")
    gil.sees(".newcomer [data-key=hello].is-done")
    gil.click(".newcomer .close")
    gil.driver.refresh()
    gil.has_some("#log", "It is me")
    assert not gil.shown(".newcomer"), "it was closed for good"
    ann.has_some(".mark", "Guest")
    assert not gil.shown("#new-conversation")

    tab = gil.driver.current_window_handle
    address = gil.driver.current_url
    gil.driver.switch_to.new_window("tab")
    gil.driver.get(address)
    gil.sees("#message")
    other = gil.driver.current_window_handle
    gil.driver.switch_to.window(tab)
    gil.resize(1280, 800)
    gil.run("window.isSame = true; document.getElementById('me').click()")
    gil.sees("#member-form")
    assert violations(gil) == []
    assert gil.find(".card-head .avatar").size["width"] > 80
    gil.write("#member-login", "gil" + Keys.TAB + PASSWORD + Keys.ENTER)
    gil.has_some("#toasts", "You are a member now")
    gil.sees("#new-conversation", "#message")
    gil.has_some("#log", "It is me")
    assert gil.run("return window.isSame"), "without a reload"
    gil.driver.switch_to.window(other)
    gil.sees("#new-conversation")
    gil.driver.close()
    gil.driver.switch_to.window(tab)
    gil.click("#me", "#logout")
    gil.sees("#identifier")
    assert not gil.shown("#guest-form"), "whoever logs out has an account"

    again = pair[0].open(first["owner"])
    again.has_some(".dead-link", "imserver chat --owner")  # the link worked once
    assert violations(again) == []
    again.click("#dead-login")
    again.sees("#identifier")
    assert "owner" not in links(server)


def test_each_default_link_lets_a_stranger_in_and_dead_links_say_what_to_do(
    pair: Pair, server: Server
) -> None:
    pair.expects("404")
    account = User.register(server, key=KEY, nickname="Ann")
    ann = Account(server, "Ann", {"token": account.token, "user": account.user})
    page = Chat(pair[0], ann)
    page.open(ann.create_group("Tea"))
    page.click("#empty-button")
    link = link_in(page)
    assert violations(page) == []
    pair[1].open(link, forget=True).sees("#guest-form")
    ann.post("invitations/revoke", code=link.partition("=en#invite=")[2])
    for dead in (link, link[:-3]):
        pair[1].open(dead, forget=True).has_some(
            ".dead-link", "Ask whoever sent it for a new one"
        )
    page.click("#new-conversation", "#my-link")
    page.sees("#invite-to")
    page.run(
        "const to = document.querySelector('#invite-to'); to.value = ''; to.onchange()"
    )
    page.has_some(".invite-who", "They become your contacts")
    gil = pair[1].open(link_in(page), size=(390, 844), forget=True)
    gil.write("#nickname", "Gil" + Keys.ENTER)
    gil.sees("#message")
    say(gil, "Hello, Ann")
    page.has_some("#conversations", "Hello, Ann")


def link_in(page: Page) -> str:
    page.sees("#invitation-link", "svg.qr")
    link = str(page.run("return document.querySelector('#invitation-link').value"))
    return link.replace("#", "?lang=en#")
