"""The pages of the action dialect in real browsers."""

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.integration.action import action_session
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")


LINK = ".attachment[href^='https']"


def peer_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/index?{urlencode(query)}"


def room_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/room?{urlencode(query)}"


def in_service(page: Page) -> Page:
    """Wait until the page has logged in."""
    eventually(lambda: page.state == "online", what="the page is connected")
    eventually(lambda: "登录成功" in page.notices, what="the page says so")
    return page


@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_two_pages_chat_one_to_one(pair: Pair, start_server: StartServer, http_server: str) -> None:
    server = start_server(http_server=http_server)
    first = in_service(pair[0].open(peer_page(server, uid=1, to_uid=2)))
    second = in_service(pair[1].open(peer_page(server, uid=2, to_uid=1)))
    assert first.find("#send").text == "发送"
    first.say("你好")
    second.has_received("用户:", "你好")
    eventually(lambda: first.own == ["你好"], what="the own bubble")
    assert first.find("#message").get_attribute("value") == ""
    second.write("#message", "by the button")
    second.click("#send")
    first.has_received("用户:", "by the button")
    assert first.own == ["你好"]
    eventually(lambda: second.own == ["by the button"], what="the own bubble")
    assert first.notices == second.notices == ["登录成功"]


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


def test_a_room_of_another_name_is_shown_beside_the_stored_ones(pair: Pair, server: Server) -> None:
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


def test_a_login_that_is_refused_is_no_success(pair: Pair, server: Server) -> None:
    for address in (peer_page(server, to_uid=2), peer_page(server, uid="x" * 20, to_uid=2)):
        page = pair[0].open(address)
        page.has_some("#banner-text", "1002")
        assert page.state == "refused"
        assert page.notices == ["Connection Closed."]


def test_media_of_our_own_are_shown_and_others_are_links(pair: Pair, server: Server) -> None:
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
    assert page.find(".bubble img").get_attribute("src") == f"{server.http_url}/static/favicon.svg"
    link = "const { target, rel } = document.querySelector(arguments[0]); return [target, rel]"
    assert page.run(link, LINK) == ["_blank", "noopener noreferrer nofollow"]
    assert [text for _, text in page.received[3:]] == ["javascript:alert(1)", "//example.com/a.png"]


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
            assert all(page.shown(each) for each in ("h1", "#send", "#message", ".who", ".languages")), size
