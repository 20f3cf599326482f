"""centrifuge-js in Node.js: ``centrifuge.test.mjs``."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.clusters import nodes_of
from tests.integration.v1 import good
from tests.processes import end, spawn
from tests.sdk.node import run_node
from tests.support import Server, eventually
from tests.tools import NODE_MODULES, require

from .conftest import CONFIG, KEY, token

pytestmark = pytest.mark.needs("node", "centrifuge")


def run_clients(server: Server, emulation: Server, names: str, sockets: Server | None = None) -> None:
    """Run the tests with these names on a server, with the emulation requests of streams to ``emulation``.

    ``sockets``: the server of WebSockets; None: the same.
    """
    ws = (sockets or server).ws
    run_node(
        f"--test-name-pattern={names}",
        str(Path(__file__).with_name("centrifuge.test.mjs")),
        NODE_PACKAGES=str(NODE_MODULES / "index.js"),
        IM_KEY=KEY,
        IM_WS=f"ws://{ws.host}:{ws.port}",
        IM_HTTP=server.http_url,
        IM_EMULATION=f"{emulation.http_url}/emulation",
        IM_TOKENS=json.dumps(
            {
                "ann": token("ann"),
                "bob": token("bob"),
                "expired": token("ann", exp=1),
                "talk": token("ann", channel="talk:js"),
            }
        ),
    )


@pytest.mark.parametrize(
    "names", ["websocket:", "http_stream:", "^a client", pytest.param("^pings", marks=pytest.mark.full)]
)
def test_centrifuge_js_with_json_and_with_protobuf(server: Server, names: str) -> None:
    run_clients(server, server, names)


@pytest.mark.full
@pytest.mark.needs("redis-server")
def test_commands_and_publications_may_use_another_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(tmp_path_factory.mktemp("centrifugo-js"), 2, **CONFIG) as nodes:
        front, wsgi = nodes.servers
        run_clients(wsgi, front, "http_stream:")
        run_clients(wsgi, front, "websocket:", sockets=front)


@pytest.mark.full
@pytest.mark.needs("redis-server")
def test_the_messages_of_a_user_are_reloaded_when_the_node_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("centrifugo-killed")
    output = folder / "heard.txt"

    def push(server: Server, *texts: str) -> None:
        for text in texts:
            request = {"app": "shop", "user": "ann", "text": text, "store": True}
            good(server.http, "push", request, key=KEY)

    def heard(*texts: str, again: bool = False) -> bool:
        """Whether the client has logged in, ``again`` too, and received these messages and no others."""
        lines = output.read_text().split("\n")[:-1]
        found = [line for line in lines if not line.startswith("subscribed")]
        assert found == list(texts[: len(found)])
        logins = [line for line in lines if line.startswith("subscribed")]
        assert set(logins) <= {"subscribed false"}
        return len(found) == len(texts) and len(logins) > again

    with nodes_of(folder, 2, **CONFIG) as nodes, output.open("w") as lines:
        first, second = nodes.servers
        addresses = [f"ws://{each.host}:{each.port}/connection/websocket" for each in nodes.ws]
        environment = {
            "NODE_PACKAGES": str(NODE_MODULES / "index.js"),
            "IM_ENDPOINTS": json.dumps(addresses),
            "IM_TOKEN": token("ann"),
        }
        client = spawn(
            [require("node"), str(Path(__file__).with_name("own_channel.mjs"))],
            stdin=subprocess.PIPE,
            stdout=lines,
            env={**os.environ, **environment},
        )
        try:
            eventually(heard, what="the login")
            push(first, "one")
            eventually(lambda: heard("one"), what="a live message")
            client.send_signal(signal.SIGSTOP)  # so it misses what follows
            push(first, "two")
            first.process.kill()
            push(second, "three", "four")
            client.send_signal(signal.SIGCONT)
            texts = ["one", "two", "three", "four"]
            eventually(lambda: heard(*texts, again=True), what="what was missed")
            push(second, "five")
            eventually(lambda: heard(*texts, "five", again=True), what="a live message of the other node")
        finally:
            assert client.stdin is not None
            client.stdin.close()
            end(client)
