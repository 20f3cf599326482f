"""What people meet in days of chatting: two journeys of one person, and one of three in four browsers.

Ann has a desktop and a phone, Bob a phone, Cat a desktop. They write, answer, edit, react, recall and send
pictures, while their pages lose the network and come back. ``PEOPLE_ACTIONS`` stretches the test.
"""

import os
import random
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, login_form, media, picture
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = [pytest.mark.full("browser")]


ARABIC = "مرحبا بكم جميعا في هذه المحادثة"
COVERS = """
const rows = [...document.querySelectorAll("[role=log] article")];
const row = rows.find((each) => each.textContent.includes(arguments[0]));
const range = document.createRange();
range.selectNodeContents(row.querySelector(".text"));
const lines = [...range.getClientRects()];
const time = row.querySelector(".when").getBoundingClientRect();
const across = (line) => line.left < time.right - 1 && line.right > time.left + 1;
const meets = (line) => across(line) && line.top < time.bottom - 2 && line.bottom > time.top + 2;
return lines.some(meets);
"""
"""Whether the time is above a part of the text of a message."""
COPY = """
const log = document.querySelector("[role=log]");
for (const row of log.querySelectorAll("article")) row.style.userSelect = "text"; // as where there is a mouse
getSelection().selectAllChildren(log);
const text = getSelection().toString();
getSelection().removeAllRanges();
return text;
"""
MENU = """
const event = new MouseEvent("contextmenu", { bubbles: true, cancelable: true });
document.querySelector(arguments[0]).dispatchEvent(event);
"""
STOPS = "return document.querySelectorAll('#conversations button[tabindex=\"0\"]').length"
HEIGHT = "return document.querySelector('#message').getBoundingClientRect().height"
BELOW = """
const row = document.querySelector("[role=log] article:has(video)");
const [video, time] = ["video", ".when"].map((each) => row?.querySelector(each).getBoundingClientRect());
return time && time.top >= video.bottom;
"""


def test_messages_are_read_copied_and_written_as_people_expect(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello world", "let us eat 饺子 tonight")
    ann.say(bob, ARABIC, "from left to right")
    photo = bob.upload("hills.jpg", picture(600, 400, 40))
    bob.send(ann, "picture", {**media(photo), "caption": "the hills"})
    film = {"url": photo["url"], "thumbnail": photo["url"], "width": 600, "height": 400, "seconds": 3}
    bob.send(ann, "video", film)
    bot = bob.bot("tea_bot", nickname="Tea bot")
    bot.post("messages/send", to=ann.user, text="# Teas\n```\nmake tea\n```")
    peers = {each["peer"]: each["conversation"] for each in ann.get("conversations")["conversations"]}
    chat = Chat(pair[0], ann, size=(720, 800))
    chat.open(peers[bob.user])
    eventually(lambda: len(chat.messages) == 5, what="the messages and a caption")
    assert chat.run(HEIGHT) < 45
    assert not chat.run(COVERS, ARABIC)
    assert not chat.run(COVERS, "from left to right")
    eventually(lambda: chat.run(BELOW), what="the time of the video is below it")
    copied = chat.run(COPY)
    assert "hello world" in copied
    assert not [each for each in chat.texts("[role=log] time") if each in copied]
    font = "return getComputedStyle(document.querySelectorAll('[role=log] .text')[arguments[0]]).fontFamily"
    assert chat.run(font, 0) == chat.run(font, 1)
    label = chat.run("return document.querySelector('[role=log] article').ariaLabel")
    assert label.startswith("Bob: hello world, ")

    chat.click("[role=log] .media-picture")
    chat.has(".viewer-caption", "the hills")
    assert chat.texts(".viewer-about bdi") == ["Bob"]
    chat.tap(chat.word("messages_forward"), within=".viewer")
    chat.sees(".choices .choice")
    chat.press(Keys.ESCAPE)
    chat.press(Keys.ESCAPE)
    chat.misses("dialog")

    look = "localStorage.setItem('imserver:look', arguments[0]); dispatchEvent(new Event('look'))"
    chat.run(look, '{"enter": "line"}')
    field = chat.find("#message")
    field.send_keys("one" + Keys.ENTER + "two")
    assert field.get_attribute("value") == "one\ntwo"
    assert field.get_attribute("enterkeyhint") == "enter"
    field.send_keys(Keys.CONTROL + Keys.ENTER + Keys.NULL)
    eventually(lambda: chat.messages[-1:] == ["one\ntwo"], what="it is sent")
    chat.run(look, "{}")

    first = "return document.querySelector('#conversations [data-conversation]').dataset.conversation"
    chat.gives(first, str(peers[bob.user]))
    chat.write(f"[data-conversation='{peers[bob.user]}']", Keys.ARROW_DOWN)
    assert chat.run("return document.activeElement.dataset.conversation") == str(peers[bot.user])
    assert chat.run(STOPS) == 1
    chat.press(Keys.ENTER)
    chat.has("[role=log] .heading", "Teas")
    chat.run("document.querySelector('.copy-code').click()")
    eventually(lambda: chat.texts(".copy-code") != [chat.word("messages_copy")], what="it says how it went")


def test_what_ends_says_so(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    conversation = ann.newest
    group = ann.create_group("Tea", bob)
    alone = ann.create_group("Attic")
    pair.expects("404", "403", "401")
    chat = Chat(pair[0], ann)
    chat.open(alone)
    chat.has("#empty-title", chat.word("messages_alone"))
    chat.tap(chat.word("messages_group_link"), within="#empty")
    chat.sees(".invitations")
    chat.press(Keys.ESCAPE)

    gone = f"#c/{conversation}/999999"
    for address, word in ((gone, "unknown_message"), ("#c/999999", "unknown_conversation"), ("#tea", "link")):
        chat.go(address)
        chat.has_some(".toast span", chat.word(f"messages_fault_{word}"))

    for address in ("#u/%", "#u/nobody"):
        chat.go(address)
        chat.gives("return location.hash", "")
        assert not chat.shown("#composer")
    chat.has_some(".toast span", "Nobody was found")

    ann.post("groups/leave", group=str(group))
    row = f"[data-conversation='{group}']"
    chat.open(alone)
    chat.go(f"#c/{group}")
    chat.has("#read-only", chat.word("messages_fault_unknown_group"))
    chat.run(MENU, row)
    chat.tap(chat.word("messages_remove_left"), within=".menu")
    chat.misses(row)
    chat.reload()
    chat.sees(f"[data-conversation='{alone}']")
    assert not chat.shown(row)

    other = Chat(pair[1], bob)
    other.open(conversation)
    ann.post("friends/block", friend=bob.user)
    chat.open(alone)
    chat.go(f"#c/{conversation}")
    chat.has("#read-only", chat.word("messages_blocked_here", name="Bob"))
    other.say("are you there?")
    other.has(".reason", chat.word("messages_refused_blocked"))

    chat.click("#me")
    chat.tap(chat.word("messages_password_change"))
    old, new = chat.driver.find_elements("css selector", "dialog.card input[type=password]")
    old.send_keys(PASSWORD)
    new.send_keys(f"{PASSWORD}-2" + Keys.ENTER)
    login_form(chat)
    chat.has("#login .done", chat.word("messages_reset_done"))
    assert not chat.shown("#login-note")
    assert chat.texts("#login-title") == [chat.word("messages_login")]


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
