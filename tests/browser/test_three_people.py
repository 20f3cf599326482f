"""Three people in four browsers: after hundreds of changes everybody has the same conversation.

Ann has a desktop and a phone, Bob a phone, Cat a desktop. They write, answer, edit, react, recall and send
pictures, while their pages lose the network and come back. ``PEOPLE_ACTIONS`` stretches the test.
"""

import os
import random
from typing import Any

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, media, picture
from tests.support import Server, eventually

pytestmark = [pytest.mark.full("browser")]

ACTIONS = int(os.environ.get("PEOPLE_ACTIONS", "300"))
WEIGHTS = {"say": 40, "reply": 12, "react": 16, "edit": 10, "recall": 4, "picture": 3, "leave": 3, "type": 4}
COLLECT = """
const log = document.querySelector("[role=log]");
const found = new Map();
const frame = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
const read = () => {
  for (const row of log.querySelectorAll("article[data-id]")) {
    const chips = [...row.querySelectorAll(".reaction")].map((each) => each.getAttribute("aria-label"));
    const reactions = chips.map((each) => each.split(",")[0]).sort().join(" ");
    const text = row.querySelector(".text")?.textContent ?? "";
    const picture = row.querySelectorAll("img[src*='/api/v1/uploads/']").length > 0;
    const edited = row.querySelector(".edited") !== null;
    const quoted = row.querySelector(".quote span")?.textContent ?? "";
    found.set(Number(row.dataset.id), [text, reactions, edited, picture, quoted]);
  }
};
const place = () => {
  const drawn = log.querySelectorAll("article");
  return `${log.scrollTop} ${drawn[0]?.dataset.id} ${drawn.length}`;
};
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
"""
"""All rows of the open conversation: from its end to its start, because only some are in the document."""


def stored(reader: Account, conversation: int) -> list[list[Any]]:
    """What a page has to show of a conversation, without what is quoted."""
    rows = [each for each in reader.history(conversation) if each["kind"] == "message"]
    return [
        [
            each["id"],
            each.get("text", ""),
            " ".join(sorted(f"{one['emoji']} {one['count']}" for one in each.get("reactions", ()))),
            "edited" in each.get("meta", {}),
            each.get("type") == "picture",
        ]
        for each in rows
    ]


def test_conversations_end_identical_everywhere(pair: Pair, server: Server) -> None:
    pair.expects("net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to")  # when a page has no network
    ann, bob, cat = people = [Account(server, name) for name in ("Ann", "Bob", "Cat")]
    group = ann.create_group("Tea", bob, cat)
    sizes = ((ann, (1280, 800)), (bob, (390, 844)), (cat, (1280, 800)), (ann, (390, 844)))
    chats = [Chat(pair[number], user, size=size) for number, (user, size) in enumerate(sizes)]
    for chat in chats:
        chat.open(group)
    chance, own, away, typed = random.Random(11), {each.user: [0] for each in people}, set(), 0
    for number in range(ACTIONS):
        (kind,) = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
        person, chat = chance.choice(people), chance.choice(chats)
        near = [id for ids in own.values() for id in ids[1:]] or [0]
        mine, other = own[person.user], chance.choice(near)
        if kind == "edit" and mine[-1]:
            person.post("messages/edit", id=mine[-1], text=f"edited {number}")
        elif kind == "recall" and len(mine) > 3:
            person.post("messages/recall", id=mine.pop(chance.randrange(1, len(mine))))
        elif kind == "react" and other:
            person.post("messages/react", id=other, emoji=chance.choice("👍😂🎉"))
        elif kind == "picture":
            file = person.upload("hills.jpg", picture(320, 240, number % 90))
            person.send(group, "picture", media(file))
        elif kind == "leave":
            (chat.mend if chat in away else chat.cut)()
            away ^= {chat}
        elif kind == "type":
            typed += 1
            chat.say(f"typed {typed:03d}")
        else:
            quoted = {"reply_to": other} if kind == "reply" and other else {}
            text = f"{person.nickname} {number:03d}"
            mine.append(person.post("messages/send", conversation=group, text=text, **quoted)["id"])
    for chat in away:
        chat.mend()

    def number_typed() -> int:
        return sum(row[1].startswith("typed") for row in stored(cat, group))

    eventually(lambda: number_typed() == typed, what="the server has what was typed, once")
    eventually(lambda: [row[:5] for row in chats[0].awaited(COLLECT)] == stored(cat, group), what="Ann, too")
    shown = chats[0].awaited(COLLECT)
    for chat in chats:
        eventually(lambda chat=chat: chat.awaited(COLLECT) == shown, what=f"{chat.account.nickname}, too")
    for chat in chats:  # a page that starts again has the same
        chat.reload()
        chat.sees("[role=log] article")
        eventually(lambda chat=chat: chat.awaited(COLLECT) == shown, what=f"{chat.account.nickname}, again")
