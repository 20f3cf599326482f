"""The chat page in real browsers."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from selenium.webdriver.common.keys import Keys
from websockets.sync.client import connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.receiver import Receiver
from tests.integration.setting import OPEN
from tests.ports import fixed_ports
from tests.support import Server, eventually

HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;\u202egnp.exe"


def home(server: Server, room: int | str = 101, **query: str) -> str:
    return f"{server.http_url}/home/index?{urllib.parse.urlencode({'appID': room, **query})}"


def post(server: Server, path: str, **fields: str | int) -> dict[str, object]:
    """POST a form; the answer's ``data``."""
    form = urllib.parse.urlencode(fields).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.http_url + path, form, timeout=60) as answer:
        data: dict[str, object] = json.load(answer)["data"]
    return data


@contextmanager
def logged_in(server: Server, user: str, room: int = 101) -> Iterator[None]:
    """A user without a browser."""
    with connect(server.ws_url, proxy=None, ping_interval=None, max_queue=None) as socket:
        socket.send(json.dumps({"seq": "1", "cmd": "login", "data": {"userID": user, "appID": room}}))
        assert json.loads(socket.recv(60))["response"]["code"] == 200
        yield


def chat(pair: Pair, server: Server, room: int) -> tuple[Page, Page]:
    """Two pages in one room that see each other."""
    first = pair[0].open(home(server, room)).online()
    second = pair[1].open(home(server, room)).online()
    eventually(
        lambda: second.name in first.people and first.name in second.people, what="each sees the other"
    )
    return first, second


def receives_only_a_marker(server: Server, page: Page, room: int) -> None:
    """Send a marker to a page that has received nothing: what was sent before would arrive before it."""
    post(server, "/user/sendMessage", appID=room, userID=page.name, msgID="", message="marker")
    page.has_received(page.name, "marker")
    assert page.received == [(page.name, "marker")]


@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_two_browsers_chat_with_each_other(pair: Pair, start_server: StartServer, http_server: str) -> None:
    first, second = chat(pair, start_server(http_server=http_server), 101)
    assert first.name != second.name
    for page, other in ((first, second), (second, first)):
        assert page.texts("#log .admin .from bdi")[0] == "管理员"
        assert page.name in page.texts("#log .admin .bubble")[0]
        assert page.people == [page.name, "（自己）", other.name]
    for nothing in ("", "   "):
        first.say(nothing)
    first.find("#message").clear()
    first.say("你好")
    second.has_received(first.name, "你好")
    eventually(lambda: first.own == ["你好"], what="the own bubble")
    assert first.find("#message").get_attribute("value") == ""
    second.say("two\nlines")
    first.has_received(second.name, "two\nlines")
    assert first.own == ["你好"]
    assert second.received == [(first.name, "你好")]
    first.has_notice("管理员", second.name, "哈喽~")
    second.driver.get("about:blank")
    first.has_notice("管理员", "用户已经离开~")
    eventually(lambda: first.people == [first.name, "（自己）"], what="the list is shorter")


@pytest.mark.full
def test_a_crowd_that_enters_shares_a_line(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 104)).online()
    with ExitStack() as crowd:
        for number in range(30):
            crowd.enter_context(logged_in(server, f"c{number}", 104))
        page.has_notice("c29", "等 27 人", "哈喽~")
        assert [notice.count("等") for notice in page.notices] == [0, 0, 0, 1]
    eventually(lambda: page.people == [page.name, "（自己）"], what="all have left")
    assert len(page.notices) == 8
    page.driver.refresh()
    page.online()
    assert len(page.notices) == 6  # of a crowd, the history keeps the first and the last


@pytest.mark.full
def test_rooms_are_apart_and_linked(pair: Pair, server: Server) -> None:
    first, second = chat(pair, server, 104)
    links = first.run(
        "return [...document.querySelectorAll('.rooms a')].map((link) => link.getAttribute('href'))"
    )
    assert links == [f"/home/index?appID={room}" for room in (101, 102, 103, 104, "default")]
    second.click(".rooms a[href$='102']")
    eventually(lambda: "102" in "".join(second.texts(".rooms a[aria-current]")), what="the other room")
    second.online()
    eventually(lambda: len(first.people) == 2, what="the other left")
    first.say("unheard")
    eventually(lambda: first.own, what="the own bubble")
    receives_only_a_marker(server, second, 102)


@pytest.mark.full
def test_hostile_names_and_texts_are_shown_as_text(pair: Pair, server: Server) -> None:
    first, second = chat(pair, server, 102)
    with logged_in(server, "<img src=x onerror>"[:19], 102):
        first.has_notice("<img src=x onerror>")
        eventually(lambda: "<img src=x onerror>" in first.people, what="the name in the list")
        second.say(HOSTILE)
        first.has_received(second.name, HOSTILE)
        post(server, "/user/sendMessageAll", appID=102, userID="<b>x</b>", msgID="", message="<i>y</i>")
        first.has_received("<b>x</b>", "<i>y</i>")
    for page in (first, second):
        assert page.run("return window.pwned") is None
        assert (
            page.run("return document.querySelectorAll('.room img, .room i, .people b, .bubble *').length")
            == 0
        )


@pytest.mark.full
def test_a_very_long_text_is_shortened_and_can_be_opened(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 103)).online()
    text = "龙" * 50_000
    post(server, "/user/sendMessageAll", appID=103, userID="李白", msgID="", message=text)
    eventually(lambda: page.received, what="the message")
    assert len(page.received[0][1]) < 1000
    page.click(".more")
    assert page.received[0][1] == text
    assert page.find(".more").get_attribute("aria-expanded") == "true"
    page.click(".more")
    assert len(page.received[0][1]) < 1000


@pytest.mark.full
def test_a_push_to_one_user_shows_that_nobody_else_got_it(pair: Pair, server: Server) -> None:
    first, second = chat(pair, server, 104)
    post(server, "/user/sendMessage", appID=104, userID=first.name, msgID="", message="psst")
    first.has_received(first.name, "psst")
    assert first.texts("#log .line:not(.admin) .from .tag") == ["仅发给你"]
    receives_only_a_marker(server, second, 104)


@pytest.mark.full
def test_after_a_restart_of_the_server_the_pages_are_back(pair: Pair, start_server: StartServer) -> None:
    pair.expects("WebSocket connection to", "net::ERR_CONNECTION_REFUSED")
    config = {"app": fixed_ports()}
    server = start_server(config=config)
    first, second = chat(pair, server, 101)
    name = first.name
    server.stop()
    eventually(lambda: first.state == "waiting", what="the page knows")
    eventually(lambda: first.shown("#banner"), what="the page says so")
    first.say("too early")
    assert first.own == []
    start_server(config=config, folder=server.folder)
    first.online()
    second.online()
    assert first.name == name
    assert not first.shown("#banner")
    first.find("#message").send_keys(Keys.ENTER)
    second.has_received(name, "too early")
    assert any("重新连接" in text for text in first.texts("#log .divider"))


@pytest.mark.full
def test_who_is_removed_stays_out_until_entering_again(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 101)).online()
    name = page.name
    post(server, "/user/kick", appID=101, userID=name)
    eventually(lambda: page.state == "refused", what="the end")
    assert "4502" in page.texts("#banner-text")[0]
    assert page.find("#banner").get_attribute("role") == "alert"
    page.click("#banner-button")
    eventually(lambda: page.name not in ("", name), what="a new name")
    page.online()


@pytest.mark.full
def test_a_failed_send_is_shown_and_a_second_try_arrives_once(pair: Pair, server: Server) -> None:
    pair.expects("/user/sendMessageAll")
    lost_answer = """
      const real = fetch; let failures = 1;
      window.fetch = async (...call) => {
        const answer = await real(...call);
        if (String(call[0]).includes("sendMessageAll") && failures--) throw new TypeError("lost");
        return answer;
      };
    """
    first = pair[0].open(home(server, 104), script=lost_answer).online()
    second = pair[1].open(home(server, 104)).online()
    first.say("once")
    eventually(lambda: first.shown("#note"), what="the failure is said")
    assert first.own == []
    assert first.find("#message").get_attribute("value") == "once"
    first.find("#message").send_keys(Keys.ENTER)
    eventually(lambda: first.own == ["once"], what="the second try")
    first.say("twice")
    second.has_received(first.name, "twice")
    assert [text for _, text in second.received] == ["once", "twice"]


@pytest.mark.full
def test_the_page_shows_why_a_message_was_rejected(pair: Pair, start_server: StartServer) -> None:
    with Receiver() as receiver:
        receiver.reply = lambda _: (200, b'{"answers": [{"action": "reject"}]}')
        keys = {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]}
        app = {"open": True, "webhook": receiver.reviewing}
        server = start_server(config={"api": keys, "apps": {"101": app}})
        page = pair[0].open(home(server, 101, lang="en")).online()
        page.say("buy now")
        eventually(lambda: page.texts("#note") == ["Message rejected: no reason given"], what="the note")
        assert page.own == []


@pytest.mark.full
def test_a_reload_keeps_name_and_history_a_duplicate_does_not(pair: Pair, server: Server) -> None:
    first, second = chat(pair, server, 101)
    first.say("before")
    second.say("answer")
    first.has_received(second.name, "answer")
    name = first.name
    first.driver.refresh()
    first.online()
    assert first.name == name
    assert first.own == ["before"]
    assert first.received == [(second.name, "answer")]
    stored = first.run("return {...sessionStorage}")
    duplicate = (
        pair[0]
        .open(home(server, 101), script=f"Object.assign(sessionStorage, {json.dumps(stored)})")
        .online()
    )
    assert duplicate.name != name
    assert duplicate.own == []


@pytest.mark.full
def test_history_is_bounded(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 102)).online()
    with logged_in(server, "talker", 102):
        for number in range(450):
            post(server, "/user/sendMessageAll", appID=102, userID="talker", msgID="", message=f"m{number}")
        page.has_received("talker", "m449")
    assert page.run("return document.getElementById('log').childElementCount") <= 400
    page.driver.refresh()
    page.online()
    assert [text for _, text in page.received][-1] == "m449"
    assert len(page.received) <= 200


@pytest.mark.full
def test_reading_older_lines_is_not_disturbed_by_new_ones(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 103)).online()
    for number in range(40):
        post(server, "/user/sendMessageAll", appID=103, userID="李白", msgID="", message=f"m{number}")
    page.has_received("李白", "m39")
    page.run("document.getElementById('log').scrollTop = 0")
    post(server, "/user/sendMessageAll", appID=103, userID="李白", msgID="", message="new")
    eventually(lambda: page.shown("#latest"), what="a way to the new line")
    assert page.run("return document.getElementById('log').scrollTop") == 0
    page.click("#latest")
    eventually(lambda: not page.shown("#latest"), what="the end is reached")


@pytest.mark.full
def test_a_big_room_reads_its_list_each_minute(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config={"hub": {"notice_members": 3}})
    hurry = """
      const real = setTimeout;
      window.setTimeout = (task, pause, ...rest) => real(task, pause > 30000 ? pause / 60 : pause, ...rest);
    """
    page = pair[0].open(home(server), script=hurry).online()
    with ExitStack() as users:
        for number in range(6):
            users.enter_context(logged_in(server, f"u{number}"))
        eventually(lambda: page.texts("#people-count") == ["7"], what="the list of seven")
        assert "每分钟" in page.texts("#people-note")[0]
        assert len(page.notices) < 6
    eventually(lambda: page.texts("#people-count") == ["1"], what="the list of one")


@pytest.mark.full
def test_the_token_is_renewed_in_time(pair: Pair, start_server: StartServer) -> None:
    server = start_server(
        config={
            "apps": OPEN,
            "api": {"page_token_seconds": 30, "keys": [{"key": "k" * 20, "scopes": ["admin"]}]},
        }
    )
    clock = "const begun = Date.now(); window.waited = () => Date.now() - begun;"
    page = pair[0].open(home(server), script=clock).online()
    eventually(lambda: page.run("return waited()") > 35_000, what="the first token's time is over")
    page.say("still here")
    eventually(lambda: page.own == ["still here"], what="the message is taken")


@pytest.mark.full
def test_everything_can_be_done_with_the_keyboard(pair: Pair, server: Server) -> None:
    first, second = chat(pair, server, 103)
    first.run(  # some versions of Chromium focus the first link of a new tab
        "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"
    )
    first.press(Keys.TAB)
    assert first.focused == "跳到输入框"
    first.press(Keys.ENTER)
    first.press("hi ")
    assert first.focused == "message"
    first.press(Keys.SHIFT + Keys.TAB)
    assert first.focused == "emoji-open"
    first.press(Keys.ENTER)
    first.press(Keys.ARROW_RIGHT)
    first.press(Keys.ARROW_DOWN)
    first.press(Keys.ARROW_UP)
    first.press(Keys.HOME)
    first.press(Keys.ARROW_RIGHT)
    picked = first.focused
    first.press(Keys.ENTER)
    first.press(Keys.ESCAPE)
    assert first.focused == "message"
    assert not first.shown("#emoji")
    first.press(Keys.ENTER)
    second.has_received(first.name, f"hi {picked}")
    first.press(Keys.TAB)
    assert first.focused == "send"
    first.press(Keys.TAB)
    assert first.focused == "new-name"


@pytest.mark.full
def test_the_people_panel_on_a_phone_works_with_the_keyboard(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 104), size=(390, 844)).online()
    assert not page.shown("#people")
    page.run("document.getElementById('people-open').focus()")
    page.press(Keys.ENTER)
    eventually(lambda: page.shown("#people"), what="the panel opens")
    page.press(Keys.TAB)
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown("#people"), what="the panel closes")
    assert page.focused == "people-open"


def test_nothing_is_wider_than_the_window(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 102), size=(320, 640), dark=True, languages="en").online()
    for text in ("W" * 600, "龙" * 600, "a b " * 200, "مرحبا" * 100, "Z" + "\u0335\u0321\u0348" * 60):
        post(server, "/user/sendMessageAll", appID=102, userID="W" * 200, msgID="", message=text)
    page.has_received("W" * 200, "Z" + "\u0335\u0321\u0348" * 60)
    page.fits()
    inside = """
      const log = document.getElementById("log");
      return log.scrollWidth <= log.clientWidth && [...document.querySelectorAll("#log .bubble, .field")]
        .every((each) => each.getBoundingClientRect().right <= innerWidth);
    """
    assert page.run(inside)
    assert page.run("return document.body.scrollHeight <= innerHeight")
