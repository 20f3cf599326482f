"""A new chat: the owner and a guest open the links of ``imserver chat``, and talk within a minute."""

import re
from collections.abc import Iterator
from time import monotonic

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account
from tests.browser.test_accessibility import violations
from tests.support import Server, eventually, run_cli
from tests.tools import require
from tests.users import User

pytestmark = [pytest.mark.full, pytest.mark.needs("axe-core")]

KEY = "k" * 40
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {
        "apps": {"gochat": {"accounts": {"guests": True}}},
        "api": {"keys": [{"key": KEY, "scopes": ["admin"], "apps": ["gochat"]}]},
    }
    require("axe-core")
    server = Server(tmp_path_factory.mktemp("server"), config=config)
    yield server
    server.stop()
    server.check()


def links(server: Server) -> dict[str, str]:
    """Links of a running server, in English: that of the owner, and that of others."""
    done = run_cli("chat", "-c", str(server.config_file), folder=server.folder)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"http://[^/]+(/home/messages)#((\w+)=\S+)", done.stdout)
    return {name: f"{server.http_url}{path}?lang=en#{hash}" for path, hash, name in found}


def seen(page: Page, selector: str) -> None:
    eventually(lambda: page.shown(selector), what=f"{selector} is shown")


def say(page: Page, text: str) -> None:
    page.find("#message").send_keys(text + Keys.ENTER)


def reads(page: Page, text: str) -> None:
    eventually(lambda: text in page.find("#log").text, what=f"{text!r} has arrived")


def test_owner_and_guest_talk_within_a_minute_and_the_guest_becomes_a_member(
    pair: Pair, server: Server
) -> None:
    pair.expects("404", "401")
    began, first = monotonic(), links(server)
    ann = pair[0].open(first["owner"], size=(1280, 800))
    seen(ann, "#welcome-form")
    assert violations(ann) == []
    ann.driver.refresh()
    seen(ann, "#welcome-form")
    ann.press(Keys.TAB)
    ann.find("#nickname").send_keys("Ann" + Keys.TAB + PASSWORD + Keys.ENTER)
    seen(ann, "#message")
    assert "owner" not in ann.driver.current_url, "the code is used"
    say(ann, "Who is there?")
    gil = pair[1].open(first["invite"], size=(390, 844), dark=True)
    seen(gil, "#guest-form")
    assert violations(gil) == []
    gil.find("#nickname").send_keys("Gil" + Keys.ENTER)
    seen(gil, "#message")
    reads(gil, "Who is there?")
    say(gil, "It is me")
    reads(ann, "It is me")
    assert monotonic() - began < 60
    eventually(lambda: "Guest" in ann.texts(".mark"), what="the guest is marked as one")
    assert not gil.shown("#new-conversation")

    gil.resize(1280, 800)
    gil.run("document.getElementById('me').click()")
    seen(gil, "#member-form")
    assert violations(gil) == []
    assert gil.find(".card-head .avatar").size["width"] > 80
    gil.find("#member-login").send_keys("gil" + Keys.TAB + PASSWORD + Keys.ENTER)
    seen(gil, "#new-conversation")
    reads(gil, "It is me")
    seen(gil, "#message")
    gil.click("#me")
    gil.click("#logout")
    seen(gil, "#identifier")
    assert not gil.shown("#guest-form"), "whoever logs out has an account"

    again = pair[0].open(first["owner"])
    seen(again, "#welcome-form")
    again.find("#nickname").send_keys("Eve" + Keys.TAB + PASSWORD + Keys.ENTER)
    eventually(lambda: "expired or was used" in again.find("#welcome-note").text, what="the link worked once")
    assert "owner" not in links(server)


def test_the_default_link_lets_newcomers_in_and_dead_links_say_so(pair: Pair, server: Server) -> None:
    pair.expects("404")
    account = User.register(server, key=KEY, nickname="Ann")
    ann = Account(server, "Ann", {"token": account.token, "user": account.user})
    ann.account = account.account
    group = ann.create_group("Tea")
    address = f"{server.http_url}/home/messages?lang=en"
    page = ann.log_in(pair[0].open(f"{address}#c/{group}", forget=True))
    page.click("#empty-button")
    page.click("#invitation-create")
    eventually(lambda: page.shown("#invitation-link"), what="the link")
    link = str(page.run("return document.querySelector('#invitation-link').value")).replace("#", "?lang=en#")
    seen(pair[1].open(link, forget=True), "#guest-form")
    ann.post("invitations/revoke", code=link.partition("=en#invite=")[2])
    for dead in (link, link[:-3]):
        page = pair[1].open(dead, forget=True)
        seen(page, "#login-note")
        assert "no longer valid" in page.find("#login-note").text
    mine = ann.post("invitations/create")["code"]
    page = pair[1].open(f"{address}#invite={mine}", forget=True)
    seen(page, ".invited")
    assert "If you have none, ask Ann." in page.find(".invited").text
