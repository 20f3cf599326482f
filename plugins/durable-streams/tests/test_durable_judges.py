"""The suite of the protocol and the client of npm, unmodified."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ADMIN, CONFIG, STORED

from tests.integration.plug_ins import running
from tests.processes import running as running_process
from tests.sdk.node import run
from tests.tools import NODE_MODULES, require

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("node")]
HERE = Path(__file__).parent
OPEN = {
    **CONFIG,
    "server": {"origins": ["example.com"]},
    "durable_streams": {"long_poll_seconds": 3},
    "api": {"requests_per_second": 0},
    "apps": {"v1": {"open": True, "channels": {"": STORED}}},
}
"""The suite shows no key, and its streams are at ``/v1/stream/``: the app is
``v1``."""
NOT_ASKED = 6
EXCEPTION = "`subscriptions`: a service beside streams; the suite leaves these 6 tests out unless one asks for them"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    return tmp_path


@pytest.mark.parametrize("nodes", ["one", "two", "one killed"])
def test_the_suite_passes(
    nodes: str,
    installed: dict[str, str],
    record_property: Callable[[str, object], None],
    scripts: Path,
    tmp_path: Path,
) -> None:
    program = NODE_MODULES / "vitest" / "vitest.mjs"
    with running(
        tmp_path / "nodes", installed, 1 if nodes == "one" else 2, OPEN
    ) as servers:
        urls = [server.http_url for server in servers]
        if nodes == "one killed":
            servers[0].process.kill()
            urls = urls[1:]
        options = ["--test-timeout=60000", "--reporter=json", "--outputFile=shown.json"]
        command = [
            require("node"),
            str(program),
            "run",
            "--root",
            str(scripts),
            *options,
        ]
        run(command, scripts, NODES=" ".join(urls))
    shown = json.loads((scripts / "shown.json").read_text("utf-8"))
    assert (shown["numFailedTests"], shown["numPendingTests"]) == (0, NOT_ASKED)
    assert shown["numPassedTests"] >= 332
    record_property("checks", shown["numPassedTests"])
    record_property("exception", EXCEPTION)


def test_the_client_of_npm_goes_on_when_its_node_is_killed(
    installed: dict[str, str], scripts: Path, tmp_path: Path
) -> None:
    with running(tmp_path / "nodes", installed, 2, CONFIG) as servers:
        given = {"NODES": " ".join(server.http_url for server in servers), "KEY": ADMIN}
        command = [require("node"), str(scripts / "client.mjs")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with running_process(
            command, cwd=scripts, env={**os.environ, **given}, **pipes
        ) as client:
            assert client.stdout.readline() == b"half\n"
            servers[0].process.kill()
            client.stdin.write(b"go on\n")
            client.stdin.flush()
            assert client.stdout.read() == b"all\n"
