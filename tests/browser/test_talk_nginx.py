"""Both talks behind nginx, with the configuration that the original publishes, on two nodes."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.deploy.proxy import started
from tests.integration.clusters import Nodes, nodes_of
from tests.ports import free_ports
from tests.processes import end
from tests.support import eventually
from tests.tools import require

pytestmark = [pytest.mark.full, pytest.mark.needs("nginx")]

DOMAIN = "ws.test"

# As published for the original, completed by the map that it asks for and a second server in each upstream;
# only ports are ours.
SITE = """
map $http_upgrade $connection_upgrade {
    default upgrade;
    ''      close;
}

upstream go-http
{
    server 127.0.0.1:8282 weight=1 max_fails=2 fail_timeout=10s;
    server 127.0.0.1:8283 weight=1 max_fails=2 fail_timeout=10s;
    keepalive 16;
}

upstream go-ws
{
    server 127.0.0.1:8089 weight=1 max_fails=2 fail_timeout=10s;
    server 127.0.0.1:8090 weight=1 max_fails=2 fail_timeout=10s;
    keepalive 16;
}

server {
    listen 80;
    server_name ws.test;
    root "D:/phpstudy/WWW/";

    location /ws {
        proxy_set_header Host $host;
        proxy_pass http://go-ws;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Connection "";
        proxy_redirect off;
        proxy_intercept_errors on;
        client_max_body_size 10m;
    }

    location /
    {
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header Host $host;
        proxy_pass http://go-http;
    }
}
"""

MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


class Nginx:
    """nginx in the foreground, with its files in one folder, in front of two nodes; listens on ``port``."""

    def __init__(self, folder: Path, nodes: Nodes) -> None:
        self.port = free_ports()
        first, second = nodes.servers
        ports = {8282: first.http.port, 8283: second.http.port, 8089: first.ws.port, 8090: second.ws.port}
        site = re.sub(
            r"127\.0\.0\.1:(8282|8283|8089|8090)", lambda found: f"127.0.0.1:{ports[int(found[1])]}", SITE
        )
        site = site.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        config = folder / "nginx.conf"
        config.write_text(MAIN.format(folder=folder, site=site))
        command = [require("nginx"), "-p", str(folder), "-c", str(config)]
        self.process = started(command, ("127.0.0.1", self.port))

    def stop(self) -> None:
        end(self.process)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one with each HTTP server, and the apps that there are by default."""
    names = ("101", "102", "103", "104", "action:1", "action:2")
    rooms = {"room_members": {"1": ["1", "2"]}}
    apps = {name: rooms if name.startswith("action:") else {} for name in names}
    with nodes_of(tmp_path_factory.mktemp("cluster"), 2, apps=apps, server={"origins": [DOMAIN]}) as two:
        yield two


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), nodes)
    yield nginx
    nginx.stop()


@pytest.fixture(scope="module")
def visitors(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[tuple[Browser, Browser]]:
    """Two browsers to which the domain is nginx's port, so that the pages have their plain addresses."""
    flag = f"--host-resolver-rules=MAP {DOMAIN}:80 127.0.0.1:{nginx.port}"
    folders = [tmp_path_factory.mktemp("visitor") for _ in range(2)]
    with ExitStack() as stack:
        browsers = []
        for folder in folders:
            browsers.append(Browser(folder, flag))
            stack.callback(browsers[-1].quit)
        yield browsers[0], browsers[1]


def online(page: Page) -> Page:
    eventually(lambda: page.state == "online", what="the page is connected")
    eventually(lambda: page.notices == ["登录成功"], what="the page says so")
    return page


def users_of(nodes: Nodes) -> list[list[str]]:
    """Who is connected to each node."""
    found = []
    for server in nodes.servers:
        state = server.get("/system/state?isDebug=true")[1].decode()
        found.append(re.findall(r'"(action:\d+_[^"]+)"', state))
    return found


def spread(nodes: Nodes, page: Page) -> None:
    """Both users are online, each on a node of its own: nginx deals its connections out in turns."""
    for _ in range(3):
        eventually(lambda: sum(map(len, users_of(nodes))) == 2, what="both are connected")
        if all(users_of(nodes)):
            return
        page.driver.refresh()
        online(page)
    raise AssertionError(f"not spread: {users_of(nodes)}")


def until_nobody_is_left(nodes: Nodes) -> None:
    eventually(lambda: users_of(nodes) == [[], []], what="nobody is left")


def test_one_to_one(visitors: tuple[Browser, Browser], nodes: Nodes) -> None:
    first = online(visitors[0].open(f"http://{DOMAIN}/home/index?uid=1&to_uid=2"))
    second = online(visitors[1].open(f"http://{DOMAIN}/home/index?uid=2&to_uid=1"))
    spread(nodes, second)
    for number in range(5):
        first.say(f"你好 {number}")
        second.has_received("用户:", f"你好 {number}")
        second.say(f"也好 {number}")
        first.has_received("用户:", f"也好 {number}")
    assert first.received == [("用户:", f"也好 {number}") for number in range(5)]
    assert second.own == [f"也好 {number}" for number in range(5)]
    second.driver.get("about:blank")
    eventually(lambda: sum(map(len, users_of(nodes))) == 1, what="the second has gone")
    assert first.notices == ["登录成功"]
    first.driver.get("about:blank")
    assert visitors[0].complaints() == visitors[1].complaints() == []
    until_nobody_is_left(nodes)


def test_group(visitors: tuple[Browser, Browser], nodes: Nodes) -> None:
    first = online(visitors[0].open(f"http://{DOMAIN}/home/room?uid=1"))
    second = online(visitors[1].open(f"http://{DOMAIN}/home/room?uid=2"))
    spread(nodes, second)
    first.say("大家好")
    second.has_received("用户1：", "大家好")
    second.say("欢迎")
    first.has_received("用户2：", "欢迎")
    eventually(lambda: first.own == ["大家好"], what="the own copy")
    eventually(lambda: second.own == ["欢迎"], what="the own copy")
    second.driver.get("about:blank")
    first.has_notice("用户2已经离开")
    assert len(first.received) == 1
    assert [note for note in first.notices if "离开" in note] == ["用户2已经离开"]
    first.driver.get("about:blank")
    assert visitors[0].complaints() == visitors[1].complaints() == []
    until_nobody_is_left(nodes)


def test_the_pages_find_their_socket_when_nginx_hides_the_port(
    pair: Pair, nginx: Nginx, nodes: Nodes
) -> None:
    page = online(pair[0].open(f"http://127.0.0.1:{nginx.port}/home/room?uid=7&groups_id=7"))
    page.say("same port")
    eventually(lambda: page.own == ["same port"], what="the own copy")
    page.driver.get("about:blank")
    until_nobody_is_left(nodes)
