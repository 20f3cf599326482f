"""Search with sections and filters, and the palette, in real browsers."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.conftest import StartServer
from tests.support import Server, eventually

ALL = Keys.CONTROL + "a" + Keys.NULL


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """A server whose people find each other by their names."""
    apps = {"gochat": {"accounts": {"search": True}}}
    return start_shared_server(config={"accounts": {"registrations_per_address": 0}, "apps": apps})


@pytest.mark.full("browser")
def test_the_palette_leads_to_people_messages_actions_and_settings(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    Account(server, "Zoë Stranger")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "a needle in the hay")
    chat = Chat(pair[0], ann)
    chat.sees(f"[data-conversation='{tea}']")

    def palette(text: str, row: str) -> None:
        """Choose by the keyboard alone."""
        chat.press(Keys.CONTROL + "k" + Keys.NULL)
        eventually(lambda: chat.focused == "palette-field", what="the palette")
        chat.press(text)
        chat.has_some(".palette .hit.first b", row)
        chat.press(Keys.ENTER)
        chat.misses(".palette")

    palette("stranger", "Zoë Stranger")
    chat.has("#conversation-name", "Zoë Stranger")
    palette("needle", "Bob · Tea club")
    chat.has("#conversation-name", "Tea club")
    palette("dark", "Theme: Dark")
    chat.gives("return getComputedStyle(document.documentElement).colorScheme", "dark")
    palette("new gr", "New group")
    chat.sees("#group-create")
    chat.press(Keys.ESCAPE)
    chat.misses("#group-create")
    chat.click("#palette-open")
    eventually(lambda: chat.focused == "palette-field", what="the palette")
    chat.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)
    assert chat.focused == "palette-field"
    chat.press(Keys.ESCAPE)
    eventually(lambda: chat.focused == "palette-open", what="the focus is where it was")


@pytest.mark.full("browser")
def test_filters_are_typed_and_clicked(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob B", "Cat"))
    tea = ann.create_group("Tea club", bob, cat)
    bob.say(tea, "tea https://example.org", "tea of Bob")
    cat.say(tea, "tea of Cat")
    ann.send(bob, "file", {"name": "Tea report.pdf", "url": "/media/none", "size": 1})
    page = Chat(pair[0], ann)

    field = page.find("#search")
    field.send_keys("tea")
    eventually(lambda: len(page.texts("#hits .preview")) == 5, what="the group, messages and a file")
    assert page.texts("#hits .hit-title") == ["Conversations", "Messages", "Media and files"]
    field.send_keys(" from:b")
    eventually(lambda: page.texts("#hits .hit b")[:1] == ["Bob B"], what="a suggestion")
    field.send_keys(Keys.ENTER)
    page.has("#hits .preview", "tea of Bob", "tea https://example.org")
    assert field.get_attribute("value") == 'tea from:"Bob B" '
    page.click("#search-chips [aria-pressed]:last-child")
    page.has("#hits .preview", "tea https://example.org")
    field.send_keys("before:2020 ")
    page.has("#hits .people-note", "Nothing found")
    field.send_keys(ALL + "has:file ")
    page.has("#hits .preview", "Tea report.pdf")
    ann.send(bob, "album", {"items": [{"type": "picture", "url": "/media/none"}], "caption": "hills"})
    field.send_keys(ALL + "has:picture ")
    page.has("#hits .preview", "hills")
    field.send_keys(ALL + "has:file ")
    page.has("#hits .preview", "Tea report.pdf")
    field.send_keys(ALL + "has:nothing ")
    page.has("#hits .people-note", "“has:nothing” is not a filter")
    field.send_keys(Keys.ESCAPE)
    page.misses("#search-chips")
    field.send_keys("tea of Bob")
    page.has("#hits .preview", "tea of Bob")
    page.click("#hits .preview")
    eventually(lambda: page.focused != "search" and page.texts("#conversation-name") == ["Tea club"])
    page.press(Keys.ESCAPE)
    page.misses("#hits")
    assert page.texts("#conversation-name") == ["Tea club"], "one key closes one thing"


@pytest.mark.full("browser")
def test_the_menu_has_all_filters_and_leads_to_a_day(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob B")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "red kettle of Bob", "kettle")
    ann.say(tea, "kettle, red, of Ann")
    page = Chat(pair[0], ann)

    page.write("#search", "kettle re")
    page.has("#hits .preview", "kettle, red, of Ann", "red kettle of Bob")
    assert page.texts("#hits mark") == ["kettle", "re", "re", "kettle"]
    signs = "return performance.getEntriesByType('resource').some(({ name }) => /list-signs.js$/.test(name))"
    page.gives(signs, True)  # the keys of lists
    focused = []
    page.press(Keys.TAB)
    for key in (Keys.TAB, Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_LEFT, Keys.HOME, Keys.END):
        page.press(key)
        focused.append(page.focused)
    assert focused == ["Filters", "picture", "link", "file", "Filters", "link"]
    page.press(Keys.TAB)
    assert not page.run("return Boolean(document.activeElement.closest('.chips'))"), "one stop of the Tab key"
    page.press(Keys.SHIFT + Keys.TAB)
    assert page.focused == focused[-1]
    page.click("#search-chips .chip")
    page.write(".filter-form [list]", "Bob B")
    page.click(".filter-form [type=submit]")
    page.has("#hits .preview", "red kettle of Bob")
    page.click("#search-chips .chip")
    page.sees(".filter-form")
    assert page.find(".filter-form [list]").get_attribute("value") == "Bob B"
    page.click(".filter-jump .wide")
    page.sees(".filters .note")
    page.run(
        "document.querySelector('.filter-form select').value = 'Tea club';"
        "document.querySelector('.filter-jump input').value = '2020-01-01'"
    )
    page.click(".filter-jump .wide")
    page.has("#conversation-name", "Tea club")
    assert not page.shown(".filter-menu")
