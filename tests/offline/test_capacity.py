"""`imserver doctor --capacity`: how many users a node holds, and that nothing
is left behind."""

import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bench.capacity import kernel_bytes_of_one
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.address import database_address
from imserver.gateway.storage.engines import make_engine
from imserver.offline.capacity import (
    TYPICAL_KERNEL_BYTES,
    Behaviour,
    Costs,
    Resources,
    UserLimit,
    check,
    files_of_server,
    free_memory,
    limits,
)
from imserver.offline.database import commit_seconds
from tests.processes import end, spawn
from tests.support import clean_environment, eventually, run_cli

COSTS = Costs(
    rss_empty_mb=50,
    rss_opened_bytes=600,
    rss_connection_bytes=2000,
    kernel_connection_bytes=4000,
    login_cpu_us=50,
    beat_cpu_us=15,
    push_cpu_us=40,
    delivery_cpu_us=5,
    stored_cpu_us=70,
    stored_per_second=8000,
)
RESOURCES = Resources(free_bytes=1e9 + 50e6, connections=10**7)


def users_by_limit(
    user: Behaviour = Behaviour(),  # noqa: B008
    costs: Costs = COSTS,
    **has: Any,
) -> dict[str, int]:
    rows = limits(costs, user, msgspec.structs.replace(RESOURCES, **has))
    assert [row.users for row in rows] == sorted(row.users for row in rows)
    assert all(row.found and row.mend for row in rows)
    return {row.limit: row.users for row in rows}


def test_each_limit_is_what_there_is_by_what_a_user_takes() -> None:
    # A second of a user: a heartbeat each 30 s; an hour: ten messages to five,
    # ten pushes, a login.
    busy = 15 / 30 + (10 * (70 + 4 * 5) + 10 * 40 + 50) / 3600
    assert users_by_limit() == {
        "memory": 1_000_000_000 // 6000,
        "open files": 10**7,
        "processor": int(500_000 / busy),
        "a restart": 5 * 60 * 20_000,
        "stored messages": 8000 // 2 * 360,
    }


def test_more_that_a_user_does_holds_fewer_users() -> None:
    usual = users_by_limit()
    for more in (
        Behaviour(messages=100),
        Behaviour(receivers=500),
        Behaviour(pushes=1000),
    ):
        assert users_by_limit(more)["processor"] < usual["processor"]
    assert (
        users_by_limit(Behaviour(messages=20))["stored messages"]
        == usual["stored messages"] // 2
    )
    assert (
        users_by_limit(Behaviour(restart_seconds=60))["a restart"]
        == usual["a restart"] // 5
    )
    assert "stored messages" not in users_by_limit(Behaviour(messages=0))


def test_more_processes_take_more_files_and_no_more_cores_than_there_are() -> None:
    usual = users_by_limit()
    twice = users_by_limit(processes=2, cores=2)
    assert twice["open files"] == 2 * usual["open files"]
    assert twice["processor"] == pytest.approx(2 * usual["processor"], abs=2)
    assert users_by_limit(processes=2, cores=1)["processor"] == usual["processor"]


def test_users_of_a_running_node_count_and_say_what_they_take() -> None:
    assert (
        users_by_limit(users=5000, users_bytes=5000 * 6000)["memory"]
        == int(1_050_000_000 / 10_000) + 5000
    )
    assert (
        users_by_limit(users=5, users_bytes=5e6)["memory"] == 1_050_000_000 // 6000 + 5
    ), "few say nothing"


def test_a_slow_database_server_limits_stored_messages() -> None:
    assert users_by_limit(commit_seconds=0.05)["stored messages"] == 2000 // 2 * 360


def test_what_ends_first_is_named_with_its_cure() -> None:
    first, *_ = limits(
        COSTS,
        Behaviour(),
        msgspec.structs.replace(RESOURCES, connections=100, files=""),
    )
    assert first == UserLimit(
        100,
        "limits.max_connections",
        "100 for each of 1",
        "a higher limits.max_connections",
    )


@pytest.mark.linux
def test_the_limit_of_open_files_is_that_of_the_server_and_its_owner_is_named() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = spawn(["cat"], stdin=subprocess.PIPE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (200, 200))
    assert files_of_server(server.pid) == (200, f"the process {server.pid}")
    end(server)
    assert files_of_server(0)[0] == hard
    rows = limits(COSTS, Behaviour(), RESOURCES)
    assert [row.found for row in rows if row.limit == "open files"] == [
        "10,000,000 for each of 1, by the limit of this shell"
    ]


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/a/b", "a", "memory.max", "memory.current"),
        ("4:memory:/a/b", "memory/a", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_free_is_what_the_control_group_leaves(
    tmp_path: Path, line: str, folder: str, limit: str, used: str
) -> None:
    group = tmp_path / "groups" / folder
    inner = tmp_path / "groups" / folder / "b"
    inner.mkdir(parents=True)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(f"9:cpu:/\n{line}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    assert free_memory(7, tmp_path, tmp_path / "groups") == 1_024_000
    for each, most in ((group, "500000"), (inner, "max")):
        (each / limit).write_text(f"{most}\n")
        (each / used).write_text("200000\n")
        (each / "memory.stat").write_text("anon 7\ninactive_file 50000\n")
    assert free_memory(7, tmp_path, tmp_path / "groups") == 350_000


def test_a_commit_is_measured_and_its_table_is_gone(
    empty_url: str, tmp_path: Path
) -> None:
    settings = StorageSettings(url=empty_url)
    address = database_address(settings, str(tmp_path))
    assert 0 < commit_seconds(address, settings, 3) < 60
    engine = make_engine(address, settings)
    with pytest.raises(DBAPIError), engine.connect() as connection:
        connection.execute(text("SELECT * FROM imserver_commits"))
    engine.dispose()


def test_what_other_programs_do_to_the_kernel_is_no_figure() -> None:
    assert kernel_bytes_of_one(10**9, 10**9 + 8 * 10**6, 1000) == 4000
    assert kernel_bytes_of_one(10**9, 9 * 10**8, 1000) is None, (
        "they closed much meanwhile"
    )
    assert kernel_bytes_of_one(10**9, 2 * 10**9, 1000) is None, "they opened much"
    usual = msgspec.structs.replace(COSTS, kernel_connection_bytes=None)
    row = next(
        each for each in limits(usual, Behaviour(), RESOURCES) if each.limit == "memory"
    )
    assert row.users == 1_000_000_000 // (2000 + TYPICAL_KERNEL_BYTES)
    assert "a usual value" in row.found


@pytest.mark.parametrize(
    "name", ["rss_connection_bytes", "login_cpu_us", "beat_cpu_us"]
)
def test_an_impossible_figure_is_an_error_that_names_it(name: str) -> None:
    assert check(COSTS) is COSTS
    with pytest.raises(RuntimeError, match=f"{name} is -3.0"):
        check(msgspec.structs.replace(COSTS, **{name: -3.0}))


@pytest.mark.linux
def test_an_interrupted_measurement_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "imserver",
        "doctor",
        "--capacity",
        "--data-dir",
        str(tmp_path),
    ]
    errors = tmp_path.with_name("errors")
    with errors.open("wb") as output:
        process = spawn(command, env=clean_environment(), stderr=output)
    eventually(
        lambda: [*tmp_path.glob("capacity-*/imserver-bench-*/data/imserver.db")],
        what="a server",
    )
    assert end(process, signal.SIGINT) == 1
    assert errors.read_text("utf-8").count("Aborted!") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.full("load")
def test_the_command_says_how_many_users_and_what_ends_first(tmp_path: Path) -> None:
    result = run_cli(
        "doctor", "--capacity", "--data-dir", str(tmp_path), "--online", "50"
    )
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"can serve about [\d,]+ connected users. The first limit is: [a-z. ]+\.\n",
        result.stdout,
    )
    assert "stored messages" in result.stdout
    assert not [*tmp_path.iterdir()]
