"""Runs the tests of the JavaScript SDK by node, and what they cannot do alone: restart a server."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from imserver.gateway.assets import SDK
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.processes import end, spawn
from tests.sdk.node import NODE_FLAGS, run, run_node
from tests.support import Server, eventually
from tests.tools import require

pytestmark = pytest.mark.needs("node")

HERE = Path(__file__).parent


@pytest.mark.parametrize("what", ["client", "messenger", "conversation", "notifications"])
def test_the_rules_of_the_sdk(what: str) -> None:
    run_node(str(HERE / f"{what}.test.mjs"))


def test_the_sdk_against_a_real_server(server: Server) -> None:
    run_node(str(HERE / "server.test.mjs"), IM_HTTP=server.http_url, IM_WS=server.ws_url)


@pytest.mark.full("programs")
def test_the_sdk_comes_back_after_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    config = {"app": fixed_ports()}
    server = start_server(config=config)
    output = tmp_path / "states.txt"
    with output.open("w") as states:
        process = spawn(
            [require("node"), *NODE_FLAGS, str(HERE / "stay.mjs")],
            stdin=subprocess.PIPE,
            stdout=states,
            env={**os.environ, "IM_HTTP": server.http_url, "IM_WS": server.ws_url},
        )
    try:
        eventually(lambda: "online" in output.read_text(), what="logged in")
        server.stop()
        eventually(lambda: "waiting 1001" in output.read_text(), what="told that the server goes")
        start_server(config=config, folder=server.folder)
        eventually(lambda: output.read_text().count("online") == 2, what="logged in again")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        end(process)


@pytest.mark.full("programs")
@pytest.mark.needs("npm")
def test_the_examples_of_the_readme_run(server: Server, project: Path) -> None:
    readme = (SDK / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```js\n(.*?)^```$", readme, re.S | re.M)
    assert len(blocks) == 5
    text = "\n".join(blocks).replace("ws://127.0.0.1:8089/acc", server.ws_url)
    text = text.replace("ws://127.0.0.1:8089/ws", server.ws_url.replace("/acc", "/ws")).replace(
        "http://127.0.0.1:8080", server.http_url
    )
    script = project / "example.mjs"
    script.write_text(text, encoding="utf-8")
    shown = run([require("node"), *NODE_FLAGS, str(script)])
    assert "online 0 0" in shown
    assert "1 hello text" in shown
    assert "message dora hello true" in shown
    assert "1 https://im.example.com/a.png image" in shown
    assert "true true 1003 Check the app, the token, and the user's rights." in shown
