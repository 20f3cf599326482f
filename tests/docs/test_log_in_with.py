"""The guide to logins with providers: its settings, its requests, and its
programs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from imserver_client import StartedLogin
from tests.docs.markdown import Block, blocks
from tests.docs.play import at_server, play_session
from tests.ports import fixed_ports
from tests.processes import spawn
from tests.sdk.node import NODE_FLAGS
from tests.sdk.test_sdk import agree
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import ROOT, Server, clean_environment
from tests.tools import require

GUIDE = ROOT / "docs" / "guides" / "log-in-with.md"
HELLO = "Hello Ann Lee"


def the(language: str) -> Block:
    (found,) = (block for block in blocks(GUIDE, language) if block.words == ("oauth",))
    return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the settings of the guide, but for addresses and
    secrets."""
    settings, *_ = blocks(GUIDE, "yaml")
    config = yaml.safe_load(settings.text)
    provider = StandIn()
    ports = fixed_ports()
    row = config["apps"]["shop"]["oauth"]["company"]
    row |= {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET}
    config["apps"]["shop"]["accounts"] = {"reset_url": "https://shop.example.com/reset"}
    # no session leads to a mail
    config["smtp"] = {"host": "127.0.0.1", "sender": "im@example.com"}
    config["app"] = {**ports, "http_url": f"http://127.0.0.1:{ports['http_port']}"}
    server = Server(tmp_path_factory.mktemp("shop"), config=config)
    yield server
    server.stop()
    server.check()
    provider.stop()


def test_the_requests_are_answered_as_it_says(shop: Server, tmp_path: Path) -> None:
    for session in blocks(GUIDE, "console"):
        play_session(session, tmp_path, shop)


@pytest.mark.full("programs")
def test_the_python_program_logs_in(shop: Server, tmp_path: Path) -> None:
    browser = tmp_path / "browser.py"
    agreeing = "test_sdk.agree(types.SimpleNamespace(url=sys.argv[1], shown=''))"
    browser.write_text(
        f"import sys, types\nfrom tests.sdk import test_sdk\n{agreeing}\n", "utf-8"
    )
    command = [sys.executable, "-c", at_server(the("python").text, shop)]
    environment = clean_environment(BROWSER=f"{sys.executable} {browser} %s")
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert re.fullmatch(r"The page has to show [A-Z]{4}-[A-Z]{4}", first)
    assert last == HELLO


@pytest.mark.full("programs")
@pytest.mark.needs("node")
def test_the_javascript_program_logs_in(shop: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.mjs"
    module = (ROOT / "sdk" / "js" / "accounts.js").as_uri()
    text = at_server(the("js").text, shop).replace("imserver-client/accounts", module)
    script.write_text(text, encoding="utf-8")
    command = [require("node"), *NODE_FLAGS, str(script)]
    program = spawn(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert program.stdout is not None
    found = re.fullmatch(r"Open (\S+) and compare (\S+)\n", program.stdout.readline())
    assert found
    agree(StartedLogin(found[1], "", found[2], 0, 0))
    output, _ = program.communicate(timeout=250)
    assert output.splitlines() == [HELLO]
