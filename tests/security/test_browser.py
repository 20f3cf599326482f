"""A website that a user of this machine visits cannot use a server on it: attacks by real Chromium."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.chromium import Browser, Page
from tests.integration.cmd import get, logged_in
from tests.integration.receiver import Receiver
from tests.support import Server

EVIL = "evil.example"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for which a foreign name is this machine, as after DNS rebinding."""
    one = Browser(tmp_path_factory.mktemp("chromium"), f"--host-resolver-rules=MAP {EVIL} 127.0.0.1")
    yield one
    one.quit()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The foreign website."""
    with Receiver() as one:
        one.reply = lambda _: (200, b"<!doctype html><title>evil</title>", {"Content-Type": "text/html"})
        yield f"{one.url}/".replace("127.0.0.1", EVIL)


@pytest.fixture
def page(browser: Browser, site: str) -> Page:
    return browser.open(site)


def waits_for(page: Page, script: str, *arguments: Any) -> Any:
    """What a promise in the page gives; its error as a text."""
    return page.driver.execute_async_script(
        f"const done = arguments[arguments.length - 1]; ({script})(...arguments)"
        ".then(done, (error) => done(`failed: ${error}`))",
        *arguments,
    )


def fetched(page: Page, url: str, **options: Any) -> str:
    """The text of an answer, as far as the page may read it."""
    script = "(url, options) => fetch(url, options).then((answer) => answer.text())"
    return str(waits_for(page, script, url, options))


def socket_says(page: Page, url: str, first: str = "") -> str:
    """The first message or the close code of a WebSocket."""
    return str(
        waits_for(
            page,
            """(url, first) => new Promise((done) => {
                const socket = new WebSocket(url);
                socket.onopen = () => first && socket.send(first);
                socket.onmessage = (event) => done(event.data);
                socket.onclose = (event) => done(`closed ${event.code}`);
                setTimeout(() => done("closed: nothing came"), 60000);
            })""",
            url,
            first,
        )
    )


LOGIN = '{"seq":"1","cmd":"login","data":{"userID":"evil","appID":101}}'
FORM = {
    "method": "POST",
    "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    "body": "appID=101&userID=victim&msgID=evil&message=evil",
}
JSON = {
    "method": "POST",
    "headers": {"Content-Type": "text/plain"},
    "body": '{"app":"101","user":"victim","text":"evil"}',
}


def test_in_demo_mode_a_foreign_page_pushes_and_reads_nothing_and_opens_no_socket(
    demo: Server, page: Page
) -> None:
    with logged_in(demo.ws, "victim", 101) as victim:
        for path in ("/user/sendMessage", "/user/sendMessageAll", "/api/v1/push"):
            for body in (FORM, JSON):
                fetched(page, demo.http_url + path, mode="no-cors", **body)
        victim.no_push()
        assert "victim" not in fetched(page, f"{demo.http_url}/user/list?appID=101")
        for path in ("/acc", "/ws?systemId=shop", "/ws?uid=1&to_uid=2"):
            address = f"ws://{demo.ws.host}:{demo.ws.port}{path}"
            assert socket_says(page, address, LOGIN).startswith("closed ")


def test_in_demo_mode_a_name_that_was_rebound_reads_nothing(demo: Server, browser: Browser) -> None:
    """The page and the server then have one origin, so only the Host header tells."""
    with logged_in(demo.ws, "victim", 101) as victim:
        base = f"http://{EVIL}:{demo.http.port}"
        page = browser.open(f"{base}/health")
        assert "victim" not in fetched(page, f"{base}/user/list?appID=101")
        fetched(page, f"{base}/user/sendMessage", mode="same-origin", **FORM)
        assert socket_says(page, f"ws://{EVIL}:{demo.ws.port}/acc", LOGIN).startswith("closed ")
        victim.no_push()


def test_in_demo_mode_a_local_page_still_works(demo: Server, browser: Browser) -> None:
    """What the tests above would otherwise not show. Another port of this machine is no foreign page."""
    page = browser.open(f"{demo.http_url}/home/index?appID=101")
    assert "userList" in fetched(page, f"{demo.http_url}/user/list?appID=101")
    assert '"code":200' in socket_says(page, demo.ws_url, LOGIN)
    assert get(demo.http, "/health").status == 200
