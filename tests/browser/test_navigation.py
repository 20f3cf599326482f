"""The messages page goes back where one came from, in real browsers: the browser's history and the focus."""

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually

pytestmark = pytest.mark.full

PHONE = (390, 844)


@pytest.fixture
def story(server: Server) -> tuple[Account, int, int]:
    """Ann, and her groups Tea and Cake. Both have a message with the word parcel."""
    ann = Account(server, "Ann")
    tea, cake = ann.create_group("Tea"), ann.create_group("Cake")
    for group in (tea, cake):
        ann.say(group, "the parcel is here", "thank you")
    return ann, tea, cake


def is_open(page: Page, conversation: int) -> None:
    eventually(
        lambda: page.run("return location.hash") == f"#c/{conversation}" and page.shown("#log"),
        what=f"the conversation {conversation} is shown",
    )


def test_back_leads_from_a_search_to_the_conversation(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    page = Chat(pair[0], ann, size=PHONE).page
    page.click(f"[data-conversation='{tea}']")
    is_open(page, tea)
    page.click("#search-here")
    eventually(lambda: page.shown("#search"), what="the search")
    page.find("#search").send_keys("parcel")
    page.click("#hits button")
    is_open(page, tea)
    page.driver.back()
    eventually(lambda: page.shown("#hits button"), what="the hits are shown again")
    page.driver.back()
    is_open(page, tea)
    assert page.focused == "search-here"
    page.driver.back()
    eventually(lambda: page.shown(f"[data-conversation='{tea}']"), what="the list, without a search")
    assert not page.shown("#search-scope")


def test_a_hit_elsewhere_and_escape_lead_back_step_by_step(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann, size=PHONE)
    page = chat.page
    page.click(f"[data-conversation='{tea}']")
    is_open(page, tea)
    page.click("#search-here")
    page.click("#search-scope")
    page.find("#search").send_keys("parcel")
    hit = "[...document.querySelectorAll('#hits button')].find((each) => each.textContent.includes('Cake'))"
    eventually(lambda: page.run(f"return Boolean({hit})"), what="the hit in the other group")
    page.run(f"{hit}.click()")
    is_open(page, cake)
    page.driver.back()
    eventually(lambda: page.shown("#hits button"), what="the hits are shown again")
    page.find("#search").send_keys("\ue00c")  # Escape
    is_open(page, tea)


def test_a_reload_with_a_panel_leaves_no_step_of_it(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann, size=PHONE)
    page = chat.page
    page.click(f"[data-conversation='{tea}']")
    is_open(page, tea)
    page.click("#search-here")
    eventually(lambda: page.shown("#search"), what="the search")
    page.click("#me")
    eventually(lambda: page.shown("dialog[open] [data-key=password]"), what="the profile")
    page.driver.refresh()
    chat.online()
    is_open(page, tea)
    page.driver.back()
    eventually(lambda: page.run("return location.hash") == "", what="one step leads to the list")
    eventually(lambda: page.shown(f"[data-conversation='{tea}']"), what="the list")


_LOOK = """
const { colorScheme, fontSize, backgroundColor } = getComputedStyle(document.documentElement);
return [document.documentElement.lang, colorScheme, fontSize, backgroundColor];
"""


def test_the_look_of_the_device_is_chosen_and_stays(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(tea)
    light = page.run(_LOOK)
    page.click("#settings")
    for value in ("dark", "125"):
        page.click(f".segment [value='{value}']")
    dark = ["en", "dark", "20px", "rgb(19, 21, 23)"]
    assert light[:3] == ["en", "light dark", "16px"]
    assert page.run(_LOOK) == dark
    page.driver.refresh()
    chat.online()
    assert page.run(_LOOK) == dark
    page.click("#settings")
    eventually(lambda: page.shown("[data-key=language]"), what="the menu of languages")
    page.find("[data-key=language]").send_keys("中")
    eventually(lambda: page.run("return document.documentElement.lang") == "zh-Hans", what="Chinese")
    chat.online()
    is_open(page, tea)
    page.driver.get(f"{ann.server.http_url}/home/messages?lang=en#c/{tea}")
    eventually(lambda: page.run("return location.search") == "?lang=zh", what="the chosen language")
    page.run("localStorage.removeItem('imserver:look'); dispatchEvent(new Event('look'))")
    assert page.run(_LOOK)[1:] == light[1:]


def test_the_focus_stays_where_one_was(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(tea)
    eventually(lambda: "thank you" in chat.texts, what="the messages")
    chat.act("thank you", "messages_hide")
    page.click("dialog[open] .danger")
    eventually(lambda: "thank you" not in chat.texts, what="it is deleted")
    row = "return document.activeElement.closest('article')?.querySelector('.text')?.textContent"
    eventually(lambda: page.run(row) == "the parcel is here", what="the message beside it has the focus")
    chat.act("the parcel is here", "messages_recall")
    chat.page.click("dialog[open] .danger")
    eventually(lambda: page.focused == "You deleted a message", what="the notice in its place")
    page.press("\ue00c")  # Escape: to the text box
    eventually(lambda: page.focused == "message", what="the text box has the focus")
    page.press("\ue00c")
    row = "return document.activeElement.dataset.conversation"
    eventually(lambda: page.run(row) == str(tea), what="the row of the conversation has the focus")


def test_the_focus_returns_to_a_row_that_was_drawn_again(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    chat.open(tea)
    eventually(lambda: "thank you" in chat.texts, what="the messages")
    chat.act("thank you", "messages_recall")
    last = next(each for each in reversed(ann.history(tea)) if each.get("text") == "thank you")
    ann.post("messages/react", app="gochat", id=last["id"], emoji="👍")
    eventually(lambda: "👍1" in chat.page.texts(".reaction"), what="the row is drawn again")
    chat.page.click("dialog[open] .quiet")
    row = "return document.activeElement.closest('article')?.querySelector('.text')?.textContent"
    eventually(lambda: chat.page.run(row) == "thank you", what="the row has the focus")


def test_a_panel_is_beside_the_conversation_in_a_wide_window(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(tea)
    panel, modal = ".layer.panel", "return document.querySelector('.layer.panel').matches(':modal')"
    page.click("#conversation-open")
    eventually(lambda: page.shown(f"{panel} .group-info"), what="the panel of the group")
    assert not page.run(modal)
    chat.say("meanwhile")
    page.click("#me")
    eventually(lambda: page.texts(f"{panel} h2") == ["My profile"], what="another panel takes its place")
    page.resize(820, 1000)
    eventually(lambda: page.run(modal), what="in a narrow window it is above the conversation")
    page.resize(1280, 800)
    eventually(lambda: not page.run(modal), what="it is beside it again")
    page.find("#message").send_keys("\ue00c")  # Escape
    eventually(lambda: not page.shown(panel), what="Escape closes it")
    is_open(page, tea)
    page.click("#conversation-open")
    eventually(lambda: page.shown(panel), what="the panel of the group")
    page.click(f"[data-conversation='{cake}']")
    is_open(page, cake)
    assert not page.shown(panel)
