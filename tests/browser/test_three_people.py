"""Three people in four browsers: after hundreds of actions everybody has the same conversations.

Ann has a desktop and a phone, Bob a phone, Cat a desktop. They write, answer, edit, react, recall, send
pictures, rename their group, lose the network and come back.
``PEOPLE_ACTIONS`` and ``PEOPLE_SECONDS`` (between two actions) stretch the test.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat, media, picture
from tests.conftest import StartServer
from tests.support import eventually

pytestmark = [pytest.mark.full]

ACTIONS = int(os.environ.get("PEOPLE_ACTIONS", "300"))
PAUSE = float(os.environ.get("PEOPLE_SECONDS", "0"))
PHONE, DESKTOP = (390, 844), (1280, 800)
NEAR = 6
"""Actions are on one of so many last messages, which every page has drawn."""
EMOJI = ("👍", "😂", "🎉")
COLLECT = """
const done = arguments[0];
const log = document.querySelector("[role=log]");
const found = new Map();
const frame = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
const read = () => {
  for (const row of log.querySelectorAll("article[data-id]")) {
    const chips = [...row.querySelectorAll(".reaction")].map((each) => each.getAttribute("aria-label"));
    const reactions = chips.map((each) => each.split(",")[0]).sort().join(" ");
    const text = row.querySelector(".text")?.textContent ?? "";
    const quoted = row.querySelector(".quote span")?.textContent ?? "";
    const picture = row.querySelectorAll("img[src*='/api/v1/uploads/']").length > 0;
    const edited = row.querySelector(".edited") !== null;
    found.set(Number(row.dataset.id), [text, reactions, edited, quoted, picture]);
  }
};
const place = () => {
  const drawn = log.querySelectorAll("article");
  return `${log.scrollTop} ${drawn[0]?.dataset.id} ${drawn.length}`;
};
(async () => {
  for (const step of [log.clientHeight, -0.6 * log.clientHeight]) {
    for (let still = 0; still < 6;) {
      const before = place();
      log.scrollTop += step;
      await frame();
      read();
      still = before === place() ? still + 1 : 0;
    }
  }
  return [...found].sort(([a], [b]) => a - b).map(([id, row]) => [id, ...row]);
})().then(done, (error) => done(String(error)));
"""
"""All rows of the open conversation: from its end to its start, because only some are in the document."""


class Message:
    """A message as everybody must see it in the end."""

    def __init__(self, by: Account, text: str) -> None:
        self.by = by
        self.text = text
        self.edited = False
        self.reactions: set[tuple[str, str]] = set()

    def row(self) -> list[Any]:
        """As :data:`COLLECT` reads it, without its id and its quote."""
        counts = {emoji: sum(each == emoji for each, _ in self.reactions) for emoji in EMOJI}
        shown = sorted(f"{emoji} {count}" for emoji, count in counts.items() if count)
        return [self.text, " ".join(shown), self.edited]


class People:
    """The pages, and what they have said in the conversation that all of them have open."""

    KINDS = ("say", "edit", "react", "reply", "recall", "picture", "away", "rename")
    WEIGHTS = (50, 10, 16, 8, 4, 3, 3, 2)

    def __init__(self, chats: list[Chat], group: int) -> None:
        self.group = group
        self.chats = chats
        self.messages: list[Message] = []
        self.pictures = 0
        self.number = 0
        self.chance = random.Random(11)
        for chat in self.chats:
            chat.open(group)

    def turn(self) -> None:
        """One action of one page."""
        chat = self.chance.choice(self.chats)
        self.act(self.chance.choices(self.KINDS, self.WEIGHTS)[0], chat)

    def act(self, kind: str, chat: Chat) -> None:
        near = self.messages[-NEAR:]
        own = [each for each in near if each.by is chat.account]
        if kind == "edit" and own:
            message = own[-1]
            self.seen(message.text, chat)
            chat.edit(message.text, self.next_text("edited"))
            message.text, message.edited = self.text, True
        elif kind == "react" and near:
            message, emoji = self.chance.choice(near), self.chance.choice(EMOJI)
            self.seen(message.text, chat)
            chat.react(message.text, emoji)
            message.reactions ^= {(emoji, chat.account.user)}
            self.settle(message)
        elif kind == "reply" and near:
            message = self.chance.choice(near)
            self.seen(message.text, chat)
            chat.act(message.text, "messages_reply")
            self.say(chat)
        elif kind == "recall" and own and len(near) == NEAR:
            message = own[0]
            self.seen(message.text, chat)
            chat.recall(message.text)
            self.messages.remove(message)
        elif kind == "picture":
            stored = chat.account.upload("hills.jpg", picture(320, 240, self.number % 90))
            chat.account.send(self.group, "picture", media(stored))
            self.pictures += 1
        elif kind == "away":
            chat.cut()
            for _ in range(2):
                self.say(chat)
            chat.mend()
        elif kind == "rename":
            self.chats[0].account.post(
                "groups/rename", app=APP, group=str(self.group), name=f"Tea {self.number}"
            )
        else:
            self.say(chat)

    def next_text(self, word: str) -> str:
        self.number += 1
        self.text = f"{word} {self.number:05d}"
        return self.text

    def say(self, chat: Chat) -> None:
        chat.say(self.next_text(chat.account.nickname))
        self.messages.append(Message(chat.account, self.text))

    def seen(self, text: str, *chats: Chat) -> None:
        for chat in chats:
            eventually(lambda chat=chat: text in chat.texts, what=f"{text!r} is on the page")

    def settle(self, message: Message) -> None:
        """Two devices of a user must see a reaction before either changes it again."""
        reactions = message.row()[1]
        for chat in self.chats:
            eventually(
                lambda chat=chat: self._reactions(chat, message.text) == reactions,
                what=f"{reactions!r} at {message.text!r}",
            )

    @staticmethod
    def _reactions(chat: Chat, text: str) -> str:
        return str(
            chat.page.run(
                "const row = [...document.querySelectorAll('[role=log] article[data-id]')]"
                ".find((each) => each.querySelector('.text')?.textContent === arguments[0]);"
                "return [...(row?.querySelectorAll('.reaction') ?? [])]"
                ".map((each) => each.getAttribute('aria-label').split(',')[0]).sort().join(' ')",
                text,
            )
        )


def rows(chat: Chat) -> list[list[Any]]:
    """What a page shows of the open conversation."""
    chat.page.driver.set_script_timeout(120)
    found = chat.page.driver.execute_async_script(COLLECT)
    assert isinstance(found, list), found
    return found


def test_conversations_end_identical_everywhere(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    pair.expects("net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to")  # when a page has no network
    server = start_server(config={"accounts": {"registrations_per_address": 0}})
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    group = ann.create_group("Tea", bob, cat)
    chats = [
        Chat(pair[0], ann, size=DESKTOP),
        Chat(pair[1], bob, size=PHONE, dark=True),
        Chat(pair[2], cat, size=DESKTOP),
        Chat(pair[3], ann, size=PHONE),
    ]
    check_after(People(chats, group), ACTIONS)


def check_after(people: People, actions: int) -> None:
    """Everybody has the same messages, once, after so many actions."""
    for _ in range(actions):
        people.turn()
        time.sleep(PAUSE)
    group, reader = people.group, people.chats[2].account

    def stored() -> list[list[Any]]:
        return [
            [each["text"], bool(each.get("meta", {}).get("edited"))]
            for each in reader.history(group)
            if each["kind"] == "message" and "text" in each
        ]

    in_order = sorted([message.text, message.edited] for message in people.messages)
    eventually(lambda: sorted(stored()) == in_order, what="the server has every message once")
    eventually(
        lambda: (
            sorted(row[1:4] for row in rows(people.chats[0]) if row[1])
            == sorted(s.row() for s in people.messages)
        ),
        what="the first page shows every message once",
    )
    shown = rows(people.chats[0])
    assert sum(row[5] for row in shown) == people.pictures
    for chat in people.chats[1:]:
        eventually(lambda chat=chat: rows(chat) == shown, what=f"{chat.account.nickname} sees the same")
    for chat in people.chats:  # a page that starts again has the same
        chat.page.driver.refresh()
        chat.online()
        eventually(lambda chat=chat: chat.page.shown("[role=log] article"), what="the conversation")
        eventually(lambda chat=chat: rows(chat) == shown, what=f"{chat.account.nickname} sees the same again")
