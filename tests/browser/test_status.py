"""The operators' page in a real browser."""

import json

import pytest
from selenium.webdriver.common.keys import Keys
from websockets.sync.client import connect

from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.support import eventually

KEY = "an-admin-key-of-this-test"


@pytest.mark.full
def test_it_shows_the_node_and_renews_itself(pair: Pair, start_server: StartServer) -> None:
    pair.expects("/system/state")
    server = start_server()
    page = pair[0].open(f"{server.http_url}/status?lang=en")
    eventually(lambda: page.texts("#connections") == ["0"], what="the first figures")
    assert page.shown("#no-apps")
    with connect(server.ws_url, proxy=None) as socket, connect(server.ws_url, proxy=None):
        socket.send(json.dumps({"seq": "1", "cmd": "login", "data": {"userID": "ann", "appID": 102}}))
        socket.recv(60)
        figures = ("#connections", "#users", "#anonymous", "#apps tr:first-child > :not(.share)")
        wanted = [["2"], ["1"], ["1 not logged in"], ["102", "1"]]
        eventually(lambda: [page.texts(each) for each in figures] == wanted, what="the figures are renewed")
        assert page.texts("#memory")[0].endswith("MB")
        assert not page.shown("#no-apps")
    page.resize(320, 640)
    page.fits()
    server.stop()
    eventually(lambda: page.shown("#problem"), what="the problem")
    assert "the server does not answer" in page.texts("#problem")[0]
    assert "Data from" in page.texts("#state-text")[0]


@pytest.mark.full
def test_it_asks_for_a_key_and_keeps_it_in_the_tab_only(pair: Pair, start_server: StartServer) -> None:
    server = start_server(config={"api": {"keys": [{"key": KEY, "scopes": ["admin"]}]}})
    page = pair[0].open(f"{server.http_url}/status")
    eventually(lambda: page.shown("#key-form"), what="the form")
    assert not page.shown("#figures")
    assert page.focused == "key"
    page.press("wrong", Keys.ENTER)
    eventually(lambda: "admin" in page.texts("#key-problem")[0], what="the refusal")
    page.press(KEY, Keys.ENTER)
    eventually(lambda: page.shown("#figures"), what="the figures")
    page.driver.refresh()
    eventually(lambda: page.shown("#figures"), what="the figures after a reload")
    assert page.run("return localStorage.length") == 0
    assert page.run("return document.cookie") == ""
    assert KEY not in page.driver.current_url
    page.driver.get(f"{server.http_url}/cluster")
    eventually(lambda: page.texts("#count") == ["1"], what="the page of all nodes has the key, too")
    assert page.shown("#alone")
    page.click("nav a[href*='/status']")
    page.click("#forget")
    eventually(lambda: page.shown("#key-form"), what="the form again")
    assert page.run("return sessionStorage.length") == 0
