"""The guides show every route for back ends in a line that is run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from imserver.dialects import pusher
from imserver.dialects.centrifuge import api as centrifugo
from imserver.dialects.centrifuge import streams as emulation
from imserver.gateway.api.v1.presence import MOST_USERS
from imserver.gateway.api.v1.subscribers import MOST_AT_ONCE
from imserver.people.oauth import api as oauth
from tests.conftest import StartServer
from tests.docs.markdown import blocks, prose
from tests.docs.play import at_server, exchanges, play_session
from tests.integration.cmd import users
from tests.processes import spawn
from tests.rows import DOCUMENTED, ROUTES
from tests.support import ROOT, eventually, run_cli

GUIDES = [
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
    ROOT / "docs" / "operations.md",
]
PUSH = ROOT / "docs" / "guides" / "send-a-push.md"
UNSHOWN = {
    ("GET", path)
    for path in (
        "/api/v1/openapi.json",
        "/health",
        "/ready",
        "/metrics",
        "/system/state",
    )
}
"""Routes for operators, and the API description."""
FOREIGN = {
    (row.method, row.path)
    for row in (
        *centrifugo.ROUTES,
        *emulation.ROUTES,
        *pusher.FEATURE.routes,
        *oauth.ROUTES,
    )
}
"""Routes for the libraries of other servers, see docs/reference, and for
browsers that a provider sends."""
WANTED = sorted(
    {
        (row.method, row.path)
        for row in (*ROUTES, *DOCUMENTED)
        if row.path != "/api/register"
    }
    - UNSHOWN
    - FOREIGN
    | {("POST", "/api/register")}  # it takes any method
)


def shown() -> set[tuple[str, str]]:
    """(method, path) of every request that a shell session of the guides
    makes."""
    found = set()
    for block in (block for page in GUIDES for block in blocks(page, "console")):
        for command in (
            part for line, _ in exchanges(block.text) for part in line.split("; ")
        ):
            words = shlex.split(command.replace("$(", " ").replace(")", " "))
            for word in words:
                word = word.replace("$HOOK", "/hooks/*")
                word = word.replace(
                    "$AT", "http://127.0.0.1:8080/api/v1/uploads/tus/{id}"
                )
                if match := re.match(r"http://127\.0\.0\.1:8080(/[^?]*)", word):
                    found.add((_method(words), match[1].replace("$ID", "{id}")))
    return found


def _method(words: list[str]) -> str:
    """The method that curl uses with these words."""
    if "-X" in words:
        return words[words.index("-X") + 1]
    if "-I" in words:
        return "HEAD"
    return "POST" if {"-d", "--data-urlencode", "--data-binary"} & set(words) else "GET"


def test_every_route_has_a_line_and_every_shown_request_a_route() -> None:
    found = shown()
    missing = [each for each in WANTED if each not in found]
    assert missing == [], "show each of these in a curl line of a guide"
    known = {(row.method, row.path) for row in (*ROUTES, *DOCUMENTED)}
    # its own tests run those
    assert {each for each in found if "/mailbox/" not in each[1]} <= known


@pytest.mark.needs("curl")
def test_the_guide_runs_from_top_to_bottom_on_one_server(
    start_server: StartServer, tmp_path: Path
) -> None:
    assert f"or ban has at most {MOST_USERS:,} " in prose(PUSH).replace("\n", " ")
    assert MOST_USERS == MOST_AT_ONCE
    server = start_server()
    connect, create_key = blocks(PUSH, "sh")
    streams = [
        spawn(shlex.split(at_server(line, server)), stdout=subprocess.DEVNULL)
        for line in connect.text.splitlines()
    ]
    try:
        eventually(
            lambda: sorted(users(server.http, "default")) == ["ann", "bob"],
            what="both are connected",
        )
        key = ""
        for block in blocks(PUSH, "console"):
            if block.words and not key:
                line = (
                    create_key.text.strip()
                    .removeprefix("KEY=$(imserver")
                    .removesuffix(")")
                )
                arguments = shlex.split(line)
                result = run_cli(
                    *arguments, IMSERVER_SERVER_DATA_DIR=str(server.folder / "data")
                )
                key = result.stdout.strip()
                eventually(
                    lambda: server.get("/api/v1/counts")[0] == 401,
                    what="demo mode has ended",
                )
            play_session(block, tmp_path, server, KEY=key)
    finally:
        for stream in streams:
            stream.terminate()
            stream.wait()
