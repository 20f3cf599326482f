"""A web server of another origin than the server's, and pages on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.browser.chromium import Page
from tests.integration.receiver import Answer, Post, Receiver
from tests.sdk.node import run
from tests.tools import NODE_MODULES, require


def page_of(folder: Path, script: Path) -> Path:
    """A folder with a page that runs this script, bundled."""
    site = folder / "site"
    site.mkdir()
    (site / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><script src="page.js"></script>',
        encoding="utf-8",
    )
    command = [
        require("esbuild"),
        str(script),
        "--bundle",
        "--format=iife",
        f"--outfile={site / 'page.js'}",
    ]
    run(command, NODE_PATH=str(NODE_MODULES))
    return site


def run_page(page: Page, location: dict[str, Any]) -> Any:
    page.driver.set_script_timeout(90)
    script = """
        const [location, done] = arguments;
        window.run(location).then(done, (error) => done(String(error)));
    """
    return page.driver.execute_async_script(script, location)


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yields the address of the site."""

    def reply(post: Post) -> Answer:
        file = folder / urlsplit(post.path).path.strip("/")
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            return 404, b""
        return (
            200,
            file.read_bytes(),
            {"Content-Type": guess_type(file.name)[0] or "text/plain"},
        )

    with Receiver() as site:
        site.reply = reply
        yield site.url.replace("127.0.0.1", "localhost")
