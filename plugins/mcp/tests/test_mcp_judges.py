"""The suite of MCP, and clients of it, unmodified, on one node and on two."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Site, running

from tests.sdk.node import run
from tests.support import ROOT
from tests.tools import NODE_MODULES, require

HERE = Path(__file__).parent
SUITE = "@modelcontextprotocol/conformance"
EXCEPTIONS = {
    "2026-07-28": (),
    "2025-11-25": (
        # The server would send requests of its own and match the answers, in a session of one node.
        *("tools-call-sampling", "tools-call-elicitation"),
        *("elicitation-sep1034-defaults", "elicitation-sep1330-enums"),
        # The server would remember what a session has subscribed to.
        *("resources-subscribe", "resources-unsubscribe"),
        # It warns of the session id that it does not get.
        "server-sse-multiple-streams",
    ),
}
"""Revision → the scenarios that it requires and that do not apply; README.md has the reasons."""


@pytest.mark.needs("node")
@pytest.mark.parametrize("number", [1, 2])
def test_the_suite_passes(number: int, installed: dict[str, str], tmp_path: Path) -> None:
    program = NODE_MODULES / SUITE / "dist" / "index.js"
    with running(tmp_path / "nodes", installed, number, api={}) as servers:
        url = f"{servers[-1].http_url}/mcp?user=ann"
        for revision, exceptions in EXCEPTIONS.items():
            baseline = tmp_path / f"{revision}.yaml"
            baseline.write_text("server:\n" + "".join(f"  - {name}\n" for name in exceptions) or "{}")
            options = ["--requirements", revision, "--timeout", "60000", "-o", str(tmp_path / revision)]
            options += ["--expected-failures", str(baseline)] if exceptions else []
            shown = run([require("node"), str(program), "server", "--url", url, *options], tmp_path)
            assert "tools-list" in shown


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_mcp_of_pypi(site: Site, mode: str, version: str) -> None:
    command = [sys.executable, str(HERE / "judge_mcp.py"), site.url(), site.bot.token, site.bob.user]
    assert run([*command, mode, version]).strip() == "done"


@pytest.mark.needs("node")
@pytest.mark.parametrize(("package", "version"), [("sdk", "2025-11-25"), ("client", "2026-07-28")])
def test_clients_of_npm(site: Site, package: str, version: str, tmp_path: Path) -> None:
    script = tmp_path / "judge_client.mjs"
    script.write_text((HERE / "judge_client.mjs").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    command = [require("node"), str(script), package, site.url(), site.bot.token, site.bob.user, version]
    assert run(command).strip() == "done"


@pytest.mark.full
def test_fastmcp(site: Site, tmp_path: Path) -> None:
    """It has many dependencies: it gets an environment of its own."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "fastmcp"], check=True, cwd=ROOT)
    code = (
        "import asyncio, sys\n"
        "from fastmcp import Client\n"
        "from fastmcp.client.auth import BearerAuth\n"
        "async def main():\n"
        "    async with Client(sys.argv[1], auth=BearerAuth(sys.argv[2])) as client:\n"
        "        assert 'send' in [tool.name for tool in await client.list_tools()]\n"
        "        sent = await client.call_tool('send', {'to': sys.argv[3], 'text': 'hello from fastmcp'})\n"
        "        uri = f'imserver://conversations/{sent.structured_content[\"conversation\"]}'\n"
        "        assert 'fastmcp' in (await client.read_resource(uri))[0].text\n"
        "asyncio.run(main())\n"
    )
    run([str(python), "-c", code, site.url(), site.bot.token, site.bob.user])
