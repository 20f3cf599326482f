"""A web server of another origin than the server's, and pages on it."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser.chromium import Page
from tests.sdk.node import run
from tests.tools import NODE_MODULES, require


def page_of(folder: Path, script: Path) -> Path:
    """A folder with a page that runs this script, bundled."""
    site = folder / "site"
    site.mkdir()
    (site / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><script src="page.js"></script>', encoding="utf-8"
    )
    command = [require("esbuild"), str(script), "--bundle", "--format=iife", f"--outfile={site / 'page.js'}"]
    run(command, NODE_PATH=str(NODE_MODULES))
    return site


def run_page(page: Page, location: dict[str, Any]) -> Any:
    """What ``window.run`` of a page gives, or its error."""
    page.driver.set_script_timeout(90)
    script = """
        const [location, done] = arguments;
        window.run(location).then(done, (error) => done(String(error)));
    """
    return page.driver.execute_async_script(script, location)


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yields the address of the site."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join()
