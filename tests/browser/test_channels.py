"""The page of channels, in real browsers."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import Server, eventually

HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;"
LOBBY = "demo:lobby"


def open_page(browser: Browser, server: Server, channel: str = "", language: str = "en", **how: Any) -> Page:
    """The page, subscribed to a channel."""
    query = f"?lang={language}" + (f"&channel={channel}" if channel else "")
    page = browser.open(f"{server.http_url}/home/channels{query}", **how)
    eventually(
        lambda: state(page, channel or LOBBY) not in ("", "Subscribing…", "订阅中…"), what="subscribed"
    )
    return page


def state(page: Page, channel: str) -> str:
    """What the list says about a channel."""
    found = page.run(
        "return [...document.querySelectorAll('#subscriptions .channel')].find((each) =>"
        " each.querySelector('bdi').textContent === arguments[0])?.querySelector('small').textContent ?? ''",
        channel,
    )
    return str(found)


def publish(page: Page, text: str, form: str = "text") -> None:
    """Publish by the form of the page."""
    page.run("document.querySelector('#format').value = arguments[0]", form)
    page.find("#content").send_keys(text + Keys.ENTER)
    eventually(lambda: page.find("#content").get_attribute("value") == "", what=f"{text!r} is published")


def log(page: Page) -> list[tuple[str, str, list[str]]]:
    """The publications: offset, content and tags."""
    rows = page.run(
        "return [...document.querySelectorAll('#log .publication')].map((row) => [row.dataset.offset,"
        " row.querySelector('.content').textContent,"
        " [...row.querySelectorAll('.tag')].map((each) => each.textContent)])"
    )
    return [(offset, content, tags) for offset, content, tags in rows]


def cut(page: Page) -> None:
    page.click("#cut")
    eventually(lambda: page.state == "closed" and page.shown("#command"), what="the line is cut")


def returned(page: Page) -> str:
    """Return, and read what the page says about it."""
    before = len(page.texts("#log .back, #log .wrong"))
    page.click("#cut")
    eventually(lambda: len(page.texts("#log .back, #log .wrong")) > before, what="the page is back")
    return page.texts("#log .back, #log .wrong")[-1]


def test_two_browsers_publish_and_see_each_other(pair: Pair, server: Server) -> None:
    first = open_page(pair[0], server, "demo:two")
    assert state(first, "demo:two") == "offset 0"
    assert first.shown("#empty")
    second = open_page(pair[1], server, "demo:two", "zh")
    eventually(lambda: first.people == [first.name, "(you)", second.name], what="the list has both")
    eventually(lambda: first.texts("#log .joined") == [f"{second.name} joined"], what="the line about it")
    publish(first, HOSTILE)
    publish(second, '{"state": "packed"}', "json")
    with Api(server.http_url, timeout_seconds=60) as api:
        api.publish("default", "demo:two", "from a back end")
    expected = [("1", HOSTILE, []), ("2", '{"state":"packed"}', ["JSON"]), ("3", "from a back end", [])]
    for page in (first, second):
        eventually(lambda page=page: log(page) == expected, what="all publications")  # type: ignore[misc]
        assert page.run("return window.pwned") is None
    assert state(first, "demo:two") == "offset 3"
    name = second.name
    second.driver.get("about:blank")
    eventually(lambda: first.people == [first.name, "(you)"], what="the other has left")
    eventually(lambda: first.texts("#log .left") == [f"{name} left"], what="the line about it")
    late = open_page(pair[1], server, "demo:two")
    eventually(lambda: [offset for offset, *_ in log(late)] == ["1", "2", "3"], what="the history")
    assert log(late)[0][2] == ["history"]


@pytest.mark.full
def test_what_was_published_while_the_line_was_cut_is_recovered_once(pair: Pair, server: Server) -> None:
    first, second = open_page(pair[0], server, "demo:cut"), open_page(pair[1], server, "demo:cut", "zh")
    publish(second, "before")
    eventually(lambda: log(first) == [("1", "before", [])], what="the first publication")
    cut(first)
    assert returned(first) == "Back. Nothing was published while the line was cut."
    cut(first)
    assert "demo:cut" in first.texts("#command")[0]
    eventually(lambda: second.people == [second.name, "（自己）"], what="the other is gone")
    for number in range(5):
        publish(second, f"missed {number}")
    first.find("#content").send_keys("not sent" + Keys.ENTER)
    eventually(lambda: first.shown("#note"), what="the page refuses to publish")
    shown = returned(first)
    assert shown == "Back: 5 recovered, offsets 2 to 6. None is missing, none came twice."
    publish(second, "after")
    rows = [(str(number + 2), f"missed {number}", ["recovered"]) for number in range(5)]
    eventually(lambda: log(first) == [("1", "before", []), *rows, ("7", "after", [])], what="all, once")
    eventually(lambda: first.name in second.people, what="it is back for the other")


@pytest.mark.full
def test_the_text_of_a_streamed_message_grows(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config={"limits": {"stream_seconds": 3600}})
    channel = "demo:stream"
    page = open_page(pair[0], server, channel)
    chinese = open_page(pair[1], server, channel, "zh", size=(320, 568), dark=True)

    def shown(*rows: tuple[str, str, list[str]]) -> None:
        eventually(lambda: log(page) == list(rows), what=f"the log has {rows}")

    with (
        Api(server.http_url, timeout_seconds=60) as api,
        api.stream("default", channel, sender="bot") as stream,
    ):
        shown(("0", "", ["streaming"]))
        stream.append(HOSTILE)
        shown(("0", HOSTILE, ["streaming"]))
        publish(page, "between")
        stream.append(" and more")
        text = f"{HOSTILE} and more"
        shown(("0", text, ["streaming"]), ("1", "between", []))
        eventually(lambda: ("0", text, ["接收中"]) in log(chinese), what="the same in Chinese")
        cut(page)
        shown(("0", text, ["incomplete"]), ("1", "between", []))
        assert "Nothing was published" in returned(page)
        shown(("0", text, ["streaming"]), ("1", "between", []))
    for each in (page, chinese):
        eventually(
            lambda each=each: log(each) == [("2", text, []), ("1", "between", [])],  # type: ignore[misc]
            what="the whole text",
        )
        assert each.run("return window.pwned") is None
        each.fits()
    with Api(server.http_url, timeout_seconds=60) as api:
        empty = api.open_stream("default", channel)
        shown(("2", text, []), ("1", "between", []), ("0", "", ["streaming"]))
        api.close_stream("default", empty)
        shown(("2", text, []), ("1", "between", []))
        api.close_stream("default", api.open_stream("default", channel, "half"), incomplete=True)
        shown(("2", text, []), ("1", "between", []), ("3", "half", ["incomplete"]))
    assert page.texts("#log .growing") == []


@pytest.mark.full
def test_the_page_says_when_publications_are_lost(pair: Pair, start_server: StartServer) -> None:
    channels = {"short": {"history_size": 1, "history_seconds": 60, "publish": "subscribers"}, "live": {}}
    server = start_server(config={"apps": {"default": {"channels": channels}}})
    page = open_page(pair[0], server, "short:1")
    page.find("#name").send_keys("live:1" + Keys.ENTER)
    eventually(lambda: state(page, "live:1") == "no history", what="both channels")
    assert "lost" in page.texts("#hints p")[0]
    assert "apps.default.channels.live: {history_size: 100, history_seconds: 600}" in page.texts(
        "#hints code"
    )
    cut(page)
    with Api(server.http_url, timeout_seconds=60) as api:
        for text in ("one", "two"):
            api.publish("default", "short:1", text)
    assert "no history" in returned(page)
    page.run("document.querySelector('#subscriptions .channel').click()")
    eventually(lambda: "recovered: false" in "".join(page.texts("#log .wrong")), what="it must reload")


def test_the_page_names_the_setting_that_would_allow_it(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, "tea", "zh")
    eventually(lambda: page.texts("#people-note") == ["这个频道不显示订阅者"], what="there is no presence")
    page.find("#content").send_keys("x" + Keys.ENTER)
    eventually(lambda: page.texts("#note") == ["订阅者不能在这里发布。"], what="the refusal")
    for setting in ("publish: subscribers", "presence: true"):
        wanted = f'apps.default.channels."*".{setting}'
        eventually(lambda wanted=wanted: wanted in page.texts("#hints code"), what=wanted)  # type: ignore[misc]
    page.find("#name").send_keys("user:x" + Keys.ENTER)
    eventually(lambda: state(page, "user:x").startswith("只有本人"), what="the reserved channel")
    assert page.texts("#hints code") == []
    close = page.find("#subscriptions li:last-child .channel-close")
    close.send_keys(Keys.ENTER)
    eventually(lambda: page.texts("#channel-name") == ["tea"], what="the other channel is shown")
    assert page.focused.startswith("tea")


@pytest.mark.full
def test_the_page_fits_and_can_be_used_by_keyboard(pair: Pair, server: Server) -> None:
    page = open_page(pair[0], server, "demo:" + "long" * 20, "zh", size=(320, 568), dark=True)
    cut(page)
    for width in (320, 719, 720, 1079, 1600):
        page.resize(width, 700, dark=True)
        page.fits()
    page.run("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        page.press(Keys.TAB)
        reached.add(page.focused)
    assert {"name", "cut", "log", "format", "content", "send"} <= reached
