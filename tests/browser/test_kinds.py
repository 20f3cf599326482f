"""Kinds of groups on the messages page, and lines about who comes and goes."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server

pytestmark = pytest.mark.full("browser")

CHOOSE = """
const box = document.querySelector(arguments[0]);
box.value = arguments[1];
box.dispatchEvent(new Event("change", { bubbles: true }));
"""
LINES = "return [...document.querySelectorAll('[role=log] .notice')].map((each) => each.textContent)"


def test_people_find_a_group_read_announcements_and_reply_in_threads(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    first = Chat(pair[0], ann)
    first.click("#new-conversation", "#new-group")
    first.sees("#group-kind")
    first.write("#group-name", "News")
    first.write("#group-about", "What is new")
    first.run(CHOOSE, "#group-kind", "open")
    first.click("#group-create")
    first.has("#conversation-name", "News")
    first.say("Tea at five")
    first.click("#conversation-open", "[data-key=rules]")
    first.sees("[data-key=write]")
    first.run(CHOOSE, "[data-key=write]", "admin")
    first.gives(LINES, ["You created the group “News”", "You let only admins write"])
    second = Chat(pair[1], bob)
    second.click("#new-conversation", "#open-groups")
    second.write("#open-group-text", "new")
    second.has(".open-groups .person-name bdi", "News")
    second.has(".open-groups small", "1 member · Announcements", "What is new")
    second.tap("Join: News")
    second.tap("Open: News")
    second.has("#conversation-name", "News")
    second.has(
        "#read-only",
        "Only the owner and admins write here. Reply to a message in its thread.",
    )
    second.misses("#composer:not([hidden])")
    (group,) = ann.get("groups")["groups"]
    assert group["description"] == "What is new"
    ann.post("groups/role", group=group["group"], member=bob.user, role="admin")
    second.sees("#composer:not([hidden])")
    ann.post("groups/role", group=group["group"], member=bob.user, role="member")
    second.misses("#composer:not([hidden])")
    second.act("Tea at five", "messages_reply")
    second.sees("#thread-composer")
    second.misses(".also:not([hidden])")
    second.tap(second.word("messages_thread_placeholder"), role="field")
    second.find("#thread-message").send_keys("I come\n")
    first.gives(
        "return document.querySelector('.thread-line')?.textContent.slice(0, 7)",
        "1 reply",
    )


def test_joins_are_one_line_and_a_new_group_is_marked(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    others = [
        Account(server, name) for name in ("Cat", "Dan", "Eve", "Fay", "Gil", "Hal")
    ]
    group = str(ann.create_group("Tea", bob))
    second = Chat(pair[1], bob)
    second.sees(".conversation .dot")
    second.choose("Tea")
    second.misses(".conversation .dot")
    code = ann.post("invitations/create", group=group)["code"]
    for each in others[:3]:
        each.post("invitations/accept", code=code)
    second.gives(
        LINES, ["Ann created the group “Tea”", "Cat, Dan, Eve joined by the link"]
    )
    for each in others[3:]:
        each.post("invitations/accept", code=code)
    second.gives(
        LINES,
        [
            "Ann created the group “Tea”",
            "Cat, Dan, Eve and 3 others joined by the link",
        ],
    )
    second.click(".notice button")
    second.has(".named-people bdi", "Cat", "Dan", "Eve", "Fay", "Gil", "Hal")


def test_a_group_gets_a_handle_and_is_mentioned_by_it(
    pair: Pair, server: Server
) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    ann.create_group("Designers", bob)
    tea = ann.create_group("Tea", bob, cat)
    first = Chat(pair[0], ann)
    first.choose("Designers")
    first.click("#conversation-open", "[data-key=rename]")
    first.write("#group-handle", "two words")
    first.click(".panel-form .wide")
    first.has(".panel-form .note", first.word("messages_fault_handle"))
    first.write("#group-handle", Keys.CONTROL + "a" + Keys.NULL, "@Design")
    first.click(".panel-form .wide")
    first.has(".card-head .presence bdi", "@design")
    first.gives(
        LINES,
        [
            "You created the group “Designers”",
            "You chose @design for mentions of this group",
        ],
    )
    first.choose("Tea")
    first.write("#message", "@des")
    first.has("#mentions .description", "Designers")
    first.has("#mentions .whose", "1 person here")
    first.find("#message").send_keys("\nlook at this\n")
    first.has("[role=log] .mention", "@design")
    second = Chat(pair[1], bob)
    second.sees(f"[data-conversation='{tea}'] .count.at")
    second.choose("Tea")
    second.has("[role=log] .mentioned .mention", "@design")
    first.act("@design look at this", "messages_edit")
    first.find("#message").send_keys(" again\n")
    second.reads("@design look at this again")
    second.has("[role=log] .mentioned .mention", "@design")
