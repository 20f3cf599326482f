"""The page of messages that are kept, in real browsers."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from imserver_client import Api
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.support import Server, eventually

pytestmark = [pytest.mark.timeout(120)]

HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;"
PASSWORD = "correct horse"
PHONES = count(13_700_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as it is."""
    server = Server(tmp_path_factory.mktemp("server"), config={"accounts": {"registrations_per_address": 0}})
    yield server
    server.stop()
    server.check()


class Person:
    """Somebody with an account, made by HTTP."""

    def __init__(self, server: Server, nickname: str) -> None:
        self.server = server
        self.phone = str(next(PHONES))
        self.nickname = nickname
        answer = self.ask("accounts/register", phone=self.phone, password=PASSWORD, nickname=nickname)
        self.token, self.number = answer["token"], answer["account"]["user"]

    def ask(self, path: str, **body: object) -> Any:
        with Api(self.server.http_url, key=getattr(self, "token", "")) as api:
            return api.call("POST", path, body)

    def enters(self, page: Page) -> Page:
        """Log in on the page."""
        page.find("#phone").send_keys(self.phone)
        page.find("#password").send_keys(PASSWORD)
        page.find("#login-submit").click()
        eventually(lambda: page.state == "online", what="the page is connected")
        return page


def address(server: Server, language: str = "en") -> str:
    return f"{server.http_url}/home/messages?lang={language}"


def at_the_door(browser: Browser, server: Server, language: str = "en", **how: Any) -> Page:
    """The page, where nobody has logged in."""
    page = browser.open(address(server, language), **how)
    page.run("localStorage.clear()")
    page.driver.refresh()
    return page


def begin(page: Page, *numbers: str, name: str = "") -> None:
    page.find("#new-conversation").click()
    page.find("#new-users").send_keys(" ".join(numbers))
    page.find("#new-group-name").send_keys(name)
    page.find("#new-submit").click()
    eventually(lambda: page.shown("#composer") and not page.shown("#new-dialog"), what="the talk is open")


def talks(page: Page) -> list[str]:
    return page.texts("#conversations .conversation b")


def choose(page: Page, name: str) -> None:
    eventually(lambda: name in talks(page), what=f"the talk with {name} is listed")
    page.run(
        "[...document.querySelectorAll('.conversation')].find((each) =>"
        " each.querySelector('b').textContent === arguments[0]).click()",
        name,
    )
    eventually(lambda: page.texts("#conversation-name") == [name], what=f"the talk with {name} is open")


def say(page: Page, text: str) -> None:
    said = len(page.own)
    page.say(text)
    eventually(lambda: len(page.own) == said + 1, what=f"{text[:40]!r} was said")


def test_two_who_register_write_to_each_other(pair: Pair, server: Server) -> None:
    first = at_the_door(pair[0], server)
    first.find("#login-switch").click()
    first.find("#phone").send_keys(str(next(PHONES)))
    first.find("#password").send_keys(PASSWORD)
    first.find("#nickname").send_keys("Ann")
    first.find("#login-submit").click()
    eventually(lambda: first.state == "online", what="the page is connected")
    assert first.texts("#me-name") == ["Ann"]
    bob = Person(server, "Bob")
    begin(first, bob.number)
    say(first, HOSTILE)
    second = bob.enters(at_the_door(pair[1], server, "zh"))
    eventually(lambda: talks(second) == ["Ann"], what="what was missed is listed")
    assert second.texts(".conversation .count") == ["1"]
    assert "(1)" in second.driver.title
    choose(second, "Ann")
    second.has_received("Ann", HOSTILE)
    eventually(lambda: second.texts(".conversation .count") == [], what="it is read")
    eventually(lambda: first.texts(".seen") == ["Read"], what="the sender is told so")
    second.find("#message").send_keys("我")
    eventually(lambda: first.texts("#typing") == ["Bob is typing…"], what="the other is told of it")
    say(second, "也在")
    first.has_received("Bob", "我也在")
    eventually(lambda: first.texts("#typing") == [""], what="it was said")
    for page in (first, second):
        assert page.run("return window.pwned") is None
        assert len(page.notices) == 1, "the date, once"


def test_a_page_that_is_loaded_again_shows_what_was_said(pair: Pair, server: Server) -> None:
    ann, bob = Person(server, "Ann"), Person(server, "Bob")
    page = ann.enters(at_the_door(pair[0], server))
    begin(page, bob.number)
    for number in range(3):
        say(page, f"number {number}")
    page.driver.refresh()
    eventually(lambda: page.state == "online", what="it needs no password")
    choose(page, "Bob")
    eventually(lambda: page.own == ["number 0", "number 1", "number 2"], what="what was said")
    page.find("#logout").click()
    assert page.shown("#login-form")
    page.driver.refresh()
    assert page.shown("#login-form"), "who has left has to log in"


def test_long_talks_are_read_page_by_page(pair: Pair, server: Server) -> None:
    ann, bob = Person(server, "Ann"), Person(server, "Bob")
    targets = [{"user": bob.number} for _ in range(1)]
    for number in range(70):
        ann.ask("push", app="gochat", targets=targets, sender=ann.number, text=f"number {number}", store=True)
    page = bob.enters(at_the_door(pair[0], server))
    choose(page, "Ann")
    eventually(lambda: len(page.received) == 50, what="the end of it")
    ann.ask("messages/edit", app="gochat", id=70, text="the last")
    page.has_received("Ann", "the last (edited)")
    page.run("const earlier = document.querySelector('.older'); earlier.click(); earlier.click()")
    eventually(lambda: len(page.received) == 70, what="all of it, once")
    assert page.received[0] == ("Ann", "number 0")
    assert page.texts(".older") == []


def test_a_group_talks_and_words_are_taken_back(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Person(server, name) for name in ("Ann", "Bob", "Cat"))
    first = ann.enters(at_the_door(pair[0], server))
    second = bob.enters(at_the_door(pair[1], server))
    begin(first, bob.number, cat.number, name="Tea")
    choose(second, "Tea")
    eventually(lambda: any("Bob, Cat joined" in each for each in second.notices), what="who is there")
    say(first, "at five?")
    second.has_received("Ann", "at five?")
    assert second.texts(".recall") == []
    first.run("document.querySelector('.recall').click()")
    eventually(lambda: first.own == [], what="it is gone here")
    eventually(lambda: second.received == [], what="and there")
    assert second.notices[-1] == "Ann recalled a message"
    second.driver.refresh()
    eventually(lambda: second.state == "online", what="back again")
    choose(second, "Tea")
    eventually(lambda: "Ann recalled a message" in second.notices, what="it stays gone")


@pytest.mark.parametrize(
    ("phone", "password", "said"),
    [
        ("13799999999", PASSWORD, "Wrong phone number or password"),
        ("", PASSWORD, "Please check your input"),
    ],
)
def test_what_is_wrong_at_the_door_is_said(
    pair: Pair, server: Server, phone: str, password: str, said: str
) -> None:
    pair.expects("Failed to load resource")
    page = at_the_door(pair[0], server)
    page.find("#phone").send_keys(phone)
    page.find("#password").send_keys(password)
    page.find("#login-submit").click()
    eventually(lambda: page.texts("#login-note") == [said], what="what is wrong")


@pytest.mark.parametrize(
    ("numbers", "name", "said"),
    [
        (["999999"], "", "No user has this number"),
        (["1", "2"], "", "Enter a name for the group"),
        (["own"], "", "This is your own number"),
    ],
)
def test_a_talk_that_cannot_begin_is_said(
    pair: Pair, server: Server, numbers: list[str], name: str, said: str
) -> None:
    pair.expects("Failed to load resource")
    ann = Person(server, "Ann")
    page = ann.enters(at_the_door(pair[0], server))
    page.find("#new-conversation").click()
    page.find("#new-users").send_keys(" ".join(ann.number if each == "own" else each for each in numbers))
    page.find("#new-submit").click()
    eventually(lambda: page.texts("#new-note") == [said], what="what is wrong")


def test_a_login_that_has_ended_leads_back_to_the_door(pair: Pair, server: Server) -> None:
    ann = Person(server, "Ann")
    page = ann.enters(at_the_door(pair[0], server))
    ann.ask("accounts/logout")
    eventually(lambda: page.shown("#login-form"), what="the door")
    assert page.texts("#login-note") == ["Your login has expired. Log in again"]


@pytest.mark.parametrize("width", [320, pytest.param(390, marks=pytest.mark.full)])
def test_on_a_phone_the_list_and_the_talk_take_turns(pair: Pair, server: Server, width: int) -> None:
    ann, bob = Person(server, "Ann"), Person(server, "Bob" * 20)
    page = ann.enters(at_the_door(pair[0], server, size=(width, 640), dark=True))
    assert page.shown("#conversations-note")
    assert not page.shown("#log")
    begin(page, bob.number)
    say(page, "wide " * 100 + "W" * 300)
    assert not page.shown("#new-conversation")
    assert page.overflow <= 0
    page.find("#back").click()
    assert page.shown("#new-conversation")
    assert page.overflow <= 0
