"""Pusher's client and Laravel's on it, in Chromium, on a page of another origin."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.site import page_of, run_page, serve_folder
from tests.conftest import StartServer
from tests.sdk.test_pusher import PUSHER, server_options

pytestmark = pytest.mark.needs("node", "npm", "esbuild")

HERE = Path(__file__).parent


@pytest.mark.full
def test_the_clients_of_pusher_in_a_browser(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    site = page_of(tmp_path, HERE / "pusher_page.mjs")
    server = start_server(config={"apps": {"shop": {"pusher": PUSHER}}})
    with serve_folder(site) as address:
        page = pair[0].open(f"{address}/index.html")
        pair.expects("WebSocket", "Pusher")
        assert run_page(page, server_options(server)) == "all is well"
