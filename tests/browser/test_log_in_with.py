"""Logging in with a provider and resetting a password on the page of stored messages, in a real browser."""

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account
from tests.browser.test_accessibility import violations
from tests.browser.test_messages import address, open_page
from tests.browser.test_people import register
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.security.mail import Sink
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")]


@pytest.fixture(scope="module")
def provider() -> Iterator[StandIn]:
    one = StandIn()
    yield one
    one.stop()


def provided(provider: StandIn) -> dict[str, Any]:
    """The settings of the provider."""
    row = {"kind": "oidc", "client_id": CLIENT, "client_secret": SECRET, "issuer": provider.issuer}
    return {**row, "title": "Example", "register": True}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer, provider: StandIn, sink: Sink) -> Server:
    """One server for all tests of this module, with a provider and a mail server."""
    ports = fixed_ports()
    row = provided(provider)
    return start_shared_server(
        config={
            "app": {**ports, "http_url": f"http://127.0.0.1:{ports['http_port']}"},
            "apps": {"gochat": {"oauth": {"main": row}}},
            "accounts": {"registrations_per_address": 0, "logins_per_address": 0},
            "smtp": sink.settings,
        }
    )


def sees(page: Page, script: str, *arguments: str) -> bool:
    """Whether a script says yes; no while the browser goes from page to page."""
    try:
        return bool(page.run(script, *arguments))
    except WebDriverException:
        return False


def press(page: Page, label: str) -> None:
    """Click a button by the name that a screen reader says, as soon as it is there."""
    script = """
    const named = (each) => (each.getAttribute("aria-label") || each.textContent).trim() === arguments[0];
    const buttons = [...document.querySelectorAll("button")];
    const found = buttons.find((each) => named(each) && each.checkVisibility());
    found?.click();
    return Boolean(found);
    """
    eventually(lambda: sees(page, script, label), what=label)


def has(page: Page, selector: str, text: str) -> None:
    script = """
    const [selector, text] = arguments;
    return [...document.querySelectorAll(selector)].some((each) => each.textContent.includes(text));
    """
    eventually(lambda: sees(page, script, selector, text), what=text)


TOASTS = """
window.toasts = new Set();
const look = () => document.querySelectorAll(".toast").forEach((each) => window.toasts.add(each.textContent));
new MutationObserver(look).observe(document, { childList: true, subtree: true });
"""
"""Remember the notices of the page: each goes by itself."""


def says(page: Page, text: str) -> None:
    script = "return [...window.toasts].some((each) => each.includes(arguments[0]))"
    eventually(lambda: sees(page, script, text), what=text)


def is_online(page: Page) -> None:
    eventually(
        lambda: sees(page, "return document.querySelector('#state')?.dataset.state === 'online'"),
        what="the page is connected",
    )


def test_a_user_logs_in_with_a_provider_and_keeps_a_way_to_log_in(
    pair: Pair, server: Server, provider: StandIn
) -> None:
    provider.user["sub"] = "the page"
    page = open_page(pair[0], server, script=TOASTS)
    eventually(lambda: page.shown(".providers button"), what="the provider")
    assert not violations(page)
    press(page, "Log in with Example")
    is_online(page)
    has(page, "#me-name", "Ann Lee")
    assert page.run("return location.hash") == ""
    pair.expects("409")
    page.click("#me")
    press(page, "Unlink: Example")
    says(page, "It is the only way to log in to this account")


def test_an_account_is_linked_in_the_profile(pair: Pair, server: Server, provider: StandIn) -> None:
    provider.user["sub"] = "linked"
    page = open_page(pair[0], server, script=TOASTS)
    has(page, "button", "Forgot your password?")  # the page has the rules of the app, and draws no new form
    register(page, "Bob")
    page.click("#me")
    press(page, "Link: Example")
    eventually(lambda: page.shown("dialog [autocomplete=current-password]"), what="the form")
    password = page.find("dialog [autocomplete=current-password]")
    pair.expects("401")
    press(page, "Link")
    has(page, "dialog .note", "Wrong password")
    password.send_keys(PASSWORD)
    press(page, "Link")
    says(page, "Linked")
    is_online(page)
    page.click("#me")
    press(page, "Unlink: Example")
    eventually(lambda: page.shown("[aria-label='Link: Example']"), what="it is unlinked")
    assert not violations(page)


def test_a_login_that_nobody_finishes_says_so(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, script=TOASTS)
    page.run("sessionStorage.setItem('imserver:login', JSON.stringify({ login: 'x', device: '' }))")
    pair.expects("404")
    page.driver.get("about:blank")
    page.driver.get(f"{address(server)}#oauth=refused")
    has(page, "#login-note", "The login has expired. Try again")


def test_a_forgotten_password_is_reset_by_mail(pair: Pair, server: Server, sink: Sink) -> None:
    account = Account(server, "Cid")
    account.post("accounts/identifiers", email="cid@example.com", password="correct horse")
    page = open_page(pair[0], server, script=TOASTS)
    press(page, "Forgot your password?")
    eventually(lambda: page.shown("dialog input"), what="the form")
    page.find("dialog input").send_keys("cid@example.com")
    press(page, "Send the mail")
    has(page, "dialog", "a mail is on its way")
    eventually(lambda: sink.mails, what="the mail")
    code = sink.code(f"{server.http_url}/home/messages")
    page.driver.get("about:blank")
    page.driver.get(f"{address(server)}#reset={code}")
    eventually(lambda: page.shown("dialog [type=password]"), what="the form")
    assert not violations(page)
    page.find("dialog [type=password]").send_keys("battery staple")
    press(page, "Save")
    says(page, "The password was changed")
    page.find("#identifier").send_keys("cid@example.com")
    page.find("#password").send_keys("battery staple")
    page.click("#login-submit")
    is_online(page)


def test_without_passwords_only_providers_are_offered(
    pair: Pair, start_server: StartServer, provider: StandIn
) -> None:
    settings = {"accounts": {"passwords": False}, "oauth": {"main": provided(provider)}}
    config = {"app": {"http_url": "http://127.0.0.1"}, "apps": {"gochat": settings}}
    page = open_page(pair[0], start_server(config=config))
    eventually(lambda: page.shown(".providers button") and not page.shown("#password"), what="the provider")
    assert not violations(page)
