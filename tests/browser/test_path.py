"""The messages page below a path of another site, behind nginx."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account
from tests.browser.test_media import attach, calling, picture
from tests.browser.test_messages import start_conversation
from tests.conftest import StartServer
from tests.deploy.proxy import NODES, Nginx, around
from tests.ports import free_ports
from tests.support import Server, eventually

pytestmark = [pytest.mark.full, pytest.mark.needs("nginx")]

SITE = """
map $http_upgrade $connection_upgrade { default upgrade; '' close; }
upstream http { server 127.0.0.1:8080 ; }
upstream sockets { server 127.0.0.1:8089 ; }
server {
    listen      80;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    location /im/ { proxy_pass http://http/; }
    location /im/acc { proxy_pass http://sockets/acc; }
    location / { return 418; }
}
"""
SCOPES = "return (await navigator.serviceWorker.getRegistrations()).map((each) => each.scope)"
SHOWN = "return document.querySelector('#log img.media-picture, #log .media-picture img')?.naturalWidth > 0"


@pytest.fixture
def port() -> int:
    return free_ports()


@pytest.fixture
def server(start_server: StartServer, port: int) -> Server:
    limits = {"accounts": {"registrations_per_address": 0}, "uploads": {"min_free_bytes": 0}}
    return start_server(config={**limits, "app": {"http_url": f"http://127.0.0.1:{port}/im"}})


@pytest.fixture
def site(tmp_path: Path, server: Server, port: int) -> Iterator[str]:
    with Nginx(tmp_path, [server], around(SITE), NODES[:2], port=port):
        yield f"http://127.0.0.1:{port}"


def test_the_messages_page_works_below_a_path(server: Server, site: str, pair: Pair, tmp_path: Path) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    page = ann.log_in(pair[0].open(f"{site}/im/home/messages?lang=en", forget=True))
    start_conversation(page, bob.phone)
    page.say("hello")
    eventually(lambda: page.own == ["hello"], what="the message is stored")
    attach(page, picture(tmp_path / "red.jpg", "red"))
    eventually(lambda: page.run(SHOWN), what="the picture is shown")
    (url,) = [each["data"]["url"] for each in bob.history(conversation_of(bob)) if "data" in each]
    assert url.startswith("/api/v1/uploads/"), "another device may reach the server at another address"
    page.driver.execute_async_script("navigator.serviceWorker.ready.then(arguments[0])")
    assert calling(page, SCOPES) == [f"{site}/im/home/messages"]
    eventually(lambda: page.run("return Boolean(navigator.serviceWorker.controller)"), what="it is active")
    page.driver.refresh()
    eventually(lambda: page.state == "online", what="the stored page is connected")
    eventually(lambda: page.run(SHOWN), what="the picture is shown again")


def conversation_of(user: Account) -> int:
    (listed,) = user.get("conversations")["conversations"]
    return int(listed["conversation"])


@pytest.mark.parametrize("path", ["", "status", "admin", "api/v1/docs", "home/channels"])
def test_no_other_page_asks_for_anything_outside(site: str, pair: Pair, path: str) -> None:
    page = pair[0].open(f"{site}/im/{path}")
    paths = "return performance.getEntriesByType('resource').map((each) => new URL(each.name).pathname)"
    eventually(lambda: len(page.run(paths)) > 1, what="the page has loaded its files")
    assert [each for each in page.run(paths) if not each.startswith("/im/")] == []
