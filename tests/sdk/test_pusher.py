"""Pusher's clients in Node.js: the tests in ``pusher.test.mjs``."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import StartServer
from tests.docs.markdown import Block, blocks
from tests.ports import fixed_ports, free_ports
from tests.processes import spawn
from tests.sdk.node import NODE_FLAGS, printing, run_node
from tests.support import ROOT, Server, eventually
from tests.tools import NODE_MODULES, require

pytestmark = pytest.mark.needs("node", "pusher-js")

HERE = Path(__file__).parent
GUIDE = ROOT / "docs" / "guides" / "from-pusher.md"
PUSHER = {"app_id": "7", "key": "shopkey", "secret": "the secret of the shop"}


def server_options(server: Server) -> dict[str, Any]:
    return {
        **PUSHER,
        "host": "127.0.0.1",
        "port": server.ws.port,
        "http_port": server.http.port,
    }


@pytest.mark.parametrize(
    "http_server", ["front", pytest.param("wsgi", marks=pytest.mark.full("sampled"))]
)
def test_the_clients_of_pusher(start_server: StartServer, http_server: str) -> None:
    port = free_ports()
    pusher = {**PUSHER, "webhook_url": f"http://127.0.0.1:{port}/hook"}
    server = start_server(
        config={"apps": {"shop": {"pusher": pusher}}}, http_server=http_server
    )
    options = {**server_options(server), "webhook_port": port}
    # Timers of the clients would keep Node.js running for half a minute.
    run_node(
        "--test-force-exit",
        str(HERE / "pusher.test.mjs"),
        PUSHER_OPTIONS=json.dumps(options),
    )


def with_ports(block: Block, server: Server) -> str:
    return block.text.replace("8080", str(server.http.port)).replace(
        "8089", str(server.ws.port)
    )


def test_the_guide_s_client_and_back_ends_meet_on_one_machine(
    start_server: StartServer, tmp_path: Path
) -> None:
    (settings,) = blocks(GUIDE, "yaml")
    client, back_end = blocks(GUIDE, "js")
    (python,) = blocks(GUIDE, "python")
    server = start_server(config=yaml.safe_load(settings.text))
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    for name, block in (("client", client), ("back_end", back_end)):
        (tmp_path / f"{name}.mjs").write_text(
            with_ports(block, server), encoding="utf-8"
        )
    output = tmp_path / "output.txt"
    commands = {
        "hello from Node.js": [
            require("node"),
            *NODE_FLAGS,
            str(tmp_path / "back_end.mjs"),
        ],
        "hello from Python": [sys.executable, "-c", with_ports(python, server)],
    }
    with printing(output, tmp_path / "client.mjs"):
        for text, command in commands.items():

            def received(text: str = text, command: list[str] = command) -> bool:
                # again, until the client has subscribed
                assert spawn(command).wait(200) == 0
                return text in output.read_text()

            eventually(received, 200, text)


@pytest.mark.full("programs")
def test_pusher_js_comes_back_after_a_restart(
    start_server: StartServer, tmp_path: Path
) -> None:
    config = {"app": fixed_ports(), "apps": {"shop": {"pusher": PUSHER}}}
    server = start_server(config=config)
    output = tmp_path / "states.txt"
    with printing(
        output,
        HERE / "pusher_stay.mjs",
        PUSHER_OPTIONS=json.dumps(server_options(server)),
    ):
        eventually(lambda: "subscribed" in output.read_text(), what="subscribed")
        server.stop()
        eventually(
            lambda: "error 4200" in output.read_text(),
            what="the server says that it stops",
        )
        start_server(config=config, folder=server.folder)
        eventually(
            lambda: output.read_text().count("subscribed") == 2, what="subscribed again"
        )
