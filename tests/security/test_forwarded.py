"""What proxies say is believed only as far as it can be true."""

import re
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.integration.raw import ask, open_socket, request
from tests.support import HTTP_SERVERS, ROOT

CONFIGURATIONS = sorted((ROOT / "deploy").rglob("nginx*.conf"))
FORWARDING = ("X-Forwarded-Host", "X-Forwarded-Port", "X-Real-IP", "Forwarded")


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_refused_stream_is_logged_with_the_address_of_its_client(
    start_server: StartServer, http_server: str
) -> None:
    server = start_server(http_server=http_server, config={"limits": {"max_connections_per_address": 1}})
    more = [("X-Forwarded-For", "10.9.0.2")]
    with open_socket(server.ws, more=more):
        for path, query in (("/api/v1/events", "?app=default&user=ann"), ("/connection/sse", "")):
            ask(server.http, request(path + query, headers=more))
            assert f"10.9.0.2 GET {path} " in server.log_with_requests()


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_the_shipped_proxies_pass_on_no_header_that_a_client_has_made_up(file: Path) -> None:
    text = file.read_text()
    proxied = [block for block in re.findall(r"location [^{]*\{([^}]*)\}", text) if "proxy_pass" in block]
    assert proxied
    for block in proxied:
        for name in FORWARDING:
            assert re.search(rf'proxy_set_header\s+{name}\s+"";', block), (name, block)
