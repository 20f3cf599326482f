"""Logging in with a provider and resetting a password on the page of stored
messages, in a real browser."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import STATE, Account, address, open_page, register
from tests.browser.test_accessibility import violations
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.security.mail import Sink
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = [
    pytest.mark.full("browser"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),
]


@pytest.fixture(scope="module")
def provider() -> Iterator[StandIn]:
    one = StandIn()
    yield one
    one.stop()


def provided(provider: StandIn) -> dict[str, Any]:
    row = {
        "kind": "oidc",
        "client_id": CLIENT,
        "client_secret": SECRET,
        "issuer": provider.issuer,
    }
    return {**row, "title": "Example", "register": True}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer, provider: StandIn, sink: Sink) -> Server:
    """One server for all tests of this module, with a provider and a mail
    server."""
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


BUTTON = """
const named = (each) => (each.getAttribute("aria-label") || each.textContent).trim() === arguments[0];
const found = [...document.querySelectorAll("button")].find((each) => named(each) && each.checkVisibility());
found?.click();
return Boolean(found);
"""
TOASTS = """
window.toasts = new Set();
const look = () => document.querySelectorAll(".toast").forEach((each) => window.toasts.add(each.textContent));
new MutationObserver(look).observe(document, { childList: true, subtree: true });
"""
"""Remember the notices of the page: each goes by itself."""


def says(page: Page, text: str) -> None:
    page.gives(
        "return [...window.toasts].some((each) => each.includes(arguments[0]))",
        True,
        text,
    )


def test_a_user_logs_in_with_a_provider_and_keeps_a_way_to_log_in(
    pair: Pair, server: Server, provider: StandIn
) -> None:
    provider.user["sub"] = "the page"
    page = open_page(pair[0], server, script=TOASTS)
    page.sees(".providers button")
    assert not violations(page)
    page.gives(BUTTON, True, "Log in with Example")
    page.gives(STATE, "online")
    page.has_some("#me-name", "Ann Lee")
    assert page.run("return location.hash") == ""
    pair.expects("409")
    page.click("#me", "#security")
    page.gives(BUTTON, True, "Unlink: Example")
    says(page, "It is the only way to log in to this account")


def test_an_account_is_linked_in_the_profile(
    pair: Pair, server: Server, provider: StandIn
) -> None:
    provider.user["sub"] = "linked"
    page = open_page(pair[0], server, script=TOASTS)
    # the page has the rules, and draws no new form
    page.has_some("button", "Forgot your password?")
    register(page, "Bob")
    page.click("#me", "#security")
    page.gives(BUTTON, True, "Link: Example")
    page.sees("dialog [autocomplete=current-password]")
    password = page.find("dialog [autocomplete=current-password]")
    pair.expects("401")
    page.gives(BUTTON, True, "Link")
    page.has_some("dialog .note", "Wrong password")
    password.send_keys(PASSWORD)
    page.gives(BUTTON, True, "Link")
    says(page, "Linked")
    page.gives(STATE, "online")
    page.click("#me", "#security")
    page.gives(BUTTON, True, "Unlink: Example")
    page.sees("[aria-label='Link: Example']")
    assert not violations(page)


def test_a_login_that_nobody_finishes_says_so(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, script=TOASTS)
    page.run(
        "sessionStorage.setItem('imserver:login', JSON.stringify({ login: 'x', device: '' }))"
    )
    pair.expects("404")
    page.driver.get("about:blank")
    page.driver.get(f"{address(server)}#oauth=refused")
    page.has_some("#login-note", "The login has expired. Try again")


def test_a_forgotten_password_is_reset_by_mail(
    pair: Pair, server: Server, sink: Sink
) -> None:
    account = Account(server, "Cid")
    account.post(
        "accounts/identifiers", email="cid@example.com", password="correct horse"
    )
    page = open_page(pair[0], server, script=TOASTS)
    page.gives(BUTTON, True, "Forgot your password?")
    page.write("dialog input", "cid@example.com")
    page.gives(BUTTON, True, "Send the mail")
    page.has_some("dialog", "a mail is on its way")
    eventually(lambda: sink.mails, what="the mail")
    code = sink.code(f"{server.http_url}/home/messages")
    page.driver.get("about:blank")
    page.driver.get(f"{address(server)}#reset={code}")
    page.has_some("dialog bdi", "cid@example.com")
    assert not violations(page)
    page.write("dialog [type=password]", "battery staple")
    page.gives(BUTTON, True, "Save")
    page.gives(STATE, "online")
    page.driver.get("about:blank")
    page.driver.get(f"{address(server)}#reset={code}")
    page.has_some("dialog", "The link has expired or was used")
    assert not page.shown("dialog input")


def test_without_passwords_only_providers_are_offered(
    pair: Pair, start_server: StartServer, provider: StandIn
) -> None:
    settings = {"accounts": {"passwords": False}, "oauth": {"main": provided(provider)}}
    config = {"app": {"http_url": "http://127.0.0.1"}, "apps": {"gochat": settings}}
    page = open_page(pair[0], start_server(config=config))
    eventually(
        lambda: page.shown(".providers button") and not page.shown("#password"),
        what="the provider",
    )
    assert not violations(page)
