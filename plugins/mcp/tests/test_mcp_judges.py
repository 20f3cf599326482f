"""The suite of MCP, and clients of it, unmodified, on one node and on two."""

import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Site, begun, people, question, running

from tests.browser.chromium import CHROMIUM, DRIVER, Browser
from tests.browser.site import page_of, run_page, serve_folder
from tests.sdk.node import run
from tests.tools import NODE_MODULES, require

HERE = Path(__file__).parent
REQUESTS = "the server would send requests of its own and match the answers, in a session of one node"
MEMORY = "the server would remember what a session has subscribed to"
EXCEPTIONS: dict[str, dict[str, str]] = {
    "2026-07-28": {},
    "2025-11-25": {
        **dict.fromkeys(("tools-call-sampling", "tools-call-elicitation"), REQUESTS),
        **dict.fromkeys(
            ("elicitation-sep1034-defaults", "elicitation-sep1330-enums"), REQUESTS
        ),
        **dict.fromkeys(("resources-subscribe", "resources-unsubscribe"), MEMORY),
        "server-sse-multiple-streams": "it warns of the session id that it does not get",
    },
}
"""Revision → the scenarios that it requires and that do not apply, with the
reasons."""
NOT_REQUIRED = {"http": "not required, and no tool mirrors arguments in headers"}
"""First word of the scenarios that no revision requires yet → why they do not
apply."""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    for script in HERE.glob("*.*js"):
        shutil.copy(script, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    return tmp_path


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    "nodes",
    ["one", "two", pytest.param("one killed", marks=pytest.mark.full("programs"))],
)
def test_the_suite_passes(
    nodes: str,
    installed: dict[str, str],
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    program = NODE_MODULES / "@modelcontextprotocol/conformance" / "dist" / "index.js"
    with running(
        tmp_path / "nodes", installed, 1 if nodes == "one" else 2, api={}
    ) as servers:
        url = f"{servers[-1].http_url}/mcp?user=ann"
        # makes the database: the suite waits ten seconds at most
        begun(url, "", "slow_compute", seconds=1)
        if nodes == "one killed":
            servers[0].process.kill()
        for revision, exceptions in EXCEPTIONS.items():
            baseline = tmp_path / f"{revision}.yaml"
            baseline.write_text(
                "server:\n" + "".join(f"  - {name}\n" for name in exceptions) or "{}"
            )
            options = [
                "--requirements",
                revision,
                "--timeout",
                "60000",
                "-o",
                str(tmp_path / revision),
            ]
            options += ["--expected-failures", str(baseline)] if exceptions else []
            shown = run(
                [require("node"), str(program), "server", "--url", url, *options],
                tmp_path,
            )
            assert "tools-list" in shown
            tasks = set(
                re.findall(r"^  ✓ (tasks-\S+) \(extension\)", shown, re.MULTILINE)
            )
            assert len(tasks) == (10 if revision == "2026-07-28" else 0)
            reasons = dict(exceptions)
            for name in re.findall(r"^  ✗ (\S+) \(", shown, re.MULTILINE):
                reasons[name] = NOT_REQUIRED[name.partition("-")[0]]
            for reason in dict.fromkeys(reasons.values()):
                named = ", ".join(
                    f"`{name}`" for name, each in reasons.items() if each == reason
                )
                record_property("exception", f"{revision}: {named}: {reason}")
            record_property(
                "checks",
                sum(map(int, re.findall(r"^Total: (\d+) passed", shown, re.MULTILINE))),
            )


@pytest.mark.parametrize(
    ("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")]
)
def test_mcp_of_pypi(site: Site, mode: str, version: str) -> None:
    command = [
        sys.executable,
        str(HERE / "judge_mcp.py"),
        site.url(),
        site.bot.token,
        site.bob.user,
    ]
    assert run([*command, mode, version]).strip() == "done"


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    ("package", "version"), [("sdk", "2025-11-25"), ("client", "2026-07-28")]
)
def test_clients_of_npm(site: Site, package: str, version: str, scripts: Path) -> None:
    command = [
        require("node"),
        str(scripts / "judge_client.mjs"),
        package,
        site.url(),
        site.bot.token,
    ]
    assert run([*command, site.bob.user, version]).strip() == "done"


@pytest.mark.full("browser")
@pytest.mark.needs("node", "esbuild")
def test_clients_of_npm_in_a_page_of_another_origin(
    installed: dict[str, str], scripts: Path, tmp_path: Path
) -> None:
    require(*CHROMIUM)
    require(DRIVER)
    site = page_of(tmp_path, scripts / "page_client.js")
    apps = {"gochat": {"origins": ["localhost"]}}
    with (
        running(tmp_path / "nodes", installed, 2, apps=apps) as servers,
        serve_folder(site) as address,
    ):
        _, bob, bot = people(servers[0])
        browser = Browser(tmp_path / "chromium")
        try:
            page = browser.open(address)
            for server in servers:  # with both HTTP servers
                for name in ("sdk", "client"):
                    given = {
                        "name": name,
                        "url": f"{server.http_url}/mcp",
                        "token": bot.token,
                    }
                    assert (
                        run_page(page, {**given, "user": bob.user})
                        == f"hello from {name} in a page"
                    )
            # of GET: there is no standing stream
            assert all("405" in each for each in browser.complaints())
        finally:
            browser.quit()


@pytest.mark.full("programs")
@pytest.mark.needs("node")
def test_clients_go_on_at_another_node_when_theirs_is_killed(
    installed: dict[str, str], scripts: Path, tmp_path: Path
) -> None:
    """All of them at once, each while it asks bob and waits. Nothing is lost,
    or done twice."""
    python = [sys.executable, str(HERE / "judge_killed.py")]
    node = [require("node"), str(scripts / "judge_killed.mjs")]
    commands = [[*python, library] for library in ("auto", "legacy", "fastmcp")]
    commands += [[*node, package] for package in ("sdk", "client")]
    with (
        running(tmp_path / "nodes", installed, 2) as (first, last),
        ThreadPoolExecutor() as pool,
    ):
        ann, bob, _ = people(first)
        bots = [ann.bot(f"judge{number}_bot") for number in range(len(commands))]
        urls = f"{first.http_url}/mcp,{last.http_url}/mcp"
        bob.server = last
        runs = [
            pool.submit(run, [*command, urls, bot.token, bob.user])
            for command, bot in zip(commands, bots, strict=True)
        ]
        questions = [question(bob, bot.user)["id"] for bot in bots]
        first.process.kill()
        for each in questions:
            bob.post("asks/answer", id=each, value="yes")
        assert [each.result().strip() for each in runs] == ["done"] * len(runs)
        got = bob.get("messages/sync", after=0, limit=200)["messages"]
        for bot in bots:
            texts = [
                each["text"]
                for each in got
                if each["from"] == bot.user and each["kind"] == "message"
            ]
            assert texts == ["before", "Go on?", "after"]
