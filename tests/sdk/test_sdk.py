"""The SDKs: rules of the JavaScript one by node, restarts, uploads by tus,
logins by providers."""

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from imserver.pages.assets import SDK
from imserver_client import Accounts, RequestRefused, StartedLogin
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.sdk.lossy import LossyProxy
from tests.sdk.node import NODE_FLAGS, printing, run, run_node
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import Server, eventually
from tests.tools import require
from tests.users import User

HERE = Path(__file__).parent


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    "what", ["client", "messenger", "conversation", "notifications"]
)
def test_the_rules_of_the_sdk(what: str) -> None:
    run_node(str(HERE / f"{what}.test.mjs"))


@pytest.mark.needs("node")
def test_the_sdk_against_a_real_server(server: Server) -> None:
    run_node(
        str(HERE / "server.test.mjs"), IM_HTTP=server.http_url, IM_WS=server.ws_url
    )


@pytest.mark.needs("node")
@pytest.mark.full("programs")
def test_the_sdk_comes_back_after_a_restart(
    start_server: StartServer, tmp_path: Path
) -> None:
    config = {"app": fixed_ports()}
    server = start_server(config=config)
    output = tmp_path / "states.txt"
    with printing(
        output, HERE / "stay.mjs", IM_HTTP=server.http_url, IM_WS=server.ws_url
    ):
        eventually(lambda: "online" in output.read_text(), what="logged in")
        server.stop()
        eventually(
            lambda: "waiting 1001" in output.read_text(),
            what="told that the server goes",
        )
        start_server(config=config, folder=server.folder)
        eventually(
            lambda: output.read_text().count("online") == 2, what="logged in again"
        )


@pytest.mark.needs("node")
@pytest.mark.full("programs")
@pytest.mark.needs("npm")
def test_the_examples_of_the_readme_run(server: Server, project: Path) -> None:
    readme = (SDK / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```js\n(.*?)^```$", readme, re.S | re.M)
    assert len(blocks) == 5
    text = "\n".join(blocks).replace("ws://127.0.0.1:8089/acc", server.ws_url)
    text = text.replace(
        "ws://127.0.0.1:8089/ws", server.ws_url.replace("/acc", "/ws")
    ).replace("http://127.0.0.1:8080", server.http_url)
    script = project / "example.mjs"
    script.write_text(text, encoding="utf-8")
    shown = run([require("node"), *NODE_FLAGS, str(script)])
    assert "online 0 0" in shown
    assert "1 hello text" in shown
    assert "message dora hello true" in shown
    assert "1 https://im.example.com/a.png image" in shown
    assert "true true 1003 Check the app, the token, and the user's rights." in shown


@pytest.mark.needs("node", "react-test-renderer")
def test_the_rules_of_push_notifications_on_phones() -> None:
    run_node(str(HERE / "native.test.mjs"))


@pytest.mark.needs("node", "react-test-renderer")
def test_an_app_against_a_real_server(server: Server) -> None:
    run_node(
        str(HERE / "native_server.test.mjs"),
        IM_HTTP=server.http_url,
        IM_WS=server.ws_url,
    )


SCRIPT = Path(__file__).with_name("tus.mjs")
SIZES = [1, 4096, 700_000, 9_000_000, 300_000, 50_000]
LARGE = 9_000_000


@pytest.mark.full("programs")
@pytest.mark.needs("node", "tus-js-client")
@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_files_arrive_whole_over_a_bad_line_and_after_a_kill(
    start_server: StartServer, tmp_path: Path, http_server: str
) -> None:
    config: dict[str, Any] = {
        "uploads": {"min_free_bytes": 0, "directory": str(tmp_path / "media")},
        "storage": {"url": f"sqlite:///{tmp_path}/shared.db"},
    }
    first = start_server(config=config, http_server=http_server)
    second = start_server(config=config, http_server=http_server)
    output = tmp_path / "output.txt"
    with LossyProxy((first.http.host, first.http.port), 0.1) as line:
        host, port = line.address
        url = f"http://{host}:{port}/api/v1/uploads/tus?app=101&user=ann"
        options = json.dumps({"url": url, "sizes": SIZES, "piece": 300_000})
        with printing(output, SCRIPT, TUS=options) as process:
            parts = tmp_path / "media" / "incoming"
            eventually(
                lambda: any(
                    path.stat().st_size > LARGE // 3
                    for path in parts.glob("*/*")
                    if path.exists()
                ),
                what="a third of the large file has arrived",
            )
            os.kill(first.pid, signal.SIGKILL)
            line.target = (second.http.host, second.http.port)
            eventually(
                lambda: process.poll() is not None, 200, what="all files have arrived"
            )
        cut = line.cut
    lines = output.read_text()
    assert process.returncode == 0, lines
    reported = [json.loads(each) for each in lines.splitlines()]
    assert [each["file"]["bytes"] for each in reported] == SIZES
    assert all(each["file"]["sha256"] == each["sent"] for each in reported)
    assert cut > 10
    status, body = second.get("/api/v1/uploads?app=101&user=ann")
    assert (status, json.loads(body)["total"]) == (200, len(SIZES)), (
        "none is stored twice"
    )


SECONDS = 300
APP = "shop"
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    provider = StandIn()
    ports = fixed_ports()
    row = {
        "kind": "oidc",
        "client_id": CLIENT,
        "client_secret": SECRET,
        "issuer": provider.issuer,
    }
    with Server(
        tmp_path_factory.mktemp("shop"),
        config={
            "app": {**ports, "http_url": f"http://127.0.0.1:{ports['http_port']}"},
            "apps": {
                APP: {
                    "account_tokens": "required",
                    "oauth": {"main": {**row, "register": True}},
                }
            },
        },
    ) as server:
        yield server
    provider.stop()


def agree(started: StartedLogin) -> None:
    """The browser of a user who agrees everywhere."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(started.url, timeout=SECONDS) as answer:
        page = answer.url.partition("?")[0]
        text = unescape(answer.read().decode())
    assert started.shown in text
    form = {**dict(re.findall(r'name="(code)" value="([^"]+)"', text)), "agreed": "yes"}
    with opener.open(page, urlencode(form).encode(), timeout=SECONDS) as answer:
        assert answer.status == 200


@pytest.mark.full("programs")
def test_the_python_client_logs_in_and_links(shop: Server) -> None:
    with Accounts(shop.http_url, APP, timeout_seconds=SECONDS) as accounts:
        (provider,) = accounts.oauth_providers()
        assert (provider.provider, provider.kind, provider.register) == (
            "main",
            "oidc",
            True,
        )
        login = accounts.oauth_login("main", device="laptop", show=agree)
        assert login.nickname == "Ann Lee"
        with pytest.raises(RequestRefused, match="not_implemented"):
            accounts.request_reset("ann")
        with pytest.raises(RequestRefused, match="unknown_reset"):
            accounts.finish_reset("x", "battery staple")
    with Accounts(shop.http_url, APP, login.token, timeout_seconds=SECONDS) as own:
        own.oauth_link("main", agree)
        assert [link.provider for link in own.links()] == ["main"]
        with pytest.raises(RequestRefused) as refused:
            own.unlink("main")
        assert refused.value.code == "last_login"
    ann = User.register(shop, APP, name="ann", password=PASSWORD)
    with Accounts(shop.http_url, APP, ann.token, timeout_seconds=SECONDS) as own:
        with pytest.raises(RequestRefused, match="wrong_login"):
            own.oauth_link("main", agree)
        with pytest.raises(RequestRefused, match="link_taken"):
            own.oauth_link("main", agree, password=PASSWORD)


@pytest.mark.full("programs")
@pytest.mark.needs("node")
def test_the_javascript_client_logs_in(shop: Server) -> None:
    run_node(str(Path(__file__).with_name("accounts.test.mjs")), IM_HTTP=shop.http_url)
