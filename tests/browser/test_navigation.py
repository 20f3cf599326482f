"""The messages page goes back where one came from, in real browsers: the browser's history and the focus."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

PHONE = (390, 844)
MESSAGE = "return document.activeElement.closest('article')?.querySelector('.text')?.textContent"
"""Of which something has the focus."""
LOOK = """
const { colorScheme, fontSize, backgroundColor } = getComputedStyle(document.documentElement);
return [document.documentElement.lang, colorScheme, fontSize, backgroundColor];
"""


@pytest.fixture
def story(server: Server) -> tuple[Account, int, int]:
    """Ann, and her groups Tea and Cake. Both have a message with the word parcel."""
    ann = Account(server, "Ann")
    tea, cake = ann.create_group("Tea"), ann.create_group("Cake")
    for group in (tea, cake):
        ann.say(group, "the parcel is here", "thank you")
    return ann, tea, cake


def is_open(chat: Chat, conversation: int) -> None:
    chat.gives("return location.hash", f"#c/{conversation}")
    chat.sees("#log")


def test_back_and_escape_lead_from_a_search_and_a_panel_step_by_step(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann, size=PHONE)
    chat.click(f"[data-conversation='{tea}']")
    is_open(chat, tea)
    chat.click("#search-here")
    chat.write("#search", "parcel")
    chat.click("#hits button")
    is_open(chat, tea)
    chat.driver.back()
    chat.sees("#hits button")
    chat.driver.back()
    is_open(chat, tea)
    assert chat.focused == "search-here"

    chat.click("#search-here", "#search-scope")
    chat.write("#search", Keys.CONTROL + "a" + Keys.NULL + "parcel")
    hit = "const hit = [...document.querySelectorAll('#hits button')]"
    hit += ".find((each) => each.textContent.includes('Cake')); hit?.click(); return Boolean(hit)"
    eventually(lambda: chat.run(hit), what="the hit in the other group")
    is_open(chat, cake)
    chat.driver.back()
    chat.sees("#hits button")
    chat.write("#search", Keys.ESCAPE)
    is_open(chat, tea)

    chat.click("#search-here")
    chat.sees("#search")
    chat.click("#me")
    chat.sees("dialog[open] [data-key=password]")
    chat.reload()
    is_open(chat, tea)
    chat.driver.back()
    chat.gives("return location.hash", "")
    chat.sees(f"[data-conversation='{tea}']")
    assert not chat.shown("#search-scope"), "one step leads to the list, without a search"


def test_the_look_of_the_device_is_chosen_and_stays(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    chat.open(tea)
    light = chat.run(LOOK)
    chat.click("#settings", ".segment [value='dark']", ".segment [value='125']")
    dark = ["en", "dark", "20px", "rgb(19, 21, 23)"]
    assert light[:3] == ["en", "light dark", "16px"]
    assert chat.run(LOOK) == dark
    chat.reload()
    assert chat.run(LOOK) == dark
    chat.click("#settings")
    chat.write("[data-key=language]", "中")
    chat.gives("return document.documentElement.lang", "zh-Hans")
    chat.online()
    is_open(chat, tea)
    chat.driver.get(f"{ann.server.http_url}/home/messages?lang=en#c/{tea}")
    chat.gives("return location.search", "?lang=zh")
    chat.run("localStorage.removeItem('imserver:look'); dispatchEvent(new Event('look'))")
    assert chat.run(LOOK)[1:] == light[1:]


def test_the_focus_stays_where_one_was(pair: Pair, story: tuple[Account, int, int]) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    chat.open(tea, "the parcel is here", "thank you")
    chat.act("thank you", "messages_recall")
    ann.post("messages/react", id=ann.id_of(tea), emoji="👍")
    chat.has(".reaction", "👍1")  # the row is drawn again
    chat.click("dialog[open] .quiet")
    chat.gives(MESSAGE, "thank you")
    chat.act("thank you", "messages_hide")
    chat.click("dialog[open] .danger")
    chat.reads("the parcel is here")
    chat.gives(MESSAGE, "the parcel is here")
    chat.act("the parcel is here", "messages_recall")
    chat.click("dialog[open] .danger")
    eventually(lambda: chat.focused == "You deleted a message", what="the notice in its place")
    chat.press(Keys.ESCAPE)
    eventually(lambda: chat.focused == "message", what="the text box has the focus")
    chat.press(Keys.ESCAPE)
    chat.gives("return document.activeElement.dataset.conversation", str(tea))


def test_a_panel_is_beside_the_conversation_in_a_wide_window(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann)
    chat.open(tea)
    panel, modal = ".layer.panel", "return document.querySelector('.layer.panel').matches(':modal')"
    chat.click("#conversation-open")
    chat.sees(f"{panel} .group-info")
    assert not chat.run(modal)
    chat.say("meanwhile")
    chat.click("#me")
    chat.has(f"{panel} h2", "My profile")
    chat.resize(820, 1000)
    chat.gives(modal, True)
    chat.resize(1280, 800)
    chat.gives(modal, False)
    chat.write("#message", Keys.ESCAPE)
    chat.misses(panel)
    is_open(chat, tea)
    chat.click("#conversation-open")
    chat.sees(panel)
    chat.click(f"[data-conversation='{cake}']")
    is_open(chat, cake)
    assert not chat.shown(panel)
