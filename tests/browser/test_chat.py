"""The chat page and the pages of the action dialect, in real browsers."""

import json
import time
import urllib.parse
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.action import action_session
from tests.integration.cmd import logged_in, post, send_message, send_to_all
from tests.integration.receiver import Receiver
from tests.integration.setting import OPEN
from tests.ports import fixed_ports
from tests.support import Server, eventually

HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;\u202egnp.exe"
LOST_ANSWER = """
const real = fetch;
let failures = 1;
window.fetch = async (...call) => {
  const answer = await real(...call);
  if (String(call[0]).includes("sendMessageAll") && failures--) throw new TypeError("lost");
  return answer;
};
"""
HURRY = """
const real = setTimeout;
window.setTimeout = (task, pause, ...rest) => real(task, pause > 30000 ? pause / 60 : pause, ...rest);
"""
INSIDE = """
const log = document.getElementById("log");
return log.scrollWidth <= log.clientWidth && document.body.scrollHeight <= innerHeight
  && [...document.querySelectorAll("#log .bubble, .field")]
    .every((each) => each.getBoundingClientRect().right <= innerWidth);
"""


def home(server: Server, room: int | str = 101, **query: str) -> str:
    return f"{server.http_url}/home/index?{urllib.parse.urlencode({'appID': room, **query})}"


def chat(pair: Pair, server: Server, room: int) -> tuple[Page, Page]:
    """Two pages in one room that see each other."""
    first = pair[0].open(home(server, room)).online()
    second = pair[1].open(home(server, room)).online()
    eventually(
        lambda: second.name in first.people and first.name in second.people,
        what="each sees the other",
    )
    return first, second


@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_two_browsers_chat_with_each_other(
    pair: Pair, start_server: StartServer, http_server: str
) -> None:
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
    eventually(
        lambda: first.people == [first.name, "（自己）"], what="the list is shorter"
    )


@pytest.mark.full("browser")
def test_a_crowd_that_enters_shares_a_line(pair: Pair, server: Server) -> None:
    page = pair[0].open(home(server, 104)).online()
    with ExitStack() as crowd:
        for number in range(30):
            crowd.enter_context(logged_in(server.ws, f"c{number}", 104))
        page.has_notice("c29", "等 27 人", "哈喽~")
        assert [notice.count("等") for notice in page.notices] == [0, 0, 0, 1]
    eventually(lambda: page.people == [page.name, "（自己）"], what="all have left")
    assert len(page.notices) == 8
    page.reload()
    # of a crowd, the history keeps the first and the last
    assert len(page.notices) == 6


@pytest.mark.full("browser")
def test_rooms_are_apart_and_linked_and_a_push_to_one_user_says_so(
    pair: Pair, server: Server
) -> None:
    first, second = chat(pair, server, 104)
    links = "return [...document.querySelectorAll('.rooms a')].map((link) => link.getAttribute('href'))"
    assert first.run(links) == [
        f"/home/index?appID={room}" for room in (101, 102, 103, 104, "default")
    ]
    send_message(server.http, 104, first.name, "psst")
    first.has_received(first.name, "psst")
    assert first.texts("#log .line:not(.admin) .from .tag") == ["仅发给你"]
    assert second.received == []
    second.click(".rooms a[href$='102']")
    second.has_some(".rooms a[aria-current]", "102")
    second.online()
    eventually(lambda: len(first.people) == 2, what="the other left")
    first.say("unheard")
    eventually(lambda: first.own, what="the own bubble")
    # what was sent before would arrive before it
    send_message(server.http, 102, second.name, "marker")
    second.has_received(second.name, "marker")
    assert second.received == [(second.name, "marker")]


@pytest.mark.full("browser")
def test_hostile_and_long_texts_are_shown_as_text_and_shortened(
    pair: Pair, server: Server
) -> None:
    first, second = chat(pair, server, 102)
    with logged_in(server.ws, "<img src=x onerror>"[:19], 102):
        first.has_notice("<img src=x onerror>")
        eventually(
            lambda: "<img src=x onerror>" in first.people, what="the name in the list"
        )
        second.say(HOSTILE)
        first.has_received(second.name, HOSTILE)
        send_to_all(server.http, 102, "<b>x</b>", "<i>y</i>")
        first.has_received("<b>x</b>", "<i>y</i>")
    markup = "return document.querySelectorAll('.room img, .room i, .people b, .bubble *').length"
    for page in (first, second):
        assert page.run("return window.pwned") is None
        assert page.run(markup) == 0
    text = "龙" * 50_000
    send_to_all(server.http, 102, "李白", text)
    first.click(".more")
    assert first.received[-1] == ("李白", text)
    assert first.find(".more").get_attribute("aria-expanded") == "true"
    first.click(".more")
    assert len(first.received[-1][1]) < 1000


@pytest.mark.full("browser")
def test_after_a_restart_of_the_server_the_pages_are_back(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("WebSocket connection to", "net::ERR_CONNECTION_REFUSED")
    config = {"app": fixed_ports()}
    server = start_server(config=config)
    first, second = chat(pair, server, 101)
    name = first.name
    server.stop()
    eventually(lambda: first.state == "waiting", what="the page knows")
    first.sees("#banner")
    first.say("too early")
    assert first.own == []
    start_server(config=config, folder=server.folder)
    first.online()
    second.online()
    assert first.name == name
    assert not first.shown("#banner")
    first.write("#message", Keys.ENTER)
    second.has_received(name, "too early")
    assert any("重新连接" in text for text in first.texts("#log .divider"))


@pytest.mark.full("browser")
def test_who_is_removed_stays_out_until_entering_again(
    pair: Pair, server: Server
) -> None:
    page = pair[0].open(home(server, 101)).online()
    name = page.name
    post(server.http, "/user/kick", appID=101, userID=name)
    eventually(lambda: page.state == "refused", what="the end")
    assert "4502" in page.texts("#banner-text")[0]
    assert page.find("#banner").get_attribute("role") == "alert"
    page.click("#banner-button")
    eventually(lambda: page.name not in ("", name), what="a new name")
    page.online()


@pytest.mark.full("browser")
def test_what_could_not_be_sent_or_was_rejected_is_said(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("/user/sendMessageAll")
    with Receiver() as receiver:
        keys = {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]}
        apps = {
            "101": {"open": True, "webhook": receiver.reviewing},
            "104": {"open": True},
        }
        server = start_server(config={"api": keys, "apps": apps})
        first = pair[0].open(home(server, 104), script=LOST_ANSWER).online()
        second = pair[1].open(home(server, 104)).online()
        first.say("once")
        first.sees("#note")
        assert first.own == []
        assert first.find("#message").get_attribute("value") == "once"
        first.write("#message", Keys.ENTER)
        eventually(lambda: first.own == ["once"], what="the second try")
        first.say("twice")
        second.has_received(first.name, "twice")
        assert [text for _, text in second.received] == ["once", "twice"]
        receiver.reply = lambda _: (200, b'{"answers": [{"action": "reject"}]}')
        page = pair[0].open(home(server, 101, lang="en")).online()
        page.say("buy now")
        page.has("#note", "Message rejected: no reason given")
        assert page.own == []


@pytest.mark.full("browser")
def test_a_reload_keeps_name_and_history_a_duplicate_does_not(
    pair: Pair, server: Server
) -> None:
    first, second = chat(pair, server, 101)
    first.say("before")
    second.say("answer")
    first.has_received(second.name, "answer")
    name = first.name
    first.reload()
    assert first.name == name
    assert first.own == ["before"]
    assert first.received == [(second.name, "answer")]
    stored = json.dumps(first.run("return {...sessionStorage}"))
    script = f"Object.assign(sessionStorage, {stored})"
    duplicate = pair[0].open(home(server, 101), script=script).online()
    assert duplicate.name != name
    assert duplicate.own == []


@pytest.mark.full("browser")
def test_history_is_bounded_and_reading_it_is_not_disturbed(
    pair: Pair, server: Server
) -> None:
    page = pair[0].open(home(server, 103)).online()
    for number in range(450):
        send_to_all(server.http, 103, "talker", f"m{number}")
    page.has_received("talker", "m449")
    assert page.run("return document.getElementById('log').childElementCount") <= 400
    page.run("document.getElementById('log').scrollTop = 0")
    send_to_all(server.http, 103, "talker", "new")
    page.sees("#latest")
    assert page.run("return document.getElementById('log').scrollTop") == 0
    page.click("#latest")
    page.misses("#latest")
    page.reload()
    assert [text for _, text in page.received][-1] == "new"
    assert len(page.received) <= 200


@pytest.mark.full("browser")
def test_a_big_room_reads_its_list_each_minute(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config={"hub": {"notice_members": 3}})
    page = pair[0].open(home(server), script=HURRY).online()
    with ExitStack() as users:
        for number in range(6):
            users.enter_context(logged_in(server.ws, f"u{number}", 101))
        page.has("#people-count", "7")
        assert "每分钟" in page.texts("#people-note")[0]
        assert len(page.notices) < 6
    page.has("#people-count", "1")


@pytest.mark.full("browser")
def test_the_token_is_renewed_in_time(pair: Pair, start_server: StartServer) -> None:
    keys = [{"key": "k" * 20, "scopes": ["admin"]}]
    server = start_server(
        config={"apps": OPEN, "api": {"page_token_seconds": 30, "keys": keys}}
    )
    clock = "const begun = Date.now(); window.waited = () => Date.now() - begun;"
    page = pair[0].open(home(server), script=clock).online()
    eventually(
        lambda: page.run("return waited()") > 35_000,
        what="the first token's time is over",
    )
    page.say("still here")
    eventually(lambda: page.own == ["still here"], what="the message is taken")


@pytest.mark.full("browser")
def test_users_with_session_tokens_chat_in_their_own_names_until_these_end(
    pair: Pair, start_server: StartServer
) -> None:
    secret = "a secret that is long enough to be one"
    keys = {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]}
    server = start_server(
        config={"apps": {"101": {"jwt": [{"key": secret}]}}, "api": keys}
    )

    def opened(number: int, user: str, seconds: float = 600) -> Page:
        claims = {"sub": user, "app": "101", "exp": time.time() + seconds}
        return (
            pair[number]
            .open(home(server, token=jwt.encode(claims, secret, "HS256")))
            .online()
        )

    first = opened(0, "安")
    second = opened(1, "bob")
    assert (first.name, second.name) == ("安", "bob")
    eventually(
        lambda: "bob" in first.people and "安" in second.people,
        what="each sees the other",
    )
    first.say("你好")
    second.has_received("安", "你好")
    page = opened(0, "eve", 40)
    assert page.name == "eve", "the next user of the tab"
    eventually(lambda: page.state == "refused", what="the session ends with its token")


@pytest.mark.full("browser")
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
    for key in (
        Keys.ENTER,
        Keys.ARROW_RIGHT,
        Keys.ARROW_DOWN,
        Keys.ARROW_UP,
        Keys.HOME,
        Keys.ARROW_RIGHT,
    ):
        first.press(key)
    picked = first.focused
    first.press(Keys.ENTER)
    first.press(Keys.ESCAPE)
    assert first.focused == "message"
    assert not first.shown("#emoji")
    first.press(Keys.ENTER)
    second.has_received(first.name, f"hi {picked}")
    for focused in ("send", "new-name"):
        first.press(Keys.TAB)
        assert first.focused == focused
    second.resize(390, 844)
    assert not second.shown("#people")
    second.run("document.getElementById('people-open').focus()")
    second.press(Keys.ENTER)
    second.sees("#people")
    second.press(Keys.TAB)
    second.press(Keys.ESCAPE)
    second.misses("#people")
    assert second.focused == "people-open"


def test_nothing_is_wider_than_the_window(pair: Pair, server: Server) -> None:
    page = (
        pair[0]
        .open(home(server, 102), size=(320, 640), dark=True, languages="en")
        .online()
    )
    last = "Z" + "\u0335\u0321\u0348" * 60
    for text in ("W" * 600, "龙" * 600, "a b " * 200, "مرحبا" * 100, last):
        send_to_all(server.http, 102, "W" * 200, text)
    page.has_received("W" * 200, last)
    page.fits()
    assert page.run(INSIDE)


LINK = ".attachment[href^='https']"


def peer_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/index?{urlencode(query)}"


def room_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/room?{urlencode(query)}"


def in_service(page: Page) -> Page:
    eventually(lambda: page.state == "online", what="the page is connected")
    eventually(lambda: "登录成功" in page.notices, what="the page says so")
    return page


@pytest.mark.full("browser")
def test_pages_chat_in_a_room_each_word_shown_once(pair: Pair, server: Server) -> None:
    first = in_service(pair[0].open(room_page(server, uid=1)))
    second = in_service(pair[1].open(room_page(server, uid=2, groups_id=1)))
    assert first.texts("h1") == ["欢迎进入聊天室"]
    assert first.texts(".rooms a") == ["测试1群"]
    with action_session(server.ws, "3", room="1") as third:
        first.say("大家好")
        second.has_received("用户1：", "大家好")
        eventually(lambda: first.own == ["大家好"], what="the own copy came back")
        third.say("我也在")
        for page in (first, second):
            page.has_received("用户3：", "我也在")
        second.say("two\nlines")
        first.has_received("用户2：", "two\nlines")
        eventually(lambda: second.own == ["two\nlines"], what="the own copy came back")
    for page in (first, second):
        page.has_notice("用户3已经离开")
    assert first.received == [("用户3：", "我也在"), ("用户2：", "two\nlines")]


@pytest.mark.full("browser")
def test_a_room_of_another_name_is_shown_beside_the_stored_ones(
    pair: Pair, server: Server
) -> None:
    page = in_service(pair[0].open(room_page(server, uid="ann", groups_id="7")))
    assert page.texts(".rooms a") == ["测试1群", "测试7群"]
    assert page.texts(".rooms [aria-current]") == ["测试7群"]
    page.click(".rooms a")
    page.has(".rooms [aria-current]", "测试1群")
    in_service(page)
    with action_session(server.ws, "bob", room="7") as bob:
        bob.say("unheard")
        page.say("heard by none of room 7")
        eventually(lambda: page.own, what="the own bubble")
    assert page.received == []


@pytest.mark.full("browser")
def test_a_login_that_is_refused_is_no_success(pair: Pair, server: Server) -> None:
    for address in (
        peer_page(server, to_uid=2),
        peer_page(server, uid="x" * 20, to_uid=2),
    ):
        page = pair[0].open(address)
        page.has_some("#banner-text", "1002")
        assert page.state == "refused"
        assert page.notices == ["Connection Closed."]


@pytest.mark.full("browser")
def test_media_of_our_own_are_shown_and_others_are_links(
    pair: Pair, server: Server
) -> None:
    pair.expects("404")
    page = in_service(pair[0].open(peer_page(server, uid=1, to_uid=2)))
    with action_session(server.ws, "2", to="1") as other:
        for kind, text in (
            ("image", "/static/favicon.svg"),
            ("image", f"{server.http_url}/static/none.png"),
            ("video", "https://example.com/a.mp4"),
            ("voice", "javascript:alert(1)"),
            ("image", "//example.com/a.png"),
        ):
            other.say(text, kind)
        eventually(lambda: len(page.received) == 5, what="all have come")
    host = f"{server.http.host}:{server.http.port}"
    page.has(".attachment", f"图片来自 {host}", "视频来自 example.com")
    assert (
        page.find(".bubble img").get_attribute("src")
        == f"{server.http_url}/static/favicon.svg"
    )
    link = "const { target, rel } = document.querySelector(arguments[0]); return [target, rel]"
    assert page.run(link, LINK) == ["_blank", "noopener noreferrer nofollow"]
    assert [text for _, text in page.received[3:]] == [
        "javascript:alert(1)",
        "//example.com/a.png",
    ]


@pytest.mark.full("browser")
def test_what_the_server_refuses_is_taken_back_and_stored_messages_are_shown_once(
    pair: Pair, start_server: StartServer
) -> None:
    stored = {"action:1": {"store_conversations": True}}
    server = start_server(config={"limits": {"message_bytes": 300}, "apps": stored})
    page = in_service(pair[0].open(room_page(server, uid=7)))
    with action_session(server.ws, "8", room="1") as other:
        for text in ("one", "two"):
            other.say(text)
            page.has_received("用户8：", text)
        page.driver.refresh()  # before its pong has proven anything
        in_service(page)
        other.say("three")
        page.has_received("用户8：", "three")
    assert page.received == [("用户8：", text) for text in ("one", "two", "three")]
    pair.expects("WebSocket connection to")
    page.write("#message", "x" * 400)
    page.click("#send")
    page.has_some("#note", "发送失败")
    assert page.own == []
    assert page.find("#message").get_attribute("value") == "x" * 400


@pytest.mark.full("browser")
def test_no_window_is_too_small(pair: Pair, server: Server) -> None:
    for address in (
        peer_page(server, uid="user-of-19-bytes-xx", to_uid="x" * 300),
        room_page(server, uid="很长的名字", groups_id="很长的名字" * 10),
    ):
        page = in_service(pair[0].open(address, size=(320, 560)))
        page.say("w" * 500)
        eventually(lambda page=page: page.own, what="the own bubble")
        for size in ((320, 560), (375, 740), (900, 700), (1280, 800)):
            page.resize(*size)
            page.fits()
            assert all(
                page.shown(each)
                for each in ("h1", "#send", "#message", ".who", ".languages")
            ), size
