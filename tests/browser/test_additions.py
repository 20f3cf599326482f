"""What a feature of another distribution adds to the messages page: a view, a
menu entry and a panel."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_navigation import MENU, focus
from tests.conftest import StartServer
from tests.lamp_page import install

LAMP = """
const shown = document.querySelector("[role=log] .lamp");
return shown && [shown.textContent, getComputedStyle(shown).color];
"""


@pytest.mark.parametrize(
    ("language", "text", "word"),
    [("en", "The lamp is on", "Lamps"), ("zh", "灯亮了", "灯")],
)
def test_a_feature_adds_to_the_messages_page(
    pair: Pair,
    start_server: StartServer,
    tmp_path: Path,
    language: str,
    text: str,
    word: str,
) -> None:
    config = {"features": ["all", "lamp"], "accounts": {"registrations_per_address": 0}}
    server = start_server(config=config, environment=install(tmp_path))
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.send(ann, "lamp", {"on": True})
    chat = Chat(pair[0], ann, language=language)
    chat.has_some("#conversations", text)
    chat.open(ann.newest)
    chat.gives(LAMP, [text, "rgb(1, 2, 3)"])
    if language == "en":
        chat.tap(text)
        chat.gives(LAMP, ["The lamp is off", "rgb(1, 2, 3)"])
        chat.has_some(".toast", "true There is no such")
    focus(chat, "Bob")
    chat.run(MENU)
    chat.tap(word, within="[role=menu]")
    chat.has(".lamp-panel", "Bob")
