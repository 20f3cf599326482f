"""Bots and questions on the messages page, and the page behind a mail."""

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from selenium.webdriver.common.keys import Keys

from imserver.messenger.log.meta import AskAnswer, AskOption
from imserver.notifications.contract import Wishes
from imserver.notifications.digests import answer_page, gone_page
from imserver.plugin.messages import Ask
from tests.bots import ExampleBot
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.site import serve_folder
from tests.browser.test_accessibility import violations
from tests.browser.test_people import close
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")


def make_bot(chat: Chat, group: int, nickname: str, name: str) -> str:
    """Make a bot on the page, and add it to a group. Returns its token."""
    chat.click("#me", "#bots", "#new-bot")
    chat.write("#bot-nickname", nickname)
    chat.write("#bot-name", name + Keys.ENTER)
    chat.sees(".secret")
    token = str(chat.find(".secret").get_attribute("value"))
    close(chat, 2)
    chat.account.post("groups/invite", group=str(group), members=[token.split("_")[1]])
    return token


def test_a_bot_is_made_and_answers(pair: Pair, server: Server, tmp_path: Path) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    bot = ExampleBot(
        server, "echo-bot", make_bot(first, group, "Echo", "echo_bot"), tmp_path
    )
    for chat in (first, second):
        chat.open(group)
    field = second.field
    field.send_keys("/")
    second.has("#mentions b", "/echo", "/poll", "/question")
    field.send_keys(Keys.ENTER)
    eventually(
        lambda: field.get_attribute("value") == "/echo ",
        what="the command is completed",
    )
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
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bot = ann.bot("robo_bot")
    ann.post("groups/invite", group=str(group), members=[bot.user])
    first = Chat(pair[0], ann)
    first.open(group)
    stream = bot.post("messages/stream/open", conversation=group, text="Tea is ")[
        "stream"
    ]
    first.reads("Tea is")
    assert first.shown(".streamed .caret")
    second = Chat(pair[1], bob)
    second.open(group, "Tea is")  # the text so far on a page that comes late
    bot.post(
        "messages/stream/append",
        pieces=[{"stream": stream, "piece": 1, "text": "ready."}],
    )
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
    bot.post(
        "messages/stream/append",
        pieces=[{"stream": stream, "piece": 1, "text": "shrub"}],
    )
    assert first.messages == ["Tea is a"]
    assert ann.get("conversations")["conversations"][0]["last"]["text"] == "Tea is a "

    stream = bot.post("messages/stream/open", to=ann.user, text="Tea is re")["stream"]
    first.reads("Tea is a", "Tea is re")
    # as the server does if it has died
    bot.post("messages/stream/close", stream=stream, incomplete=True)
    first.has_some("[role=log] .incomplete", first.word("messages_incomplete"))


def test_a_group_has_incoming_webhooks_and_says_what_bots_see(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("Tea")
    chat = Chat(pair[0], ann)
    chat.open(group)
    chat.click("#conversation-open", "[data-key=rules]", "[data-key=new-hook]")
    chat.write("#hook-nickname", "Builds" + Keys.ENTER)
    chat.sees(".secret")
    url = str(chat.find(".secret").get_attribute("value"))
    close(chat)
    request = urllib.request.Request(
        url, b'{"text":"Build 7 is done"}', {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=60
    ) as answer:
        assert answer.status in (200, 201)
    script = (
        "arguments[0].value = 'all'; arguments[0].dispatchEvent(new Event('change'))"
    )
    chat.run(script, chat.find("[data-key=bots]"))
    eventually(
        lambda: ann.get("groups/show", group=str(group))["bots"] == "all",
        what="the rule of the group",
    )
    chat.click("[data-key^='revoke:']", "dialog:last-of-type .wide.danger")
    chat.misses("[data-key^='revoke:']")
    close(chat)
    chat.reads("Build 7 is done")
    assert chat.texts("[role=log] .from bdi") == ["Builds"]


def test_a_bot_of_the_gallery_is_started(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bot = ann.bot("weather_bot", nickname="Weather")
    about = "The weather of your town"
    commands = [{"name": "today", "description": "Rain or sun"}]
    ann.post(
        "bots/update", bot=bot.user, description=about, commands=commands, listed=True
    )
    chat = Chat(pair[0], bob)
    chat.click("#new-conversation", "#bot-gallery")
    chat.has(".bots .person small", about)
    chat.click(".bots .person")
    chat.has(".card-of-person code", "/today")
    chat.click("#bot-start")
    chat.reads("/start")
    second = Chat(pair[1], ann)
    second.go(f"#u/{bot.user}")
    second.sees("#start-card #bot-start")
    second.say("Hello")
    second.misses("#start-card")


YES_OR_NO = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]


class Team:
    """Ann asks, Bob and Kim answer, in a group."""

    def __init__(self, server: Server) -> None:
        self.ann, self.bob, self.kim = (
            Account(server, name) for name in ("Ann", "Bob", "Kim")
        )
        self.group = self.ann.create_group("Releases", self.bob, self.kim)

    def ask(self, text: str, **more: Any) -> int:
        fields = {"options": YES_OR_NO, **more}
        question = self.ann.post(
            "asks/create", conversation=self.group, text=text, **fields
        )
        return int(question["id"])

    def open(self, pair: Pair, number: int, account: Account, **how: Any) -> Chat:
        chat = Chat(pair[number], account, **how)
        chat.open(self.group)
        return chat

    def question(self, id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ann.post("asks/get", id=id)
        return found


@pytest.fixture
def team(server: Server) -> Team:
    return Team(server)


def card(chat: Chat) -> str:
    """All that the last card says, in one line; empty: there is none."""
    found = chat.texts("[role=log] .ask")
    return re.sub(r"\s+", " ", found[-1]) if found else ""


def shows(chat: Chat, *words: str) -> None:
    eventually(
        lambda: all(each in card(chat) for each in words),
        what=f"{words} in {card(chat)!r}",
    )


LAST = "[role=log] article:last-of-type .ask"
SLOW = """
const send = window.fetch;
window.fetch = async (...request) => {
  if (String(request[0]).includes("asks/answer")) await new Promise((go) => { window.go = go; });
  return send(...request);
};
"""


def test_who_may_answer_in_which_words_and_how_many(pair: Pair, team: Team) -> None:
    bob = team.open(pair, 0, team.bob)
    kim = team.open(pair, 1, team.kim)
    id = team.ask("Which word?", options=[], free_text=True, of=[team.bob.user])
    shows(bob, "Only you")
    shows(kim, "Only Bob")
    assert not kim.shown(".ask input")
    bob.named("field", bob.word("ask_text")).send_keys(
        "Jade, or <b>ink</b>" + Keys.ENTER
    )
    for chat in (bob, kim):
        shows(chat, "Jade, or <b>ink</b>", "Answered")
    assert team.question(id)["answers"][0]["text"] == "Jade, or <b>ink</b>"
    team.ask("Which day?", need=2)
    shows(bob, "0 of 2 answers")
    bob.run(SLOW)
    bob.tap("Yes")
    shows(bob, bob.word("ask_pending"))
    states = "return [...document.querySelectorAll('.ask .key')].map((key) => [key.ariaDisabled, key.ariaBusy])"
    assert bob.run(states) == [["true", "true"], ["true", None]]
    bob.tap("No")  # nothing happens: the first tap counts
    bob.run("window.go()")
    for chat in (bob, kim):
        shows(chat, "1 of 2 answers", "Yes")
    kim.tap("No", within=LAST)
    for chat in (bob, kim):
        shows(chat, "Answered", "2 of 2 answers", "Yes", "No")
    assert bob.texts("[aria-live=polite].heard") == ["Kim answered: No"]


def test_a_question_is_written_reminded_opened_to_others_and_cancelled(
    pair: Pair, team: Team
) -> None:
    ann = team.open(pair, 0, team.ann)
    bob = team.open(pair, 1, team.bob)
    ann.field.send_keys("/")
    ann.has("#mentions b", "/poll", "/question")
    ann.field.send_keys("question Deploy tonight?" + Keys.ENTER)
    ann.sees(".ask-form")
    assert ann.field.get_attribute("value") == ""
    assert (
        ann.run("return document.querySelector('#ask-text').value") == "Deploy tonight?"
    )
    for number, text in enumerate(("Yes", "No", "Later"), 1):
        ann.named("field", f"Answer {number}").send_keys(text)
    ann.tap(ann.word("ask_go"), within="dialog")
    ann.misses(".ask-form")
    shows(bob, "Yes", "No", "Later")
    shows(ann, "0 of 2 answers")  # all may answer before it is closed
    ann.has_some("#conversations li", "Question: Deploy tonight?")
    ann.act("Deploy tonight?", "ask_remind")
    ann.has_some(".toast", ann.word("ask_reminded"))
    ann.act("Deploy tonight?", "ask_cancel")
    ann.tap(ann.word("ask_cancel"), within="dialog[open]")
    for chat in (ann, bob):
        shows(chat, chat.word("ask_cancelled"))
    assert not bob.shown(".ask .key")
    id = team.ask("Only for Bob?", of=[team.bob.user])
    shows(ann, "Only Bob")
    ann.act("Only for Bob?", "ask_others")
    ann.has(".picker li bdi", "Kim")
    ann.click(".picker li input")
    ann.tap(ann.word("ask_others_go"), within="dialog")
    shows(bob, "Only you, Kim")
    assert team.question(id)["of"] == [team.bob.user, team.kim.user]


def test_the_form_says_what_is_missing(pair: Pair, team: Team) -> None:
    chat = team.open(pair, 0, team.ann)
    chat.field.send_keys("/question " + Keys.ENTER)
    chat.sees(".ask-form")
    chat.run("document.querySelector('#ask-text').required = false")
    chat.tap(chat.word("ask_go"), within="dialog")
    chat.has(".ask-form .note", chat.word("ask_fault"))
    chat.write("#ask-text", "Tea?")
    chat.click(".ask-who input[type=checkbox]")
    chat.has(".picker li bdi", "Bob", "Kim")
    assert not violations(chat)
    chat.click("dialog:last-of-type .close")
    chat.misses(".picker")
    chat.tap(chat.word("ask_go"), within="dialog")
    chat.has(".ask-form .note", chat.word("ask_fault_who"))


@pytest.mark.parametrize(("language", "dark"), [("zh", True), ("ar", False)])
def test_nothing_is_in_the_way_of_people_who_see_or_hear_little(
    pair: Pair, team: Team, language: str, dark: bool
) -> None:
    team.ask("Open?", need=2, seconds=3600)
    team.ask("In your words?", options=[], free_text=True)
    team.ask("For Kim?", of=[team.kim.user])
    team.ann.post("asks/cancel", id=team.ask("Cancelled?"))
    chat = team.open(pair, 0, team.bob, language=language, dark=dark)
    eventually(lambda: len(chat.texts("[role=log] .ask")) == 4, what="the cards")
    chat.tap("Yes")
    shows(chat, chat.word("ask_cancelled"))
    eventually(lambda: chat.texts(".ask-answers li"), what="the answer")
    assert not violations(chat)


# --- the page behind a mail ---------------------------------------------------


def answer_pages(language: str) -> dict[str, str]:
    options = (
        AskOption("Yes", "yes"),
        AskOption("No, after the release of next week", "no"),
    )
    question = Ask(options, text=True, until=1_795_000_000_000)
    named = {"2": "Bob"}, Wishes(language=language)
    states = {
        "open": question,
        "words": Ask(text=True),
        "late": replace(
            question,
            state="answered",
            answers=(AskAnswer(user="2", value="no", time=0),),
        ),
        "cancelled": replace(question, state="cancelled"),
    }
    text = "Deploy version 2.4?\nIt has all that we want."
    pages = {
        name: answer_page(each, text, "3", "Ann", *named, "yes")
        for name, each in states.items()
    }
    pages["long"] = answer_page(
        Ask(text=True), text, "3", "Ann", *named, "", too_long="tea" * 400
    )
    return pages | {"gone": gone_page(language)}


@pytest.mark.parametrize("language", ["en", "ar"])
def test_the_page_behind_a_mail_is_for_everybody(
    pair: Pair, tmp_path: Path, language: str
) -> None:
    for name, html in answer_pages(language).items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
    pair.expects("favicon")
    light = ("open", "words", "gone")
    dark = ("open", "long", "late")
    looks = [*((name, False) for name in light), *((name, True) for name in dark)]
    with serve_folder(tmp_path) as site:
        for name, dark in looks:
            page = pair[0].open(f"{site}/{name}.html", size=(360, 640), dark=dark)
            assert not violations(page), name
            assert page.overflow <= 0


def votes(chat: Chat) -> list[str]:
    """The count of each option of the last poll, with `*` behind those that the
    user has chosen."""
    script = """
    const last = [...document.querySelectorAll("[role=log] .poll")].at(-1);
    return [...(last?.querySelectorAll(".poll-option") ?? [])].map((row) =>
      row.querySelector(".poll-count").textContent + (row.ariaPressed === "true" ? "*" : ""));
    """
    return list(chat.run(script))


def test_a_poll_is_begun_voted_in_and_closed(pair: Pair, team: Team) -> None:
    ann = team.open(pair, 0, team.ann)
    bob = team.open(pair, 1, team.bob, language="de")
    ann.field.send_keys("/poll Lunch?" + Keys.ENTER)
    ann.sees(".ask-form")
    ann.named("field", "Option 1").send_keys(
        "Soup" + Keys.ENTER + "Pizza" + Keys.ENTER + "Tea"
    )
    ann.named("field", "Several answersOne may choose more than one option.").click()
    ann.tap(ann.word("ask_poll_go"), within="dialog")
    ann.misses(".ask-form")
    ann.has_some("#conversations li", "Poll: Lunch?")
    bob.tap("Pizza, 0 Stimmen")
    for chat, wanted in ((bob, ["0", "1*", "0"]), (ann, ["0", "1", "0"])):
        eventually(
            lambda chat=chat, wanted=wanted: votes(chat) == wanted,
            what="the vote is seen",
        )
    ann.tap("Pizza, 1 vote")
    ann.tap("Soup, 0 votes")
    eventually(lambda: votes(ann) == ["1*", "2*", "0"], what="the own votes at once")
    bob.click("[role=log] .poll-option:nth-child(2)")
    for chat, wanted in ((bob, ["1", "1", "0"]), (ann, ["1*", "1*", "0"])):
        eventually(
            lambda chat=chat, wanted=wanted: votes(chat) == wanted,
            what="what was withdrawn, too",
        )
    ann.tap(ann.word("ask_poll_who"))
    ann.has(".poll-voters li bdi", "You", "You")
    close(ann, 1)
    ann.act("Lunch?", "ask_poll_close")
    ann.tap(ann.word("ask_poll_close"), within="dialog[open]")
    for chat in (ann, bob):
        shows(chat, chat.word("ask_poll_closed"))
        assert violations(chat) == []
    bob.reload()
    eventually(lambda: votes(bob) == ["1", "1", "0"], what="the final results")

    ann.act("Lunch?", "messages_thread_reply")
    ann.tap(ann.word("messages_media_attach"), within=".thread")
    ann.tap(ann.word("ask_poll_new"), within=".menu")
    ann.write("#poll-text", "Tea?")
    ann.named("field", "Option 1").send_keys("Yes" + Keys.ENTER + "No")
    ann.tap(ann.word("ask_poll_go"), within="dialog:modal")
    ann.has_some(".thread .poll", "Yes")
    assert len(ann.texts("#log .poll")) == 1, "it is in the thread alone"


def test_emoji_by_their_names_and_formats_by_keys_and_a_bar(
    pair: Pair, team: Team
) -> None:
    chat = team.open(pair, 0, team.ann, language="de")
    chat.field.send_keys("Hallo :thumbs_u")
    chat.has_some("#mentions li", ":daumen_hoch:")
    chat.field.send_keys(Keys.ENTER + ":rocket: um 10:30")
    value = "return document.querySelector('#message').value"
    chat.gives(value, "Hallo 👍️ 🚀 um 10:30")
    chat.field.send_keys(Keys.CONTROL + "a" + "b" + Keys.NULL)
    chat.gives(value, "*Hallo 👍️ 🚀 um 10:30*")
    chat.field.send_keys(Keys.CONTROL + "az" + Keys.NULL)
    chat.gives(value, "Hallo 👍️ 🚀 um 10:30")
    chat.field.send_keys(Keys.CONTROL + "a" + Keys.NULL)
    chat.sees(".formats")
    chat.click(".format-quote")
    chat.gives(value, "> Hallo 👍️ 🚀 um 10:30")
