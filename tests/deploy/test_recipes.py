"""The recipes of replace-another-server.md: the originals' files, one node and
two, behind their nginx."""

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imserver.gateway.node.feature_list import load_config
from tests.browser.test_nginx import CHAT_SITE, ROOM_SITE
from tests.dialects.test_settings_files import YAML as GOCHAT
from tests.docs.markdown import blocks
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration import action, client, cmd, gochat, protobuf
from tests.integration.raw import Address, ask
from tests.ports import free_ports
from tests.support import ROOT, Server
from tests.tools import require

from .proxy import Nginx, around

GUIDE = ROOT / "docs" / "guides" / "replace-another-server.md"
PORTS = (8080, 8089, 8081, 8090, 666, 667, 8282, 8283, 9090, 9091, 9190, 9191)
RPC_PORTS = (9001, 9003, 7000, 7002, 9092, 9192)
"""A node listens on the next one, too."""
USUAL = {"http_port": 8080, "websocket_port": 8089, "rpc_port": 9001}
"""Where a node listens if neither its file nor its command says so."""
PUBLISHED = (ROOT / "tests" / "vectors" / "nginx" / "go-websocket.conf").read_text(
    encoding="utf-8"
)
BOTH = pytest.mark.parametrize("count", [1, 2], ids=["one", "two"])

pytestmark = pytest.mark.full("programs")


class Recipe:
    """One chapter of the guide, with free ports in place of its own and files
    under ``folder``."""

    def __init__(
        self, heading: str, folder: Path, redis: RedisServer, stack: ExitStack
    ) -> None:
        self.folder = folder
        self._stack = stack
        text = GUIDE.read_text(encoding="utf-8")
        first = text.count("\n", 0, text.index(f"\n### {heading}\n")) + 1
        following = [
            text.count("\n", 0, at.start()) for at in re.finditer(r"\n### ", text)
        ]
        last = min(
            (line for line in following if line > first), default=text.count("\n")
        )
        self._blocks = [
            block
            for block in blocks(GUIDE, "yaml", "ini", "sh", "nginx")
            if first <= block.line <= last and "docker" not in block.text
        ]
        self.ports = {port: free_ports() for port in PORTS}
        self.ports |= {port: free_ports(2) for port in RPC_PORTS}
        self.ports[6379] = redis.port

    def moved(self, text: str) -> str:
        """``text`` with our ports and folder."""
        moved = re.sub(
            r"\b\d{3,4}\b",
            lambda found: str(self.ports.get(int(found[0]), found[0])),
            text,
        )
        return moved.replace("/var/lib/imserver", str(self.folder / "data"))

    def start(self, count: int, more: str = "") -> list[Server]:
        """Write the files, followed by ``more``, and run the first commands."""
        environment: dict[str, str] = {}
        for block in self._blocks:
            if block.language in ("yaml", "ini"):
                file = self.folder / block.text.partition("\n")[0].removeprefix("# ")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self.moved(block.text) + more, encoding="utf-8")
        (commands,) = (block.text for block in self._blocks if block.language == "sh")
        servers = []
        for line in self.moved(commands).splitlines():
            words = shlex.split(line)
            given = dict(word.split("=", 1) for word in words if "=" in word)
            words = [word for word in words if "=" not in word]
            if words == ["export"]:
                environment.update(given)
            elif len(servers) < count:
                assert words[:3] == ["imserver", "serve", "-c"]
                servers.append(
                    self._serve(words[3], {**environment, **given}, len(servers))
                )
        return servers

    def _serve(self, file: str, environment: dict[str, str], number: int) -> Server:
        folder = self.folder / f"run{number}"
        ours = {"IMSERVER_APP_LOG_FILE": str(folder / "server.log")}
        settings = load_config(str(self.folder / file), environment)
        for name, port in USUAL.items():
            if getattr(settings.app, name) == port:
                ours[f"IMSERVER_APP_{name.upper()}"] = str(self.ports[port])
        one = Server(
            folder, "-c", str(self.folder / file), environment={**ours, **environment}
        )
        self._stack.callback(one.check)
        self._stack.callback(one.stop)
        return one

    def nginx(self, site: str) -> Address:
        """Start nginx with the site of the original and the upstreams of the
        recipe."""
        require("nginx")
        (upstreams,) = (
            block.text for block in self._blocks if block.language == "nginx"
        )
        without = re.sub(r"upstream +\S+\s*\{[^}]*\}", "", site)
        without = re.sub(r"listen +80 *;", "listen      80;", without)
        without = without.replace("/link/log/nginx/access", "/var/log/nginx")
        if "http {\n" not in without:
            without = around(without)
        text = without.replace("http {\n", f"http {{\n{self.moved(upstreams)}", 1)
        return self._stack.enter_context(Nginx(self.folder, [], text, (), ())).address


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


@BOTH
def test_gowebsocket(
    tmp_path: Path, redis_server: RedisServer, stack: ExitStack, count: int
) -> None:
    recipe = Recipe("gowebsocket on two nodes", tmp_path, redis_server, stack)
    servers = recipe.start(count)
    site = recipe.nginx(CHAT_SITE)
    people = [
        stack.enter_context(cmd.logged_in(site, f"user{n}", 101)) for n in range(4)
    ]
    people += [
        stack.enter_context(cmd.logged_in(each.ws, f"at{n}", 101))
        for n, each in enumerate(servers)
    ]
    assert len(cmd.users(site, 101)) == len(people)
    fields = {"appID": 101, "userID": "boss", "msgID": "m-1", "message": "hello"}
    data = cmd.form_request("/user/sendMessageAll", fields)
    data = data.replace(
        b"Host: 127.0.0.1", b"Host: im.91vh.com\r\nOrigin: http://im.91vh.com"
    )
    assert ask(site, data).json == {
        "code": 200,
        "msg": "Success",
        "data": {"sendResults": True},
    }
    for one in people:
        assert one.push("msg").json["response"]["data"]["msg"] == "hello"


@BOTH
def test_go_websocket(
    tmp_path: Path, redis_server: RedisServer, stack: ExitStack, count: int
) -> None:
    recipe = Recipe(
        "go-websocket (woodylan) on two nodes", tmp_path, redis_server, stack
    )
    recipe.start(count)
    site = recipe.nginx(PUBLISHED)
    register = client.api_request("register", {"systemId": "shop"})
    assert (
        ask(site, register.replace(b"Host: 127.0.0.1", b"Host: ws.example.com")).json[
            "code"
        ]
        == 0
    )
    clients = [stack.enter_context(client.listening(site, "shop")) for _ in range(4)]
    for _ in range(count):
        for number, one in enumerate(clients):
            client.send_to_client(site, "shop", one.id, data=str(number))
            assert one.received()["data"] == str(number)


@BOTH
def test_go_websocket_of_guyan0319(
    tmp_path: Path, redis_server: RedisServer, stack: ExitStack, count: int
) -> None:
    recipe = Recipe(
        "go-websocket (guyan0319) on two nodes", tmp_path, redis_server, stack
    )
    servers = recipe.start(count)
    site = recipe.nginx(ROOM_SITE)
    page = "/ws?uid=1&to_uid=2&appname=1"
    one = stack.enter_context(action.ActionClient(site))
    one.begin(page, host="ws.test", more=[("Origin", "http://ws.test")])
    assert one.ask_action("login", action.login_data("1", to="2"))[0] == 200
    with action.action_session(servers[-1].ws, "2", to="1") as two:
        one.say("hello")
        two.receives("1", "hello", "2")
        two.say("back")
        one.receives("2", "back", "1")


@BOTH
def test_gochat(
    tmp_path: Path, redis_server: RedisServer, stack: ExitStack, count: int
) -> None:
    recipe = Recipe("GoChat on two nodes", tmp_path, redis_server, stack)
    others = (
        GOCHAT[GOCHAT.index("mysql:") : GOCHAT.index("redis:")]
        + GOCHAT[GOCHAT.index("etcd:") :]
    )
    recipe.start(count, others)
    http = ("127.0.0.1", recipe.ports[9090])
    websocket = ("127.0.0.1", recipe.ports[9091])
    last = ("127.0.0.1", recipe.ports[9191] if count == 2 else recipe.ports[9091])
    ann = gochat.register(http)
    bob = gochat.register(http)
    with protobuf.chatting(websocket, ann) as one, protobuf.chatting(last, bob) as two:
        one.single(1, two.id, "hello")
        assert protobuf.acked(one.output())
        assert protobuf.pushed(two.output()).text == "hello"
