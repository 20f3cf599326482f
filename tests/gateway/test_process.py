"""The data directory, the secret, derived keys, the file limit."""

import errno
import os
import resource
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imserver.gateway import process as lifecycle
from imserver.gateway.config.settings import (
    Config,
    LimitSettings,
    RedisSettings,
    ServerSettings,
)
from imserver.gateway.errors import StartError
from imserver.gateway.process import (
    DataDirectory,
    cores,
    derive_key,
    open_private,
    plan_processes,
    raise_file_limit,
)
from tests.processes import running


def test_the_file_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def planned(
    most: int = 0, redis: str = "redis://127.0.0.1:6379", processes: int = 0
) -> tuple[Config, str]:
    """What becomes of ``auto`` where each node is to have ``most``
    connections."""
    return plan_processes(
        Config(
            server=ServerSettings(processes=processes),
            limits=LimitSettings(max_connections=most),
            redis=RedisSettings(url=redis),
        )
    )


@pytest.mark.parametrize(
    ("number", "most", "redis", "processes", "connections", "output"),
    [
        (4, 0, "redis://h", 4, 0, "one for each of 4 cores"),
        (4, 9680, "redis://h", 4, 9680, "one for each of 4 cores"),
        (4, 9681, "redis://h", 5, 7745, "4 cores for 38724 connections"),
        (1, 48_400, "redis://h", 5, 9680, "1 core for 48400 connections"),
        (1, 0, "redis://h", 1, 0, "one core"),
        (4, 9681, "", 1, 9681, "needs redis.url"),
    ],
)
def test_auto_is_a_process_for_each_core_and_more_only_for_open_files(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    most: int,
    redis: str,
    processes: int,
    connections: int,
    output: str,
) -> None:
    monkeypatch.setattr(lifecycle, "cores", lambda: number)
    monkeypatch.setattr(lifecycle, "openable_files", lambda: 10_000)
    config, why = planned(most, redis)
    assert (config.server.processes, config.limits.max_connections) == (
        processes,
        connections,
    )
    assert why.startswith(f"processes: {processes} (")
    assert output in why
    assert ("ulimit -Hn" in why) == (processes > number)
    assert planned(most, redis, processes=3)[0].server.processes == 3


@pytest.mark.parametrize(
    ("quota", "found"),
    [
        ("150000 100000", 2),
        ("max 100000", 8),
        ("50000 100000", 1),
        ("", 8),
        ("x y z", 8),
    ],
)
def test_a_quota_gives_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, found: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(quota, encoding="ascii")
    assert cores(tmp_path / "cpu.max") == found


@pytest.mark.parametrize(
    ("shared", "why"),
    [
        (False, r"in use by another server \(pid {pid}\)$"),
        (True, r"\(pid {pid}\), which is not a node of a cluster$"),
    ],
)
def test_a_second_server_in_the_folder_is_refused(
    tmp_path: Path, shared: bool, why: str
) -> None:
    first = DataDirectory(str(tmp_path))
    second = DataDirectory(str(tmp_path), shared)
    first.start()
    with pytest.raises(StartError, match=why.format(pid=os.getpid())):
        second.start()
    first.stop()
    second.start()
    second.stop()


def test_servers_of_one_cluster_share_the_folder_and_the_first_one_names_itself(
    tmp_path: Path,
) -> None:
    first = DataDirectory(str(tmp_path), shared=True)
    second = DataDirectory(str(tmp_path), shared=True)
    first.start()
    second.start()
    assert (tmp_path / "lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"
    first.stop()
    assert (tmp_path / "lock").read_text(encoding="utf-8") == ""
    alone = DataDirectory(str(tmp_path))
    with pytest.raises(StartError, match=r"in use by another server \(pid unknown\)$"):
        alone.start()
    second.stop()
    alone.start()
    alone.stop()


def test_servers_of_one_cluster_that_start_at_once_all_get_in_and_have_one_secret(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time; from imserver.gateway.process import DataDirectory\n"
        "data = DataDirectory(sys.argv[1], shared=True)\n"
        "sys.stdin.read(1); data.start(); print(data.secret().decode(), flush=True); sys.stdin.read(1)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(command, **pipes)) for _ in range(6)]
        for _ in range(2):  # all begin, then all end
            for server in servers:
                server.stdin.write("x")
                server.stdin.flush()
        outputs = {server.communicate(timeout=60)[0] for server in servers}
    assert [server.returncode for server in servers] == [0] * 6
    assert len(outputs) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "lock",
        "secret",
    ]


def test_a_killed_server_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import os, sys; from imserver.gateway.process import DataDirectory; "
        "DataDirectory(sys.argv[1]).start(); os.kill(os.getpid(), 9)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False
        ).returncode
        == -9
    )
    data = DataDirectory(str(tmp_path))
    data.start()
    data.stop()


def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(
            StartError, match=r"^server\.data_dir: .* cannot be used: Not a directory$"
        ):
            DataDirectory(str(path)).start()
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    data = DataDirectory(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(
            StartError,
            match=f"^server.data_dir: {tmp_path}/lock cannot be used: No space ",
        ):
            data.start()
    data.start()  # the failure has kept no lock
    data.stop()
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(
        StartError,
        match=f"^server.data_dir: {tmp_path}/lock cannot be used: Is a directory$",
    ):
        DataDirectory(str(tmp_path)).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_creates_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    theirs = tmp_path / "data"
    roots = tmp_path / "root's"
    theirs.mkdir()
    roots.touch()
    (theirs / "imserver.db").symlink_to(roots)
    os.chown(theirs, 65534, 65534)
    data = DataDirectory(str(theirs))
    data.start()
    data.secret()
    data.stop()
    os.close(open_private(theirs / "imserver.db"))
    owners = {
        name: (theirs / name).stat().st_uid
        for name in ("lock", "secret", "imserver.db")
    }
    assert owners == {"lock": 65534, "secret": 65534, "imserver.db": 0}


def test_the_first_start_makes_a_secret_that_stays_and_is_private(
    tmp_path: Path,
) -> None:
    data = DataDirectory(str(tmp_path / "a" / "data"))
    other = DataDirectory(str(tmp_path / "b"))
    secret = data.secret()
    assert len(secret) >= 32
    assert data.secret() == secret != other.secret()
    assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((data.path / "secret").stat().st_mode) == 0o600
    assert sorted(path.name for path in data.path.iterdir()) == ["lock", "secret"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_missing_secret_is_not_replaced_while_a_server_runs(
    tmp_path: Path, shared: bool
) -> None:
    server = DataDirectory(str(tmp_path), shared)
    command = DataDirectory(str(tmp_path))
    server.start()
    old = server.secret()
    (tmp_path / "secret").unlink()
    why = rf"secret does not exist, and cannot be made: .* in use by another server \(pid {os.getpid()}\)$"
    with pytest.raises(StartError, match=why):
        command.secret()
    assert not (tmp_path / "secret").exists()
    server.stop()
    assert command.secret() != old
    server.start()  # the command has left the folder
    server.stop()


def test_a_secret_file_is_used_unless_short_or_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "given"
    file.write_bytes(b"0123456789abcdef0123456789abcdef\n")
    for mode in (0o600, 0o644):
        assert "can be read by others" not in caplog.text
        file.chmod(mode)
        secret = DataDirectory(str(tmp_path / "none")).secret(str(file))
        assert secret == b"0123456789abcdef0123456789abcdef"
    assert "can be read by others" in caplog.text
    file = tmp_path / "given"
    file.write_bytes(b"short\n")
    with pytest.raises(StartError, match="has 5 bytes; it needs at least 32"):
        DataDirectory(str(tmp_path)).secret(str(file))
    with pytest.raises(
        StartError, match="cannot be read or made: No such file or directory"
    ):
        DataDirectory(str(tmp_path)).secret(str(tmp_path / "none"))


def test_a_derived_key_depends_on_secret_and_purpose() -> None:
    keys = {
        derive_key(secret, purpose)
        for secret in (b"a" * 32, b"b" * 32)
        for purpose in ("page", "jwt")
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    hkdf = HKDF(SHA256(), 32, b"imserver", b"page")
    assert hkdf.derive(b"a" * 32) == derive_key(b"a" * 32, "page")
