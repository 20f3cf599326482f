"""deploy/kubernetes: Kubernetes takes it, and it fits the settings and the drain."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from imserver.gateway import assets
from imserver.gateway.config.values import fold
from imserver.gateway.node.feature_list import load_config
from tests.support import ROOT, run_cli

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = [
    each for file in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text("utf-8"))
]
BY_KIND: dict[str, Any] = {each["kind"]: each for each in MANIFESTS}
DEPLOYMENT = BY_KIND["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))
SECRETS = {
    "IMSERVER_REDIS_URL": "redis://redis:6379/0",
    "IMSERVER_STORAGE_URL": "postgresql://im:password@postgresql/im",
    "IMSERVER_API_KEYS": "[{key: key-of-the-tests-1234, scopes: [admin]}]",
    "IMSERVER_CLUSTER_ADVERTISE": "10.1.2.3",
}


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """The file of the ConfigMap. A node of this machine has the secret elsewhere."""
    (text,) = BY_KIND["ConfigMap"]["data"].values()
    path = tmp_path / "imserver.yaml"
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(32, 96)))
    secret.chmod(0o600)
    text = text.replace("/etc/imserver/secret/secret", str(secret)).replace("/data", str(tmp_path / "data"))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: each["kind"])
def test_kubernetes_knows_each_field(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_settings_are_valid(config_path: Path) -> None:
    done = run_cli("check-config", str(config_path), **SECRETS)
    assert done.returncode == 0, done.stderr
    assert set(SECRETS) == {each["name"] for each in CONTAINER["env"]}
    known = {fold(f"{section}_{key}") for section, keys in DEFAULTS.items() if keys for key in keys}
    assert {fold(name.removeprefix("IMSERVER_")) for name in SECRETS} <= known


def test_its_ports_are_those_of_a_node() -> None:
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
    assert [(probe["path"], probe["port"]) for probe in probes] == [
        ("/ready", "http"),
        ("/health", "http"),
        ("/health", "http"),
    ]


def test_a_pod_has_more_time_to_end_than_its_drain_takes(config_path: Path) -> None:
    config = load_config(str(config_path), SECRETS)
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    probe = CONTAINER["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]
    drain = config.drain.delay_seconds + config.drain.close_seconds + config.websocket.close_seconds + 15
    assert POD["terminationGracePeriodSeconds"] > wait + drain


def test_a_rollout_takes_no_node_away_before_another_is_ready() -> None:
    rolling = DEPLOYMENT["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    assert DEPLOYMENT["replicas"] > BY_KIND["PodDisruptionBudget"]["spec"]["maxUnavailable"]
