"""Questions on the messages page: who answers first, forms of whoever asks, and the page behind a mail."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from msgspec.structs import replace
from selenium.webdriver.common.keys import Keys

from imserver.messenger.messages.model import AskAnswer, AskOption
from imserver.notifications.contract import Wishes
from imserver.notifications.digests import answer_page, gone_page
from imserver.plugin.messages import Ask
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.browser.site import serve_folder
from tests.browser.test_accessibility import violations
from tests.support import Server, eventually

pytestmark = pytest.mark.full

YES_OR_NO = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]


def word(key: str, chat: Chat) -> str:
    """A word that the feature adds to the page."""
    script = "return JSON.parse(document.getElementById('page-data').textContent).text[arguments[0]]"
    found: str = chat.page.run(script, key)
    return found


class Team:
    """Ann asks, Bob and Kim answer, in a group."""

    def __init__(self, server: Server) -> None:
        self.ann, self.bob, self.kim = (Account(server, name) for name in ("Ann", "Bob", "Kim"))
        self.group = self.ann.create_group("Releases", self.bob, self.kim)

    def ask(self, text: str, **more: Any) -> int:
        fields = {"options": YES_OR_NO, **more}
        question = self.ann.post("asks/create", app=APP, conversation=self.group, text=text, **fields)
        return int(question["id"])

    def open(self, pair: Pair, number: int, account: Account, **how: Any) -> Chat:
        chat = Chat(pair[number], account, **how)
        chat.open(self.group)
        return chat

    def question(self, id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ann.post("asks/get", app=APP, id=id)
        return found


@pytest.fixture
def team(server: Server) -> Team:
    return Team(server)


def card(chat: Chat) -> str:
    """All that the last card says, in one line; empty: there is none."""
    found = chat.page.texts("[role=log] .ask")
    return re.sub(r"\s+", " ", found[-1]) if found else ""


def shows(chat: Chat, *words: str) -> None:
    eventually(lambda: all(each in card(chat) for each in words), what=f"{words} in {card(chat)!r}")


def test_of_two_who_tap_at_once_one_answers_and_both_see_it(pair: Pair, team: Team) -> None:
    first, second = team.open(pair, 0, team.bob), team.open(pair, 1, team.kim)
    for number in range(3):
        id = team.ask(f"Deploy {number}?", seconds=3600)
        for chat in (first, second):
            shows(chat, "Yes", "No", "until ")
        taps = [
            Thread(target=chat.click, args=(word,), kwargs={"within": "[role=log] article:last-of-type .ask"})
            for chat, word in ((first, "Yes"), (second, "No"))
        ]
        for tap in taps:
            tap.start()
        for tap in taps:
            tap.join()
        eventually(lambda id=id: team.question(id)["state"] == "answered", what="it is answered")
        (answer,) = team.question(id)["answers"]
        winner, text = ("Bob", "Yes") if answer["user"] == team.bob.user else ("Kim", "No")
        for chat in (first, second):
            name = "You" if chat.account.nickname == winner else winner
            shows(chat, name, text, "Answered")
            assert not chat.page.shown("[role=log] article:last-of-type .ask .key"), "no button is left"
    assert len(first.page.texts("[role=log] .ask-answers b")) == 3, "every card names who has answered"


def test_a_tap_is_pending_until_the_server_has_answered(pair: Pair, team: Team) -> None:
    team.ask("Deploy?")
    chat = team.open(pair, 0, team.bob)
    shows(chat, "Yes")
    chat.page.run(
        "const send = window.fetch; window.fetch = async (...request) => {"
        "  if (String(request[0]).includes('asks/answer')) await new Promise((go) => { window.go = go; });"
        "  return send(...request); };"
    )
    chat.click("Yes")
    shows(chat, word("ask_pending", chat))
    states = chat.page.run(
        "return [...document.querySelectorAll('.ask .key')]"
        ".map((key) => [key.textContent, key.ariaDisabled, key.ariaBusy])"
    )
    assert states == [["Yes", "true", "true"], ["No", "true", None]]
    chat.click("No")  # nothing happens: the first tap counts
    chat.page.run("window.go()")
    shows(chat, "You", "Yes", "Answered")
    assert "No" not in card(chat)


def test_who_may_answer_in_which_words_and_how_many(pair: Pair, team: Team) -> None:
    bob, kim = team.open(pair, 0, team.bob), team.open(pair, 1, team.kim)
    id = team.ask("Which word?", options=[], free_text=True, of=[team.bob.user])
    shows(bob, "Only you")
    shows(kim, "Only Bob")
    assert not kim.page.shown(".ask input")
    bob.named("field", word("ask_text", bob)).send_keys("Jade, or <b>ink</b>" + Keys.ENTER)
    for chat in (bob, kim):
        shows(chat, "Jade, or <b>ink</b>", "Answered")
    assert team.question(id)["answers"][0]["text"] == "Jade, or <b>ink</b>"
    team.ask("Which day?", need=2)
    shows(bob, "0 of 2 answers")
    bob.click("Yes")
    for chat in (bob, kim):
        shows(chat, "1 of 2 answers", "Yes")
    kim.click("No", within="[role=log] article:last-of-type .ask")
    for chat in (bob, kim):
        shows(chat, "Answered", "2 of 2 answers", "Yes", "No")
    assert bob.page.texts("[aria-live=polite].heard") == ["Kim answered: No"]


def test_a_question_is_written_reminded_opened_to_others_and_cancelled(pair: Pair, team: Team) -> None:
    ann, bob = team.open(pair, 0, team.ann), team.open(pair, 1, team.bob)
    field = ann.named("field", ann.word("message"))
    field.send_keys("/")
    eventually(lambda: ann.page.texts("#mentions b") == ["/question"], what="the command is offered")
    field.send_keys("question Deploy tonight?" + Keys.ENTER)
    eventually(lambda: ann.page.shown(".ask-form"), what="the form")
    assert field.get_attribute("value") == ""
    assert ann.page.run("return document.querySelector('#ask-text').value") == "Deploy tonight?"
    for number, text in enumerate(("Yes", "No", "Later"), 1):
        ann.named("field", f"Answer {number}").send_keys(text)
    ann.click(word("ask_go", ann), within="dialog")
    eventually(lambda: not ann.page.shown(".ask-form"), what="the question is sent")
    shows(bob, "Yes", "No", "Later")
    shows(ann, "0 of 2 answers")  # all may answer before it is closed
    eventually(lambda: "Question: Deploy tonight?" in ann.page.texts("#conversations li")[0], what="the list")
    ann.menu("Deploy tonight?", word("ask_remind", ann))
    eventually(lambda: word("ask_reminded", ann) in ann.page.texts(".toast"), what="they are reminded")
    ann.menu("Deploy tonight?", word("ask_cancel", ann))
    ann.click(word("ask_cancel", ann), within="dialog[open]")
    for chat in (ann, bob):
        shows(chat, word("ask_cancelled", chat))
    assert not bob.page.shown(".ask .key")
    id = team.ask("Only for Bob?", of=[team.bob.user])
    shows(ann, "Only Bob")
    ann.menu("Only for Bob?", word("ask_others", ann))
    eventually(lambda: ann.page.texts(".ask-people bdi") == ["Kim"], what="who may be question, too")
    ann.page.click(".ask-people input")
    ann.click(word("ask_others_go", ann), within="dialog")
    shows(bob, "Only you, Kim")
    assert team.question(id)["of"] == [team.bob.user, team.kim.user]


def test_the_form_says_what_is_missing(pair: Pair, team: Team) -> None:
    chat = team.open(pair, 0, team.ann)
    chat.named("field", chat.word("message")).send_keys("/question " + Keys.ENTER)
    eventually(lambda: chat.page.shown(".ask-form"), what="the form")
    chat.page.run("document.querySelector('#ask-text').required = false")
    chat.click(word("ask_go", chat), within="dialog")
    eventually(lambda: chat.page.texts(".ask-form .note") == [word("ask_fault", chat)])
    chat.page.find("#ask-text").send_keys("Tea?")
    chat.page.click(".ask-who input[type=checkbox]")
    eventually(lambda: chat.page.texts(".ask-people bdi") == ["Bob", "Kim"], what="the members")
    assert not violations(chat.page)
    chat.click(word("ask_go", chat), within="dialog")
    eventually(lambda: chat.page.texts(".ask-form .note") == [word("ask_fault_who", chat)])


@pytest.mark.parametrize("how", [("en", False), ("zh", True), ("de", True), ("ar", False)])
def test_nothing_is_in_the_way_of_people_who_see_or_hear_little(
    pair: Pair, team: Team, how: tuple[str, bool]
) -> None:
    language, dark = how
    for text, more in (
        ("Open?", {"need": 2, "seconds": 3600}),
        ("In your words?", {"options": [], "free_text": True}),
        ("For Kim?", {"of": [team.kim.user]}),
        ("Cancelled?", {}),
    ):
        id = team.ask(text, **more)
    team.ann.post("asks/cancel", app=APP, id=id)
    chat = team.open(pair, 0, team.bob, language=language, dark=dark)
    eventually(lambda: len(chat.page.texts("[role=log] .ask")) == 4, what="the cards")
    chat.click("Yes")
    shows(chat, word("ask_cancelled", chat))
    eventually(lambda: chat.page.texts(".ask-answers li") != [], what="the answer")
    assert not violations(chat.page)


# --- the page behind a mail ---------------------------------------------------------------------------------


def answer_pages(language: str) -> dict[str, str]:
    """The page behind a mail, by its state."""
    options = (AskOption("Yes", "yes"), AskOption("No, after the release of next week", "no"))
    question = Ask(options, text=True, until=1_795_000_000_000)
    named = {"2": "Bob"}, Wishes(language=language)
    states = {
        "open": question,
        "words": Ask(text=True),
        "late": replace(question, state="answered", answers=(AskAnswer(user="2", value="no", time=0),)),
        "cancelled": replace(question, state="cancelled"),
    }
    text = "Deploy version 2.4?\nIt has all that we want."
    pages = {name: answer_page(each, text, "3", "Ann", *named, "yes") for name, each in states.items()}
    pages["long"] = answer_page(Ask(text=True), text, "3", "Ann", *named, "", too_long="tea" * 400)
    return pages | {"gone": gone_page(language)}


@pytest.mark.parametrize("language", ["en", "zh", "de", "ar"])
def test_the_page_behind_a_mail_is_for_everybody(pair: Pair, tmp_path: Path, language: str) -> None:
    for name, html in answer_pages(language).items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
    pair.expects("favicon")
    with serve_folder(tmp_path) as site:
        for name, dark in (
            ("open", False),
            ("open", True),
            ("words", False),
            ("long", True),
            ("late", True),
            ("gone", False),
        ):
            page = pair[0].open(f"{site}/{name}.html", size=(360, 640), dark=dark)
            assert not violations(page), name
            assert page.run("return document.documentElement.scrollWidth") <= 360
