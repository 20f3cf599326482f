"""The JavaScript examples of the documents, run with the modules of sdk/js and
the npm packages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import CHROMIUM, DRIVER, Browser
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.docs.markdown import EXAMPLE_PAGES, Block, blocks
from tests.docs.play import at_server
from tests.integration.v1 import good
from tests.sdk.node import NODE_FLAGS, bundle, install_packages, run
from tests.sdk.test_packages import CONFIG, server_options
from tests.support import ROOT, Server, eventually
from tests.tools import require

ELSEWHERE = {
    "centrifuge",
    "oauth",
    "pusher",
    "notifications",
    "subscribe",
    "imserver_moods/page/page.js",
}
"""Examples that other tests run, such as test_product.py, test_notifications.py
and test_feature.py."""
JS = [
    block
    for page in EXAMPLE_PAGES
    for block in blocks(page, "js")
    if not ELSEWHERE & {*block.words}
]
SCRIPTS = [block for block in JS if not block.words]
TOKENS = [block for block in JS if block.words == ("token",)]
WECHAT = [block for block in JS if block.words == ("wechat",)]
REACT = [block for page in EXAMPLE_PAGES for block in blocks(page, "jsx")]
PRINTED = {
    "error.remedy": "login refused: 1003 not authorized. Check the app, the token, and the user's rights.",
    "hal.on": "gil: hello",
    "instanceof Messenger": "online false",
}
"""Part of an example → what that example prints."""
WX = """
globalThis.wx = {
  connectSocket({ url }) {
    const socket = new WebSocket(url);
    return {
      send: ({ data }) => socket.send(data),
      close: ({ code }) => socket.close(code),
      onOpen: (listener) => void (socket.onopen = listener),
      onMessage: (listener) => void (socket.onmessage = listener),
      onClose: (listener) => void (socket.onclose = listener),
      onError: (listener) => void (socket.onerror = listener),
    };
  },
  request() {},
  onAppShow() {},
};
"""
"""A stub of a mini-program's API over the WebSocket of Node.js."""

pytestmark = pytest.mark.needs("node", "npm")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with both npm packages."""
    return install_packages(tmp_path_factory.mktemp("npm"))


def play(script: str, project: Path, *wanted: str) -> None:
    """Run a script. It must not fail, and must print these lines in any order;
    without any it must end."""
    watch = f"""
        import {{ format }} from "node:util";
        const wanted = new Set({json.dumps(wanted)});
        console.log = (...words) => void (wanted.delete(format(...words)) && !wanted.size && process.exit(0));
    """
    end = "process.exit(0);" if not wanted else ""
    file = project / "script.mjs"
    file.write_text(f"{watch}\n{script}\n{end}\n", encoding="utf-8")
    run([require("node"), *NODE_FLAGS, str(file)])


def test_there_are_examples_of_each_kind() -> None:
    assert len(SCRIPTS) + len(TOKENS) + len(WECHAT) == len(JS)
    assert all((SCRIPTS, TOKENS, WECHAT, REACT))


@pytest.fixture
def database(server: Server) -> None:
    """It exists before a script writes: to make it may take longer than the
    client waits."""
    good(server.http, "groups/create", {"app": "104", "user": "first", "name": "first"})


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_script_runs(block: Block, server: Server, project: Path) -> None:
    sdk = (ROOT / "sdk" / "js").as_uri()
    script = re.sub(r'from "[^"]*/sdk/', f'from "{sdk}/', block.text)
    assert sdk in script or '"imserver-client' in script, (
        f"{block} does not import the SDK"
    )
    wanted = [line for mark, line in PRINTED.items() if mark in script]
    play(at_server(script, server), project, *wanted)


def test_the_guide_says_what_its_examples_print() -> None:
    guide = " ".join(
        (ROOT / "docs" / "guides" / "javascript-client.md").read_text("utf-8").split()
    )
    assert f"It prints `{PRINTED['error.remedy']}`" in guide


@pytest.mark.parametrize("block", TOKENS, ids=str)
def test_a_script_runs_with_tokens(
    block: Block, start_server: StartServer, project: Path
) -> None:
    server = start_server(config=CONFIG)
    tokens = json.dumps(server_options(server)["tokens"])
    script = f"const tokenOf = async (user) => ({tokens})[user];\n{at_server(block.text, server)}"
    play(script, project, "ann: hello", "true { bob: true, zoe: false }")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("block", WECHAT, ids=str)
def test_a_mini_program_runs_with_a_stub_of_wx(
    block: Block, server: Server, project: Path
) -> None:
    bundle_file = (
        project / "node_modules" / "imserver-client" / "miniprogram_dist" / "index.js"
    )
    mini = project / "miniprogram.cjs"
    mini.write_text(bundle_file.read_text("utf-8"), encoding="utf-8")
    require_line = 'import { createRequire } from "node:module";\nconst load = createRequire(import.meta.url);'
    script = block.text.replace(
        'require("imserver-client")', 'load("./miniprogram.cjs")'
    )
    script = f"{require_line}\n{WX}\n{at_server(script, server)}"
    user, peer = (
        re.findall(pattern, block.text)[0]
        for pattern in (r'user: "(\w+)"', r'send\("(\w+)"')
    )
    watching = f"""
        import {{ Messenger as Watcher }} from "imserver-client/messenger";
        const place = {{ url: "ws://127.0.0.1:8089/acc", app: 102, user: "{peer}", cursor: 0 }};
        const watcher = new Watcher(place);
        watcher.on("entry", ({{ from, text }}) => console.log(`{peer} receives ${{from}}: ${{text}}`));
        await watcher.connect();
    """
    play(
        at_server(watching, server) + script, project, f"{peer} receives {user}: hello"
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    require(*CHROMIUM)
    require(DRIVER)
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.mark.full("browser")
@pytest.mark.needs("esbuild")
@pytest.mark.parametrize("block", REACT, ids=str)
def test_a_component_is_shown(
    block: Block,
    browser: Browser,
    start_server: StartServer,
    project: Path,
    tmp_path: Path,
) -> None:
    server = start_server()
    entry = project / "component.jsx"
    entry.write_text(at_server(block.text, server), encoding="utf-8")
    bundle(
        entry,
        tmp_path / "component.js",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="production"',
    )
    page_html = (
        '<!doctype html><body></body><script type="module" src="component.js"></script>'
    )
    (tmp_path / "page.html").write_text(page_html, encoding="utf-8")
    with serve_folder(tmp_path) as site:
        page = browser.open(f"{site}/page.html")
        eventually(
            lambda: page.texts("h1") == ["jon offline"],
            what="the component is connected",
        )
        page.find("input").send_keys("你好\n")
        eventually(
            lambda: page.texts("li") == ["ida: 你好"],
            what="the message is stored and shown",
        )
        assert page.texts("[role=alert]") == []
        browser.open("about:blank")
