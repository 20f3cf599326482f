"""Pages beside the API: what a browser is shown in place of a page, and where
there are none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imserver.gateway.node.http_servers import LISTENER_KEY
from tests.gateway.node.test_flask_app import App, problem_of

BROWSER = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    one = App(tmp_path, "pages")
    yield one
    one.close()


@pytest.mark.parametrize(
    ("path", "language", "words"),
    [
        ("/nothing", "zh-CN", "没有这个页面"),
        ("/nothing", "en", "Page not found"),
        ("/nothing?lang=en", "zh-CN", "Page not found"),
        ("/teapot", "en", "The server refused the request (refused)."),
        ("/closed", "en", "This page needs a valid session token."),
    ],
)
def test_a_browser_is_shown_a_page_in_place_of_what_it_cannot_have(
    app: App, path: str, language: str, words: str
) -> None:
    answer = app.client.get(
        path, headers={**BROWSER, "Accept-Language": language, "X-Request-Id": "abc"}
    )
    assert answer.status_code == {"/teapot": 418, "/closed": 401}.get(path, 404)
    assert answer.content_type == "text/html; charset=utf-8"
    assert words in answer.text
    assert '<a class="button" href="/' in answer.text
    assert "/home/index" not in answer.text  # that page may need a token, too
    assert "abc" in answer.text
    assert answer.headers["X-Request-Id"] == "abc"
    assert answer.headers["Vary"] == "Accept, Accept-Language"
    assert answer.headers["Content-Security-Policy"].startswith(
        "default-src 'none'; script-src 'self';"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert [entry[2] for entry in app.logged] == [answer.status_code]


def test_a_page_that_takes_another_method_says_which(app: App) -> None:
    answer = app.client.get("/home/token", headers=BROWSER)
    assert (answer.status_code, answer.content_type) == (
        405,
        "text/html; charset=utf-8",
    )
    assert "POST" in answer.headers["Allow"]
    assert problem_of(app.client.post("/"))["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "hostile", ["/<script>alert(1)</script>", "/{{7*7}}-49", "/a?lang=%22%3E%3Ci%3E"]
)
def test_a_page_in_place_of_another_repeats_nothing_of_its_address(
    app: App, hostile: str
) -> None:
    text = app.client.get(hostile, headers=BROWSER | {"X-Request-Id": "abc"}).text
    for part in ("<script>alert", '"><i>', "-49"):
        assert part not in text


def test_the_websocket_listener_serves_no_pages(app: App) -> None:
    there = {LISTENER_KEY: "websocket"}
    assert (
        problem_of(app.client.get("/home/index", environ_overrides=there))["code"]
        == "not_found"
    )
    assert (
        app.client.get(
            "/home/index", environ_overrides={LISTENER_KEY: "http"}
        ).status_code
        == 200
    )
