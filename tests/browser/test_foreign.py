"""Clients of other servers in Chromium, on pages of another origin: of Pusher, Laravel and Centrifugo."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.site import page_of, run_page, serve_folder
from tests.conftest import StartServer
from tests.foreign.conftest import CONFIG, token
from tests.sdk.test_pusher import PUSHER, server_options

pytestmark = [pytest.mark.full("browser"), pytest.mark.needs("node", "npm", "esbuild")]

HERE = Path(__file__).parent


def test_the_clients_of_pusher(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(config={"apps": {"shop": {"pusher": PUSHER}}})
    with serve_folder(page_of(tmp_path, HERE / "pusher_page.mjs")) as address:
        page = pair[0].open(f"{address}/index.html")
        pair.expects("WebSocket", "Pusher")
        assert run_page(page, server_options(server)) == "all is well"


@pytest.mark.needs("centrifuge")
def test_each_transport_of_centrifuge_js(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    with serve_folder(page_of(tmp_path, HERE / "centrifuge_page.mjs")) as address:
        server = start_server(config={**CONFIG, "server": {"origins": [address]}})
        page = pair[0].open(f"{address}/index.html")
        tokens = {name: token(name) for name in ("ann", "bob")}
        options = {"ws": f"ws://{server.ws.host}:{server.ws.port}", "http": server.http_url, "tokens": tokens}
        assert run_page(page, options) == "all is well"
