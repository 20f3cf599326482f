"""centrifuge-js in Node.js: ``centrifuge.test.mjs``."""

import json
from pathlib import Path

import pytest

from tests.integration.clusters import nodes_of
from tests.sdk.node import run_node
from tests.support import Server
from tests.tools import NODE_MODULES

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
    "names",
    ["websocket:", "http_stream:", "^a client", pytest.param("^pings", marks=pytest.mark.full("sampled"))],
)
def test_centrifuge_js_with_json_and_with_protobuf(server: Server, names: str) -> None:
    run_clients(server, server, names)


@pytest.mark.full("programs")
@pytest.mark.needs("redis-server")
def test_commands_and_publications_may_use_another_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(tmp_path_factory.mktemp("centrifugo-js"), 2, **CONFIG) as nodes:
        front, wsgi = nodes.servers
        run_clients(wsgi, front, "http_stream:")
        run_clients(wsgi, front, "websocket:", sockets=front)
