"""The chat in the page of another server, whose Content-Security-Policy is strict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jwt
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.receiver import Answer, Post, Receiver
from tests.support import Server, eventually

APP = "shop"
SECRET = "a secret that is long enough to be one"
CONFIG = {
    "apps": {APP: {"jwt": [{"key": SECRET}], "origins": ["127.0.0.1"]}},
    "api": {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]},
}
PAGE = """<!doctype html>
<html lang="en"><title>A shop</title><link rel="icon" href="data:,"><main><h1>A shop</h1></main>
<script src="{chat}/static/embed.js" data-app="shop" data-to="bob" data-session="/session"
  data-label="Talk to us" data-lang="en" {more} defer></script>
"""
POLICY = "default-src 'none'; script-src {chat}; frame-src {chat}; connect-src 'self'; img-src data:"
BUTTON = "document.querySelector('imserver-chat').shadowRoot.querySelector('button')"
FRAME = "document.querySelector('imserver-chat').shadowRoot.querySelector('iframe')"


class Shop:
    """A server with one page, which gives the session tokens of its user. ``seconds``: how long they last."""

    def __init__(self, chat: str) -> None:
        self.address = ""
        self.more = ""
        self.chat = chat
        self.seconds = 600.0
        self.requests = 0

    def answer(self, path: str) -> tuple[str, str]:
        if path != "/session":
            return "text/html; charset=utf-8", PAGE.format(chat=self.chat, more=self.more)
        self.requests += 1
        claims = {"sub": "ann", "app": APP, "exp": time.time() + self.seconds}
        return "application/json", json.dumps({"user": "ann", "token": jwt.encode(claims, SECRET, "HS256")})


@contextmanager
def shop_of(server: Server) -> Iterator[Shop]:
    # The page and the chat are of two sites: of 127.0.0.1 and of localhost.
    shop = Shop(server.http_url.replace("127.0.0.1", "localhost"))

    def reply(request: Post) -> Answer:
        kind, body = shop.answer(request.path)
        policy = POLICY.format(chat=shop.chat)
        return 200, body.encode(), {"Content-Type": kind, "Content-Security-Policy": policy}

    with Receiver() as site:
        site.reply, shop.address = reply, site.url
        yield shop


def push(server: Server, sender: str, to: str, text: str) -> None:
    with Api(server.http_url, CONFIG["api"]["keys"][0]["key"]) as api:
        api.push(APP, text, user=to, sender=sender, store=True)


def label(page: Page) -> str:
    return str(page.run(f"return {BUTTON}.getAttribute('aria-label')"))


def newest_of_bob(server: Server) -> str:
    with Api(server.http_url, CONFIG["api"]["keys"][0]["key"]) as api:
        listed = api.call("GET", "conversations", {"app": APP, "user": "bob"})["conversations"]
    return str(listed[0]["last"]["text"])


def test_a_page_with_a_strict_policy_has_the_chat(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=CONFIG)
    with shop_of(server) as shop:
        page = pair[0].open(shop.address)
        eventually(lambda: page.run("return Boolean(window.imserverChat)"), what="the script runs")
        push(server, "bob", "ann", "may I help?")
        push(server, "cleo", "ann", "of another conversation")
        eventually(lambda: label(page) == "Talk to us, 1 unread", what="the button counts")
        page.run(f"{BUTTON}.click()")
        page.driver.switch_to.frame(page.run(f"return {FRAME}"))
        eventually(lambda: page.texts("[role=log] article .text") == ["may I help?"], what="it is open")
        assert not page.shown(".side"), "another conversation is not of this page"
        assert not page.shown("#back")
        page.find("#message").send_keys("yes, please\n")
        eventually(lambda: newest_of_bob(server) == "yes, please", what="bob has it")
        page.press(Keys.ESCAPE)
        page.driver.switch_to.default_content()
        eventually(lambda: page.run(f"return {FRAME}.className") == "closed", what="Escape closes it")
        eventually(lambda: label(page) == "Talk to us", what="all is read")
        push(server, "bob", "ann", "what else?")
        eventually(lambda: label(page) == "Talk to us, 1 unread", what="what is hidden is not read")


def test_the_page_is_asked_again_when_the_token_has_expired(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=CONFIG)
    with shop_of(server) as shop:
        shop.seconds = 2.0
        page = pair[0].open(shop.address)
        eventually(lambda: shop.requests > 1, what="there is a second token")
        shop.seconds = 600.0
        requests = shop.requests
        eventually(lambda: shop.requests > requests, what="there is one that lasts")
        push(server, "bob", "ann", "still there?")
        eventually(lambda: label(page) == "Talk to us, 1 unread", what="the page is connected again")


def test_the_chat_is_loaded_when_somebody_opens_it(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=CONFIG | {"chat": {"colour": "#2457a6"}})
    with shop_of(server) as shop:
        shop.more = 'data-badge="no"'
        page = pair[0].open(shop.address)
        eventually(lambda: page.run("return Boolean(window.imserverChat)"), what="the script runs")
        assert page.run(f"return getComputedStyle({BUTTON}).backgroundColor") == "rgb(36, 87, 166)"
        page.driver.execute_async_script("requestIdleCallback(arguments[0], { timeout: 10_000 })")
        assert (page.run(f"return {FRAME}.src"), shop.requests) == ("", 0)
        push(server, "bob", "ann", "may I help?")
        page.run(f"{BUTTON}.click()")
        page.driver.switch_to.frame(page.run(f"return {FRAME}"))
        eventually(lambda: page.texts("[role=log] article .text") == ["may I help?"], what="it is open")


def test_the_console_of_a_page_that_is_not_listed_says_what_to_list(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(
        config=CONFIG | {"apps": {APP: CONFIG["apps"][APP] | {"origins": ["shop.example"]}}}
    )
    with shop_of(server) as shop:
        page = pair[0].open(shop.address)
        heard: list[str] = []

        def has_hint() -> bool:
            heard.extend(pair[0].complaints())
            return any(f"List {shop.address} in the origins of the app" in each for each in heard)

        eventually(has_hint, what="the hint")
        assert any("frame-ancestors" in each for each in heard), "the browser refuses the frame"
        assert not page.run(f"return {FRAME}.contentDocument")
