"""The Python of the documents that uses the client runs as it stands, against a
real server."""

import pytest

from tests.docs.markdown import PAGES, Block, blocks
from tests.docs.play import at_server
from tests.integration.v1 import good
from tests.support import Server, run_python

EXAMPLES = [
    block
    for page in PAGES
    for block in blocks(page, "python")
    if "client" in block.words
]
OUTPUT = {
    "README.md": ["hello"],
    "A session": ["connecting", "online", "msg shop greeting-1 hello", "ended"],
    "Stored messages": ["dora message hello True", "['hello']"],
    "Load the history, then follow it": ["['packed']", "sent"],
    "Channels": ["orders:17 {'state': 'packed'} 1"],
    "Pushing": ["held", "cmd 1", "1"],
    "Streamed messages": ["Your order has left"],
    "One connection for many pushes": ["100"],
    "asyncio": ["one", "two"],
    "socket.io": ["{'cups': 2}"],
}
"""What each of them prints, by its page or by the heading it stands under."""


def heading_of(block: Block) -> str:
    """The heading above a block; the name of the page where it is the first
    page."""
    if block.page.name == "README.md":
        return "README.md"
    above = block.page.read_text(encoding="utf-8").splitlines()[: block.line]
    return next(
        line for line in reversed(above) if line.startswith("## ")
    ).removeprefix("## ")


@pytest.fixture(scope="module", autouse=True)
def database(server: Server) -> None:
    """It exists before an example writes: to make it may take longer than the
    client waits."""
    good(server.http, "groups/create", {"app": "104", "user": "first", "name": "first"})


@pytest.mark.parametrize("block", EXAMPLES, ids=heading_of)
def test_an_example_of_the_client_does_what_it_says(
    block: Block, server: Server
) -> None:
    assert (
        run_python(at_server(block.text, server)).splitlines()
        == OUTPUT[heading_of(block)]
    )


def test_every_part_of_the_manual_has_an_example() -> None:
    assert {heading_of(block) for block in EXAMPLES} == set(OUTPUT)
