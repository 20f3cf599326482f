"""Where a page finds the WebSocket and the HTTP interface, also below a path
(``app.http_url``)."""

import json
import re

import pytest

from imserver.pages.address import (
    Configured,
    is_host,
    parse_configured,
    resolve,
    websocket_address,
)
from imserver.pages.assets import STATIC as ASSETS
from tests.conftest import StartServer
from tests.integration.cmd import get, post
from tests.integration.raw import Address, ask, request
from tests.support import HTTP_SERVERS, Server

PORTS = (8080, 8089)


@pytest.mark.parametrize(
    ("host", "websocket"),
    [
        ("127.0.0.1:8080", "//127.0.0.1:8089/acc"),
        ("localhost:8080", "//localhost:8089/acc"),
        ("im.example.com", "//im.example.com/acc"),
        ("im.example.com:8443", "//im.example.com:8443/acc"),
        ("[::1]:8080", "//[::1]:8089/acc"),
        ("[::1]", "//[::1]/acc"),
    ],
)
def test_without_settings_the_request_decides(host: str, websocket: str) -> None:
    addresses = resolve(host, PORTS)
    assert addresses.websocket == websocket
    assert addresses.http == ""
    assert addresses.seen_host == host


def test_the_policy_names_the_websocket_in_both_securities() -> None:
    # A proxy may end TLS without a word; then only the page itself knows that
    # it is secure.
    named = ("'self'", "ws://im.example.com", "wss://im.example.com")
    assert resolve("im.example.com", PORTS).sources == named
    # Policies know no address of IPv6.
    assert resolve("[::1]:8080", PORTS).sources == ("'self'", "ws:", "wss:")


@pytest.mark.parametrize(
    ("setting", "websocket", "source"),
    [
        (
            "127.0.0.1:8089",
            "//127.0.0.1:8089/acc",
            ["ws://127.0.0.1:8089", "wss://127.0.0.1:8089"],
        ),
        ("wss://im.example.com", "wss://im.example.com/acc", ["wss://im.example.com"]),
        (
            "wss://im.example.com/chat/acc",
            "wss://im.example.com/chat/acc",
            ["wss://im.example.com"],
        ),
        (
            "https://im.example.com/",
            "wss://im.example.com/acc",
            ["wss://im.example.com"],
        ),
    ],
)
def test_a_configured_websocket_address_wins(
    setting: str, websocket: str, source: list[str]
) -> None:
    addresses = resolve("other:8080", PORTS, parse_configured(setting))
    assert addresses.websocket == websocket
    assert addresses.seen_host == ""
    assert list(addresses.sources) == ["'self'", *source]


@pytest.mark.parametrize(
    ("setting", "http", "source"),
    [
        (
            "127.0.0.1:8080",
            "//127.0.0.1:8080",
            ["http://127.0.0.1:8080", "https://127.0.0.1:8080"],
        ),
        (
            "https://api.example.com/im",
            "https://api.example.com/im",
            ["https://api.example.com"],
        ),
    ],
)
def test_a_configured_http_address_wins(
    setting: str, http: str, source: list[str]
) -> None:
    addresses = resolve("im.example.com", PORTS, None, parse_configured(setting))
    assert addresses.http == http
    assert list(addresses.sources[3:]) == source


def test_below_a_path_the_websocket_has_the_path_too() -> None:
    addresses = resolve(
        "www.example.com:8080", PORTS, None, parse_configured("www.example.com:8080/im")
    )
    assert addresses.websocket == "//www.example.com:8080/im/acc", (
        "a proxy has the port of the page"
    )
    assert addresses.seen_host == "www.example.com:8080"


def test_nothing_configured_is_none() -> None:
    assert parse_configured("") is None
    assert parse_configured("h:1") == Configured("", "h:1", "")


@pytest.mark.parametrize(
    "setting",
    ["a b", "ftp://x", "x; script-src *", "host:port", "http://", "//x", "x/?q"],
)
def test_a_text_that_is_no_address_is_none(setting: str) -> None:
    assert parse_configured(setting) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a;b",
        "a,b",
        "a'b",
        "a\nb",
        "[::1",
        "a:b",
        "a:123456",
        "é.example",
        "*",
    ],
)
def test_a_host_that_could_break_out_of_a_header_is_none(host: str) -> None:
    assert not is_host(host)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("im1.example.com", "ws://im1.example.com/acc"),
        ("wss://im1.example.com:8443", "wss://im1.example.com:8443/acc"),
        ("wss://im1.example.com/ws", "wss://im1.example.com/ws"),
        ("https://im1.example.com/", "wss://im1.example.com/acc"),
        ("ws://[2001:db8::1]:8089", "ws://[2001:db8::1]:8089/acc"),
        ("", ""),
        ("no address", ""),
        ("ftp://x", ""),
    ],
)
def test_a_public_address_is_completed(value: str, address: str) -> None:
    assert websocket_address(value) == address


ROOT = "/im"
PAGES = (
    "/",
    "/home/index",
    "/home/index?uid=1&to_uid=2",
    "/home/messages",
    "/home/channels",
    "/status",
    "/cluster",
    "/admin",
    "/api/v1/docs",
    "/nowhere",
)


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    picture = ASSETS / "icons" / "app-192.png"
    look = {"colour": "#2457a6", "picture": str(picture)}
    config = {"app": {"http_url": f"https://www.example.com{ROOT}/"}, "chat": look}
    return start_shared_server(http_server=request.param, config=config)


def text_of(address: Address, path: str) -> str:
    return ask(address, request(path, headers=[("Accept", "text/html")])).body.decode()


@pytest.mark.parametrize("path", PAGES)
def test_every_address_in_a_page_has_the_path(server: Server, path: str) -> None:
    page = text_of(server.http, path)
    addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
    assert len(addresses) > 2
    assert [each for each in addresses if not each.startswith(f"{ROOT}/")] == []


def test_what_a_browser_installs_has_the_path(server: Server) -> None:
    manifest = get(server.http, "/home/messages.webmanifest").json
    assert (manifest["scope"], manifest["id"]) == (f"{ROOT}/home/messages",) * 2
    assert {icon["src"].split("/")[1] for icon in manifest["icons"]} == {"im"}
    worker = text_of(server.http, "/home/messages-worker.js")
    shell = json.loads(worker.partition("self.SHELL = ")[2].partition(";\n")[0])
    assert shell["page"] == f"{ROOT}/home/messages"
    addresses = [*shell["files"], shell["release"], shell["releases"]]
    assert [each for each in addresses if not each.startswith(f"{ROOT}/")] == []
    files = [each.removeprefix(ROOT) for each in shell["files"]]
    assert {
        get(server.http, each).status
        for each in (files[0], files[-1], "/static/favicon.svg")
    } == {200}


def test_programs_learn_the_path(server: Server) -> None:
    document = get(server.http, "/api/v1/openapi.json").json
    assert document["servers"] == [{"url": ROOT}]
    gateway = ask(server.http, request("/gateway", host="www.example.com"))
    assert gateway.json == {"url": f"ws://www.example.com{ROOT}/acc"}
    assert post(server.http, "/home/index").status == 405, (
        "the path is only in what the server says"
    )
