"""Pusher's client and Laravel's on it, in Chromium, on a page of another origin."""

from pathlib import Path

import pytest

from tests.browser.conftest import Pair
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.sdk.node import run
from tests.sdk.test_pusher import PUSHER, place_of
from tests.tools import NODE_MODULES, require

pytestmark = pytest.mark.needs("node", "npm", "esbuild")

HERE = Path(__file__).parent


@pytest.mark.full
def test_the_clients_of_pusher_in_a_browser(pair: Pair, start_server: StartServer, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><script src="page.js"></script>', encoding="utf-8"
    )
    page_script = str(HERE / "pusher_page.mjs")
    run(
        [require("esbuild"), page_script, "--bundle", "--format=iife", f"--outfile={site / 'page.js'}"],
        NODE_PATH=str(NODE_MODULES),
    )
    server = start_server(config={"apps": {"shop": {"pusher": PUSHER}}})
    with serve_folder(site) as address:
        page = pair[0].open(f"{address}/index.html")
        page.driver.set_script_timeout(90)
        pair.expects("WebSocket", "Pusher")
        script = """
            const [place, done] = arguments;
            window.run(place).then(done, (error) => done(String(error)));
        """
        assert page.driver.execute_async_script(script, place_of(server)) == "all is well"
