"""deploy/kubernetes, imserver.service and sysctl.conf: their readers take them, and they fit the settings."""

import re
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from imserver.gateway import assets
from imserver.gateway.config.values import fold
from imserver.gateway.node.feature_list import load_config
from tests.support import ROOT, run_cli
from tests.tools import leave_out, require

from .proxy import CONFIG as NGINX

DEPLOY = ROOT / "deploy"
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


def done(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


# --- Kubernetes ---------------------------------------------------------------------------------------------


MANIFESTS = [
    each
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for each in yaml.safe_load_all(file.read_text("utf-8"))
]
BY_KIND: dict[str, Any] = {each["kind"]: each for each in MANIFESTS}
DEPLOYMENT = BY_KIND["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
SECRETS = {
    "IMSERVER_REDIS_URL": "redis://redis:6379/0",
    "IMSERVER_STORAGE_URL": "postgresql://im:password@postgresql/im",
    "IMSERVER_API_KEYS": "[{key: key-of-the-tests-1234, scopes: [admin]}]",
    "IMSERVER_CLUSTER_ADVERTISE": "10.1.2.3",
}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: each["kind"])
def test_kubernetes_knows_each_field(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_its_settings_are_valid_and_a_pod_has_more_time_to_end_than_its_drain_takes(tmp_path: Path) -> None:
    """A node of this machine has the secret elsewhere."""
    secret, path = tmp_path / "secret", tmp_path / "imserver.yaml"
    secret.write_bytes(bytes(range(32, 96)))
    secret.chmod(0o600)
    (text,) = BY_KIND["ConfigMap"]["data"].values()
    text = text.replace("/etc/imserver/secret/secret", str(secret)).replace("/data", str(tmp_path / "data"))
    path.write_text(text, encoding="utf-8")
    checked = run_cli("check-config", str(path), **SECRETS)
    assert checked.returncode == 0, checked.stderr
    assert set(SECRETS) == {each["name"] for each in CONTAINER["env"]}
    known = {fold(f"{section}_{key}") for section, keys in DEFAULTS.items() if keys for key in keys}
    assert {fold(name.removeprefix("IMSERVER_")) for name in SECRETS} <= known
    config = load_config(str(path), SECRETS)
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    probe = CONTAINER["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]
    drain = config.drain.delay_seconds + config.drain.close_seconds + config.websocket.close_seconds + 15
    assert POD["terminationGracePeriodSeconds"] > wait + drain


def test_its_ports_are_those_of_a_node_and_a_rollout_takes_none_away_before_another_is_ready() -> None:
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    app = DEFAULTS["app"]
    assert ports == {
        "http": app["http_port"],
        "websocket": app["websocket_port"],
        "rpc": app["rpc_port"],
        "rpc-next": app["rpc_port"] + 1,
    }
    assert {each["targetPort"] for each in BY_KIND["Service"]["spec"]["ports"]} <= ports.keys()
    probes = [CONTAINER[f"{name}Probe"]["httpGet"] for name in ("readiness", "liveness", "startup")]
    assert [probe["path"] for probe in probes] == ["/ready", "/health", "/health"]
    assert {probe["port"] for probe in probes} == {"http"}
    rolling = DEPLOYMENT["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    assert DEPLOYMENT["replicas"] > BY_KIND["PodDisruptionBudget"]["spec"]["maxUnavailable"]


# --- systemd ------------------------------------------------------------------------------------------------


FILE = DEPLOY / "imserver.service"
PROGRAM = "/opt/imserver/bin/imserver"
UNIT = RawConfigParser()
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read(FILE, encoding="utf-8")
SERVICE = UNIT["Service"]


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_it_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / FILE.name
    file.write_text(FILE.read_text("utf-8").replace(PROGRAM, sys.executable), "utf-8")  # it must exist
    verified = done("systemd-analyze", "verify", str(file))
    assert verified.returncode == 0, verified.stderr
    assert FILE.name not in verified.stderr


def test_its_command_is_the_one_of_the_install_guide_and_has_known_options() -> None:
    command = SERVICE["ExecStart"]
    assert f"\n{command}\n" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    program, *words = command.split()
    assert program == PROGRAM
    assert run_cli(*words, "--help").returncode == 0


def test_it_waits_for_the_database_and_has_more_time_to_stop_than_its_drain_takes() -> None:
    # A node ends while the database is away. By default systemd gives up after five ends in ten seconds.
    assert UNIT["Unit"].getint("StartLimitIntervalSec") == 0
    assert SERVICE["Restart"] == "on-failure"
    assert UNIT["Install"]["WantedBy"] == "multi-user.target"
    longest = sum(DEFAULTS["drain"].values()) + DEFAULTS["websocket"]["close_seconds"] + 15
    assert SERVICE.getint("TimeoutStopSec") > longest
    assert (SERVICE["KillSignal"], SERVICE["KillMode"]) == ("SIGTERM", "mixed")


def test_it_is_not_root_and_writes_only_its_folders() -> None:
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    user, folder = SERVICE["User"], f"/var/lib/{SERVICE['StateDirectory']}"
    assert f'useradd --system --home-dir "{folder}" --shell /usr/sbin/nologin {user}\n' in guide
    assert f"`server.data_dir: {folder}`" in guide
    assert (SERVICE["WorkingDirectory"], SERVICE["StateDirectoryMode"]) == (folder, "0700")
    assert SERVICE["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in SERVICE
    assert SERVICE.getboolean("NoNewPrivileges")
    assert SERVICE["CapabilityBoundingSet"] == SERVICE["AmbientCapabilities"] == ""


# --- sysctl -------------------------------------------------------------------------------------------------


SYSCTL = DEPLOY / "sysctl.conf"
LINES = [line for line in SYSCTL.read_text("utf-8").splitlines() if line and not line.startswith("#")]
SETTINGS = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in LINES)}


def numbers(name: str) -> list[int]:
    return [int(value) for value in SETTINGS[name].split()]


def test_sysctl_reads_it() -> None:
    shown = done(require("sysctl"), "--dry-run", "-p", str(SYSCTL))
    if "unrecognized option" in shown.stderr or "invalid option" in shown.stderr:
        leave_out("this sysctl has no --dry-run")
    assert shown.returncode == 0, shown.stderr
    assert not [line for line in shown.stderr.splitlines() if "permission denied" not in line]
    assert dict(line.split(" = ") for line in shown.stdout.splitlines()) == SETTINGS


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


def test_its_limits_fit_together_and_no_port_of_a_server_is_given_away_as_a_source_port() -> None:
    assert numbers("net.core.somaxconn")[0] >= DEFAULTS["server"]["backlog"]
    assert numbers("fs.file-max")[0] > numbers("fs.nr_open")[0] > 1_000_000
    assert numbers("net.ipv4.tcp_mem") == sorted(numbers("net.ipv4.tcp_mem"))
    assert numbers("net.ipv4.tcp_keepalive_time")[0] < DEFAULTS["websocket"]["heartbeat_seconds"]
    reserved = set()
    for part in SETTINGS["net.ipv4.ip_local_reserved_ports"].split(","):
        first, _, last = part.partition("-")
        reserved |= set(range(int(first), int(last or first) + 1))
    listening = {DEFAULTS["app"][name] for name in ("http_port", "websocket_port", "rpc_port")} | {6379}
    listening |= {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", NGINX.read_text(encoding="utf-8"))}
    # 64 processes have two ports each.
    assert listening | {DEFAULTS["app"]["rpc_port"] + 127} <= reserved
