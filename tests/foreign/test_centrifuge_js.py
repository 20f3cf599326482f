"""centrifuge-js in Node.js, and the examples of docs/guides/from-centrifugo.md
with what they import."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.markdown import Block, blocks
from tests.docs.play import at_server
from tests.integration.clusters import nodes_of
from tests.processes import spawn
from tests.sdk.node import printing, run_node
from tests.support import ROOT, Server, eventually
from tests.tools import NODE_MODULES

from .conftest import CONFIG, KEY, token

pytestmark = pytest.mark.needs("node", "centrifuge")


def run_clients(
    server: Server, emulation: Server, names: str, sockets: Server | None = None
) -> None:
    """Run the tests with these names on a server, with the emulation requests
    of streams to ``emulation``.

    ``sockets``: the server of WebSockets; None: the same.
    """
    ws = (sockets or server).ws
    tokens = {"ann": token("ann"), "bob": token("bob"), "expired": token("ann", exp=1)}
    tokens["talk"] = token("ann", channel="talk:js")
    run_node(
        f"--test-name-pattern={names}",
        str(Path(__file__).with_name("centrifuge.test.mjs")),
        NODE_PACKAGES=str(NODE_MODULES / "index.js"),
        IM_KEY=KEY,
        IM_WS=f"ws://{ws.host}:{ws.port}",
        IM_HTTP=server.http_url,
        IM_EMULATION=f"{emulation.http_url}/emulation",
        IM_TOKENS=json.dumps(tokens),
    )


@pytest.mark.parametrize(
    "names",
    [
        "websocket:",
        "http_stream:",
        "^a client",
        pytest.param("^pings", marks=pytest.mark.full("sampled")),
    ],
)
def test_centrifuge_js_with_json_and_with_protobuf(server: Server, names: str) -> None:
    run_clients(server, server, names)


@pytest.mark.full("programs")
@pytest.mark.needs("redis-server")
def test_commands_and_publications_may_use_another_node(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with nodes_of(tmp_path_factory.mktemp("centrifugo-js"), 2, **CONFIG) as nodes:
        front, wsgi = nodes.servers
        run_clients(wsgi, front, "http_stream:")
        run_clients(wsgi, front, "websocket:", sockets=front)


GUIDE = ROOT / "docs/guides/from-centrifugo.md"
(PUBLISH,) = [block for block in blocks(GUIDE, "python") if block.words == ("cent",)]
SUBSCRIBE, FALLBACK, CHAT = [
    block for block in blocks(GUIDE, "js") if block.words == ("centrifuge",)
]


def filled_in(block: Block, server: Server) -> str:
    """An example with the server of this test, its key, a token, and a channel
    that needs none."""
    words = (
        at_server(block.text, server)
        .replace("your API key", KEY)
        .replace("a token of ann", token("guide"))
    )
    words = words.replace(
        "her token for orders:17", token("guide", channel="talk:guide")
    )
    return words.replace("orders:17", "talk:guide").replace("#ann", "#guide")


@contextmanager
def started(block: Block, server: Server, folder: Path) -> Iterator[Callable[[], str]]:
    """Run an example while this is entered. Yields what reads what it
    prints."""
    (folder / "node_modules").symlink_to(NODE_MODULES)
    script = folder / "example.mjs"
    output = folder / "output.txt"
    script.write_text(filled_in(block, server), encoding="utf-8")
    with printing(output, script):
        yield output.read_text


def test_a_subscriber_receives_what_the_back_end_publishes(
    server: Server, tmp_path: Path
) -> None:
    program = filled_in(PUBLISH, server)
    with started(SUBSCRIBE, server, tmp_path) as output:

        def received() -> bool:
            done = spawn([sys.executable, "-c", program])
            assert done.wait(200) == 0
            return "sent" in output()

        eventually(received, 200, "the publication")


def test_a_client_takes_the_first_transport_that_works(
    server: Server, tmp_path: Path
) -> None:
    with started(FALLBACK, server, tmp_path) as output:
        eventually(
            lambda: output() == "connected by websocket\n", what="the connection"
        )


def test_an_sdk_is_a_chat_client(server: Server, tmp_path: Path) -> None:
    with started(CHAT, server, tmp_path) as output:
        eventually(
            lambda: " conversations\n" in output() and "sent\n" in output(),
            what="it has sent",
        )
