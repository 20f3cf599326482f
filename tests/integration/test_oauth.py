"""Logins with a real OpenID Connect provider (oidc-provider of npm), as a device and its browser do them."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from http.cookiejar import CookieJar
from socket import create_server
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest

from tests.ports import fixed_ports
from tests.support import Server, eventually

from .setting import Launch
from .test_issuers import NEEDS_OIDC_PROVIDER, Provider, providing
from .v1 import call, good

APP = "shop"
SECONDS = 300


class Browser:
    """Follows redirects with cookies, and fills in forms."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.url = ""
        self.page = ""

    def open(self, url: str, form: dict[str, str] | None = None) -> None:
        data = None if form is None else urlencode(form).encode()
        with self._opener.open(url, data, timeout=SECONDS) as answer:
            self.url, self.page = answer.url, unescape(answer.read().decode())

    def send(self, **fields: str) -> None:
        """Send the form of the page with these fields and its hidden ones."""
        (action,) = re.findall(r'<form[^>]* action="([^"]+)"', self.page)
        hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', self.page))
        self.open(urljoin(self.url, action), {**hidden, **fields})


@contextmanager
def shop(launch: Launch, http_server: str, **issuers: str) -> Iterator[tuple[Server, Provider]]:
    """A server and a provider for its app. ``issuers``: further ones."""
    ports = fixed_ports()
    home = f"http://127.0.0.1:{ports['http_port']}"
    with providing(f"{home}/oauth/callback/{APP}/main") as provider:
        settings = {"kind": "oidc", "client_id": "im", "client_secret": "secret of im", "register": True}
        rows = {
            name: {**settings, "issuer": url} for name, url in {"main": provider.issuer, **issuers}.items()
        }
        yield (
            launch(
                http_server,
                app={**ports, "http_url": home},
                apps={APP: {"account_tokens": "required", "oauth": rows}},
            ),
            provider,
        )


def logged_in(server: Server, user: str) -> Any:
    """The session of a user of the provider."""
    # On a busy machine the provider may answer too late.
    return eventually(lambda: try_login(server, user), SECONDS)


def try_login(server: Server, user: str) -> Any:
    """The same, or None if the provider was too late for the server."""
    started = call(server.http, "accounts/oauth/start", {"app": APP, "provider": "main", "device": "phone"})
    if started.status == 503:
        return None
    login, browser = started.json, Browser()
    question = {"app": APP, "login": login["login"]}
    browser.open(login["url"])
    browser.send(login=user, password="any")
    assert good(server.http, "accounts/oauth/finish", question) == {"pending": True}
    try:
        browser.send()
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return None
        raise
    assert browser.url.startswith(f"{server.http_url}/oauth/callback/{APP}/main?")
    assert login["shown"] in browser.page
    assert good(server.http, "accounts/oauth/finish", question) == {"pending": True}
    browser.send(agreed="yes")
    return good(server.http, "accounts/oauth/finish", question)


@pytest.mark.full("waits")
@NEEDS_OIDC_PROVIDER
def test_a_device_logs_in_while_another_provider_hangs(launch: Launch, http_server: str) -> None:
    with create_server(("127.0.0.1", 0)) as hanging, ThreadPoolExecutor(1) as aside:
        stuck = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with shop(launch, http_server, stuck=stuck) as (server, _):
            body = {"app": APP, "provider": "stuck"}
            waiting = aside.submit(call, server.http, "accounts/oauth/start", body)
            connection, _ = hanging.accept()
            first = logged_in(server, "ann")
            account = first["account"]
            assert (account["nickname"], account["avatar"]) == (
                "ann of the provider",
                "https://img.example.com/ann.png",
            )
            assert good(server.http, "accounts/show", key=first["token"], app=APP) == account
            assert logged_in(server, "ann")["account"] == account
            assert logged_in(server, "bob")["account"]["user"] != account["user"]
            connection.close()
            answer = waiting.result(SECONDS)
            assert (answer.status, answer.json["code"]) == (503, "provider_unavailable")
