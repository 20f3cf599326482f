"""Runs the tests of the JavaScript SDK by node, and what they cannot do alone: restart a server."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from imserver.assets import SDK
from tests.conftest import StartServer
from tests.processes import end, spawn
from tests.support import Server, eventually
from tests.tools import require

pytestmark = pytest.mark.needs("node")

HERE = Path(__file__).parent


def run_node(*arguments: str, **environment: str) -> None:
    """Run node's test runner (node 20 hides its WebSocket behind a flag); a failure shows its report."""
    command = [require("node"), "--no-warnings", "--experimental-websocket", "--test", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert "# pass 0" not in done.stdout


def test_the_rules_of_the_sdk() -> None:
    run_node(str(HERE / "client.test.mjs"))


def test_the_rules_of_the_messenger() -> None:
    run_node(str(HERE / "messenger.test.mjs"))


def test_the_sdk_against_a_real_server(server: Server) -> None:
    run_node(str(HERE / "server.test.mjs"), IM_HTTP=server.http_url, IM_WS=server.ws_url)


@pytest.mark.timeout(90)
def test_the_sdk_comes_back_after_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    output = tmp_path / "states.txt"
    with output.open("w") as states:
        process = spawn(
            [require("node"), "--no-warnings", "--experimental-websocket", str(HERE / "stay.mjs")],
            stdin=subprocess.PIPE,
            stdout=states,
            env={**os.environ, "IM_HTTP": server.http_url, "IM_WS": server.ws_url},
        )
    try:
        eventually(lambda: "online" in output.read_text(), what="logged in")
        server.stop()
        eventually(lambda: "waiting 1001" in output.read_text(), what="told that the server goes")
        ports = {"http_port": server.http.port, "websocket_port": server.ws.port}
        start_server(config={"app": ports}, folder=server.folder)
        eventually(lambda: output.read_text().count("online") == 2, seconds=20, what="logged in again")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        end(process)


def test_the_examples_of_the_readme_run(server: Server, tmp_path: Path) -> None:
    readme = (SDK / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```js\n(.*?)^```$", readme, re.S | re.M)
    assert len(blocks) == 4
    text = "\n".join(blocks).replace("http://127.0.0.1:8080/sdk", SDK.as_uri())
    text = text.replace("ws://127.0.0.1:8089/acc", server.ws_url)
    text = text.replace("ws://127.0.0.1:8089/ws", server.ws_url.replace("/acc", "/ws")).replace(
        "http://127.0.0.1:8080", server.http_url
    )
    script = tmp_path / "example.mjs"
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [require("node"), "--no-warnings", "--experimental-websocket", str(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "online 0 0" in done.stdout
    assert "1 hello text" in done.stdout
    assert "message dora hello true" in done.stdout
    assert "1 https://im.example.com/a.png image" in done.stdout
