"""Servers of several processes that cannot start: one clear line, and a status
that says so."""

import os
import re
import socket
from pathlib import Path

import pytest

from tests.gateway.supervisor.conftest import StartFamily
from tests.ports import free_ports
from tests.support import eventually, run_cli


def refused(folder: Path, *arguments: str, sound: str = "", **environment: str) -> str:
    """What ``serve`` says; it must be one line, at once. The node ``sound`` may
    have served before."""
    given = {
        "IMSERVER_APP_LOG_FILE": str(folder / "log"),
        "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
        "IMSERVER_REDIS_URL": "redis://127.0.0.1:1",
        "IMSERVER_SERVER_DATA_DIR": str(folder / "data"),
        **environment,
    }
    ports = ("--http-port", "0", "--ws-port", "0")
    done = run_cli("serve", "--processes", "2", *ports, *arguments, **given)
    assert done.returncode == 1, done
    assert (
        re.sub(
            rf"imserver: node {sound or 'none'} \(pid \d+\) is serving\n",
            "",
            done.stdout,
        )
        == ""
    )
    (line,) = done.stderr.splitlines()
    return line.removeprefix("imserver: ")


@pytest.mark.full("processes")
@pytest.mark.parametrize("option", ["--http-port", "--ws-port"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port_is_refused_also_a_shared_one(
    tmp_path: Path, option: str, shared: bool
) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        output = refused(tmp_path, option, str(port))
    by = f"by the process {os.getpid()}"
    assert output == f"cannot listen on 127.0.0.1:{port}: Address already in use, {by}"
    assert "cannot start: cannot listen" in (tmp_path / "log").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "output"),
    [
        (
            [],
            {"IMSERVER_REDIS_URL": ""},
            "server.processes 2 needs a Redis that the processes share: set redis.url",
        ),
        (
            ["--rpc-port", "65533"],
            {},
            "app.rpc_port 65533: 2 nodes need the ports up to 65536",
        ),
        (["--host", "0.0.0.0"], {}, "server.host 0.0.0.0 is not a loopback"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], output: str
) -> None:
    assert output in refused(tmp_path, *arguments, **environment)


@pytest.mark.full("processes")
def test_what_only_the_nodes_find_out_ends_the_start_without_a_loop_of_restarts(
    tmp_path: Path,
) -> None:
    output = refused(tmp_path, IMSERVER_LIMITS_MAX_CONNECTIONS="2000000000")
    assert output.startswith("node 127.0.0.1:")
    assert "limits.max_connections 2000000000 is above the" in output
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "restarting" not in log
    # each node, and the supervisor
    assert log.count("imserver.gateway.node.serve: cannot start") <= 3


@pytest.mark.full("processes")
def test_a_taken_private_port_ends_the_start(tmp_path: Path, redis_url: str) -> None:
    first = free_ports(4)
    with socket.create_server(("127.0.0.1", first + 2)):
        sound = f"127.0.0.1:{first}"
        output = refused(
            tmp_path,
            "--rpc-port",
            str(first),
            sound=sound,
            IMSERVER_REDIS_URL=redis_url,
        )
    assert output.startswith(f"node 127.0.0.1:{first + 2}: ")
    assert "in use" in output
    eventually(
        lambda: (
            f"node=127.0.0.1:{first}" in (tmp_path / "log").read_text(encoding="utf-8")
        )
    )


@pytest.mark.full("processes")
def test_a_folder_of_a_server_without_a_cluster_is_refused(
    start_family: StartFamily, tmp_path: Path
) -> None:
    from imserver.gateway.process import DataDirectory

    alone = DataDirectory(str(tmp_path / "data"))
    alone.start()
    assert "is in use by another server" in refused(tmp_path)
    alone.stop()


@pytest.mark.full("processes")
def test_two_families_of_one_cluster_share_a_folder(
    start_family: StartFamily, tmp_path: Path
) -> None:
    config = {"server": {"data_dir": str(tmp_path / "data")}}
    first, second = (start_family(processes=2, config=config) for _ in range(2))
    assert first.get("/health")[0] == second.get("/health")[0] == 200
    assert (tmp_path / "data" / "lock").read_text(encoding="utf-8") == f"{first.pid}\n"
