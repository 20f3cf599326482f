"""The nginx configuration of the operations page, read and run by nginx."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.docs.test_pages import OPERATIONS
from tests.integration.cmd import fresh, get, logged_in, send_message
from tests.integration.raw import Address
from tests.support import Server, eventually
from tests.tools import require

MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def command(tmp_path: Path, server: Server) -> tuple[list[str], Address]:
    """nginx with the page's configuration in front of the server: its command line and where it listens."""
    (block,) = blocks(OPERATIONS, "nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address: Address = free.getsockname()
    site = block.text.replace(":8080", f":{server.http.port}").replace(":8089", f":{server.ws.port}")
    site = re.sub(r"listen +80;", f"listen 127.0.0.1:{address[1]};", site)
    site = site.replace("/var/log/nginx", str(tmp_path))
    file = tmp_path / "nginx.conf"
    file.write_text(MAIN.format(folder=tmp_path, site=site), encoding="utf-8")
    return [require("nginx"), "-p", str(tmp_path), "-c", str(file)], address


@pytest.fixture
def proxy(command: tuple[list[str], Address]) -> Iterator[Address]:
    """Where nginx listens."""
    arguments, address = command
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)

    def listens() -> bool:
        assert process.poll() is None, process.communicate()[1]
        with socket.socket() as probe:
            return probe.connect_ex(address) == 0

    try:
        eventually(listens, what="nginx listens")
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_nginx_takes_the_configuration(command: tuple[list[str], Address]) -> None:
    done = subprocess.run([*command[0], "-t"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_clients_and_back_ends_are_served_through_nginx(proxy: Address) -> None:
    user = fresh()
    with logged_in(proxy, user, 101) as client:
        assert send_message(proxy, 101, user, "through nginx") == {"sendResults": True}
        assert client.push("msg").json["response"]["data"]["msg"] == "through nginx"
    assert get(proxy, "/home/index", appID=101).status == 200
