"""What the documents say of the protobuf dialect: transcripts are played, tables compared with the code."""

import re
from contextlib import ExitStack

import pytest

from imserver.protocol.protobuf import COMMANDS, MESSAGE_TYPES
from imserver.services.chats import HOLD_SECONDS, PAGE
from imserver.services.uplink import MAX_WAITING, MAX_WAITING_BYTES
from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks, table_with
from tests.integration.gochat import register
from tests.integration.protobuf import Chatter, login
from tests.integration.raw import BINARY
from tests.support import ROOT

PROTOCOL = ROOT / "docs" / "protocol.md"
TRANSCRIPTS = [block for page in PAGES for block in blocks(page, "text") if "chats" in block.words]
_LINE = re.compile(r"(\w+) ([→←]) (.*)")


def bytes_of(words: str) -> bytes:
    return bytes.fromhex(words.replace("|", " "))


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_of_chats_is_what_goes_over_the_wire(block: Block, start_server: StartServer) -> None:
    """``ann → login`` registers her, connects and shows her token; the rest is bytes."""
    server = start_server()
    chatters: dict[str, Chatter] = {}
    with ExitStack() as stack:
        for line in block.text.splitlines():
            named = _LINE.fullmatch(line)
            assert named, f"{block}: {line}"
            name, way, words = named.groups()
            if words == "login":
                chatters[name] = stack.enter_context(Chatter(server.ws)).begin()
                chatters[name].tell(login(register(server.http)[1]))
            elif way == "→":
                chatters[name].tell(bytes_of(words))
            else:
                found = chatters[name].unasked()
                assert (found.opcode, found.payload.hex(" ")) == (BINARY, bytes_of(words).hex(" ")), line
        for one in chatters.values():
            one.silent()


def test_there_are_such_transcripts() -> None:
    assert TRANSCRIPTS


def test_the_kinds_of_frames_are_those_of_the_code() -> None:
    rows = table_with(PROTOCOL, "CmdType", "name", "data", "")
    assert [(int(row["CmdType"]), row["name"]) for row in rows] == [
        (number, name) for number, (name, _) in COMMANDS.items()
    ]


def test_types_and_limits_are_those_of_the_code() -> None:
    text = PROTOCOL.read_text(encoding="utf-8").partition("## The protobuf dialect")[2]
    for number, name in enumerate(MESSAGE_TYPES, 1):
        assert f"{number} {name}" in text
    assert f"at most {PAGE} messages" in text
    assert f"for {HOLD_SECONDS} s" in text
    assert (MAX_WAITING, MAX_WAITING_BYTES) == (1000, 1 << 20), "a thousand messages, and a megabyte"
