"""Logins with the tokens of a real OpenID Connect provider: oidc-provider of npm."""

import json
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import jwt
import pytest

from tests.processes import spawn
from tests.support import Server, eventually
from tests.tools import require

from . import cmd
from .cmd import code_of
from .raw import ask, request
from .setting import Launch

PROGRAM = Path(__file__).with_name("oidc_provider.mjs")
APP, USER = 301, "user-ann"
NEEDS_OIDC_PROVIDER = pytest.mark.needs("node", "oidc-provider")


class Provider:
    """A running provider. Its user is ``user-ann``, in the claim ``uid``; the audience is ``shop``.

    ``callback``: where it sends browsers of the client ``im`` back.
    """

    def __init__(self, *callback: str) -> None:
        command = [require("node"), str(PROGRAM), require("oidc-provider"), *callback]
        self._process = spawn(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.issuer = self._line()

    def _line(self) -> str:
        """The next line that it prints; its warnings about tests on plain HTTP are skipped."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("http://127.0.0.1:", "rotated")):
                return line.strip()
        raise AssertionError("the provider has ended")

    def token(self, algorithm: str, channel: str = "") -> str:
        """A new access token (grant ``client_credentials``), or subscription token."""
        query = f"?channel={channel}" if channel else ""
        form = {"grant_type": "client_credentials", "resource": f"https://shop.example/{algorithm}{query}"}
        token_request = urllib.request.Request(f"{self.issuer}/token", urlencode(form).encode())
        secret = b64encode(b"ann:secret+of+ann").decode()
        token_request.add_header("Authorization", f"Basic {secret}")
        with urllib.request.urlopen(token_request, timeout=60) as answer:
            token: str = json.load(answer)["access_token"]
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        return token

    def rotate(self) -> None:
        """Replace all keys."""
        assert self._process.stdin is not None
        self._process.stdin.write("rotate\n")
        self._process.stdin.flush()
        assert self._line() == "rotated"

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


def started(launch: Launch, http_server: str, *issuers: str) -> Server:
    """A server with an app that accepts the tokens of these issuers."""
    rows = [{"issuer": issuer, "audience": "shop", "user_claim": "uid"} for issuer in issuers]
    keys = [{"key": "key of the back end of tests", "scopes": ["admin"]}]
    return launch(http_server, apps={str(APP): {"jwt": rows}}, api={"keys": keys})


@pytest.fixture(scope="module")
def server(provider: Provider, launch: Launch, http_server: str) -> Server:
    one = started(launch, http_server, provider.issuer)
    wait_for_keys(one, provider)
    return one


def wait_for_keys(server: Server, provider: Provider) -> None:
    """On a busy machine the keys of the provider may come too late for the first login."""
    eventually(lambda: login_code(server, provider.token("EdDSA")) == 200, what="the keys are known")


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
def test_a_token_of_the_provider_logs_in(provider: Provider, server: Server, algorithm: str) -> None:
    token = provider.token(algorithm)
    assert login_code(server, token) == 200
    assert http_code(server, token) == 200


@NEEDS_OIDC_PROVIDER
def test_a_token_of_a_subscription_is_good_for_its_channel_only(provider: Provider, server: Server) -> None:
    token = provider.token("EdDSA", "news")
    assert login_code(server, token) == 1003
    with cmd.logged_in(server.ws, USER, APP, serviceToken=provider.token("EdDSA")) as client:
        assert client.ask_cmd("subscribe", {"channel": "other", "token": token})[0] == 1003
        assert client.ask_cmd("subscribe", {"channel": "news", "token": token})[0] == 200


@NEEDS_OIDC_PROVIDER
@pytest.mark.slow
@pytest.mark.full("faults")
def test_new_keys_of_the_provider_count_without_a_restart(launch: Launch, http_server: str) -> None:
    with providing() as provider:
        server = started(launch, http_server, provider.issuer)
        wait_for_keys(server, provider)
        before = provider.token("ES256")
        assert login_code(server, before) == 200
        provider.rotate()
        after = provider.token("ES256")
        # Keys are fetched again after RETRY_SECONDS at the earliest.
        eventually(lambda: login_code(server, after) == 200, what="the new keys are known")
        assert http_code(server, after) == 200
        assert login_code(server, before) == 1003
