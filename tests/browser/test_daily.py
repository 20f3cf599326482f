"""What a person meets in a day of chatting, in two journeys."""

import pytest
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat, login_form, media, picture
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = [pytest.mark.full]

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
MARKDOWN = """# Teas
| Tea | Price |
|---|---|
| green | 3 |
[map](https://example.com/map)
```
make tea
```"""
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
    bot = bob.post("bots", app=APP, name="tea_bot", nickname="Tea bot")
    with Api(server.http_url, key=bot["token"], timeout_seconds=60) as api:
        api.call("POST", "messages/send", {"app": APP, "to": ann.user, "text": MARKDOWN})
    peers = {each["peer"]: each["conversation"] for each in ann.get("conversations")["conversations"]}
    chat = Chat(pair[0], ann, size=(720, 800))
    page = chat.page
    chat.open(peers[bob.user])
    eventually(lambda: len(chat.texts) == 5, what="the messages and a caption")
    assert page.run(HEIGHT) < 45
    assert not page.run(COVERS, ARABIC)
    assert not page.run(COVERS, "from left to right")
    eventually(lambda: page.run(BELOW), what="the time of the video is below it")
    copied = page.run(COPY)
    assert "hello world" in copied
    assert not [each for each in page.texts("[role=log] time") if each in copied]
    font = "return getComputedStyle(document.querySelectorAll('[role=log] .text')[arguments[0]]).fontFamily"
    assert page.run(font, 0) == page.run(font, 1)
    label = page.run("return document.querySelector('[role=log] article').ariaLabel")
    assert label.startswith("Bob: hello world, ")

    page.click("[role=log] .media-picture")
    eventually(lambda: page.texts(".viewer-caption") == ["the hills"], what="the caption in the viewer")
    assert page.texts(".viewer-about bdi") == ["Bob"]
    chat.click(chat.word("messages_forward"), within=".viewer")
    eventually(lambda: page.shown(".choices .choice"), what="the conversations to forward to")
    page.press(Keys.ESCAPE)
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown("dialog"), what="the viewer is closed")

    page.run(
        "localStorage.setItem('imserver:look', '{\"enter\": \"line\"}'); dispatchEvent(new Event('look'))"
    )
    field = page.find("#message")
    field.send_keys("one" + Keys.ENTER + "two")
    assert field.get_attribute("value") == "one\ntwo"
    assert field.get_attribute("enterkeyhint") == "enter"
    field.send_keys(Keys.CONTROL + Keys.ENTER + Keys.NULL)
    eventually(lambda: chat.texts[-1:] == ["one\ntwo"], what="it is sent")
    page.run("localStorage.removeItem('imserver:look'); dispatchEvent(new Event('look'))")

    first = "return document.querySelector('#conversations [data-conversation]').dataset.conversation"
    eventually(lambda: page.run(first) == str(peers[bob.user]), what="the newest conversation is the first")
    page.find(f"[data-conversation='{peers[bob.user]}']").send_keys(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.dataset.conversation") == str(peers[bot["id"]])
    assert page.run(STOPS) == 1
    page.press(Keys.ENTER)
    eventually(lambda: page.texts("[role=log] td") == ["green", "3"], what="a table")
    assert page.texts("[role=log] .heading") == ["Teas"]
    assert page.run("return document.querySelector('[role=log] .text a').href") == "https://example.com/map"
    page.run("document.querySelector('.copy-code').click()")
    eventually(
        lambda: page.texts(".copy-code") != [chat.word("messages_copy")], what="the button says how it went"
    )


def test_what_ends_says_so(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    conversation = ann.get("conversations")["conversations"][0]["conversation"]
    group = ann.create_group("Tea", bob)
    alone = ann.create_group("Attic")
    pair.expects("404", "403", "401")
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(alone)
    eventually(lambda: page.texts("#empty-title") == [chat.word("messages_alone")], what="the empty group")
    chat.click(chat.word("messages_group_link"), within="#empty")
    eventually(lambda: page.shown(".invitations"), what="its links")
    page.press(Keys.ESCAPE)

    gone = f"#c/{conversation}/999999"
    for address, word in ((gone, "unknown_message"), ("#c/999999", "unknown_conversation"), ("#tea", "link")):
        page.run("location.hash = arguments[0]", address)
        eventually(
            lambda word=word: chat.word(f"messages_fault_{word}") in page.texts(".toast span"), what=address
        )

    for address in ("#u/%", "#u/nobody"):
        page.run("location.hash = arguments[0]", address)
        eventually(lambda: page.run("return location.hash") == "", what="the address of the list")
        assert not page.shown("#composer")
    eventually(lambda: "Nobody was found" in page.texts(".toast span"), what="why")

    ann.post("groups/leave", group=str(group))
    row = f"[data-conversation='{group}']"
    chat.open(alone)
    page.run("location.hash = arguments[0]", f"#c/{group}")
    eventually(
        lambda: page.texts("#read-only") == [chat.word("messages_fault_unknown_group")], what="we have left"
    )
    page.run(MENU, row)
    chat.click(chat.word("messages_remove_left"), within=".menu")
    eventually(lambda: not page.shown(row), what="it is gone")
    page.driver.refresh()
    chat.online()
    eventually(lambda: page.shown(f"[data-conversation='{alone}']"), what="the list")
    assert not page.shown(row)

    other = Chat(pair[1], bob)
    other.open(conversation)
    ann.post("friends/block", friend=bob.user)
    chat.open(alone)
    page.run("location.hash = arguments[0]", f"#c/{conversation}")
    eventually(
        lambda: page.texts("#read-only") == [chat.word("messages_blocked_here", name="Bob")], what="blocked"
    )
    other.say("are you there?")
    eventually(
        lambda: other.page.texts(".reason") == [chat.word("messages_refused_blocked")], what="why it fails"
    )

    page.click("#me")
    chat.click(chat.word("messages_password_change"))
    old, new = page.driver.find_elements("css selector", "dialog.card input[type=password]")
    old.send_keys(PASSWORD)
    new.send_keys(f"{PASSWORD}-2" + Keys.ENTER)
    login_form(page)
    eventually(lambda: page.texts("#login .done") == [chat.word("messages_reset_done")], what="a success")
    assert not page.shown("#login-note")
    assert page.texts("#login-title") == [chat.word("messages_login")]
