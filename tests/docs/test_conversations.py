"""What the documents say of the action dialect: transcripts are played, tables compared with the code."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from imserver.dialects.action.wire import ACTIONS, PUSHED
from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks, table_with
from tests.docs.play import Shell, matches
from tests.integration.action import ActionClient
from tests.integration.raw import close, text
from tests.support import ROOT

ACTION = ROOT / "docs" / "reference" / "action-dialect.md"
TRANSCRIPTS = [block for page in PAGES for block in blocks(page, "text") if "talks" in block.words]
_LINE = re.compile(r"(\w+) ([→←]) (.*)")


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_of_conversations_is_what_goes_over_the_wire(
    block: Block, start_server: StartServer, tmp_path: Path
) -> None:
    """``$ …`` runs; ``ann → GET …`` connects, ``ann → close …`` ends, ``ann ← …`` is what she gets.

    ``kept``: the app is one that keeps talks, and while its session catches up a speaker may be answered
    before it hears what it has said.
    """
    apps = {"action:3": {"store_conversations": True}}
    server = start_server(config={"apps": apps}) if "kept" in block.words else start_server()
    talkers: dict[str, ActionClient] = {}
    early: dict[str, str] = {}
    lines = iter(block.text.splitlines())
    with ExitStack() as stack:
        for line in lines:
            if line.startswith("$ "):
                found = Shell(tmp_path, server).run(line[2:])
                assert matches(found, next(lines)), f"{block}: {line}\nfound {found}"
                continue
            named = _LINE.fullmatch(line)
            assert named, f"{block}: {line}"
            name, way, words = named.groups()
            if words.startswith("GET "):
                talkers[name] = stack.enter_context(ActionClient(server.ws)).upgrade(
                    words.removeprefix("GET ")
                )
            elif words.startswith("close "):
                talkers.pop(name).send(close(int(words.split()[1])))
            elif way == "→":
                talkers[name].send(text(words))
            else:
                found = early.pop(name, None) or talkers[name].message().text
                if "kept" in block.words and not matches(found, words) and _is_answer(found):
                    early[name], found = found, talkers[name].message().text
                assert matches(found, words), f"{block}: {line}\nfound {found}"
        assert not early
        for one in talkers.values():
            one.quiet()


def _is_answer(found: str) -> bool:
    return '"action":"sendmsg","response":' in found


def test_there_are_such_transcripts() -> None:
    assert TRANSCRIPTS


def test_the_actions_are_those_of_the_code() -> None:
    rows = table_with(ACTION, "action", "data", "")
    assert [row["action"] for row in rows] == list(ACTIONS)


def test_the_pushes_are_those_of_the_code() -> None:
    rows = table_with(ACTION, "action", "when", "who gets it", "content", "msgId")
    assert {row["action"] for row in rows} == set(PUSHED.values())
