"""Centrifugo's client in Chromium, on a page of another origin, with each of its transports."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.foreign.conftest import CONFIG, token
from tests.sdk.node import run
from tests.tools import NODE_MODULES, require

pytestmark = [pytest.mark.needs("node", "esbuild", "centrifuge")]

HERE = Path(__file__).parent


@pytest.mark.full
def test_the_transports_of_centrifuge_js_in_a_browser(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><script src="page.js"></script>', encoding="utf-8"
    )
    page_script = str(HERE / "centrifuge_page.mjs")
    run(
        [require("esbuild"), page_script, "--bundle", "--format=iife", f"--outfile={site / 'page.js'}"],
        NODE_PATH=str(NODE_MODULES),
    )
    with serve_folder(site) as address:
        server = start_server(config={**CONFIG, "server": {"origins": [address]}})
        page = pair[0].open(f"{address}/index.html")
        page.driver.set_script_timeout(90)
        script = """
            const [place, done] = arguments;
            window.run(place).then(done, (error) => done(String(error)));
        """
        place = {
            "ws": f"ws://{server.ws.host}:{server.ws.port}",
            "http": server.http_url,
            "tokens": {name: token(name) for name in ("ann", "bob")},
        }
        assert page.driver.execute_async_script(script, place) == "all is well"
