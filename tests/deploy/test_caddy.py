"""deploy/Caddyfile, read and run by Caddy in front of a real node."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.cmd import fresh, get, json_request, logged_in
from tests.integration.raw import Address, Raw, ask, request
from tests.integration.sse import listening
from tests.ports import free_ports
from tests.processes import end
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import replaced, started

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("caddy")]

FILE = ROOT / "deploy" / "Caddyfile"
GUIDE = ROOT / "docs" / "guides" / "behind-a-proxy.md"
SITE = "im.example.com"
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


@contextmanager
def caddy(folder: Path, text: str, server: Server, port: int) -> Iterator[Address]:
    """Caddy with this file in front of a server. It has no certificates, and
    speaks HTTP at the port."""
    text = replaced(text, f"\n{SITE} {{", f"\nhttp://127.0.0.1:{port} {{")
    text = replaced(text, "{\n    servers {", "{\n    admin off\n    servers {")
    text = replaced(text, "127.0.0.1:8080", f"127.0.0.1:{server.http.port}")
    file = folder / "Caddyfile"
    address = ("127.0.0.1", port)
    file.write_text(text, encoding="utf-8")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
    }
    command = [require("caddy"), "run", "--config", str(file)]
    with (folder / "caddy.log").open("w") as log:
        process = started(command, address, env=environment, stderr=log)
    try:
        yield address
    finally:
        end(process)


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(
        config={"server": {"trusted_proxies": ["127.0.0.1/32"], "origins": [SITE]}}
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("caddy")
    with caddy(
        folder, FILE.read_text(encoding="utf-8"), server, free_ports()
    ) as address:
        yield address


def test_caddy_takes_it_and_its_limits_are_ours() -> None:
    command = [require("caddy"), "adapt", "--config", str(FILE), "--validate"]
    adapted = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=100
    ).stdout
    sizes = re.findall(r'"max_size": ?(\d+)', adapted)
    limits = {DEFAULTS["uploads"]["max_bytes"], DEFAULTS["limits"]["body_bytes"]}
    assert {int(size) for size in sizes} == limits
    assert "keepalive 60s" in FILE.read_text(encoding="utf-8")
    assert DEFAULTS["limits"]["keepalive_seconds"] > 60


def test_sockets_pages_streams_and_pushes_pass(site: Address) -> None:
    user = fresh()
    with (
        logged_in(site, user, 101) as one,
        listening(site, "default", user) as listener,
    ):
        for text in ("one", "two"):
            push = json_request(
                "/api/v1/push", {"app": "101", "user": user, "text": text}
            )
            assert ask(site, push).json["sent"]
            assert one.push("msg").json["response"]["data"]["msg"] == text
            ask(
                site,
                json_request(
                    "/api/v1/push", {"app": "default", "user": user, "text": text}
                ),
            )
            assert text in json.dumps(listener.message()), "each event passes at once"
    assert get(site, "/home/index", appID=101).status == 200
    assert get(site, "/metrics").status == 404
    host = f"127.0.0.1:{site[1]}"
    assert ask(site, request("/gateway", host=host)).json == {"url": f"ws://{host}/acc"}


def test_the_node_sees_the_client_and_no_forged_header(
    site: Address, server: Server
) -> None:
    path = f"/nowhere/{fresh()}"
    forged = [
        (name, "203.0.113.9")
        for name in ("X-Forwarded-For", "X-Real-IP", "X-Forwarded-Host")
    ]
    with Raw(site, source="127.0.0.9") as client:
        client.ask(request(path, headers=forged))

    def lines() -> list[str]:
        return [
            line for line in server.log_with_requests().splitlines() if path in line
        ]

    eventually(lines, what="the request log")
    assert "127.0.0.9" in lines()[0]
    assert "203.0.113.9" not in lines()[0]


def test_the_recipe_of_the_guide_serves_below_a_path(
    start_server: StartServer, tmp_path: Path
) -> None:
    (recipe,) = [
        block.text for block in blocks(GUIDE, "text") if "handle_path" in block.text
    ]
    port = free_ports()
    server = start_server(config={"app": {"http_url": f"http://127.0.0.1:{port}/im"}})
    text = "{\n    servers {\n    }\n}\n\n" + recipe.replace("www.example.com", SITE)
    with caddy(tmp_path, text, server, port) as address:
        assert ask(address, request("/im")).header("Location") == "/im/"
        page = ask(address, request("/im/home/messages?lang=en")).body.decode()
        sheet = re.findall(r'href="(/im/release/[^"]*\.css)"', page)[0]
        assert ask(address, request(sheet)).status == 200
        with Raw(address) as client:
            client.upgrade("/im/acc")
        assert ask(address, request("/home/messages")).status == 404
