"""The pages of the action dialect, as an HTTP client meets them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace

from imserver.gateway.config.settings import Config
from imserver.pages.text import TEXT
from tests.pages.test_routes import FakeNode, client_for, page_data


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    config = Config()
    second = replace(config.apps["action:2"], store_conversations=True)
    node: Any = FakeNode(replace(config, apps={**config.apps, "action:2": second}))
    with client_for(node) as client:
        yield client


def opened(
    client: FlaskClient, path: str, host: str = "127.0.0.1:8080", **headers: str
) -> Any:
    return client.get(path, headers={"Host": host, **headers})


@pytest.mark.parametrize(
    ("path", "user", "peer", "room"),
    [
        ("/home/index?uid=1&to_uid=2", "1", "2", "0"),
        ("/home/index?UID=1&To_Uid=2", "1", "2", "0"),
        ("/home/index?uid=1", "1", "null", "0"),
        ("/home/index?to_uid=2", "", "2", "0"),
        ("/home/room?uid=1&groups_id=9", "1", "0", "9"),
        ("/home/room", "", "0", "1"),
    ],
)
def test_the_address_names_user_and_receiver(
    client: FlaskClient, path: str, user: str, peer: str, room: str
) -> None:
    data = page_data(opened(client, path).text)
    assert (data["app"], data["user"], data["peer"], data["room"]) == (
        1,
        user,
        peer,
        room,
    )
    assert data["websocketUrl"] == "//127.0.0.1:8089/ws"


@pytest.mark.parametrize(
    "path", ["/home/index", "/home/index?appID=101", "/home/index?groups_id=1"]
)
def test_without_a_user_the_page_is_that_of_the_chat_rooms(
    client: FlaskClient, path: str
) -> None:
    assert page_data(opened(client, path).text)["app"] == 101


@pytest.mark.parametrize(
    ("query", "app"), [("appId=2", 2), ("appname=2", 2), ("appId=3", 1), ("appId=x", 1)]
)
def test_the_app_is_one_that_there_is(
    client: FlaskClient, query: str, app: int
) -> None:
    assert page_data(opened(client, f"/home/room?uid=1&{query}").text)["app"] == app


def test_the_words_of_the_original_are_in_the_pages(client: FlaskClient) -> None:
    room, peer = (
        opened(client, f"/home/{name}?uid=1&to_uid=2").text
        for name in ("room", "index")
    )
    assert "<h1>欢迎进入聊天室</h1>" in room
    assert ">测试1群</a>" in room
    for text in (room, peer):
        assert "<span>发送</span>" in text
        assert page_data(text)["text"]["talk_in"] == "登录成功"
        assert page_data(text)["text"]["talk_over"] == "Connection Closed."


@pytest.mark.parametrize(
    ("query", "stored"),
    [
        ("appId=2&to_uid=2", True),
        ("appId=1&to_uid=2", False),
        ("appId=2&to_uid=2&lang=en", True),
    ],
)
def test_a_page_says_whether_messages_are_stored(
    client: FlaskClient, query: str, stored: bool
) -> None:
    text = opened(client, f"/home/index?uid=1&{query}").text
    hints = TEXT["en" if "lang=en" in query else "zh"]
    output = [
        f"<p>{hints[key]}</p>" in text for key in ("talk_kept_hint", "talk_alone_hint")
    ]
    assert output == [stored, not stored]


def test_parameters_of_the_address_are_escaped(client: FlaskClient) -> None:
    hostile = "%3C/script%3E%3Cb%20id=x%3E%22'"
    for path in (
        f"/home/room?uid={hostile}&groups_id={hostile}",
        f"/home/index?uid={hostile}&to_uid={hostile}",
    ):
        text = opened(client, f"{path}&token={hostile}").text
        assert "<b id=x>" not in text
        data = page_data(text)
        assert data["user"] == data["token"] == "</script><b id=x>\"'"


def test_links_keep_user_app_and_token(client: FlaskClient) -> None:
    text = opened(client, "/home/index?uid=1&to_uid=2&appId=2&token=t").text
    links = re.findall(r'href="(/home/(?:room|index)\?[^"]*)"', text)
    assert links
    assert all(
        "uid=1" in link and "appId=2" in link and "token=t" in link for link in links
    )
