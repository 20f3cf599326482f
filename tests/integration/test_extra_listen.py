"""Extra listeners: ports beside the usual two, with one process and with several, by both HTTP servers."""

import re
from pathlib import Path

import pytest

from imserver.plugin.testing import HostAndPort
from tests.support import Server, run_cli

from .client import Listener, done, listening, new_system
from .cmd import get, is_online, logged_in, send_message
from .protobuf import visiting
from .raw import Raw, ask, request
from .setting import Launch
from .sse import Listener as StreamListener
from .sse import listening as stream

EXTRA = re.compile(r"^  extra (\d+) +http://([0-9.]+):(\d+), ws://\2:\3/ws$", re.MULTILINE)

ONLY = re.compile(r"^  extra 3 +http://([0-9.]+):(\d+), only /api$", re.MULTILINE)


def extra(server: Server) -> list[HostAndPort]:
    """The extra listeners that the banner names."""
    found = EXTRA.findall(server.output)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    return [HostAndPort(host, int(port)) for _, host, port in found]


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """Three extra listeners: one for bare clients of the client dialect, one on another address, one for a
    path; and a host for that path."""
    rows = [
        {"port": 0, "ws_dialect": "client"},
        {"port": 0, "host": "127.0.0.2"},
        {"port": 0, "path": "/api"},
    ]
    hosts = [{"host": "api.example", "path": "/api"}]
    return launch(http_server, server={"http": http_server, "extra_listen": rows, "extra_hosts": hosts})


def test_they_serve_all_that_the_usual_two_do(server: Server) -> None:
    for address in extra(server):
        assert ask(address, request("/health")).status == 200
        assert get(address, "/home/index", appID=101).status == 200
        assert ask(address, request("/metrics")).status == 200
        with logged_in(address, "ann", 101) as ann:
            assert send_message(address, 101, "ann", "hello") == {"sendResults": True}
            assert ann.push("msg").json["response"]["data"]["msg"] == "hello"
        with stream(address, 101, "eve"):
            assert is_online(server.http, "eve", 101)
        system = new_system(address)
        with listening(address, system) as client:  # the query names the dialect
            assert done(address, "is_online", system, clientId=client.id) == {"online": True}


def test_a_bare_ws_speaks_the_dialect_of_its_listener(server: Server) -> None:
    fixed, free = extra(server)
    with Listener(fixed) as one:
        first = one.upgrade("/ws").message().json
    assert (first["code"], first["msg"]) == (-1001, "系统ID不能为空")
    for address in (free, server.ws, server.http):
        with visiting(address) as stranger:
            stranger.send_payload(b"nonsense")
            stranger.quiet()


def test_a_listener_and_a_host_may_serve_one_path_only(server: Server) -> None:
    found = ONLY.search(server.output)
    assert found is not None
    own = HostAndPort(found[1], int(found[2]))
    for address, host in ((own, "127.0.0.1"), (server.http, "API.example:80")):
        assert ask(address, request("/v1/openapi.json", host=host)).status == 200
        assert ask(address, request("/health", host=host)).status == 404
        json = ("Content-Type", "application/json")
        body = b'{"app":"101","user":"ann","text":"hello"}'
        pushed = ask(address, request("/v1/push", method="POST", host=host, headers=[json], body=body))
        assert pushed.status == 200
        chunked = [("Transfer-Encoding", "chunked"), json]
        pieces = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        head = request("/v1/push", method="POST", host=host, headers=chunked)
        assert ask(address, head + pieces).status == 200
        with StreamListener(address) as eve:
            eve.send(request("/v1/events?app=101&user=eve", host=host))
            eve.begun()
        with Raw(address) as one:
            one.upgrade("/v1/publisher", host=host)
    assert ask(server.http, request("/v1/openapi.json")).status == 404


@pytest.mark.full("processes")
def test_what_cannot_be_listened_on_ends_the_start(tmp_path: Path) -> None:
    own, host = "server.extra_listen[0]", "no.such.host.invalid"
    for rows, problem in (
        ("[{port: 8080}]", "port 8080 is given twice"),
        ("[{port: 7800}, {port: 7800}]", "port 7800 is given twice"),
        ("[{host: 127.0.0.1}]", own),
        ("[{port: 7800, ws_dialect: morse}]", "expected one of"),
        ("[{port: 7800, colour: red}]", "unknown key"),
        ("[{port: 7800, path: /a/b}]", f"{own}.path: expected str matching regex"),
        ("[{port: 7800, path: /nothing}]", f"{own}.path: no feature serves anything under /nothing"),
        ("[{port: 7800, path: /api, ws_dialect: client}]", "there is no /ws under /api: no ws_dialect"),
        ("[{port: 7800, host: 0.0.0.0}]", f"{own}.host 0.0.0.0 is not a loopback"),
        (f"[{{port: 7800, host: {host}}}]", f"{host} cannot be resolved"),
    ):
        settings = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"), "IMSERVER_SERVER_EXTRA_LISTEN": rows}
        result = run_cli("serve", **settings)
        assert result.returncode == 1
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1
