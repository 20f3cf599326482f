"""A Unix socket as a further listener: for a proxy on the same machine."""

import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.gateway.supervisor.family import Family
from tests.integration.cmd import cmd_client, fresh, json_request
from tests.integration.raw import Raw, ask, request
from tests.support import HTTP_SERVERS, eventually, run_cli


def listening(path: Path, **more: object) -> dict[str, object]:
    return {"server": {"extra_listen": [{"socket": str(path), **more}]}}


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_everything_is_served_at_a_unix_socket(
    start_server: StartServer, tmp_path: Path, http_server: str
) -> None:
    path = tmp_path / "im.sock"
    server = start_server(http_server=http_server, config=listening(path, mode="600"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"unix:{path}" in server.output
    address = str(path)
    assert ask(address, request("/health")).status == 200
    assert ask(address, request("/static/favicon.svg")).status == 200
    user = fresh()
    with cmd_client(address) as one:
        one.login(user, 101)
        push = json_request("/api/v1/push", {"app": "101", "user": user, "text": "m"})
        assert ask(address, push).json["sent"] == 1
        assert one.push("msg").json["response"]["data"]["msg"] == "m"
    ask(address, request("/health?1", headers=[("X-Forwarded-For", "203.0.113.9")]))
    eventually(lambda: "203.0.113.9" in server.log_with_requests(), what="the client's own address")
    status = run_cli("status", f"unix:{path}")
    assert status.stdout.startswith("health  ok")


def test_the_socket_of_a_server_that_was_killed_is_replaced(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "im.sock"
    first = start_server(config=listening(path))
    first.stop(signal.SIGKILL)
    assert path.exists()
    start_server(config=listening(path))
    assert ask(str(path), request("/health")).status == 200


def test_what_another_server_or_file_has_is_left_alone(start_server: StartServer, tmp_path: Path) -> None:
    path, file = tmp_path / "im.sock", tmp_path / "file"
    start_server(config=listening(path))
    file.write_text("text", encoding="utf-8")
    for taken, reason in ((path, "another process listens there"), (file, "the file is no socket")):
        config = tmp_path / "other.yaml"
        ports = "app: {http_port: 0, websocket_port: 0}\n"
        config.write_text(f"{ports}server: {{extra_listen: [{{socket: {taken}}}]}}\n", encoding="utf-8")
        done = run_cli("serve", "--config", str(config), folder=tmp_path)
        assert done.returncode == 1
        assert f"cannot listen on {taken}: {reason}" in done.stderr
    assert file.read_text(encoding="utf-8") == "text"
    assert ask(str(path), request("/health")).status == 200


@pytest.mark.full
def test_nodes_of_one_server_share_a_unix_socket(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "im.sock"
    folder = tmp_path / "family"
    folder.mkdir()
    family = Family(folder, redis_url, 2, listening(path))
    try:
        connections = [Raw(str(path)) for _ in range(200)]
        try:
            for each in connections:
                each.upgrade()
        finally:
            for each in connections:
                each.leave()
        old = family.pids
        family.signal(signal.SIGURG)
        while family.pids == old or len(family.pids) < 2:
            assert ask(str(path), request("/health")).status == 200
    finally:
        family.stop()
    family.check()
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(path))
