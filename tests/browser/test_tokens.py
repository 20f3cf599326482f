"""The chat page of an app that wants session tokens: its address brings one, and the session ends with it."""

import time
import urllib.parse

import jwt
import pytest

from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import Server, eventually

SECRET = "a secret that is long enough to be one"
CONFIG = {
    "apps": {"101": {"jwt": [{"key": SECRET}]}, "102": {"open": True}},
    "api": {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]},
}


def home(server: Server, user: str, seconds: float = 600) -> str:
    """The address that the app's back end gives to a user."""
    token = jwt.encode({"sub": user, "app": "101", "exp": time.time() + seconds}, SECRET, "HS256")
    return f"{server.http_url}/home/index?{urllib.parse.urlencode({'appID': 101, 'token': token})}"


@pytest.mark.full
def test_two_users_with_tokens_chat_in_their_own_names(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config=CONFIG)
    first = pair[0].open(home(server, "安")).online()
    second = pair[1].open(home(server, "bob")).online()
    assert (first.name, second.name) == ("安", "bob")
    eventually(lambda: "bob" in first.people and "安" in second.people, what="each sees the other")
    first.say("你好")
    second.has_received("安", "你好")
    second.say("hello")
    first.has_received("bob", "hello")
    assert pair[0].open(home(server, "eve")).online().name == "eve", "the next user of the tab"


@pytest.mark.full
def test_without_a_token_there_is_no_page_and_with_its_end_the_page_is_out(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(config=CONFIG)
    assert server.get("/home/index?appID=101")[0] == 401
    assert server.get("/home/index?appID=102")[0] == 200
    page = pair[0].open(home(server, "ann", 40)).online()
    eventually(lambda: page.state == "refused", what="the session ends with its token")
