"""Dockerfile and compose.yaml: their form, that all they name exists, and the same without containers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from imserver.gateway import assets
from imserver.gateway.config.values import fold
from tests.conftest import StartServer
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.cmd import fresh, get, logged_in, post
from tests.rows import DECLARED
from tests.support import ROOT, Server, clean_environment, eventually
from tests.test_packaging import SOURCES

from .proxy import CONFIG, NODES, Nginx

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
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
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def last(name: str) -> str:
    return [each.words for each in instructions() if each.name == name][-1]


# --- the Dockerfile -----------------------------------------------------------------------------------------


def test_the_image_is_built_from_what_the_package_is_made_of() -> None:
    copied = [each.words.split() for each in instructions() if each.name == "COPY"]
    sources = {source for *names, _ in copied for source in names if names[0] != "--from=build"}
    assert sources == {*SOURCES, "requirements.lock"}
    for *names, target in copied:
        for name in names:
            if (ROOT / name).is_dir():
                assert target == f"/src/{name}"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources


def test_the_image_opens_the_ports_of_the_defaults() -> None:
    app = DEFAULTS["app"]
    ports = (app["http_port"], app["websocket_port"], app["rpc_port"], app["rpc_port"] + 1)
    of_go_websocket = 6000
    assert tuple(map(int, last("EXPOSE").split())) == (*ports, of_go_websocket)
    assert f"os.getenv('IMSERVER_APP_HTTP_PORT', '{app['http_port']}')" in last("HEALTHCHECK")


def image_settings() -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in last("ENV").split())}


def test_the_image_runs_the_server_and_asks_for_keys(tmp_path: Path) -> None:
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert command == ["imserver", "serve"]
    settings = {name: value for name, value in image_settings().items() if name.startswith("IMSERVER_")}
    assert settings["IMSERVER_SERVER_DATA_DIR"] == last("VOLUME") == last("WORKDIR")
    assert (last("STOPSIGNAL"), int(last("USER")) > 1000) == ("SIGTERM", True), "it drains, and is not root"
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


# --- compose.yaml -------------------------------------------------------------------------------------------


def environment(service: dict[str, Any]) -> dict[str, str]:
    """The variables of a service, where none of those is set that it asks for."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
        for name, value in service.get("environment", {}).items()
    }


def test_a_node_has_known_settings_and_more_time_to_stop_than_its_drain_takes() -> None:
    known = {folded.replace(".", "") for folded in DECLARED.by_folded}
    longest = sum(DEFAULTS["drain"].values()) + DEFAULTS["websocket"]["close_seconds"] + 4
    for service in OURS:
        for name in environment(service):
            assert fold(name.removeprefix("IMSERVER_")) in known, name
        assert int(service["stop_grace_period"].removesuffix("s")) > longest


def test_all_share_one_network_in_which_nginx_finds_the_nodes_on_loopback() -> None:
    """So no network is named, and no address: the nodes trust proxies on loopback."""
    ((port,),) = [service["ports"] for service in SERVICES.values() if "ports" in service]
    assert port.startswith("127.0.0.1:")
    assert "networks" not in COMPOSE
    modes = {name: service.get("network_mode") for name, service in SERVICES.items()}
    assert modes.pop("machine") is None
    assert set(modes.values()) == {"service:machine"}
    app = DEFAULTS["app"]
    ports = [
        str(environment(service).get(f"IMSERVER_APP_{name}_PORT", app[f"{name.lower()}_port"]))
        for service in OURS
        for name in ("HTTP", "WEBSOCKET")
    ]
    assert [f"127.0.0.1:{port}" for port in ports] == list(NODES)
    for service in OURS:
        assert environment(service)["IMSERVER_SERVER_HOST"] == "127.0.0.1"
        assert "IMSERVER_SERVER_TRUSTED_PROXIES" not in environment(service)
    assert "127.0.0.0/8" in DEFAULTS["server"]["trusted_proxies"]


def test_every_log_goes_to_the_output_of_its_container(tmp_path: Path) -> None:
    """The image of nginx links access.log and error.log to the output. Other files would grow in it."""
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
    script = script.replace(mounted[1], str(CONFIG)).replace("/tmp/nginx.conf", str(path))
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
def servers(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> list[Server]:
    """The nodes with the settings of image and services; addresses, ports and folders are of the test."""
    assert environment(OURS[0])["IMSERVER_REDIS_ADDR"] == "127.0.0.1:6379"
    image = {name: value for name, value in image_settings().items() if name.startswith("IMSERVER_")}
    here = {
        "IMSERVER_REDIS_ADDR": f"127.0.0.1:{redis.port}",
        "IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"),
        **{f"IMSERVER_APP_{name}_PORT": "0" for name in ("HTTP", "WEBSOCKET", "RPC")},
    }
    return [start_server(environment={**image, **environment(service), **here}) for service in OURS]


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
            assert get(server.http, "/system/state").json["data"]["managerInfo"]["usersLen"] == 2
        for user, client in zip(users, clients, strict=True):
            sent = post(address, "/user/sendMessage", appID=101, userID=user, msgID=fresh(), message=user)
            assert sent.json["data"] == {"sendResults": True}
            assert client.push("msg").json["response"]["data"]["msg"] == user
        assert get(address, "/cluster").status == 200
