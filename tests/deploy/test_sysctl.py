"""deploy/sysctl.conf: sysctl can read it, and this kernel knows what it sets."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.support import ROOT
from tests.tools import leave_out, require

from .proxy import CONFIG as NGINX

FILE = ROOT / "deploy" / "sysctl.conf"
LINES = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
SETTINGS = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in LINES)}
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


def numbers(name: str) -> list[int]:
    return [int(value) for value in SETTINGS[name].split()]


def test_sysctl_reads_it() -> None:
    done = subprocess.run(
        [require("sysctl"), "--dry-run", "-p", str(FILE)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "unrecognized option" in done.stderr or "invalid option" in done.stderr:
        leave_out("this sysctl has no --dry-run")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "permission denied" not in line]
    shown = dict(line.split(" = ") for line in done.stdout.splitlines())
    assert shown == SETTINGS


@pytest.mark.linux
@pytest.mark.parametrize("name", SETTINGS)
def test_this_kernel_knows_it(name: str) -> None:
    """Names that a network namespace or a container hides are not looked for."""
    path = Path("/proc/sys") / name.replace(".", "/")
    if not path.parent.exists() or (
        name.startswith("net.core") and not Path("/proc/sys/net/core/somaxconn").exists()
    ):
        pytest.skip(f"no {path.parent} here")
    assert path.exists()


def test_the_limits_fit_together() -> None:
    assert numbers("net.core.somaxconn")[0] >= DEFAULTS["server"]["backlog"]
    assert numbers("fs.file-max")[0] > numbers("fs.nr_open")[0] > 1_000_000
    assert numbers("net.ipv4.tcp_mem") == sorted(numbers("net.ipv4.tcp_mem"))
    assert numbers("net.ipv4.tcp_keepalive_time")[0] < DEFAULTS["websocket"]["heartbeat_seconds"]


def test_no_port_of_a_server_is_given_away_as_a_source_port() -> None:
    reserved = set()
    for part in SETTINGS["net.ipv4.ip_local_reserved_ports"].split(","):
        first, _, last = part.partition("-")
        reserved |= set(range(int(first), int(last or first) + 1))
    listening = {DEFAULTS["app"][name] for name in ("http_port", "websocket_port", "rpc_port")} | {6379}
    listening |= {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", NGINX.read_text(encoding="utf-8"))}
    assert listening <= reserved
    assert DEFAULTS["app"]["rpc_port"] + 127 in reserved  # 64 processes with two ports each
