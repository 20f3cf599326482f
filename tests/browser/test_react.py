"""The React hooks and the JavaScript client in Chromium, bundled from the npm packages, on a foreign page."""

import json
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
    """The address of a site with the bundled pages."""
    project = install_packages(tmp_path_factory.mktemp("npm"))
    site = tmp_path_factory.mktemp("site")
    (project / "smoke.mjs").write_text(
        (HERE.parent / "sdk" / "smoke.mjs").read_text("utf-8"), encoding="utf-8"
    )
    (project / "react.jsx").write_text((HERE / "react_page.jsx").read_text("utf-8"), encoding="utf-8")
    bundle(project / "smoke.mjs", site / "smoke.js")
    bundle(project / "react.jsx", site / "react.js")
    body = '<!doctype html><link rel="icon" href="data:,"><div id="page"></div>'
    (site / "smoke.html").write_text(body, encoding="utf-8")
    (site / "react.html").write_text(
        f'{body}<script type="module" src="react.js"></script>', encoding="utf-8"
    )
    with serve_folder(site) as address:
        yield address


@pytest.mark.full
def test_the_package_works_in_a_browser(pair: Pair, start_server: StartServer, site: str) -> None:
    server = start_server(config=KEYED)
    page = pair[0].open(f"{site}/smoke.html")
    page.driver.set_script_timeout(90)
    script = """
        const [place, done] = arguments;
        import("./smoke.js").then(({ smoke }) => smoke(place)).then(done, (error) => done(String(error)));
    """
    assert page.driver.execute_async_script(script, server_options(server)) == "all is well"


def opened(pair: Pair, number: int, site: str, server: Server, user: str, peer: str) -> Page:
    """The page with all hooks, of a user."""
    options: dict[str, Any] = {**server_options(server), "user": user, "peer": peer}
    pair.expects("React DevTools")
    page = pair[number].open(f"{site}/react.html#{quote(json.dumps(options))}")
    for state in ("#state", "#live-state"):
        eventually(lambda state=state: page.texts(state) == ["online"], what=f"{user} is online")
    return page


TYPING = """
const shown = document.querySelector("#typing");
window.typing = [];
new MutationObserver(() => window.typing.push(shown.textContent))
  .observe(shown, { childList: true, characterData: true, subtree: true });
"""
"""Remember the typing notices: each goes by itself."""


@pytest.mark.full
def test_a_hook_knows_whether_there_are_notifications(
    pair: Pair, start_server: StartServer, site: str
) -> None:
    page = opened(pair, 0, site, start_server(config=KEYED), "ann", "bob")
    eventually(lambda: page.texts("#notified") == ["off"], what="off")
    page.run("Notification.requestPermission = async () => 'denied'")
    press(page, "notify")
    eventually(lambda: page.texts("#notified") == ["blocked"], what="the browser says no")
    press(page, "silence")
    eventually(lambda: page.texts("#notified") == ["off"], what="off again")


def press(page: Page, name: str) -> None:
    page.click(f"#{name}")


def shows(page: Page, *entries: str) -> None:
    eventually(lambda: page.texts("#entries li") == list(entries), what=f"the conversation shows {entries}")


def send(page: Page, text: str) -> None:
    page.run("document.querySelector('#text').value = arguments[0]", text)
    press(page, "send")


@pytest.mark.full
def test_two_users_chat_on_pages_made_of_the_hooks(pair: Pair, start_server: StartServer, site: str) -> None:
    server = start_server(config=MULTI)
    ann = opened(pair, 0, site, server, "ann", "bob")
    eventually(lambda: json.loads(ann.texts("#presence")[0]) == {"bob": False, "nobody": False})
    bob = opened(pair, 1, site, server, "bob", "ann")
    eventually(lambda: json.loads(ann.texts("#presence")[0]) == {"bob": True, "nobody": False})

    press(ann, "push")
    eventually(lambda: bob.texts("#pushes li") == ["ann: push from ann"])

    ann.run(TYPING)
    bob.find("#text").send_keys("x")
    eventually(lambda: "bob" in ann.run("return window.typing"), what="the typing notice")
    send(ann, "one")
    shows(bob, "ann: one")
    send(bob, "two")
    shows(ann, "ann: one", "bob: two")
    eventually(lambda: ann.texts("#typing") == [""], what="a message ends the typing notice")
    press(ann, "edit")
    shows(bob, "ann: changed (edited)", "bob: two")
    shows(ann, "ann: changed (edited)", "bob: two")
    press(bob, "recall")
    shows(ann, "ann: changed (edited)", "bob recalled")
    shows(bob, "ann: changed (edited)", "bob recalled")
    press(bob, "by-number")
    shows(bob, "bob recalled")
    press(bob, "earlier")
    shows(bob, "ann: changed (edited)", "bob recalled")
    send(bob, "three")
    shows(ann, "ann: changed (edited)", "bob recalled", "bob: three")
    press(ann, "read")

    # A page that is opened later loads the newest entries: here an edit, a recall and a message.
    bob = opened(pair, 1, site, server, "bob", "ann")
    shows(bob, "bob: three")
    press(bob, "earlier")
    shows(bob, "ann: changed (edited)", "bob recalled", "bob: three")
    eventually(lambda: not bob.texts("#earlier"), what="there is nothing earlier")
    press(bob, "elsewhere")
    shows(bob)
    assert bob.texts("#error") == [""]


@pytest.mark.full
def test_the_connections_end_with_the_component(pair: Pair, start_server: StartServer, site: str) -> None:
    server = start_server(config=MULTI)
    ann = opened(pair, 0, site, server, "ann", "bob")
    bob = opened(pair, 1, site, server, "bob", "ann")
    eventually(lambda: json.loads(bob.texts("#presence")[0]).get("ann") is True)
    press(ann, "unmount")
    eventually(lambda: json.loads(bob.texts("#presence")[0]).get("ann") is False)
