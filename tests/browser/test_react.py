"""The React hooks and the JavaScript client in Chromium, bundled from the npm
packages, on a foreign page."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.sdk.node import bundle, install_packages
from tests.sdk.test_packages import CONFIG, server_options
from tests.support import Server, eventually

pytestmark = pytest.mark.needs("node", "npm", "esbuild")

HERE = Path(__file__).parent
KEYED = {**CONFIG, "server": {"origin_policy": "any"}}
MULTI = {**KEYED, "apps": {"shop": {**CONFIG["apps"]["shop"], "login_policy": "multi"}}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    project = install_packages(tmp_path_factory.mktemp("npm"))
    site = tmp_path_factory.mktemp("site")
    for source in (HERE.parent / "sdk" / "smoke.mjs", HERE / "react_page.jsx"):
        shutil.copy(source, project)
        bundle(project / source.name, site / f"{source.stem}.js")
    body = '<!doctype html><link rel="icon" href="data:,"><div id="page"></div>'
    (site / "smoke.html").write_text(body, encoding="utf-8")
    (site / "react.html").write_text(
        f'{body}<script type="module" src="react_page.js"></script>', encoding="utf-8"
    )
    with serve_folder(site) as address:
        yield address


@pytest.mark.full("browser")
def test_the_package_works_in_a_browser(
    pair: Pair, start_server: StartServer, site: str
) -> None:
    server = start_server(config=KEYED)
    page = pair[0].open(f"{site}/smoke.html")
    script = 'return (await import("./smoke.js")).smoke(arguments[0])'
    assert page.awaited(script, server_options(server)) == "all is well"


def opened(
    pair: Pair, number: int, site: str, server: Server, user: str, peer: str
) -> Page:
    options: dict[str, Any] = {**server_options(server), "user": user, "peer": peer}
    pair.expects("React DevTools")
    page = pair[number].open(f"{site}/react.html#{quote(json.dumps(options))}")
    page.has("#state", "online")
    page.has("#live-state", "online")
    return page


TYPING = """
const shown = document.querySelector("#typing");
window.typing = [];
new MutationObserver(() => window.typing.push(shown.textContent))
  .observe(shown, { childList: true, characterData: true, subtree: true });
"""


@pytest.mark.full("browser")
def test_a_hook_knows_if_there_are_notifications(
    pair: Pair, start_server: StartServer, site: str
) -> None:
    page = opened(pair, 0, site, start_server(config=KEYED), "ann", "bob")
    page.has("#notified", "off")
    page.run("Notification.requestPermission = async () => 'denied'")
    page.click("#notify")
    page.has("#notified", "blocked")
    page.click("#silence")
    page.has("#notified", "off")


def send(page: Page, text: str) -> None:
    page.run("document.querySelector('#text').value = arguments[0]", text)
    page.click("#send")


@pytest.mark.full("browser")
def test_two_users_chat_on_pages_made_of_the_hooks(
    pair: Pair, start_server: StartServer, site: str
) -> None:
    server = start_server(config=MULTI)
    ann = opened(pair, 0, site, server, "ann", "bob")
    eventually(
        lambda: json.loads(ann.texts("#presence")[0]) == {"bob": False, "nobody": False}
    )
    bob = opened(pair, 1, site, server, "bob", "ann")
    eventually(
        lambda: json.loads(ann.texts("#presence")[0]) == {"bob": True, "nobody": False}
    )

    ann.click("#push")
    bob.has("#pushes li", "ann: push from ann")

    ann.run(TYPING)
    bob.write("#text", "x")
    eventually(
        lambda: "bob" in ann.run("return window.typing"), what="the typing notice"
    )
    send(ann, "one")
    bob.has("#entries li", "ann: one")
    send(bob, "two")
    ann.has("#entries li", "ann: one", "bob: two")
    ann.has("#typing", "")
    ann.click("#edit")
    bob.has("#entries li", "ann: changed (edited)", "bob: two")
    ann.has("#entries li", "ann: changed (edited)", "bob: two")
    bob.click("#recall")
    ann.has("#entries li", "ann: changed (edited)", "bob recalled")
    bob.has("#entries li", "ann: changed (edited)", "bob recalled")
    bob.click("#by-number")
    bob.has("#entries li", "bob recalled")
    bob.click("#earlier")
    bob.has("#entries li", "ann: changed (edited)", "bob recalled")
    send(bob, "three")
    ann.has("#entries li", "ann: changed (edited)", "bob recalled", "bob: three")
    ann.click("#read")

    # A page that is opened later loads the newest entries: here an edit, a
    # recall and a message.
    bob = opened(pair, 1, site, server, "bob", "ann")
    bob.has("#entries li", "bob: three")
    bob.click("#earlier")
    bob.has("#entries li", "ann: changed (edited)", "bob recalled", "bob: three")
    eventually(lambda: not bob.texts("#earlier"), what="there is nothing earlier")
    bob.click("#elsewhere")
    bob.has("#entries li")
    assert bob.texts("#error") == [""]


@pytest.mark.full("browser")
def test_the_connections_end_with_the_component(
    pair: Pair, start_server: StartServer, site: str
) -> None:
    server = start_server(config=MULTI)
    ann = opened(pair, 0, site, server, "ann", "bob")
    bob = opened(pair, 1, site, server, "bob", "ann")
    eventually(lambda: json.loads(bob.texts("#presence")[0]).get("ann") is True)
    ann.click("#unmount")
    eventually(lambda: json.loads(bob.texts("#presence")[0]).get("ann") is False)
