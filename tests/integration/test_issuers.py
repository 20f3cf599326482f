"""Logins with the tokens of a real OpenID Connect provider: oidc-provider of
npm."""

import json
import re
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from socket import create_server
from typing import Any
from urllib.parse import urlencode, urljoin

import jwt
import pytest

from tests.ports import fixed_ports
from tests.processes import spawn
from tests.support import Server, eventually
from tests.tools import require

from . import cmd
from .cmd import code_of
from .raw import ask, request
from .setting import Launch
from .v1 import call, good

PROGRAM = Path(__file__).with_name("oidc_provider.mjs")
APP = 301
USER = "user-ann"
NEEDS_OIDC_PROVIDER = pytest.mark.needs("node", "oidc-provider")


class Provider:
    """A running provider. Its user is ``user-ann``, in the claim ``uid``; the
    audience is ``shop``.

    ``callback``: where it sends browsers of the client ``im`` back.
    """

    def __init__(self, *callback: str) -> None:
        command = [require("node"), str(PROGRAM), require("oidc-provider"), *callback]
        self._process = spawn(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.issuer = self._line()

    def _line(self) -> str:
        """The next line that it prints; its warnings about tests on plain HTTP
        are skipped."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("http://127.0.0.1:"):
                return line.strip()
        raise AssertionError("the provider has ended")

    def token(self, algorithm: str) -> str:
        """A new access token (grant ``client_credentials``)."""
        form = {
            "grant_type": "client_credentials",
            "resource": f"https://shop.example/{algorithm}",
        }
        token_request = urllib.request.Request(
            f"{self.issuer}/token", urlencode(form).encode()
        )
        secret = b64encode(b"ann:secret+of+ann").decode()
        token_request.add_header("Authorization", f"Basic {secret}")
        with urllib.request.urlopen(token_request, timeout=60) as answer:
            token: str = json.load(answer)["access_token"]
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        return token

    def stop(self) -> None:
        self._process.communicate(timeout=60)


@contextmanager
def providing(*callback: str) -> Iterator[Provider]:
    provider = Provider(*callback)
    try:
        yield provider
    finally:
        provider.stop()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with providing() as one:
        yield one


@pytest.fixture(scope="module")
def server(provider: Provider, launch: Launch, http_server: str) -> Server:
    """A server with an app that accepts the tokens of the provider."""
    row = {"issuer": provider.issuer, "audience": "shop", "user_claim": "uid"}
    keys = [{"key": "key of the back end of tests", "scopes": ["admin"]}]
    one = launch(http_server, apps={str(APP): {"jwt": [row]}}, api={"keys": keys})
    # On a busy machine the keys of the provider may come too late for the first
    # login.
    eventually(
        lambda: login_code(one, provider.token("EdDSA")) == 200,
        what="the keys are known",
    )
    return one


def login_code(server: Server, token: str, user: str = USER) -> int:
    """The code of the answer to a login over WebSocket."""
    return cmd.login_code(server.ws, user, APP, serviceToken=token)


def http_code(server: Server, token: str) -> int:
    """The code of the answer to a request over HTTP with a session token."""
    headers = [("Authorization", f"Bearer {token}")]
    path = f"/user/online?appID={APP}&userID={USER}"
    return code_of(ask(server.http, request(path, headers=headers)))


@NEEDS_OIDC_PROVIDER
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_the_provider_logs_in(
    provider: Provider, server: Server, algorithm: str
) -> None:
    token = provider.token(algorithm)
    assert login_code(server, token) == 200
    assert http_code(server, token) == 200


# --- logins as a device and its browser do them -------------------------------

SHOP = "shop"
SECONDS = 300


class Browser:
    """Follows redirects with cookies, and fills in forms."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar())
        )
        self.url = ""
        self.page = ""

    def open(self, url: str, form: dict[str, str] | None = None) -> None:
        data = None if form is None else urlencode(form).encode()
        with self._opener.open(url, data, timeout=SECONDS) as answer:
            self.url, self.page = answer.url, unescape(answer.read().decode())

    def send(self, **fields: str) -> None:
        """Send the form of the page with these fields and its hidden ones."""
        (action,) = re.findall(r'<form[^>]* action="([^"]+)"', self.page)
        hidden = dict(
            re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', self.page)
        )
        self.open(urljoin(self.url, action), {**hidden, **fields})


@contextmanager
def shop(
    launch: Launch, http_server: str, **issuers: str
) -> Iterator[tuple[Server, Provider]]:
    """A server and a provider for its app. ``issuers``: further ones."""
    ports = fixed_ports()
    home = f"http://127.0.0.1:{ports['http_port']}"
    with providing(f"{home}/oauth/callback/{SHOP}/main") as provider:
        settings = {
            "kind": "oidc",
            "client_id": "im",
            "client_secret": "secret of im",
            "register": True,
        }
        rows = {
            name: {**settings, "issuer": url}
            for name, url in {"main": provider.issuer, **issuers}.items()
        }
        yield (
            launch(
                http_server,
                app={**ports, "http_url": home},
                apps={SHOP: {"account_tokens": "required", "oauth": rows}},
            ),
            provider,
        )


def logged_in(server: Server, user: str) -> Any:
    """The session of a user of the provider."""
    # On a busy machine the provider may answer too late.
    return eventually(lambda: try_login(server, user), SECONDS)


def try_login(server: Server, user: str) -> Any:
    """The same, or None if the provider was too late for the server."""
    started = call(
        server.http,
        "accounts/oauth/start",
        {"app": SHOP, "provider": "main", "device": "phone"},
    )
    if started.status == 503:
        return None
    login = started.json
    browser = Browser()
    question = {"app": SHOP, "login": login["login"]}
    browser.open(login["url"])
    browser.send(login=user, password="any")
    assert good(server.http, "accounts/oauth/finish", question) == {"pending": True}
    try:
        browser.send()
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return None
        raise
    assert browser.url.startswith(f"{server.http_url}/oauth/callback/{SHOP}/main?")
    assert login["shown"] in browser.page
    assert good(server.http, "accounts/oauth/finish", question) == {"pending": True}
    browser.send(agreed="yes")
    return good(server.http, "accounts/oauth/finish", question)


@pytest.mark.full("waits")
@NEEDS_OIDC_PROVIDER
def test_a_device_logs_in_while_another_provider_hangs(
    launch: Launch, http_server: str
) -> None:
    with create_server(("127.0.0.1", 0)) as hanging, ThreadPoolExecutor(1) as aside:
        stuck = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with shop(launch, http_server, stuck=stuck) as (server, _):
            body = {"app": SHOP, "provider": "stuck"}
            waiting = aside.submit(call, server.http, "accounts/oauth/start", body)
            connection, _ = hanging.accept()
            first = logged_in(server, "ann")
            account = first["account"]
            shown = ("ann of the provider", "https://img.example.com/ann.png")
            assert (account["nickname"], account["avatar"]) == shown
            assert (
                good(server.http, "accounts/show", key=first["token"], app=SHOP)
                == account
            )
            assert logged_in(server, "ann")["account"] == account
            assert logged_in(server, "bob")["account"]["user"] != account["user"]
            connection.close()
            answer = waiting.result(SECONDS)
            assert (answer.status, answer.json["code"]) == (503, "provider_unavailable")
