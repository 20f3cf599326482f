"""The chat page behind nginx, with the configuration that operators of the original server have."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.browser.conftest import Pair
from tests.conftest import StartServer
from tests.deploy.proxy import NODES, Nginx, around, replaced
from tests.support import ROOT, Server, eventually
from tests.tools import require

pytestmark = [pytest.mark.full, pytest.mark.needs("nginx", "openssl")]

DOMAIN = "im.91vh.com"

SITE = (ROOT / "tests" / "vectors" / "nginx" / "gowebsocket.conf").read_text(encoding="utf-8")


def proxied(folder: Path, server: Server) -> Nginx:
    """nginx in front of a server."""
    site = SITE.replace("listen       80 ;", "listen      80;")
    return Nginx(
        folder, [server], around(site.replace("/link/log/nginx/access", "/var/log/nginx")), NODES[:2]
    )


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(config={"server": {"origins": [DOMAIN]}})


@pytest.fixture
def nginx(tmp_path: Path, server: Server) -> Iterator[Nginx]:
    with proxied(tmp_path, server) as nginx:
        yield nginx


def test_the_page_chats_behind_the_original_configuration(
    pair: Pair, server: Server, nginx: Nginx, tmp_path: Path
) -> None:
    # To this browser the domain is nginx's port, so the page's address is the plain one, as for a visitor.
    visitor = Browser(
        tmp_path / "profile", f"--host-resolver-rules=MAP {DOMAIN}:80 127.0.0.1:{nginx.address[1]}"
    )
    try:
        outside = visitor.open(f"http://{DOMAIN}/home/index?appID=101").online()
        inside = pair[0].open(f"{server.http_url}/home/index?appID=101").online()
        outside.say("through nginx")
        inside.has_received(outside.name, "through nginx")
        inside.say("back")
        outside.has_received(inside.name, "back")
        assert visitor.complaints() == []
    finally:
        visitor.quit()


def test_with_tls_at_nginx_the_page_uses_wss(
    start_server: StartServer, server: Server, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={DOMAIN} -keyout {key} -out {certificate}"
    subprocess.run([require("openssl"), *make.split()], check=True, capture_output=True)
    with ExitStack() as stack:
        nginx = proxied(tmp_path, server)
        listen, config = f"listen {nginx.address[1]}", tmp_path / "nginx.conf"
        tls = f"{listen} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
        config.write_text(replaced(config.read_text(), f"{listen};", tls))
        stack.enter_context(nginx)
        visitor = Browser(
            tmp_path / "profile",
            f"--host-resolver-rules=MAP {DOMAIN}:443 127.0.0.1:{nginx.address[1]}",
            "--ignore-certificate-errors",
        )
        stack.callback(visitor.quit)
        page = visitor.open(f"https://{DOMAIN}/home/index?appID=101").online()
        page.say("wss")
        eventually(lambda: page.own == ["wss"], what="the own bubble")
        assert visitor.complaints() == []
