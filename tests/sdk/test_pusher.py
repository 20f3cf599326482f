"""Pusher's clients in Node.js: the tests in ``pusher.test.mjs``."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.ports import fixed_ports, free_ports
from tests.processes import end, spawn
from tests.sdk.node import NODE_FLAGS, run_node
from tests.support import Server, eventually
from tests.tools import require

pytestmark = pytest.mark.needs("node", "npm")

HERE = Path(__file__).parent
PUSHER = {"app_id": "7", "key": "shopkey", "secret": "the secret of the shop"}


def place_of(server: Server) -> dict[str, Any]:
    """Where clients and back ends find the app."""
    return {**PUSHER, "host": "127.0.0.1", "port": server.ws.port, "http_port": server.http.port}


@pytest.mark.parametrize("http_server", ["front", pytest.param("wsgi", marks=pytest.mark.full)])
def test_the_clients_of_pusher(start_server: StartServer, http_server: str) -> None:
    port = free_ports()
    pusher = {**PUSHER, "webhook_url": f"http://127.0.0.1:{port}/hook"}
    server = start_server(config={"apps": {"shop": {"pusher": pusher}}}, http_server=http_server)
    place = {**place_of(server), "webhook_port": port}
    # Timers of the clients would keep Node.js running for half a minute.
    run_node("--test-force-exit", str(HERE / "pusher.test.mjs"), PUSHER_PLACE=json.dumps(place))


@pytest.mark.full
def test_pusher_js_comes_back_after_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    config = {"app": fixed_ports(), "apps": {"shop": {"pusher": PUSHER}}}
    server = start_server(config=config)
    output = tmp_path / "states.txt"
    with output.open("w") as states:
        process = spawn(
            [require("node"), *NODE_FLAGS, str(HERE / "pusher_stay.mjs")],
            stdin=subprocess.PIPE,
            stdout=states,
            env={**os.environ, "PUSHER_PLACE": json.dumps(place_of(server))},
        )
    try:
        eventually(lambda: "subscribed" in output.read_text(), what="subscribed")
        server.stop()
        eventually(lambda: "error 4200" in output.read_text(), what="the server says that it stops")
        start_server(config=config, folder=server.folder)
        eventually(lambda: output.read_text().count("subscribed") == 2, what="subscribed again")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        end(process)
