"""The pages of the action dialect in real browsers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import Server, eventually


def peer_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/index?{urlencode(query)}"


def room_page(server: Server, **query: Any) -> str:
    return f"{server.http_url}/home/room?{urlencode(query)}"


def in_service(page: Page) -> Page:
    """Wait until the page has logged in."""
    eventually(lambda: page.state == "online", what="the page is connected")
    eventually(lambda: "登录成功" in page.notices, what="the page says so")
    return page


@contextmanager
def user(server: Server, name: str, to: str = "0", room: str = "0") -> Iterator[ClientConnection]:
    """A user without a browser."""
    address = f"ws://{server.ws.host}:{server.ws.port}/ws?{urlencode({'uid': name})}"
    with connect(address, proxy=None, ping_interval=None) as socket:
        socket.recv(60)
        data = {"userId": name, "appId": 1, "toUid": to, "groupsId": room}
        socket.send(json.dumps({"seq": "1", "action": "login", "data": data}))
        assert json.loads(socket.recv(60))["response"]["code"] == 200
        yield socket


def say(socket: ClientConnection, message: str, kind: str = "text") -> None:
    data = {"msgType": kind, "message": message}
    socket.send(json.dumps({"seq": "2", "action": "sendmsg", "data": data}))


@pytest.mark.full
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
    second.find("#message").send_keys("by the button")
    second.find("#send").click()
    first.has_received("用户:", "by the button")
    assert first.own == ["你好"]
    eventually(lambda: second.own == ["by the button"], what="the own bubble")
    assert first.notices == second.notices == ["登录成功"]


@pytest.mark.full
def test_pages_chat_in_a_room_each_word_shown_once(pair: Pair, server: Server) -> None:
    first = in_service(pair[0].open(room_page(server, uid=1)))
    second = in_service(pair[1].open(room_page(server, uid=2, groups_id=1)))
    assert first.texts("h1") == ["欢迎进入聊天室"]
    assert first.texts(".rooms a") == ["测试1群"]
    with user(server, "3", room="1") as third:
        first.say("大家好")
        second.has_received("用户1：", "大家好")
        eventually(lambda: first.own == ["大家好"], what="the own copy came back")
        say(third, "我也在")
        for page in (first, second):
            page.has_received("用户3：", "我也在")
        second.say("two\nlines")
        first.has_received("用户2：", "two\nlines")
        eventually(lambda: second.own == ["two\nlines"], what="the own copy came back")
    for page in (first, second):
        page.has_notice("用户3已经离开")
    assert first.received == [("用户3：", "我也在"), ("用户2：", "two\nlines")]


@pytest.mark.full
def test_a_room_of_another_name_is_shown_beside_the_stored_ones(pair: Pair, server: Server) -> None:
    page = in_service(pair[0].open(room_page(server, uid="ann", groups_id="7")))
    assert page.texts(".rooms a") == ["测试1群", "测试7群"]
    assert page.texts(".rooms [aria-current]") == ["测试7群"]
    page.click(".rooms a")
    eventually(lambda: page.texts(".rooms [aria-current]") == ["测试1群"], what="the other room")
    in_service(page)
    with user(server, "bob", room="7") as bob:
        say(bob, "unheard")
        bob.recv(60)
        page.say("heard by none of room 7")
        eventually(lambda: page.own, what="the own bubble")
    assert page.received == []


@pytest.mark.full
def test_a_login_that_is_refused_is_no_success(pair: Pair, server: Server) -> None:
    for address in (peer_page(server, to_uid=2), peer_page(server, uid="x" * 20, to_uid=2)):
        page = pair[0].open(address)
        eventually(lambda page=page: page.state == "refused", what="the page gives up")
        eventually(lambda page=page: page.notices == ["Connection Closed."], what="the page says so")
        assert "1002" in page.texts("#banner-text")[0]


@pytest.mark.full
def test_media_of_our_own_are_shown_and_others_are_links(pair: Pair, server: Server) -> None:
    pair.expects("404")
    page = in_service(pair[0].open(peer_page(server, uid=1, to_uid=2)))
    with user(server, "2", to="1") as other:
        for kind, text in (
            ("image", "/static/favicon.svg"),
            ("image", f"{server.http_url}/static/none.png"),
            ("video", "https://example.com/a.mp4"),
            ("voice", "javascript:alert(1)"),
            ("image", "//example.com/a.png"),
        ):
            say(other, text, kind)
        eventually(lambda: len(page.received) == 5, what="all have come")
    eventually(lambda: len(page.texts(".attachment")) == 2, what="what cannot be shown is a link")
    assert page.texts(".attachment") == [
        f"图片来自 {server.http.host}:{server.http.port}",
        "视频来自 example.com",
    ]
    assert page.find(".bubble img").get_attribute("src") == f"{server.http_url}/static/favicon.svg"
    link = page.find(".attachment[href^='https']")
    assert (link.get_attribute("target"), link.get_attribute("rel")) == (
        "_blank",
        "noopener noreferrer nofollow",
    )
    assert [text for _, text in page.received[3:]] == ["javascript:alert(1)", "//example.com/a.png"]


@pytest.mark.full
def test_what_the_server_refuses_is_taken_back_and_shown(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config={"limits": {"message_bytes": 300}})
    pair.expects("WebSocket connection to")
    page = in_service(pair[0].open(peer_page(server, uid=1, to_uid=2)))
    page.find("#message").send_keys("x" * 400)
    page.find("#send").click()
    eventually(lambda: page.shown("#note"), what="the page says so")
    assert page.texts("#note")[0].startswith("发送失败")
    assert page.own == []
    assert page.find("#message").get_attribute("value") == "x" * 400


@pytest.mark.full
def test_stored_messages_are_shown_once_by_a_tab_that_receives_them_twice(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config={"apps": {"action:1": {"store_conversations": True}}})
    page = in_service(pair[0].open(room_page(server, uid=7)))
    with user(server, "8", room="1") as other:
        for text in ("one", "two"):
            say(other, text)
            page.has_received("用户8：", text)
        page.driver.refresh()  # before its pong has proven anything
        in_service(page)
        say(other, "three")
        page.has_received("用户8：", "three")
    assert page.received == [("用户8：", text) for text in ("one", "two", "three")]


@pytest.mark.full
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
