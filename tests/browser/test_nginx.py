"""The pages behind nginx: with the configurations that operators of the
originals have, and below a path."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.browser.conftest import Pair
from tests.browser.messenger import STATE, Account
from tests.browser.test_media import attach, picture
from tests.conftest import StartServer
from tests.deploy.proxy import NODES, Nginx, around, replaced
from tests.integration.test_webhooks import certificate_of_loopback
from tests.ports import free_ports
from tests.support import ROOT, eventually

pytestmark = [pytest.mark.full("browser"), pytest.mark.needs("nginx")]

CHAT_DOMAIN = "im.91vh.com"
CHAT_SITE, ROOM_SITE = (
    (ROOT / "tests" / "vectors" / "nginx" / f"{name}.conf").read_text(encoding="utf-8")
    for name in ("gowebsocket", "chat")
)
PATH_SITE = """
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
PATHS = "return performance.getEntriesByType('resource').map((each) => new URL(each.name).pathname)"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


# --- the chat -----------------------------------------------------------------


def test_the_page_uses_wss_behind_the_original_configuration_with_tls(
    stack: ExitStack, pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(config={"server": {"origins": [CHAT_DOMAIN]}})
    site = CHAT_SITE.replace("listen       80 ;", "listen      80;")
    site = around(site.replace("/link/log/nginx/access", "/var/log/nginx"))
    nginx = Nginx(tmp_path, [server], site, NODES[:2])
    certificate, key = certificate_of_loopback(tmp_path)
    listen = f"listen {nginx.address[1]}"
    config = tmp_path / "nginx.conf"
    secure = f"{listen} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
    config.write_text(replaced(config.read_text(), f"{listen};", secure))
    stack.enter_context(nginx)
    # A browser to which the domain is nginx's port, so that pages have their
    # plain addresses.
    flag = f"--host-resolver-rules=MAP {CHAT_DOMAIN}:443 127.0.0.1:{nginx.address[1]}"
    browser = Browser(tmp_path / "profile", flag, "--ignore-certificate-errors")
    stack.callback(browser.quit)
    outside = browser.open(f"https://{CHAT_DOMAIN}/home/index?appID=101").online()
    inside = pair[0].open(f"{server.http_url}/home/index?appID=101").online()
    outside.say("through nginx")
    inside.has_received(outside.name, "through nginx")
    inside.say("back")
    outside.has_received(inside.name, "back")
    assert browser.complaints() == []


# --- below a path -------------------------------------------------------------


def test_pages_work_below_a_path_and_ask_for_nothing_outside(
    stack: ExitStack, pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    port = free_ports()
    site = f"http://127.0.0.1:{port}"
    limits = {
        "accounts": {"registrations_per_address": 0},
        "uploads": {"min_free_bytes": 0},
    }
    server = start_server(config={**limits, "app": {"http_url": f"{site}/im"}})
    stack.enter_context(
        Nginx(tmp_path, [server], around(PATH_SITE), NODES[:2], port=port)
    )
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello")
    page = ann.log_in(pair[0].open(f"{site}/im/home/messages?lang=en", forget=True))
    page.click(".conversation")
    page.write("#message", "hello\n")
    eventually(lambda: page.own == ["hello"], what="the message is stored")
    attach(page, picture(tmp_path / "red.jpg", "red"))
    page.gives(SHOWN, True)
    (url,) = [each["data"]["url"] for each in bob.history(bob.newest) if "data" in each]
    assert url.startswith("/api/v1/uploads/"), (
        "another device may reach the server at another address"
    )
    page.awaited("await navigator.serviceWorker.ready")
    assert page.awaited(SCOPES) == [f"{site}/im/home/messages"]
    page.gives("return Boolean(navigator.serviceWorker.controller)", True)
    page.driver.refresh()
    page.gives(STATE, "online")
    page.gives(SHOWN, True)
    for path in ("", "status", "admin", "api/v1/docs", "home/channels"):
        page = pair[0].open(f"{site}/im/{path}")
        eventually(
            lambda page=page: len(page.run(PATHS)) > 1,
            what="the page has loaded its files",
        )
        assert [
            each for each in page.run(PATHS) if not each.startswith("/im/")
        ] == [], path
