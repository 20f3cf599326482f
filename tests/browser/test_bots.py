"""Bots on the page of stored messages: made on the page, and answering as programs of their own."""

import urllib.request
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.bots import ExampleBot, LanguageModel
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.browser.test_people import close
from tests.conftest import StartServer
from tests.support import Server, eventually

pytestmark = pytest.mark.full

LIMITS = {"accounts": {"registrations_per_address": 0}}


def make_bot(chat: Chat, nickname: str, name: str) -> str:
    """Make a bot on the page. Returns its token."""
    page = chat.page
    page.click("#me")
    page.click("#bots")
    page.click("#new-bot")
    eventually(lambda: page.shown("#bot-nickname"), what="the form")
    page.find("#bot-nickname").send_keys(nickname)
    page.find("#bot-name").send_keys(name + Keys.ENTER)
    eventually(lambda: page.shown(".secret"), what="the token")
    token = str(page.find(".secret").get_attribute("value"))
    for _ in range(3):
        close(page)
    return token


def add_to(chat: Chat, group: int, token: str) -> None:
    bot = token.split("_")[1]
    chat.account.post("groups/invite", app="gochat", group=str(group), members=[bot])


def test_a_bot_is_made_and_answers(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(config=LIMITS)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    first, second = Chat(pair[0], ann), Chat(pair[1], bob)
    token = make_bot(first, "Echo", "echo_bot")
    bot = ExampleBot(server, "echo-bot", token, tmp_path)
    add_to(first, group, token)
    for chat in (first, second):
        chat.open(group)
    field = second.named("field", second.word("message"))
    field.send_keys("/")
    eventually(lambda: second.page.texts("#mentions b") == ["/echo", "/question"], what="the commands")
    field.send_keys(Keys.ENTER)
    eventually(lambda: field.get_attribute("value") == "/echo ", what="the command is completed")
    field.send_keys("tea" + Keys.ENTER)
    for chat in (first, second):
        eventually(lambda chat=chat: "You said: tea" in chat.texts, what="the answer")
        assert chat.page.texts("[role=log] .from .mark") == ["Bot"]
    second.click("Louder")
    for chat in (first, second):
        eventually(lambda chat=chat: "YOU SAID: TEA" in chat.texts, what="the edited answer")
        eventually(lambda chat=chat: not chat.page.shown(".key"), what="the message without buttons")
    bot.kill()
    second.say("/echo more")
    bot.start()
    eventually(lambda: "You said: more" in second.texts, what="the answer to a message in between")
    bot.kill()
    second.click("Enough")
    eventually(lambda: second.page.texts(".key[aria-pressed=true]") == ["Enough"], what="the press is shown")
    assert first.page.texts(".key[aria-pressed=true]") == []


def test_an_answer_grows_and_becomes_a_message(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(config=LIMITS)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    first = Chat(pair[0], ann)
    token = make_bot(first, "Robo", "robo_bot")
    add_to(first, group, token)
    model = LanguageModel(["Tea ", "is ", "ready."])
    bot = ExampleBot(server, "llm-bot", token, tmp_path, LLM_URL=model.url)
    try:
        first.open(group)
        first.say("/ask tea?")
        eventually(lambda: first.texts[-1:] == ["Tea is"], what="the beginning")
        assert first.page.shown(".streamed .caret")
        second = Chat(pair[1], bob)
        second.open(group)
        eventually(lambda: second.texts[-1:] == ["Tea is"], what="the text so far on a page that comes late")
        model.gate.set()
        for chat in (first, second):
            eventually(
                lambda chat=chat: chat.texts == ["/ask tea?", "Tea is ready."], what="the whole answer"
            )
            eventually(lambda chat=chat: not chat.page.shown(".streamed"), what="the stored message")
    finally:
        model.stop()
        bot.kill()


def test_whoever_reads_an_answer_stops_it(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=LIMITS)
    ann = Account(server, "Ann")
    bot = ann.post("bots", name="long_bot")
    chat = Chat(pair[0], ann)
    with Api(server.http_url, key=bot["token"]) as api:
        body = {"app": "gochat", "to": ann.user, "text": "Tea is a "}
        stream = api.call("POST", "messages/stream/open", body)["stream"]
        chat.page.run("location.hash = '#u/' + arguments[0]", bot["id"])
        eventually(lambda: chat.texts == ["Tea is a"], what="the beginning")
        chat.click(chat.word("messages_stop"), within=".streamed")
        eventually(lambda: not chat.page.shown(".streamed"), what="the stored message")
        late = {"app": "gochat", "pieces": [{"stream": stream, "piece": 1, "text": "shrub"}]}
        api.call("POST", "messages/stream/append", late)
    assert chat.texts == ["Tea is a"]
    assert ann.get("conversations")["conversations"][0]["last"]["text"] == "Tea is a "


def test_an_answer_whose_bot_has_died_is_marked(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=LIMITS | {"limits": {"stream_seconds": 0.5}})
    ann = Account(server, "Ann")
    bot = ann.post("bots", name="mortal_bot")
    chat = Chat(pair[0], ann)
    with Api(server.http_url, key=bot["token"]) as api:
        body = {"app": "gochat", "to": ann.user, "text": "Tea is "}
        stream = api.call("POST", "messages/stream/open", body)["stream"]
        pieces = [{"stream": stream, "piece": 1, "text": "re"}]
        api.call("POST", "messages/stream/append", {"app": "gochat", "pieces": pieces})
    eventually(lambda: chat.page.texts("#conversations li") != [], what="the stored answer")
    chat.page.run("location.hash = '#u/' + arguments[0]", bot["id"])
    eventually(lambda: chat.texts == ["Tea is re"], what="the text so far")
    assert chat.page.texts("[role=log] .incomplete") == [chat.word("messages_incomplete")]


def post(server: Server, url: str, body: str) -> int:
    """The status of the answer of an incoming webhook."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return int(answer.status)


def test_a_group_has_incoming_webhooks_and_says_what_bots_see(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=LIMITS)
    ann = Account(server, "Ann")
    group = ann.create_group("Tea")
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(group)
    page.click("#conversation-open")
    page.click("[data-key=rules]")
    eventually(lambda: page.shown("[data-key=new-hook]"), what="the rules of the group")
    page.click("[data-key=new-hook]")
    eventually(lambda: page.shown("#hook-nickname"), what="the form")
    page.find("#hook-nickname").send_keys("Builds" + Keys.ENTER)
    eventually(lambda: page.shown(".secret"), what="the address")
    url = str(page.find(".secret").get_attribute("value"))
    close(page)
    assert post(server, url, '{"text":"Build 7 is done"}') in (200, 201)
    page.run(
        "const box = document.querySelector('[data-key=bots]');"
        "box.value = 'all'; box.dispatchEvent(new Event('change'))"
    )
    eventually(
        lambda: ann.get("groups/show", group=str(group))["bots"] == "all", what="the rule of the group"
    )
    page.click("[data-key^='revoke:']")
    page.click("dialog:last-of-type .wide.danger")
    eventually(lambda: not page.shown("[data-key^='revoke:']"), what="no address is left")
    close(page)
    eventually(lambda: chat.texts == ["Build 7 is done"], what="the message")
    assert page.texts("[role=log] .from bdi") == ["Builds"]


def test_a_bot_of_the_gallery_is_started(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=LIMITS)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bot = ann.post("bots", name="weather_bot", nickname="Weather")
    commands = [{"name": "today", "description": "Rain or sun"}]
    fields = {"description": "The weather of your town", "commands": commands, "listed": True}
    ann.post("bots/update", app="gochat", bot=bot["id"], **fields)
    chat = Chat(pair[0], bob)
    page = chat.page
    page.click("#new-conversation")
    page.click("#bot-gallery")
    eventually(lambda: page.texts(".bots .person small") == [fields["description"]], what="the gallery")
    page.click(".bots .person")
    eventually(lambda: page.texts(".card-of-person code") == ["/today"], what="the card")
    assert violations(page) == []
    page.click("#bot-start")
    eventually(lambda: chat.texts == ["/start"], what="the start")
    second = Chat(pair[1], ann)
    second.page.run("location.hash = '#u/' + arguments[0]", bot["id"])
    eventually(lambda: second.page.shown("#start-card #bot-start"), what="the card in an empty conversation")
    second.say("Hello")
    eventually(lambda: not second.page.shown("#start-card"), what="no card beside messages")
