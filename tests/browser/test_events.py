"""Event streams as a browser reads them: EventSource, on a page of another origin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.integration.cmd import post, send_message, send_to_all
from tests.integration.sse import PATH
from tests.ports import free_ports
from tests.support import HTTP_SERVERS, Server, eventually

CLOSED = 2
"""EventSource.CLOSED."""
LISTEN = """
window.heard = [];
window.states = [];
const source = (window.source = new EventSource(arguments[0]));
source.onopen = () => window.states.push("open");
source.onerror = () => window.states.push(source.readyState === 2 ? "given up" : "lost");
source.onmessage = (event) => window.heard.push(JSON.parse(event.data).text || JSON.parse(event.data).event);
source.addEventListener("ready", (event) => window.heard.push("ready"));
source.addEventListener("end", (event) => {
  window.heard.push("end " + JSON.parse(event.data).code);
  if (!JSON.parse(event.data).reconnect) source.close();
});
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The address of a page that is not the server's."""
    page = '<!doctype html><title>elsewhere</title><link rel="icon" href="data:,">'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")

    with serve_folder(tmp_path) as site:
        yield f"{site}/page.html"


def heard(page: Page) -> list[str]:
    return list(page.run("return window.heard"))


def waits_for(page: Page, *wanted: str) -> None:
    eventually(lambda: heard(page) == list(wanted), what=f"{wanted}")


@pytest.mark.full("browser")
@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_page_receives_what_is_pushed_comes_back_by_itself_and_stays_away_when_it_is_kicked(
    pair: Pair, start_server: StartServer, elsewhere: str, http_server: str
) -> None:
    pair.expects("ERR_")
    how = {"http_server": http_server, "config": {"app": {"http_port": free_ports()}}}
    server: Server = start_server(**how)
    page = pair[0].open(elsewhere)
    page.run(LISTEN, f"{server.http_url}{PATH}?app=101&user=ann")
    expected = ["ready"]
    waits_for(page, *expected)
    send_message(server.http, 101, "ann", "你好\nann")
    send_to_all(server.http, 101, "x", "all")
    expected += ["你好\nann", "all"]
    waits_for(page, *expected)
    server.stop()
    server = start_server(**how)
    expected += ["end 1001", "ready"]
    waits_for(page, *expected)
    send_message(server.http, 101, "ann", "again")
    waits_for(page, *expected, "again")
    post(server.http, "/user/kick", appID=101, userID="ann")
    waits_for(page, *expected, "again", "end 4502")
    assert page.run("return window.source.readyState") == CLOSED
