"""Both talks behind nginx, with the configuration that the original publishes, on two nodes."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.browser.chromium import Browser, Page
from tests.deploy.proxy import Nginx, around
from tests.integration.clusters import Nodes, nodes_of
from tests.support import ROOT, eventually

pytestmark = [pytest.mark.full, pytest.mark.needs("nginx")]

DOMAIN = "ws.test"

NODES = ("127.0.0.1:8282", "127.0.0.1:8089", "127.0.0.1:8283", "127.0.0.1:8090")

SITE = (ROOT / "tests" / "vectors" / "nginx" / "chat.conf").read_text(encoding="utf-8")


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
    with Nginx(tmp_path_factory.mktemp("nginx"), nodes.servers, around(SITE), NODES) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def visitors(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[tuple[Browser, Browser]]:
    """Two browsers to which the domain is nginx's port, so that the pages have their plain addresses."""
    flag = f"--host-resolver-rules=MAP {DOMAIN}:80 127.0.0.1:{nginx.address[1]}"
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
