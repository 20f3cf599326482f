"""Transcripts of all dialects but cmd: what the documents show is what goes
over the wire."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks
from tests.docs.play import Shell, lines_of, matches
from tests.integration.action import ActionClient
from tests.integration.client import Listener
from tests.integration.gochat import register
from tests.integration.protobuf import LOGIN, ProtobufClient, field, sent
from tests.integration.raw import BINARY, CLOSE, close, text
from tests.support import Server


class Talker(ActionClient):
    """A client of the action dialect. ``has_log``: while its session catches up
    it may be answered before it hears what it has said."""

    has_log = False
    early = ""

    def begin_with(self, words: str) -> None:
        self.upgrade(words.removeprefix("GET "))

    def say_words(self, words: str) -> None:
        self.send(
            close(int(words.split()[1])) if words.startswith("close ") else text(words)
        )

    def hear(self, words: str) -> str:
        found = self.early or self.message().text
        self.early = ""
        if (
            self.has_log
            and not matches(found, words)
            and '"action":"sendmsg","response":' in found
        ):
            self.early, found = found, self.message().text
        return found

    def ends(self) -> None:
        assert not self.early
        self.quiet()


class Heard(Listener):
    """A client of the client dialect, which remembers its id."""

    def begin_with(self, words: str) -> None:
        self.upgrade(words.removeprefix("GET "))

    def hear(self, _words: str) -> str:
        found = self.frame()
        if found.opcode == CLOSE:
            self.over = True
            return f"close {found.close_code}"
        self.id = self.id or found.json["data"]["clientId"]
        return found.text

    def ends(self) -> None:
        if not self.over:
            self.quiet()


class Chatter(ProtobufClient):
    """A client of the protobuf dialect: ``login`` registers a user and shows
    the token; the rest is bytes."""

    server: Server

    def begin_with(self, words: str) -> None:
        self.begin()
        token = field(1, register(self.server.http)[1].encode())
        self.send_payload(sent(LOGIN, token + bytes_of(words.removeprefix("login"))))

    def say_words(self, words: str) -> None:
        self.send_payload(bytes_of(words))

    def hear(self, _words: str) -> str:
        found = self.frame()
        assert found.opcode == BINARY
        return found.payload.hex(" ")

    def ends(self) -> None:
        self.quiet()


def bytes_of(words: str) -> bytes:
    return bytes.fromhex(words.replace("|", " "))


KINDS = {"talks": Talker, "clients": Heard, "chats": Chatter}
TRANSCRIPTS = [
    block
    for page in PAGES
    for block in blocks(page, "text")
    if {*KINDS} & {*block.words}
]


def test_each_dialect_has_a_transcript() -> None:
    assert {block.words[0] for block in TRANSCRIPTS} == set(KINDS)


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_is_what_goes_over_the_wire(
    block: Block, start_server: StartServer, tmp_path: Path
) -> None:
    """``$ …`` runs, with ann's id in $ANN; ``ann → GET …`` and ``ann → login``
    connect, ``ann → close …`` ends, ``ann ← …`` is what she gets. ``kept``: the
    app is one that keeps talks."""
    has_log = "kept" in block.words
    server = start_server(
        config={"apps": {"action:3": {"store_conversations": True}}} if has_log else {}
    )
    speakers: dict[str, Talker | Heard | Chatter] = {}
    with ExitStack() as stack:
        for name, way, words in lines_of(block):
            if way == "$":
                ids = {
                    each.upper(): one.id
                    for each, one in speakers.items()
                    if isinstance(one, Heard)
                }
                found = Shell(tmp_path, server, **ids).run(name)
                assert matches(found, words), f"{block}: {name}\nfound {found}"
            elif words.startswith(("GET ", "login")):
                one: Talker | Heard | Chatter = stack.enter_context(
                    KINDS[block.words[0]](server.ws)
                )
                if isinstance(one, Chatter):
                    one.server = server
                elif isinstance(one, Talker):
                    one.has_log = has_log
                one.begin_with(words)
                speakers[name] = one
            elif way == "→":
                one = (
                    speakers.pop(name) if words.startswith("close ") else speakers[name]
                )
                assert not isinstance(one, Heard), "they only listen"
                one.say_words(words)
            else:
                found = speakers[name].hear(words)
                wanted = bytes_of(words).hex(" ") if "chats" in block.words else words
                assert matches(found, wanted), (
                    f"{block}: {name} {way} {words}\nfound {found}"
                )
        for one in speakers.values():
            one.ends()
