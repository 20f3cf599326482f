"""What the documents say of the client dialect: transcripts are played, tables compared with the code."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from imserver.dialects.client.api import ROUTES
from imserver.dialects.client.wire import NOTICES
from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks, table_with
from tests.docs.play import Shell, matches
from tests.integration.client import Listener
from tests.integration.raw import CLOSE
from tests.support import ROOT

CLIENT = ROOT / "docs" / "reference" / "client-dialect.md"
TRANSCRIPTS = [block for page in PAGES for block in blocks(page, "text") if "clients" in block.words]
_LINE = re.compile(r"(\w+) ([→←]) (.*)")


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_of_clients_is_what_goes_over_the_wire(
    block: Block, start_server: StartServer, tmp_path: Path
) -> None:
    """``$ …`` runs, with ann's id in $ANN; ``ann → GET …`` connects, ``ann ← …`` is what she gets."""
    server = start_server()
    listeners: dict[str, Listener] = {}
    lines = iter(block.text.splitlines())
    with ExitStack() as stack:
        for line in lines:
            if line.startswith("$ "):
                ids = {name.upper(): one.id for name, one in listeners.items()}
                found = Shell(tmp_path, server, **ids).run(line[2:])
                assert matches(found, next(lines)), f"{block}: {line}\nfound {found}"
                continue
            named = _LINE.fullmatch(line)
            assert named, f"{block}: {line}"
            name, way, words = named.groups()
            if way == "→":
                listeners[name] = stack.enter_context(Listener(server.ws)).upgrade(words.removeprefix("GET "))
                continue
            found = heard(listeners[name])
            assert matches(found, words), f"{block}: {line}\nfound {found}"
        for one in listeners.values():
            if not one.over:
                one.quiet()


def heard(one: Listener) -> str:
    """What a listener gets next, as the documents write it; it remembers its id."""
    found = one.frame()
    if found.opcode == CLOSE:
        one.over = True
        return f"close {found.close_code}"
    one.id = one.id or found.json["data"]["clientId"]
    return found.text


def test_there_is_such_a_transcript() -> None:
    assert TRANSCRIPTS


def test_the_routes_are_those_of_the_code() -> None:
    rows = table_with(CLIENT, "path", "fields (required in bold)", "data", "scope")
    listed = {row["path"].removesuffix(" (new)"): row["scope"] for row in rows}
    assert listed == {row.path: row.need.scope for row in ROUTES}
    assert set(listed) == {row.path for row in ROUTES}


def test_the_notices_are_those_of_the_code() -> None:
    rows = table_with(CLIENT, "code", "msg", "when")
    assert [(int(row["code"]), row["msg"]) for row in rows] == list(NOTICES.values())
