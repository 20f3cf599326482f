"""Dockerfile and compose.yaml, deploy/kubernetes, imserver.service and
sysctl.conf: their readers take them, they fit the settings, all they name
exists, and the same works without containers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

from imserver.gateway import assets
from imserver.gateway.config.values import fold
from imserver.gateway.node.feature_list import load_config
from tests.conftest import StartServer
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.cmd import fresh, get, logged_in, post
from tests.rows import DECLARED
from tests.support import ROOT, Server, clean_environment, eventually, run_cli
from tests.test_packaging import SOURCES
from tests.tools import leave_out, require

from .proxy import CONFIG, NODES, Nginx

COMPOSE: dict[str, Any] = yaml.safe_load(
    (ROOT / "compose.yaml").read_text(encoding="utf-8")
)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [service for service in SERVICES.values() if "build" in service]
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


class Instruction(NamedTuple):
    name: str
    words: str


def instructions() -> list[Instruction]:
    """The Dockerfile, a line each."""
    return instructions_of((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def instructions_of(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, a line each."""
    lines = (
        re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        .replace("\\\n", " ")
        .splitlines()
    )
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def last(name: str) -> str:
    return [each.words for each in instructions() if each.name == name][-1]


# --- the Dockerfile -----------------------------------------------------------


def test_the_image_is_built_from_what_the_package_is_made_of() -> None:
    copied = [each.words.split() for each in instructions() if each.name == "COPY"]
    sources = {
        source for *names, _ in copied for source in names if names[0] != "--from=build"
    }
    assert sources == {*SOURCES, "requirements.lock"}
    for *names, target in copied:
        for name in names:
            if (ROOT / name).is_dir():
                assert target == f"/src/{name}"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources


def test_the_image_opens_the_ports_of_the_defaults() -> None:
    app = DEFAULTS["app"]
    ports = (
        app["http_port"],
        app["websocket_port"],
        app["rpc_port"],
        app["rpc_port"] + 1,
    )
    of_go_websocket = 6000
    assert tuple(map(int, last("EXPOSE").split())) == (*ports, of_go_websocket)
    assert f"os.getenv('IMSERVER_APP_HTTP_PORT', '{app['http_port']}')" in last(
        "HEALTHCHECK"
    )


def image_settings() -> dict[str, str]:
    return {
        name: value
        for name, _, value in (pair.partition("=") for pair in last("ENV").split())
    }


def test_the_image_runs_the_server_and_asks_for_keys(tmp_path: Path) -> None:
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert command == ["imserver", "serve"]
    settings = {
        name: value
        for name, value in image_settings().items()
        if name.startswith("IMSERVER_")
    }
    assert settings["IMSERVER_SERVER_DATA_DIR"] == last("VOLUME") == last("WORKDIR")
    assert (last("STOPSIGNAL"), int(last("USER")) > 1000) == ("SIGTERM", True), (
        "it drains, and is not root"
    )
    settings["IMSERVER_SERVER_DATA_DIR"] = str(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,  # a settings file of the source tree would be read
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "api.keys" in done.stderr


# --- compose.yaml -------------------------------------------------------------


def environment(service: dict[str, Any]) -> dict[str, str]:
    """The variables of a service, where none of those is set that it asks
    for."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
        for name, value in service.get("environment", {}).items()
    }


def test_a_node_has_known_settings_and_more_time_to_stop_than_its_drain_takes() -> None:
    known = {folded.replace(".", "") for folded in DECLARED.by_folded}
    longest = (
        sum(DEFAULTS["drain"].values()) + DEFAULTS["websocket"]["close_seconds"] + 4
    )
    for service in OURS:
        for name in environment(service):
            assert fold(name.removeprefix("IMSERVER_")) in known, name
        assert int(service["stop_grace_period"].removesuffix("s")) > longest


def test_all_share_one_network_in_which_nginx_finds_the_nodes_on_loopback() -> None:
    """So no network is named, and no address: the nodes trust proxies on
    loopback."""
    ((port,),) = [
        service["ports"] for service in SERVICES.values() if "ports" in service
    ]
    assert port.startswith("127.0.0.1:")
    assert "networks" not in COMPOSE
    modes = {name: service.get("network_mode") for name, service in SERVICES.items()}
    assert modes.pop("machine") is None
    assert set(modes.values()) == {"service:machine"}
    app = DEFAULTS["app"]
    ports = [
        str(
            environment(service).get(
                f"IMSERVER_APP_{name}_PORT", app[f"{name.lower()}_port"]
            )
        )
        for service in OURS
        for name in ("HTTP", "WEBSOCKET")
    ]
    assert [f"127.0.0.1:{port}" for port in ports] == list(NODES)
    for service in OURS:
        assert environment(service)["IMSERVER_SERVER_HOST"] == "127.0.0.1"
        assert "IMSERVER_SERVER_TRUSTED_PROXIES" not in environment(service)
    assert "127.0.0.0/8" in DEFAULTS["server"]["trusted_proxies"]


def test_every_log_goes_to_the_output_of_its_container(tmp_path: Path) -> None:
    """The image of nginx links access.log and error.log to the output. Other
    files would grow in it."""
    logs = re.findall(r"(?:access|error)_log +(\S+)", nginx_text(tmp_path))
    assert sorted(logs) == ["/dev/stdout", "/var/log/nginx/error.log"]
    assert not any("IMSERVER_APP_LOG_FILE" in environment(service) for service in OURS)
    assert not DEFAULTS["app"]["log_file"]


def nginx_text(folder: Path) -> str:
    """What the command of the service nginx makes of deploy/nginx.conf."""
    shell, flag, command = SERVICES["nginx"]["command"]
    script, _, start = command.partition(" && exec ")
    assert start == "nginx -c /tmp/nginx.conf -g 'daemon off;'"
    mounted = SERVICES["nginx"]["volumes"][0].split(":")
    assert (ROOT / mounted[0]) == CONFIG
    assert mounted[1] in script
    path = folder / "made.conf"
    script = script.replace(mounted[1], str(CONFIG)).replace(
        "/tmp/nginx.conf", str(path)
    )
    subprocess.run([shell, flag, script], check=True)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", *options)
    yield server
    server.kill()


@pytest.fixture
def servers(
    start_server: StartServer, redis: RedisServer, tmp_path: Path
) -> list[Server]:
    """The nodes with the settings of image and services; addresses, ports and
    folders are of the test."""
    assert environment(OURS[0])["IMSERVER_REDIS_ADDR"] == "127.0.0.1:6379"
    image = {
        name: value
        for name, value in image_settings().items()
        if name.startswith("IMSERVER_")
    }
    here = {
        "IMSERVER_REDIS_ADDR": f"127.0.0.1:{redis.port}",
        "IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"),
        **{f"IMSERVER_APP_{name}_PORT": "0" for name in ("HTTP", "WEBSOCKET", "RPC")},
    }
    return [
        start_server(environment={**image, **environment(service), **here})
        for service in OURS
    ]


@pytest.mark.full("programs")
@pytest.mark.needs("nginx")
def test_what_compose_runs_is_one_system(servers: list[Server], tmp_path: Path) -> None:
    text = nginx_text(tmp_path).replace("/dev/stdout", "/var/log/nginx/im.log")
    with ExitStack() as stack:
        address = stack.enter_context(Nginx(tmp_path, servers, text)).address

        def nodes_known() -> bool:
            state = get(address, "/system/state", cluster="true").json["data"]
            return len(state["nodes"]) == 2 and not state["missingNodes"]

        eventually(nodes_known, what="the nodes know each other")
        users = [fresh() for _ in range(4)]
        clients = [stack.enter_context(logged_in(address, user, 101)) for user in users]
        for server in servers:
            assert (
                get(server.http, "/system/state").json["data"]["managerInfo"][
                    "usersLen"
                ]
                == 2
            )
        for user, client in zip(users, clients, strict=True):
            sent = post(
                address,
                "/user/sendMessage",
                appID=101,
                userID=user,
                msgID=fresh(),
                message=user,
            )
            assert sent.json["data"] == {"sendResults": True}
            assert client.push("msg").json["response"]["data"]["msg"] == user
        assert get(address, "/cluster").status == 200


# --- machines without compose: Kubernetes, systemd, sysctl --------------------

DEPLOY = ROOT / "deploy"


def done(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False
    )


KUBERNETES = DEPLOY / "kubernetes"
OVERLAY = KUBERNETES / "overlays" / "example"
MANIFESTS = [
    each
    for file in (
        KUBERNETES / "base" / "nodes.yaml",
        OVERLAY / "backups.yaml",
        OVERLAY / "network.yaml",
    )
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
    kubernetes_validate.validate(
        manifest, kubernetes_validate.latest_version(), strict=True
    )


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize(
    "folder", [KUBERNETES / "base", OVERLAY], ids=lambda folder: folder.name
)
def test_kustomize_makes_of_them_what_kubernetes_knows(folder: Path) -> None:
    output = done(require("kubectl"), "kustomize", str(folder))
    assert (output.returncode, output.stderr) == (0, "")
    manifests = list(yaml.safe_load_all(output.stdout))
    for manifest in manifests:
        kubernetes_validate.validate(
            manifest, kubernetes_validate.latest_version(), strict=True
        )
    (settings,) = [each for each in manifests if each["kind"] == "ConfigMap"]
    assert settings["data"]["imserver.yaml"] == (folder / "settings.yaml").read_text(
        "utf-8"
    )
    # Each pod has these settings: their name has a hash, so that a change
    # restarts the nodes.
    assert set(re.findall(r"imserver-\w{10}$", output.stdout, re.MULTILINE)) == {
        settings["metadata"]["name"]
    }
    assert len(set(re.findall(r"image: (.*)", output.stdout))) == 1


@pytest.mark.parametrize(
    "folder", [KUBERNETES / "base", OVERLAY], ids=lambda folder: folder.name
)
def test_its_settings_are_valid_and_a_pod_has_more_time_to_end_than_its_drain_takes(
    folder: Path, tmp_path: Path
) -> None:
    """A node of this machine has the secret elsewhere."""
    secret = tmp_path / "secret"
    path = tmp_path / "imserver.yaml"
    secret.write_bytes(bytes(range(32, 96)))
    secret.chmod(0o600)
    text = (folder / "settings.yaml").read_text("utf-8")
    text = text.replace("/etc/imserver/secret/secret", str(secret)).replace(
        "/data", str(tmp_path / "data")
    )
    path.write_text(text, encoding="utf-8")
    checked = run_cli("check-config", str(path), **SECRETS)
    assert checked.returncode == 0, checked.stderr
    assert set(SECRETS) == {each["name"] for each in CONTAINER["env"]}
    known = {
        fold(f"{section}_{key}")
        for section, keys in DEFAULTS.items()
        if keys
        for key in keys
    }
    assert {fold(name.removeprefix("IMSERVER_")) for name in SECRETS} <= known
    config = load_config(str(path), SECRETS)
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    probe = CONTAINER["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]
    drain = (
        config.drain.delay_seconds
        + config.drain.close_seconds
        + config.websocket.close_seconds
        + 15
    )
    assert POD["terminationGracePeriodSeconds"] > wait + drain


def test_its_ports_are_those_of_a_node_and_a_rollout_takes_none_away_before_another_is_ready() -> (
    None
):
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    app = DEFAULTS["app"]
    assert ports == {
        "http": app["http_port"],
        "websocket": app["websocket_port"],
        "rpc": app["rpc_port"],
        "rpc-next": app["rpc_port"] + 1,
    }
    assert {
        each["targetPort"] for each in BY_KIND["Service"]["spec"]["ports"]
    } <= ports.keys()
    probes = [
        CONTAINER[f"{name}Probe"]["httpGet"]
        for name in ("readiness", "liveness", "startup")
    ]
    assert [probe["path"] for probe in probes] == ["/ready", "/health", "/health"]
    assert {probe["port"] for probe in probes} == {"http"}
    rolling = DEPLOYMENT["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    assert (
        DEPLOYMENT["replicas"]
        > BY_KIND["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    )


# --- systemd ------------------------------------------------------------------

FILE = DEPLOY / "imserver.service"
PROGRAM = "/opt/imserver/bin/imserver"


class Unit(RawConfigParser):
    """A unit of systemd, whose keys have capital letters."""

    optionxform = staticmethod(str)  # type: ignore[assignment]


UNIT = Unit()
UNIT.read(FILE, encoding="utf-8")
SERVICE = UNIT["Service"]


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_it_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / FILE.name
    # it must exist
    file.write_text(FILE.read_text("utf-8").replace(PROGRAM, sys.executable), "utf-8")
    verified = done("systemd-analyze", "verify", str(file))
    assert verified.returncode == 0, verified.stderr
    assert FILE.name not in verified.stderr


def test_a_backup_may_do_no_more_than_the_server() -> None:
    backup = Unit()
    backup.read(DEPLOY / "imserver-backup.service", encoding="utf-8")
    limits = {
        key: value
        for key, value in SERVICE.items()
        if re.match("Protect|Private|Restrict|System|.*Cap|No|Lock", key)
    }
    limits.pop("Restart", None)
    assert len(limits) > 15
    assert limits.items() <= dict(backup["Service"]).items()


def test_its_command_is_the_one_of_the_install_guide_and_has_known_options() -> None:
    command = SERVICE["ExecStart"]
    assert f"\n{command}\n" in (ROOT / "docs" / "operations.md").read_text(
        encoding="utf-8"
    )
    program, *words = command.split()
    assert program == PROGRAM
    assert run_cli(*words, "--help").returncode == 0


def test_it_waits_for_the_database_and_has_more_time_to_stop_than_its_drain_takes() -> (
    None
):
    # A node ends while the database is away. By default systemd gives up after
    # five ends in ten seconds.
    assert UNIT["Unit"].getint("StartLimitIntervalSec") == 0
    assert SERVICE["Restart"] == "on-failure"
    assert UNIT["Install"]["WantedBy"] == "multi-user.target"
    longest = (
        sum(DEFAULTS["drain"].values()) + DEFAULTS["websocket"]["close_seconds"] + 15
    )
    assert SERVICE.getint("TimeoutStopSec") > longest
    assert (SERVICE["KillSignal"], SERVICE["KillMode"]) == ("SIGTERM", "mixed")


def test_it_is_not_root_and_writes_only_its_folders() -> None:
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    user = SERVICE["User"]
    folder = f"/var/lib/{SERVICE['StateDirectory']}"
    assert (
        f'useradd --system --home-dir "{folder}" --shell /usr/sbin/nologin {user}\n'
        in guide
    )
    assert f"`server.data_dir: {folder}`" in guide
    assert (SERVICE["WorkingDirectory"], SERVICE["StateDirectoryMode"]) == (
        folder,
        "0700",
    )
    assert SERVICE["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in SERVICE
    assert SERVICE.getboolean("NoNewPrivileges")
    assert SERVICE["CapabilityBoundingSet"] == SERVICE["AmbientCapabilities"] == ""


def test_the_timer_calls_the_backup_which_may_write_only_what_it_says(
    tmp_path: Path,
) -> None:
    units = {name: Unit() for name in ("service", "timer")}
    for name, unit in units.items():
        text = (DEPLOY / f"imserver-backup.{name}").read_text("utf-8")
        unit.read_string(text)
        (tmp_path / f"imserver-backup.{name}").write_text(
            text.replace(PROGRAM, sys.executable), "utf-8"
        )
    verified = done(
        require("systemd-analyze"), "verify", str(tmp_path / "imserver-backup.timer")
    )
    assert (verified.returncode, "imserver-backup" in verified.stderr) == (0, False), (
        verified.stderr
    )
    backup = units["service"]["Service"]
    program, *words = backup["ExecStart"].split()
    assert (program, backup["User"]) == (PROGRAM, SERVICE["User"])
    assert run_cli(*words, "--help").returncode == 0
    folders = backup["StateDirectory"].split()
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert SERVICE["StateDirectory"] in folders
    assert f"`backups: {{folder: /var/lib/{folders[-1]}}}`" in guide


# --- sysctl -------------------------------------------------------------------

SYSCTL = DEPLOY / "sysctl.conf"
LINES = [
    line
    for line in SYSCTL.read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
SETTINGS = {
    name.strip(): value.strip()
    for name, _, value in (line.partition("=") for line in LINES)
}


def numbers(name: str) -> list[int]:
    return [int(value) for value in SETTINGS[name].split()]


def test_sysctl_reads_it() -> None:
    shown = done(require("sysctl"), "--dry-run", "-p", str(SYSCTL))
    if "unrecognized option" in shown.stderr or "invalid option" in shown.stderr:
        leave_out("this sysctl has no --dry-run")
    assert shown.returncode == 0, shown.stderr
    assert not [
        line for line in shown.stderr.splitlines() if "permission denied" not in line
    ]
    assert dict(line.split(" = ") for line in shown.stdout.splitlines()) == SETTINGS


@pytest.mark.linux
@pytest.mark.parametrize("name", SETTINGS)
def test_this_kernel_knows_it(name: str) -> None:
    """Names that a network namespace or a container hides are not looked
    for."""
    path = Path("/proc/sys") / name.replace(".", "/")
    if not path.parent.exists() or (
        name.startswith("net.core")
        and not Path("/proc/sys/net/core/somaxconn").exists()
    ):
        pytest.skip(f"no {path.parent} here")
    assert path.exists()


def test_its_limits_fit_together_and_no_port_of_a_server_is_given_away_as_a_source_port() -> (
    None
):
    assert numbers("net.core.somaxconn")[0] >= DEFAULTS["server"]["backlog"]
    assert numbers("fs.file-max")[0] > numbers("fs.nr_open")[0] > 1_000_000
    assert numbers("net.ipv4.tcp_mem") == sorted(numbers("net.ipv4.tcp_mem"))
    assert (
        numbers("net.ipv4.tcp_keepalive_time")[0]
        < DEFAULTS["websocket"]["heartbeat_seconds"]
    )
    reserved = set()
    for part in SETTINGS["net.ipv4.ip_local_reserved_ports"].split(","):
        first, _, last = part.partition("-")
        reserved |= set(range(int(first), int(last or first) + 1))
    listening = {
        DEFAULTS["app"][name] for name in ("http_port", "websocket_port", "rpc_port")
    } | {6379}
    listening |= {
        int(port)
        for port in re.findall(
            r"127\.0\.0\.1:(\d+)", CONFIG.read_text(encoding="utf-8")
        )
    }
    # 64 processes have two ports each.
    assert listening | {DEFAULTS["app"]["rpc_port"] + 127} <= reserved
