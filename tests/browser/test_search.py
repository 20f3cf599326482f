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


@pytest.mark.full
def test_the_palette_leads_to_people_messages_actions_and_settings(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    Account(server, "Zoë Stranger")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "a needle in the hay")
    chat = Chat(pair[0], ann)
    page = chat.page
    eventually(lambda: page.shown(f"[data-conversation='{tea}']"), what="the list")

    def palette(text: str, row: str) -> None:
        """Choose by the keyboard alone."""
        page.press(Keys.CONTROL + "k" + Keys.NULL)
        eventually(lambda: page.focused == "palette-field", what="the palette")
        page.press(text)
        eventually(lambda: row in page.texts(".palette .hit.first b"), what=f"{row} is found")
        page.press(Keys.ENTER)
        eventually(lambda: not page.shown(".palette"), what="the palette is closed")

    palette("stranger", "Zoë Stranger")
    eventually(lambda: page.texts("#conversation-name") == ["Zoë Stranger"], what="the conversation")
    palette("needle", "Bob · Tea club")
    eventually(lambda: page.texts("#conversation-name") == ["Tea club"], what="the conversation")
    palette("dark", "Theme: Dark")
    eventually(lambda: page.run("return getComputedStyle(document.documentElement).colorScheme") == "dark")
    palette("new gr", "New group")
    eventually(lambda: page.shown("#group-create"), what="the dialog is open")
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown("#group-create"), what="the dialog is closed")
    page.click("#palette-open")
    eventually(lambda: page.focused == "palette-field", what="the palette")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)
    assert page.focused == "palette-field"
    page.press(Keys.ESCAPE)
    eventually(lambda: page.focused == "palette-open", what="the focus is where it was")


@pytest.mark.full
def test_filters_are_typed_and_clicked(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob B", "Cat"))
    tea = ann.create_group("Tea club", bob, cat)
    bob.say(tea, "tea https://example.org", "tea of Bob")
    cat.say(tea, "tea of Cat")
    ann.send(bob, "file", {"name": "Tea report.pdf", "url": "/media/none", "size": 1})
    page = Chat(pair[0], ann).page

    def hits() -> list[str]:
        return page.texts("#hits .preview")

    field = page.find("#search")
    field.send_keys("tea")
    eventually(lambda: len(hits()) == 5, what="the group, three messages and a file")
    assert page.texts("#hits .hit-title") == ["Conversations", "Messages", "Media and files"]
    field.send_keys(" from:b")
    eventually(lambda: page.texts("#hits .hit b")[:1] == ["Bob B"], what="a suggestion")
    field.send_keys(Keys.ENTER)
    eventually(lambda: hits() == ["tea of Bob", "tea https://example.org"], what="the messages of Bob")
    assert field.get_attribute("value") == 'tea from:"Bob B" '
    page.click("#search-chips [aria-pressed]:last-child")
    eventually(lambda: hits() == ["tea https://example.org"], what="those with a link")
    field.send_keys("before:2020 ")
    eventually(lambda: page.texts("#hits .people-note") == ["Nothing found"], what="none was so early")
    field.send_keys(ALL + "has:file ")
    eventually(lambda: hits() == ["Tea report.pdf"], what="the file")
    ann.send(bob, "album", {"items": [{"type": "picture", "url": "/media/none"}], "caption": "hills"})
    field.send_keys(ALL + "has:picture ")
    eventually(lambda: hits() == ["hills"], what="the album with a picture")
    field.send_keys(ALL + "has:file ")
    eventually(lambda: hits() == ["Tea report.pdf"], what="the album has no file")
    field.send_keys(ALL + "has:nothing ")
    eventually(
        lambda: page.texts("#hits .people-note") == ["“has:nothing” is not a filter"], what="what is wrong"
    )
    field.send_keys(Keys.ESCAPE)
    eventually(lambda: not page.shown("#search-chips"), what="the list")
    field.send_keys("tea of Bob")
    eventually(lambda: hits() == ["tea of Bob"], what="the message")
    page.click("#hits .preview")
    eventually(lambda: page.focused != "search" and page.texts("#conversation-name") == ["Tea club"])
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown("#hits"), what="the search is closed")
    assert page.texts("#conversation-name") == ["Tea club"], "one key closes one thing"


@pytest.mark.full
def test_the_menu_has_all_filters_and_leads_to_a_day(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob B")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "red kettle of Bob", "kettle")
    ann.say(tea, "kettle, red, of Ann")
    page = Chat(pair[0], ann).page

    def hits() -> list[str]:
        return page.texts("#hits .preview")

    page.find("#search").send_keys("kettle re")
    eventually(lambda: hits() == ["kettle, red, of Ann", "red kettle of Bob"], what="words in any order")
    assert page.texts("#hits mark") == ["kettle", "re", "re", "kettle"]
    keys = (
        "return performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/list-signs.js'))"
    )
    eventually(lambda: page.run(keys), what="the keys of lists")
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
    eventually(lambda: page.shown(".filter-form"), what="the menu")
    page.find(".filter-form [list]").send_keys("Bob B")
    page.click(".filter-form [type=submit]")
    eventually(lambda: hits() == ["red kettle of Bob"], what="the message of Bob")
    page.click("#search-chips .chip")
    eventually(lambda: page.shown(".filter-form"), what="the menu")
    assert page.find(".filter-form [list]").get_attribute("value") == "Bob B"
    page.click(".filter-jump .wide")
    eventually(lambda: page.shown(".filters .note"), what="what is missing")
    page.run(
        "document.querySelector('.filter-form select').value = 'Tea club';"
        "document.querySelector('.filter-jump input').value = '2020-01-01'"
    )
    page.click(".filter-jump .wide")
    eventually(lambda: page.texts("#conversation-name") == ["Tea club"], what="the conversation")
    assert not page.shown(".filter-menu")
