"""Pages of another origin in Chromium: clients of Pusher, Laravel and
Centrifugo, and event streams."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.site import page_of, run_page, serve_folder
from tests.conftest import StartServer
from tests.foreign.conftest import CONFIG, token
from tests.integration.cmd import post, send_message, send_to_all
from tests.integration.sse import PATH
from tests.ports import free_ports
from tests.sdk.test_pusher import PUSHER, server_options
from tests.support import HTTP_SERVERS, Server, eventually

HERE = Path(__file__).parent


@pytest.mark.full("browser")
@pytest.mark.needs("node", "npm", "esbuild")
def test_the_clients_of_pusher(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(config={"apps": {"shop": {"pusher": PUSHER}}})
    with serve_folder(page_of(tmp_path, HERE / "pusher_page.mjs")) as address:
        page = pair[0].open(f"{address}/index.html")
        pair.expects("WebSocket", "Pusher")
        assert run_page(page, server_options(server)) == "all is well"


@pytest.mark.full("browser")
@pytest.mark.needs("node", "npm", "esbuild")
@pytest.mark.needs("centrifuge")
def test_each_transport_of_centrifuge_js(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    with serve_folder(page_of(tmp_path, HERE / "centrifuge_page.mjs")) as address:
        server = start_server(config={**CONFIG, "server": {"origins": [address]}})
        page = pair[0].open(f"{address}/index.html")
        tokens = {name: token(name) for name in ("ann", "bob")}
        options = {
            "ws": f"ws://{server.ws.host}:{server.ws.port}",
            "http": server.http_url,
            "tokens": tokens,
        }
        assert run_page(page, options) == "all is well"


CLOSED = 2
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
