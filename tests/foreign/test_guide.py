"""The examples of docs/guides/from-centrifugo.md, with the libraries that they import."""

import sys
from pathlib import Path

import pytest

from tests.docs.markdown import Block, blocks
from tests.docs.play import at_server
from tests.processes import end, spawn
from tests.sdk.node import NODE_FLAGS
from tests.support import ROOT, Server, eventually
from tests.tools import NODE_MODULES, require

from .conftest import KEY, token

GUIDE = ROOT / "docs/guides/from-centrifugo.md"
(PUBLISH,) = [block for block in blocks(GUIDE, "python") if block.words == ("cent",)]
SUBSCRIBE, FALLBACK, CHAT = [block for block in blocks(GUIDE, "js") if block.words == ("centrifuge",)]


def filled_in(block: Block, server: Server) -> str:
    """An example with the server of this test, its key, a token, and a channel that needs none."""
    words = (
        at_server(block.text, server).replace("your API key", KEY).replace("a token of ann", token("guide"))
    )
    words = words.replace("her token for orders:17", token("guide", channel="talk:guide"))
    return words.replace("orders:17", "talk:guide").replace("#ann", "#guide")


def start(block: Block, server: Server, folder: Path) -> tuple[object, Path]:
    """Run an example until it is ended. Returns its process and what it prints."""
    (folder / "node_modules").symlink_to(NODE_MODULES)
    script, output = folder / "example.mjs", folder / "output.txt"
    script.write_text(filled_in(block, server), encoding="utf-8")
    with output.open("w") as printed:
        return spawn([require("node"), *NODE_FLAGS, str(script)], stdout=printed), output


@pytest.mark.needs("node", "centrifuge")
def test_a_subscriber_receives_what_the_back_end_publishes(server: Server, tmp_path: Path) -> None:
    process, output = start(SUBSCRIBE, server, tmp_path)
    program = filled_in(PUBLISH, server)
    try:

        def received() -> bool:
            done = spawn([sys.executable, "-c", program])
            assert done.wait(200) == 0
            return "sent" in output.read_text()

        eventually(received, 200, "the publication")
    finally:
        end(process)  # type: ignore[arg-type]


@pytest.mark.needs("node", "centrifuge")
def test_a_client_takes_the_first_transport_that_works(server: Server, tmp_path: Path) -> None:
    process, output = start(FALLBACK, server, tmp_path)
    try:
        eventually(lambda: output.read_text() == "connected by websocket\n", what="the connection")
    finally:
        end(process)  # type: ignore[arg-type]


@pytest.mark.needs("node", "centrifuge")
def test_an_sdk_is_a_chat_client(server: Server, tmp_path: Path) -> None:
    process, output = start(CHAT, server, tmp_path)
    try:
        eventually(
            lambda: all(each in output.read_text() for each in (" conversations\n", "sent\n")),
            what="the conversations, and a message that was sent",
        )
    finally:
        end(process)  # type: ignore[arg-type]
