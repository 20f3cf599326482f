"""The page of channels, in real browsers."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import Server, eventually

HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;"
)
STATE = """
const row = [...document.querySelectorAll("#subscriptions .channel")]
  .find((each) => each.querySelector("bdi").textContent === arguments[0]);
return row?.querySelector("small").textContent ?? "";
"""
LOG = """
return [...document.querySelectorAll("#log .publication")].map((row) => [
  row.dataset.offset,
  row.querySelector(".content").textContent,
  [...row.querySelectorAll(".tag")].map((each) => each.textContent),
]);
"""


class Channels(Page):
    """The page, subscribed to a channel."""

    def __init__(
        self,
        browser: Browser,
        server: Server,
        channel: str = "demo:lobby",
        language: str = "en",
        **how: Any,
    ) -> None:
        super().__init__(browser.driver)
        browser.open(
            f"{server.http_url}/home/channels?lang={language}&channel={channel}", **how
        )
        waiting = ("", "Subscribing…", "订阅中…")
        eventually(lambda: self.says_of(channel) not in waiting, what="subscribed")

    def says_of(self, channel: str) -> str:
        return str(self.run(STATE, channel))

    def publish(self, text: str, form: str = "text") -> None:
        self.run("document.querySelector('#format').value = arguments[0]", form)
        self.write("#content", text + Keys.ENTER)
        self.gives("return document.querySelector('#content').value", "")

    def log(self, *rows: tuple[str, str, list[str]]) -> None:
        """Wait until these are the publications: offset, content and tags."""
        self.gives(LOG, [list(row) for row in rows])

    def cut(self) -> None:
        self.click("#cut")
        eventually(lambda: self.state == "closed", what="the line is cut")
        self.sees("#command")

    def returned(self) -> str:
        """Return, and read what the page says about it."""
        lines = "#log .back, #log .wrong"
        before = len(self.texts(lines))
        self.click("#cut")
        eventually(lambda: len(self.texts(lines)) > before, what="the page is back")
        return self.texts(lines)[-1]


def test_two_browsers_publish_and_see_each_other(pair: Pair, server: Server) -> None:
    first = Channels(pair[0], server, "demo:two")
    assert first.says_of("demo:two") == "offset 0"
    assert first.shown("#empty")
    second = Channels(pair[1], server, "demo:two", "zh")
    eventually(
        lambda: first.people == [first.name, "(you)", second.name],
        what="the list has both",
    )
    first.has("#log .joined", f"{second.name} joined")
    first.publish(HOSTILE)
    second.publish('{"state": "packed"}', "json")
    with Api(server.http_url, timeout_seconds=60) as api:
        api.publish("default", "demo:two", "from a back end")
    expected = [
        ("1", HOSTILE, []),
        ("2", '{"state":"packed"}', ["JSON"]),
        ("3", "from a back end", []),
    ]
    for page in (first, second):
        page.log(*expected)
        assert page.run("return window.pwned") is None
    assert first.says_of("demo:two") == "offset 3"
    name = second.name
    second.driver.get("about:blank")
    eventually(lambda: first.people == [first.name, "(you)"], what="the other has left")
    first.has("#log .left", f"{name} left")
    late = Channels(pair[1], server, "demo:two")
    late.log(
        *((offset, content, [*tags, "history"]) for offset, content, tags in expected)
    )


@pytest.mark.full("browser")
def test_what_was_published_while_the_line_was_cut_is_recovered_once(
    pair: Pair, server: Server
) -> None:
    first = Channels(pair[0], server, "demo:cut")
    second = Channels(pair[1], server, "demo:cut", "zh")
    second.publish("before")
    first.log(("1", "before", []))
    first.cut()
    assert first.returned() == "Back. Nothing was published while the line was cut."
    first.cut()
    assert "demo:cut" in first.texts("#command")[0]
    eventually(
        lambda: second.people == [second.name, "（自己）"], what="the other is gone"
    )
    for number in range(5):
        second.publish(f"missed {number}")
    first.write("#content", "not sent" + Keys.ENTER)
    first.sees("#note")
    shown = first.returned()
    assert (
        shown == "Back: 5 recovered, offsets 2 to 6. None is missing, none came twice."
    )
    second.publish("after")
    rows = [(str(number + 2), f"missed {number}", ["recovered"]) for number in range(5)]
    first.log(("1", "before", []), *rows, ("7", "after", []))
    eventually(lambda: first.name in second.people, what="it is back for the other")


@pytest.mark.full("browser")
def test_the_text_of_a_streamed_message_grows(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config={"limits": {"stream_seconds": 3600}})
    channel = "demo:stream"
    page = Channels(pair[0], server, channel)
    chinese = Channels(pair[1], server, channel, "zh", size=(320, 568), dark=True)

    with (
        Api(server.http_url, timeout_seconds=60) as api,
        api.stream("default", channel, sender="bot") as stream,
    ):
        page.log(("0", "", ["streaming"]))
        stream.append(HOSTILE)
        page.log(("0", HOSTILE, ["streaming"]))
        page.publish("between")
        stream.append(" and more")
        text = f"{HOSTILE} and more"
        page.log(("0", text, ["streaming"]), ("1", "between", []))
        chinese.log(("0", text, ["接收中"]), ("1", "between", []))
        page.cut()
        page.log(("0", text, ["incomplete"]), ("1", "between", []))
        assert "Nothing was published" in page.returned()
        page.log(("0", text, ["streaming"]), ("1", "between", []))
    for each in (page, chinese):
        each.log(("2", text, []), ("1", "between", []))
        assert each.run("return window.pwned") is None
        each.fits()
    with Api(server.http_url, timeout_seconds=60) as api:
        empty = api.open_stream("default", channel)
        page.log(("2", text, []), ("1", "between", []), ("0", "", ["streaming"]))
        api.close_stream("default", empty)
        page.log(("2", text, []), ("1", "between", []))
        api.close_stream(
            "default", api.open_stream("default", channel, "half"), incomplete=True
        )
        page.log(("2", text, []), ("1", "between", []), ("3", "half", ["incomplete"]))
    assert page.texts("#log .growing") == []


@pytest.mark.full("browser")
def test_the_page_says_when_publications_are_lost(
    pair: Pair, start_server: StartServer
) -> None:
    channels = {
        "short": {"history_size": 1, "history_seconds": 60, "publish": "subscribers"},
        "live": {},
    }
    server = start_server(config={"apps": {"default": {"channels": channels}}})
    page = Channels(pair[0], server, "short:1")
    page.write("#name", "live:1" + Keys.ENTER)
    eventually(lambda: page.says_of("live:1") == "no history", what="both channels")
    assert "lost" in page.texts("#hints p")[0]
    setting = "apps.default.channels.live: {history_size: 100, history_seconds: 600}"
    assert setting in page.texts("#hints code")
    page.cut()
    with Api(server.http_url, timeout_seconds=60) as api:
        for text in ("one", "two"):
            api.publish("default", "short:1", text)
    assert "no history" in page.returned()
    page.run("document.querySelector('#subscriptions .channel').click()")
    page.has_some("#log .wrong", "recovered: false")


def test_the_page_names_the_setting_that_would_allow_it(
    pair: Pair, server: Server
) -> None:
    page = Channels(pair[0], server, "tea", "zh")
    page.has("#people-note", "这个频道不显示订阅者")
    page.write("#content", "x" + Keys.ENTER)
    page.has("#note", "订阅者不能在这里发布。")
    for setting in ("publish: subscribers", "presence: true"):
        page.has_some("#hints code", f'apps.default.channels."*".{setting}')
    page.write("#name", "user:x" + Keys.ENTER)
    eventually(
        lambda: page.says_of("user:x").startswith("只有本人"),
        what="the reserved channel",
    )
    assert page.texts("#hints code") == []
    page.write("#subscriptions li:last-child .channel-close", Keys.ENTER)
    page.has("#channel-name", "tea")
    assert page.focused.startswith("tea")


@pytest.mark.full("browser")
def test_the_page_fits_and_can_be_used_by_keyboard(pair: Pair, server: Server) -> None:
    page = Channels(
        pair[0], server, "demo:" + "long" * 20, "zh", size=(320, 568), dark=True
    )
    page.cut()
    for width in (320, 719, 720, 1079, 1600):
        page.resize(width, 700, dark=True)
        page.fits()
    page.run("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        page.press(Keys.TAB)
        reached.add(page.focused)
    assert {"name", "cut", "log", "format", "content", "send"} <= reached
