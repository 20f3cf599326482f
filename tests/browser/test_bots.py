"""Bots on the page of stored messages: made on the page, and answering as programs of their own."""

import urllib.request
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.bots import ExampleBot
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.browser.test_people import close
from tests.conftest import StartServer
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")


def make_bot(chat: Chat, group: int, nickname: str, name: str) -> str:
    """Make a bot on the page, and add it to a group. Returns its token."""
    chat.click("#me", "#bots", "#new-bot")
    chat.write("#bot-nickname", nickname)
    chat.write("#bot-name", name + Keys.ENTER)
    chat.sees(".secret")
    token = str(chat.find(".secret").get_attribute("value"))
    close(chat, 3)
    chat.account.post("groups/invite", group=str(group), members=[token.split("_")[1]])
    return token


def test_a_bot_is_made_and_answers(pair: Pair, server: Server, tmp_path: Path) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    first, second = Chat(pair[0], ann), Chat(pair[1], bob)
    bot = ExampleBot(server, "echo-bot", make_bot(first, group, "Echo", "echo_bot"), tmp_path)
    for chat in (first, second):
        chat.open(group)
    field = second.field
    field.send_keys("/")
    second.has("#mentions b", "/echo", "/question")
    field.send_keys(Keys.ENTER)
    eventually(lambda: field.get_attribute("value") == "/echo ", what="the command is completed")
    field.send_keys("tea" + Keys.ENTER)
    for chat in (first, second):
        chat.reads("/echo tea", "You said: tea")
        assert chat.texts("[role=log] .from .mark") == ["Bot"]
    second.tap("Louder")
    for chat in (first, second):
        chat.reads("/echo tea", "YOU SAID: TEA")
        chat.misses(".key")
    bot.kill()
    second.say("/echo more")
    bot.start()
    second.reads("/echo tea", "YOU SAID: TEA", "/echo more", "You said: more")
    bot.kill()
    second.tap("Enough")
    second.has(".key[aria-pressed=true]", "Enough")
    assert first.texts(".key[aria-pressed=true]") == []


def test_an_answer_grows_may_be_stopped_and_is_marked_if_its_bot_has_died(
    pair: Pair, server: Server, start_server: StartServer
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bot = ann.bot("robo_bot")
    ann.post("groups/invite", group=str(group), members=[bot.user])
    first = Chat(pair[0], ann)
    first.open(group)
    stream = bot.post("messages/stream/open", conversation=group, text="Tea is ")["stream"]
    first.reads("Tea is")
    assert first.shown(".streamed .caret")
    second = Chat(pair[1], bob)
    second.open(group, "Tea is")  # the text so far on a page that comes late
    bot.post("messages/stream/append", pieces=[{"stream": stream, "piece": 1, "text": "ready."}])
    first.reads("Tea is ready.")
    bot.post("messages/stream/close", stream=stream)
    for chat in (first, second):
        chat.misses(".streamed")
        chat.reads("Tea is ready.")

    stream = bot.post("messages/stream/open", to=ann.user, text="Tea is a ")["stream"]
    first.go(f"#u/{bot.user}")
    first.reads("Tea is a")
    first.tap(first.word("messages_stop"), within=".streamed")
    first.misses(".streamed")
    bot.post("messages/stream/append", pieces=[{"stream": stream, "piece": 1, "text": "shrub"}])
    assert first.messages == ["Tea is a"]
    assert ann.get("conversations")["conversations"][0]["last"]["text"] == "Tea is a "

    limits = {"accounts": {"registrations_per_address": 0}, "limits": {"stream_seconds": 0.5}}
    bob = Account(start_server(config=limits), "Bob")
    bot, chat = bob.bot("mortal_bot"), Chat(pair[0], bob)
    bot.post("messages/stream/open", to=bob.user, text="Tea is re")
    chat.sees("#conversations li")
    chat.go(f"#u/{bot.user}")
    chat.reads("Tea is re")
    chat.has("[role=log] .incomplete", chat.word("messages_incomplete"))


def test_a_group_has_incoming_webhooks_and_says_what_bots_see(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("Tea")
    chat = Chat(pair[0], ann)
    chat.open(group)
    chat.click("#conversation-open", "[data-key=rules]", "[data-key=new-hook]")
    chat.write("#hook-nickname", "Builds" + Keys.ENTER)
    chat.sees(".secret")
    url = str(chat.find(".secret").get_attribute("value"))
    close(chat)
    request = urllib.request.Request(url, b'{"text":"Build 7 is done"}', {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        assert answer.status in (200, 201)
    chat.run(
        "const box = document.querySelector('[data-key=bots]');"
        "box.value = 'all'; box.dispatchEvent(new Event('change'))"
    )
    eventually(
        lambda: ann.get("groups/show", group=str(group))["bots"] == "all", what="the rule of the group"
    )
    chat.click("[data-key^='revoke:']", "dialog:last-of-type .wide.danger")
    chat.misses("[data-key^='revoke:']")
    close(chat)
    chat.reads("Build 7 is done")
    assert chat.texts("[role=log] .from bdi") == ["Builds"]


def test_a_bot_of_the_gallery_is_started(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bot = ann.bot("weather_bot", nickname="Weather")
    about, commands = "The weather of your town", [{"name": "today", "description": "Rain or sun"}]
    ann.post("bots/update", bot=bot.user, description=about, commands=commands, listed=True)
    chat = Chat(pair[0], bob)
    chat.click("#new-conversation", "#bot-gallery")
    chat.has(".bots .person small", about)
    chat.click(".bots .person")
    chat.has(".card-of-person code", "/today")
    assert violations(chat) == []
    chat.click("#bot-start")
    chat.reads("/start")
    second = Chat(pair[1], ann)
    second.go(f"#u/{bot.user}")
    second.sees("#start-card #bot-start")
    second.say("Hello")
    second.misses("#start-card")
