"""What the documents say of the protobuf dialect: transcripts are played, tables compared with the code."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from imserver.dialects.protobuf.service import HOLD_SECONDS, PAGE, PAGE_SECONDS
from imserver.dialects.protobuf.uplink import MAX_WAITING, MAX_WAITING_BYTES
from imserver.dialects.protobuf.wire import (
    COMMANDS,
    CT_SIGNAL,
    CT_SYNC,
    FULL_COMMANDS,
    KINDS,
    MESSAGE_TYPES,
    SIGNALS,
)
from imserver.gateway.model import Limit
from imserver.messenger.messages.catch_up import RECOVERED
from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks, table_with
from tests.integration.gochat import register
from tests.integration.protobuf import LOGIN, ProtobufClient, field, sent
from tests.integration.raw import BINARY
from tests.support import ROOT

PROTOBUF = ROOT / "docs" / "reference" / "protobuf-dialect.md"
TRANSCRIPTS = [block for page in PAGES for block in blocks(page, "text") if "chats" in block.words]
_LINE = re.compile(r"(\w+) ([→←]) (.*)")


def words_of(page: Path) -> str:
    """The text of a page on one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def bytes_of(words: str) -> bytes:
    return bytes.fromhex(words.replace("|", " "))


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_of_chats_is_what_goes_over_the_wire(block: Block, start_server: StartServer) -> None:
    """``ann → login`` registers her, connects and shows her token, with the fields behind it; the rest is
    bytes."""
    server = start_server()
    chatters: dict[str, ProtobufClient] = {}
    with ExitStack() as stack:
        for line in block.text.splitlines():
            named = _LINE.fullmatch(line)
            assert named, f"{block}: {line}"
            name, way, words = named.groups()
            if words.startswith("login"):
                chatters[name] = stack.enter_context(ProtobufClient(server.ws)).begin()
                token = field(1, register(server.http)[1].encode())
                chatters[name].send_payload(sent(LOGIN, token + bytes_of(words.removeprefix("login"))))
            elif way == "→":
                chatters[name].send_payload(bytes_of(words))
            else:
                found = chatters[name].frame()
                assert (found.opcode, found.payload.hex(" ")) == (BINARY, bytes_of(words).hex(" ")), line
        for one in chatters.values():
            one.quiet()


def test_there_are_such_transcripts() -> None:
    assert TRANSCRIPTS


def test_the_kinds_of_frames_are_those_of_the_code() -> None:
    rows = table_with(PROTOBUF, "CmdType", "name", "data", "")
    assert [(int(row["CmdType"]), row["name"]) for row in rows] == [
        (number, name) for number, (name, _) in COMMANDS.items()
    ]


def test_the_kinds_of_what_more_may_be_asked_are_those_of_the_code() -> None:
    rows = table_with(PROTOBUF, "CmdType", "request", "answer")
    named = [re.fullmatch(r"(\d+) \[?(\w+).*", row["CmdType"]) for row in rows]
    received = [(int(each[1]), each[2]) for each in named if each]
    commands = [(number, name) for number, (name, _) in FULL_COMMANDS.items() if number > CT_SYNC]
    assert received == [*commands, (CT_SIGNAL, "signal")]


def test_kinds_of_entries_and_signals_are_those_of_the_code() -> None:
    text = words_of(PROTOBUF).partition("## Extended clients")[2]
    for number, name in [*enumerate(KINDS), *enumerate(SIGNALS, 1)]:
        assert re.search(rf"\b{number} {name}\b", text), name
    assert f"at most {RECOVERED} entries" in text
    assert f"{Limit.HIDDEN:,}" in text
    assert f"(at most {Limit.PAGE})" in text


def test_types_and_limits_are_those_of_the_code() -> None:
    text = words_of(PROTOBUF)
    for number, name in enumerate(MESSAGE_TYPES, 1):
        assert f"{number} {name}" in text
    assert f"at most {PAGE} messages" in text
    assert f"for {HOLD_SECONDS} s after its login" in text
    assert f"for {PAGE_SECONDS:g} s after a page" in text
    assert (MAX_WAITING, MAX_WAITING_BYTES) == (1000, 1 << 20), "a thousand messages, and a megabyte"
