"""`imserver init`: one file, with which a server starts, a user logs in and a back end pushes."""

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.config.values import MIN_KEY_CHARACTERS
from tests.support import clean_environment, run_cli


def run_init(folder: Path, *arguments: str) -> str:
    done = run_cli("init", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_file_has_an_app_a_key_and_a_secret(tmp_path: Path) -> None:
    output = run_init(tmp_path)
    file = tmp_path / "imserver.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    config = load_with_locations(str(file), {})[0]
    assert not config.demo
    key, admin_key = config.api.keys
    assert (key.scopes, key.apps) == (("push", "read"), ("default",))
    assert (admin_key.scopes, admin_key.apps) == (("admin", "push", "read"), ())
    assert admin_key.key not in output
    assert len(key.key) > MIN_KEY_CHARACTERS
    assert key.key in output
    (secret,) = config.apps["default"].jwt
    assert secret.key not in output
    assert run_init(tmp_path, "two") != output, "another file has other keys"
    assert len([line for line in output.splitlines() if re.match(r"  (imserver|curl) ", line)]) == 3


def test_the_file_is_ready_for_production_but_for_tls(tmp_path: Path) -> None:
    run_init(tmp_path)
    done = run_cli("check-config", "--production", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing is open\n")
    file = tmp_path / "imserver.yaml"
    file.write_text(file.read_text().replace("host: 127.0.0.1", "host: 0.0.0.0", 1))
    done = run_cli("check-config", "--production", folder=tmp_path)
    assert done.returncode == 1
    (finding,) = done.stdout.splitlines()
    assert finding.startswith("server.trusted_proxies: 0.0.0.0 accepts unencrypted connections")


def test_commands_of_the_folder_use_it(tmp_path: Path) -> None:
    run_init(tmp_path, "--app", "shop")
    done = run_cli("token", "create", "--app", "shop", "--user", "ann", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".") == 2
    assert f"created the data folder {tmp_path / 'data'}" not in done.stderr
    app = run_cli("app", "create", "other", folder=tmp_path)
    assert app.returncode == 0, app.stderr
    assert f"created the data folder {tmp_path / 'data'}" in app.stderr


def test_the_environment_names_another_file(tmp_path: Path) -> None:
    run_init(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("app: {http_port: 4711}\n")
    done = run_cli("check-config", folder=tmp_path, IMSERVER_CONFIG=str(other))
    assert "http_port: 4711" in done.stdout
    assert "http_port: 4711" not in run_cli("check-config", folder=tmp_path).stdout


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "imserver.yaml").write_text("app: {}\n")
    done = run_cli("init", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "imserver: imserver.yaml exists already; nothing was changed\n"
    assert (tmp_path / "imserver.yaml").read_text() == "app: {}\n"


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, 0));"
    code = f"{limit} from imserver.cli import main; main(['init'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "imserver: imserver.yaml cannot be written: File too large\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--app", name) for name in ("a b", "", "x: y", "ü")),
        ("--url", "unix:/run/im.sock"),
        ("--chat", "--name", "x" * 41),
        ("--no-chat", "--name", "Tea"),
        ("--app", "gochat"),
    ],
)
def test_what_the_file_could_not_hold_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run_cli("init", *arguments, folder=tmp_path).returncode == 1
    assert not (tmp_path / "imserver.yaml").exists()


@pytest.mark.parametrize("name", ["105", "0x10", "1_000", "true", "null", "2024-01-01", "2024-13-45"])
def test_an_app_may_have_a_name_that_yaml_reads_as_something_else(tmp_path: Path, name: str) -> None:
    run_init(tmp_path, "--app", name)
    config = load_with_locations(str(tmp_path / "imserver.yaml"), {})[0]
    assert config.apps[name].jwt
    assert config.api.keys[0].apps == (name,)


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("http://192.168.1.7:8089", (8089, 8098)),
        ("http://192.168.1.7:65530", (65530, 65521)),
        ("http://chat.example.org", (80, 89)),
        ("https://chat.example.org:8443", (8080, 8089)),
    ],
)
def test_the_ports_follow_the_address(tmp_path: Path, url: str, ports: tuple[int, int]) -> None:
    output = run_init(tmp_path, "--url", url)
    app = load_with_locations(str(tmp_path / "imserver.yaml"), {})[0].app
    assert (app.http_port, app.websocket_port, app.http_url) == (*ports, url)
    assert f"http://127.0.0.1:{ports[0]}/api/v1/push" in output
