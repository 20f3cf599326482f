"""The chat in the page of another server, whose Content-Security-Policy is
strict."""

import json
import time
from typing import Any

import jwt
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.receiver import Answer, Post, Receiver
from tests.support import Server, eventually
from tests.users import NamedUser

APP = "shop"
SECRET = "a secret that is long enough to be one"
KEY = "key of the back end of tests"
CONFIG = {
    "apps": {APP: {"jwt": [{"key": SECRET}], "origins": ["127.0.0.1"]}},
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
}
PAGE = """<!doctype html>
<html lang="en"><title>A shop</title><link rel="icon" href="data:,"><main><h1>A shop</h1></main>
<script src="{chat}/static/embed.js" data-app="shop" data-to="bob" data-session="/session"
  data-label="Talk to us" data-lang="en" {more} defer></script>
"""
POLICY = "default-src 'none'; script-src {chat}; frame-src {chat}; connect-src 'self'; img-src data:"
BUTTON = "document.querySelector('imserver-chat').shadowRoot.querySelector('button')"
LABEL = "return document.querySelector('imserver-chat').shadowRoot.querySelector('button').ariaLabel"
FRAME = "document.querySelector('imserver-chat').shadowRoot.querySelector('iframe')"


class Shop(Receiver):
    """A server with one page, which gives the session tokens of its user.
    ``seconds``: how long they last."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        # The page and the chat are of two sites: of 127.0.0.1 and of localhost.
        self.chat = server.http_url.replace("127.0.0.1", "localhost")
        self.more = ""
        self.seconds = 600.0
        self.reply = self.answer

    def answer(self, request: Post) -> Answer:
        headers = {"Content-Security-Policy": POLICY.format(chat=self.chat)}
        if request.path != "/session":
            page = PAGE.format(chat=self.chat, more=self.more).encode()
            return 200, page, {"Content-Type": "text/html; charset=utf-8", **headers}
        claims = {"sub": "ann", "app": APP, "exp": time.time() + self.seconds}
        body = {"user": "ann", "token": jwt.encode(claims, SECRET, "HS256")}
        return (
            200,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers},
        )

    @property
    def requests(self) -> int:
        return sum(post.path == "/session" for post in self.posts)

    def open(self, browser: Browser, **how: Any) -> Page:
        page = browser.open(self.url, **how)
        page.gives("return Boolean(window.imserverChat)", True)
        return page


def open_chat(page: Page) -> None:
    """Press the button, and look into the frame."""
    page.run(f"{BUTTON}.click()")
    page.driver.switch_to.frame(page.run(f"return {FRAME}"))
    page.has("[role=log] article .text", "may I help?")


def push(server: Server, sender: str, to: str, text: str) -> None:
    with Api(server.http_url, KEY) as api:
        api.push(APP, text, user=to, sender=sender, store=True)


def test_a_page_with_a_strict_policy_has_the_chat(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config=CONFIG)
    bob = NamedUser(server, "bob", KEY, APP)
    with Shop(server) as shop:
        page = shop.open(pair[0])
        push(server, "bob", "ann", "may I help?")
        push(server, "cleo", "ann", "of another conversation")
        page.gives(LABEL, "Talk to us, 1 unread")
        open_chat(page)
        assert not page.shown(".side"), "another conversation is not of this page"
        assert not page.shown("#back")
        page.write("#message", "yes, please\n")
        eventually(
            lambda: "yes, please" in str(bob.get("conversations")), what="bob has it"
        )
        page.press(Keys.ESCAPE)
        page.driver.switch_to.default_content()
        page.gives(f"return {FRAME}.className", "closed")
        page.gives(LABEL, "Talk to us")
        push(server, "bob", "ann", "what else?")
        page.gives(LABEL, "Talk to us, 1 unread")  # what is hidden is not read


def test_the_page_is_asked_again_when_the_token_has_expired(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config=CONFIG)
    with Shop(server) as shop:
        shop.seconds = 2.0
        page = shop.open(pair[0])
        eventually(lambda: shop.requests > 1, what="there is a second token")
        shop.seconds = 600.0
        requests = shop.requests
        eventually(lambda: shop.requests > requests, what="there is one that lasts")
        push(server, "bob", "ann", "still there?")
        page.gives(LABEL, "Talk to us, 1 unread")


def test_the_chat_is_loaded_when_somebody_opens_it(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config=CONFIG | {"chat": {"colour": "#2457a6"}})
    with Shop(server) as shop:
        shop.more = 'data-badge="no"'
        page = shop.open(pair[0])
        assert (
            page.run(f"return getComputedStyle({BUTTON}).backgroundColor")
            == "rgb(36, 87, 166)"
        )
        page.awaited(
            "await new Promise((done) => requestIdleCallback(done, { timeout: 10_000 }))"
        )
        assert (page.run(f"return {FRAME}.src"), shop.requests) == ("", 0)
        push(server, "bob", "ann", "may I help?")
        open_chat(page)


def test_the_console_of_an_unlisted_page_says_what_to_list(
    pair: Pair, start_server: StartServer
) -> None:
    apps = {APP: CONFIG["apps"][APP] | {"origins": ["shop.example"]}}
    with Shop(start_server(config=CONFIG | {"apps": apps})) as shop:
        page = pair[0].open(shop.url)
        heard: list[str] = []

        def has_hint() -> bool:
            heard.extend(pair[0].complaints())
            return any(
                f"List {shop.url} in the origins of the app" in each for each in heard
            )

        eventually(has_hint, what="the hint")
        assert any("frame-ancestors" in each for each in heard), (
            "the browser refuses the frame"
        )
        assert not page.run(f"return {FRAME}.contentDocument")
