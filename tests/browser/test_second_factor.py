"""The second factor on the messages page, in a real browser: set up, log in, recovery codes, off; locks."""

from time import time

import pyotp
import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.test_accessibility import violations
from tests.browser.test_log_in_with import TOASTS, has, is_online, press, says
from tests.browser.test_messages import address, open_page
from tests.browser.test_people import register
from tests.conftest import StartServer
from tests.integration.v1 import good
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full

KEY = "the admin key of these tests"


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """One server for all tests of this module."""
    return start_shared_server(
        config={
            "accounts": {"registration": True, "registrations_per_address": 0, "logins_per_address": 0},
            "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
        }
    )


def log_in(page: Page, name: str, *fields: tuple[str, str]) -> None:
    for field, text in (("#identifier", name), ("#password", PASSWORD), *fields):
        page.find(field).clear()
        page.find(field).send_keys(text)
    page.click("#login-submit")


def leave(page: Page) -> None:
    page.click("#me")
    page.click("#logout")
    eventually(lambda: page.shown("#login-form"), what="the form")


@pytest.mark.parametrize(("language", "size", "dark"), [("en", (390, 844), False), ("zh", (1280, 800), True)])
def test_a_user_sets_up_a_second_factor_and_logs_in_with_it(
    pair: Pair, server: Server, language: str, size: tuple[int, int], dark: bool
) -> None:
    page = open_page(pair[0], server)
    name = register(page, "Ann")
    page = pair[0].open(address(server, language), size=size, dark=dark, script=TOASTS)
    is_online(page)
    page.click("#me")
    page.click("#second-factor")
    eventually(lambda: page.shown("dialog .factor [type=password]"), what="the form")
    assert not violations(page)
    page.find("dialog .factor [type=password]").send_keys(PASSWORD)
    page.click("dialog .factor button.wide")
    eventually(lambda: page.shown("#factor-secret") and page.shown(".factor .qr"), what="the secret")
    secret = page.run("return document.querySelector('#factor-secret').value")
    assert not violations(page)
    page.fits()
    totp = pyotp.TOTP(secret)
    page.find(".factor [name=code]").send_keys(totp.generate_otp(int(time()) // 30))
    page.click("dialog .factor button.wide")
    eventually(lambda: len(page.texts(".factor-codes li")) == 10, what="the recovery codes")
    codes = page.texts(".factor-codes li")
    assert not violations(page)
    page.fits()
    page.click("dialog .factor button.quiet")
    leave(page)
    pair.expects("401")
    log_in(page, name)
    eventually(lambda: page.shown("#code"), what="the question for a code")
    assert not violations(page)
    page.fits()
    log_in(page, name, ("#code", "000000"))
    eventually(lambda: page.run("return document.querySelector('#code').ariaInvalid") == "true", what="wrong")
    log_in(page, name, ("#code", codes[0]))
    is_online(page)
    page.click("#me")
    page.click("#second-factor")
    eventually(lambda: page.shown(".factor [name=code]"), what="the form")
    assert not violations(page)
    page.find(".factor [name=code]").send_keys(codes[1])
    page.find(".factor [type=password]").send_keys(PASSWORD)
    page.click(".factor .danger")
    says(page, {"en": "The second factor is off", "zh": "两步验证已关闭"}[language])


def test_a_locked_user_reads_until_when_and_why(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, script=TOASTS)
    name = register(page, "Bob")
    found = good(server.http, "accounts/list", key=KEY, text=name)["accounts"]
    pair.expects("401", "403")
    lock = {"user": found[0]["user"], "seconds": 3600, "reason": "lost phone"}
    good(server.http, "accounts/lock", lock, key=KEY)
    has(page, "body", "You are banned for a time")
    page = pair[0].open(address(server), script=TOASTS)
    eventually(lambda: page.shown("#login-form"), what="the form")
    log_in(page, name)
    has(page, "#login-note", "This account is locked until ")
    has(page, "#login-note", ": lost phone")
    good(server.http, "accounts/unlock", {"user": found[0]["user"]}, key=KEY)
    log_in(page, name)
    is_online(page)


def test_a_dialog_says_what_is_wrong(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, script=TOASTS)
    register(page, "Ann")
    page.click("#me")
    page.click("#second-factor")
    pair.expects("401")
    press(page, "Set up")
    has(page, "dialog .note", "Wrong password")
