"""Own emoji of an app on the messages page: a moderator adds and removes one,
others use it."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, picture
from tests.browser.test_accessibility import violations
from tests.conftest import StartServer
from tests.support import eventually
from tests.users import User

pytestmark = [pytest.mark.full("browser"), pytest.mark.needs("axe-core")]

KEY = "admin-key-of-the-tests"
DRAWN = """
const drawn = [...document.querySelectorAll(arguments[0])].filter((each) => each.complete);
return drawn.map((each) => [each.alt, each.naturalWidth]);
"""
LARGE = ".bubble.lone-emoji > .text > .own-emoji img"


def test_an_emoji_is_added_used_and_removed(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    accounts = {"registrations_per_address": 0, "registration": True}
    keys = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    server = start_server(
        config={"accounts": accounts, "api": keys, "apps": {"gochat": {}}}
    )
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    User(server, KEY, app="gochat").post(
        "accounts/role", user=ann.user, role="moderator"
    )
    group = ann.create_group("tea", bob)
    file = tmp_path / "Party time.jpg"
    file.write_bytes(picture(600, 400, 40))

    desk = Chat(pair[0], ann, size=(1280, 800))
    desk.open(group)
    desk.tap(desk.word("emoji"))
    desk.tap("Add or remove emoji", within=".picker")
    desk.has(".own-emoji-list li", "None yet")
    desk.find(".own-emoji-add input[type=file]").send_keys(str(file))
    field = desk.named("field", "Name")
    assert field.get_attribute("value") == "party_time"
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL + "Party")
    assert violations(desk) == []
    desk.tap("Add", within=".own-emoji-add")
    desk.has(".own-emoji-list bdi", ":party:")
    assert violations(desk) == []
    desk.tap("Close", within="dialog")
    desk.click(".picker [data-emoji=':party:']")
    desk.field.send_keys(Keys.ENTER)
    desk.gives(DRAWN, [[":party:", 128]], LARGE)

    phone = Chat(pair[1], bob, size=(390, 844))
    phone.open(group)
    phone.gives(DRAWN, [[":party:", 128]], LARGE)
    phone.field.send_keys(":par")
    phone.has(".mentions [role=option]:first-child", ":party:")
    phone.field.send_keys(Keys.ENTER)
    phone.say("and *cake* `:party:`")
    phone.reads("", " and cake :party:")
    cake, party = (
        bob.id_of(group, text) for text in (":party: and *cake* `:party:`", ":party:")
    )
    bob.post("messages/react", id=cake, emoji=":party:")
    bob.post("messages/send", conversation=group, text="tea", reply_to=party)
    ann.post("messages/pin", id=party)
    for each in (desk, phone):
        each.gives(DRAWN, [[":party:", 128]] * 2, ".text .own-emoji img")
        for part in (".reaction", ".quote", ".pin-bar"):
            each.gives(DRAWN, [[":party:", 128]], f"{part} .own-emoji img")

    desk.tap(desk.word("emoji"))
    desk.tap("Add or remove emoji", within=".picker")
    desk.tap("Remove :party:", within="dialog")
    desk.tap("Remove", within="dialog .question")
    desk.has(".own-emoji-list li", "None yet")
    desk.tap("Close", within="dialog")
    desk.reads(":party:", ":party: and cake :party:", "tea")
    phone.reload()
    phone.reads(":party:", ":party: and cake :party:", "tea")
    eventually(
        lambda: phone.texts(".reaction .sign") == [":party:"],
        what="the reaction is text",
    )
