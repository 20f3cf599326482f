"""A server that is served below a path (``app.http_url``): what it says of its own addresses."""

import json
import re

import pytest

from imserver.pages.assets import STATIC as ASSETS
from tests.conftest import StartServer
from tests.integration.cmd import get, post
from tests.integration.raw import Address, ask, request
from tests.support import HTTP_SERVERS, Server

ROOT = "/im"
PAGES = (
    *("/", "/home/index", "/home/index?uid=1&to_uid=2", "/home/messages", "/home/channels", "/status"),
    *("/cluster", "/admin", "/api/v1/docs", "/nowhere"),
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
    assert {get(server.http, each).status for each in (files[0], files[-1], "/static/favicon.svg")} == {200}


def test_programs_learn_the_path(server: Server) -> None:
    document = get(server.http, "/api/v1/openapi.json").json
    assert document["servers"] == [{"url": ROOT}]
    gateway = ask(server.http, request("/gateway", host="www.example.com"))
    assert gateway.json == {"url": f"ws://www.example.com{ROOT}/acc"}
    assert post(server.http, "/home/index").status == 405, "the path is only in what the server says"
