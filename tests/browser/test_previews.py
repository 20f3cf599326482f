"""Cards with previews of links below messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.conftest import StartServer
from tests.media.previews.site import Site, html, picture
from tests.support import Server, eventually

pytestmark = [pytest.mark.full("browser")]

CARDS = """
return [...document.querySelectorAll("[role=log] .previews-card")].map((card) => ({
  href: card.href,
  name: card.textContent,
  lines: [...card.querySelectorAll(".previews-lines > *")].map((line) => line.textContent),
  wide: card.classList.contains("previews-wide"),
  drawn: card.querySelector("img")?.naturalWidth,
  hosts: [...card.querySelectorAll("img")].map((each) => new URL(each.src).host === location.host),
  fits: card.scrollWidth <= card.clientWidth && card.getBoundingClientRect().right <= innerWidth,
}))
"""
LONG = "Wide " * 60 + "x" * 300


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as one:
        meta = '<meta property="og:{}" content="{}">'.format
        arabic = "مقهى الشاي في المدينة القديمة"
        tea = "<title>Tea &lt;script&gt;&lt;b&gt;</title>"
        one.pages = {
            "/wide": html(f"<title>{LONG}</title>" + meta("description", LONG) + meta("image", "/wide.png")),
            "/small": html(tea + meta("site_name", "Tea") + meta("image", "/small.png")),
            "/arabic": html(f"<title>{arabic}</title>" + meta("description", f"{arabic}، " * 3)),
            "/none": html("<p>nothing"),
            "/wide.png": picture(1200, 630),
            "/small.png": picture(200, 200, "JPEG"),
        }
        yield one


@pytest.fixture
def server(start_server: StartServer) -> Server:
    settings: dict[str, Any] = {
        "apps": {"gochat": {"previews": True}},
        "accounts": {"registrations_per_address": 0},
        "previews": {"allow_loopback": True},
    }
    return start_server(config=settings)


def test_cards_stand_below_messages(pair: Pair, server: Server, site: Site) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, *(f"see {site.url}/{path}" for path in ("small", "arabic", "none", "wide")))
    ann.say(bob, f"mine: {site.url}/small")
    chat = Chat(pair[0], ann)
    chat.open(ann.newest)
    cards: list[Any] = []

    def has_all() -> bool:
        cards[:] = chat.run(CARDS)
        return len(cards) == 4 and bool(cards[-1]["drawn"])  # those above are loaded when they are seen

    eventually(has_all)
    small = cards[0]
    assert small["lines"][0] == "Tea <script><b>"
    assert small["name"] == "Preview:Tea <script><b>Tea · 127.0.0.1"
    assert [card["wide"] for card in cards] == [False, False, True, False]
    assert all(all(card["hosts"]) and card["fits"] for card in cards)
    chat.menu(f"mine: {site.url}/small", "Remove the preview")
    eventually(lambda: len(chat.run(CARDS)) == 3)
