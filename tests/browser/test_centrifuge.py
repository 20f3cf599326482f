"""Centrifugo's client in Chromium, on a page of another origin, with each of its transports."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.site import page_of, run_page, serve_folder
from tests.conftest import StartServer
from tests.foreign.conftest import CONFIG, token

pytestmark = [pytest.mark.needs("node", "esbuild", "centrifuge")]

HERE = Path(__file__).parent


@pytest.mark.full
def test_the_transports_of_centrifuge_js_in_a_browser(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    site = page_of(tmp_path, HERE / "centrifuge_page.mjs")
    with serve_folder(site) as address:
        server = start_server(config={**CONFIG, "server": {"origins": [address]}})
        page = pair[0].open(f"{address}/index.html")
        options = {
            "ws": f"ws://{server.ws.host}:{server.ws.port}",
            "http": server.http_url,
            "tokens": {name: token(name) for name in ("ann", "bob")},
        }
        assert run_page(page, options) == "all is well"
