"""How many rows the messages page keeps in the document, and what a reload asks for. Times: page_speed.py."""

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually

pytestmark = [pytest.mark.full]


_LOADED = """
const loaded = performance.getEntriesByType("resource").filter((each) => each.transferSize);
return [...loaded, ...performance.getEntriesByType("navigation").filter((each) => each.transferSize)]
  .map((each) => new URL(each.name).pathname);
"""


def test_a_reload_asks_for_nothing_but_the_worker_the_websocket_cards_and_wishes(
    pair: Pair, server: Server
) -> None:
    """Browsers show neither the worker nor the WebSocket among these."""
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    chat = Chat(pair[0], ann)
    active = "return Boolean(navigator.serviceWorker.controller)"
    eventually(lambda: chat.page.run(active), what="the worker is active")
    chat.page.driver.refresh()
    chat.online()
    eventually(lambda: chat.page.texts("#conversations b bdi") == ["Bob"], what="the name of Bob")
    wanted = ["/api/v1/accounts/cards", "/api/v1/notifications/conversations"]
    eventually(lambda: sorted(chat.page.run(_LOADED)) == wanted, what="the requests")
