"""The second factor on the messages page, in a real browser: set up, log in,
recovery codes, off; locks."""

from time import time

import pyotp
import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import (
    STATE,
    address,
    fill,
    login_form,
    open_page,
    register,
)
from tests.browser.test_accessibility import violations
from tests.browser.test_log_in_with import TOASTS, says
from tests.conftest import StartServer
from tests.integration.v1 import good
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full("browser")

KEY = "the admin key of these tests"


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(
        config={
            "accounts": {
                "registration": True,
                "registrations_per_address": 0,
                "logins_per_address": 0,
            },
            "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
        }
    )


@pytest.mark.parametrize(
    ("language", "size", "dark"), [("en", (390, 844), False), ("zh", (1280, 800), True)]
)
def test_a_user_sets_up_a_second_factor_and_logs_in_with_it(
    pair: Pair, server: Server, language: str, size: tuple[int, int], dark: bool
) -> None:
    name = register(open_page(pair[0], server), "Ann")
    page = pair[0].open(address(server, language), size=size, dark=dark, script=TOASTS)
    page.gives(STATE, "online")

    def check(*selectors: str) -> None:
        page.sees(*selectors)
        assert not violations(page)
        page.fits()

    page.click("#me", "#security", "#second-factor")
    check("dialog .factor [type=password]")
    pair.expects("401")
    page.click("dialog .factor button.wide")
    page.sees("dialog .note:not([hidden])")  # without a password
    page.write("dialog .factor [type=password]", PASSWORD)
    page.click("dialog .factor button.wide")
    check("#factor-secret", ".factor .qr")
    secret = page.run("return document.querySelector('#factor-secret').value")
    page.write(
        ".factor [name=code]", pyotp.TOTP(secret).generate_otp(int(time()) // 30)
    )
    page.click("dialog .factor button.wide")
    eventually(
        lambda: len(page.texts(".factor-codes li")) == 10, what="the recovery codes"
    )
    codes = page.texts(".factor-codes li")
    check(".factor-codes")
    page.click("dialog .factor button.quiet", "#me", "#logout")
    page.sees("#login-form")
    fill(page, identifier=name, password=PASSWORD)
    check("#code")
    fill(page, identifier=name, password=PASSWORD, code="000000")
    page.gives("return document.querySelector('#code').ariaInvalid", "true")
    fill(page, identifier=name, password=PASSWORD, code=codes[0])
    page.gives(STATE, "online")
    page.click("#me", "#security", "#second-factor")
    check(".factor [name=code]")
    page.write(".factor [name=code]", codes[1])
    page.write(".factor [type=password]", PASSWORD)
    page.click(".factor .danger")
    says(page, {"en": "The second factor is off", "zh": "两步验证已关闭"}[language])


def test_a_locked_user_reads_until_when_and_why(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server)
    name = register(page, "Bob")
    found = good(server.http, "accounts/list", key=KEY, text=name)["accounts"]
    pair.expects("401", "403")
    lock = {"user": found[0]["user"], "seconds": 3600, "reason": "lost phone"}
    good(server.http, "accounts/lock", lock, key=KEY)
    page.has_some("body", "You are banned")
    page = pair[0].open(address(server))
    fill(login_form(page), identifier=name, password=PASSWORD)
    page.has_some("#login-note", "This account is locked until ")
    page.has_some("#login-note", ": lost phone")
    good(server.http, "accounts/unlock", {"user": found[0]["user"]}, key=KEY)
    fill(page, identifier=name, password=PASSWORD)
    page.gives(STATE, "online")
