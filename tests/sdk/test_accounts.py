"""Logging in with a provider by both SDKs, against a real server."""

import re
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest

from imserver_client import Accounts, RequestRefused, StartedLogin
from tests.ports import fixed_ports
from tests.sdk.node import run_node
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import Server
from tests.users import User

SECONDS = 300
APP = "shop"
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose app has a provider."""
    provider, ports = StandIn(), fixed_ports()
    row = {"kind": "oidc", "client_id": CLIENT, "client_secret": SECRET, "issuer": provider.issuer}
    server = Server(
        tmp_path_factory.mktemp("shop"),
        config={
            "app": {**ports, "http_url": f"http://127.0.0.1:{ports['http_port']}"},
            "apps": {APP: {"account_tokens": "required", "oauth": {"main": {**row, "register": True}}}},
        },
    )
    yield server
    server.stop()
    server.check()
    provider.stop()


def agree(started: StartedLogin) -> None:
    """The browser of a user who agrees everywhere."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(started.url, timeout=SECONDS) as answer:
        page, text = answer.url.partition("?")[0], unescape(answer.read().decode())
    assert started.shown in text
    form = {**dict(re.findall(r'name="(code)" value="([^"]+)"', text)), "agreed": "yes"}
    with opener.open(page, urlencode(form).encode(), timeout=SECONDS) as answer:
        assert answer.status == 200


@pytest.mark.full("programs")
def test_the_python_client_logs_in_and_links(shop: Server) -> None:
    with Accounts(shop.http_url, APP, timeout_seconds=SECONDS) as accounts:
        (provider,) = accounts.oauth_providers()
        assert (provider.provider, provider.kind, provider.register) == ("main", "oidc", True)
        login = accounts.oauth_login("main", device="laptop", show=agree)
        assert login.nickname == "Ann Lee"
        with pytest.raises(RequestRefused, match="not_implemented"):
            accounts.request_reset("ann")
        with pytest.raises(RequestRefused, match="unknown_reset"):
            accounts.finish_reset("x", "battery staple")
    with Accounts(shop.http_url, APP, login.token, timeout_seconds=SECONDS) as own:
        own.oauth_link("main", agree)
        assert [link.provider for link in own.links()] == ["main"]
        with pytest.raises(RequestRefused) as refused:
            own.unlink("main")
        assert refused.value.code == "last_login"
    ann = User.register(shop, APP, name="ann", password=PASSWORD)
    with Accounts(shop.http_url, APP, ann.token, timeout_seconds=SECONDS) as own:
        with pytest.raises(RequestRefused, match="wrong_login"):
            own.oauth_link("main", agree)
        with pytest.raises(RequestRefused, match="link_taken"):
            own.oauth_link("main", agree, password=PASSWORD)


@pytest.mark.full("programs")
@pytest.mark.needs("node")
def test_the_javascript_client_logs_in(shop: Server) -> None:
    run_node(str(Path(__file__).with_name("accounts.test.mjs")), IM_HTTP=shop.http_url)
