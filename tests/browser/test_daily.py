"""What people meet in days of chatting: two journeys of one person."""

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
STOPS = (
    "return document.querySelectorAll('#conversations button[tabindex=\"0\"]').length"
)
HEIGHT = "return document.querySelector('#message').getBoundingClientRect().height"
BELOW = """
const row = document.querySelector("[role=log] article:has(video)");
const [video, time] = ["video", ".when"].map((each) => row?.querySelector(each).getBoundingClientRect());
return time && time.top >= video.bottom;
"""


def test_messages_are_read_copied_and_written_as_people_expect(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello world", "let us eat 饺子 tonight")
    ann.say(bob, ARABIC, "from left to right")
    photo = bob.upload("hills.jpg", picture(600, 400, 40))
    bob.send(ann, "picture", {**media(photo), "caption": "the hills"})
    film = {
        "url": photo["url"],
        "thumbnail": photo["url"],
        "width": 600,
        "height": 400,
        "seconds": 3,
    }
    bob.send(ann, "video", film)
    bot = bob.bot("tea_bot", nickname="Tea bot")
    bot.post("messages/send", to=ann.user, text="# Teas\n```\nmake tea\n```")
    peers = {
        each["peer"]: each["conversation"]
        for each in ann.get("conversations")["conversations"]
    }
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
    chat.sees(".picker .pick")
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
    assert chat.run("return document.activeElement.dataset.conversation") == str(
        peers[bot.user]
    )
    assert chat.run(STOPS) == 1
    chat.press(Keys.ENTER)
    chat.has("[role=log] .heading", "Teas")
    chat.run("document.querySelector('.copy-code').click()")
    eventually(
        lambda: chat.texts(".copy-code") != [chat.word("messages_copy")],
        what="it says how it went",
    )


def test_what_ends_says_so(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello")
    conversation = ann.newest
    group = ann.create_group("Tea", bob)
    alone = ann.create_group("Attic")
    pair.expects("404", "403", "401")
    chat = Chat(pair[0], ann)
    chat.open(alone)
    chat.has("#empty-title", chat.word("messages_alone"))
    chat.tap(chat.word("messages_invite_people"), within="#empty")
    chat.sees(".invite")
    chat.press(Keys.ESCAPE)

    gone = f"#c/{conversation}/999999"
    for address, word in (
        (gone, "unknown_message"),
        ("#c/999999", "unknown_conversation"),
        ("#tea", "link"),
    ):
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

    chat.click("#me", "#security")
    chat.tap(chat.word("messages_password_change"))
    old, new = chat.driver.find_elements(
        "css selector", "dialog.card input[type=password]"
    )
    old.send_keys(PASSWORD)
    new.send_keys(f"{PASSWORD}-2" + Keys.ENTER)
    login_form(chat)
    chat.has("#login .done", chat.word("messages_reset_done"))
    assert not chat.shown("#login-note")
    assert chat.texts("#login-title") == [chat.word("messages_login")]
