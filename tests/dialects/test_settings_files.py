"""Files of the originals, conf/app.ini of go-websocket and app.yaml of GoChat:
each starts this server at its ports, and what has no equal here is told."""

import os
import socket
from pathlib import Path

import pytest

from imserver.dialects.protobuf.declared import ProtobufSettings
from imserver.gateway.config.settings import Config, ListenSettings, settings_of
from imserver.gateway.config.values import ConfigError
from imserver.gateway.node.feature_list import load_config
from tests.support import ROOT, run_cli

INI, YAML = (
    (ROOT / "tests/vectors" / name).read_text(encoding="utf-8")
    for name in ("go-websocket.ini", "gochat.yaml")
)
REDIS = {"IMSERVER_REDIS_URL": "redis://127.0.0.1:6379"}
KEYS = {"IMSERVER_API_KEYS": "[{key: secret-key-of-the-tests, scopes: [push]}]"}


@pytest.fixture
def ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of
    return tmp_path / "app.ini"


@pytest.fixture
def yml(ini: Path) -> Path:
    return ini.with_name("app.yaml")


def load(file: Path, text: str, **environment: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), environment)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "app.ini",
            "HttpPort = 1",
            "line 1: a section such as [common] must come first",
        ),
        (
            "app.ini",
            "[common]\nHttpPort = 1\nHttpPort = 2",
            "line 3: httpport is given twice",
        ),
        ("app.ini", "[common]\n[common]", "line 2: the section common is given twice"),
        ("app.ini", "[common]\n= 5", "line 2: expected key = value"),
        (
            "app.ini",
            "[common]\nHttpPort = many",
            "HttpPort: expected a port, got 'many'",
        ),
        (
            "app.ini",
            "[common]\nRPCPort = 65536",
            "RPCPort: expected a port, got '65536'",
        ),
        (
            "app.ini",
            "[common]\nCluster = perhaps",
            "Cluster: expected true or false, got 'perhaps'",
        ),
        (
            "app.ini",
            "[common]\nCryptoKey = short",
            "CryptoKey: expected 16, 24 or 32 bytes, got 5",
        ),
        (
            "app.yaml",
            "app:\n  http_server_port: x",
            "line 2: app.http_server_port: expected a port, got 'x'",
        ),
        (
            "app.yaml",
            "app: {http_server_port: 65536}",
            "app.http_server_port: expected a port, got 65536",
        ),
        (
            "app.yaml",
            "app: {http_server_port: true}",
            "app.http_server_port: expected a port, got True",
        ),
        (
            "app.yaml",
            "app:\n  ip: here",
            "line 2: app.ip: expected an address, got 'here'",
        ),
        (
            "app.yaml",
            "app:\n  heartbeattime: soon",
            "websocket.protobuf_silent_seconds: expected",
        ),
        (
            "app.yaml",
            "app:\n  ip: ::1\n  IP: ::2",
            "line 3: app.IP is given twice, in two spellings",
        ),
        ("app.yaml", "app:\n  http_server_port: 8080", "port 8080 is given twice"),
        (
            "app.yaml",
            "app:\n  ip: 127.0.0.1\n  colour: red",
            "line 3: unknown key 'app.colour'",
        ),
        (
            "app.yaml",
            "etcd:\n  timeout: 5\n  colour: red",
            "line 1: unknown key 'etcd'",
        ),
    ],
)
def test_mistakes_are_reported_in_one_line_that_names_the_file(
    ini: Path, name: str, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(ini.with_name(name), text)
    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(ini.with_name(name)))
    assert "\n" not in str(raised.value)


# --- app.ini of go-websocket --------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "port", "rpc_port", "warned"),
    [
        (INI, {}, 6000, 7000, ("Cluster is true", "redis.url")),
        (INI, REDIS, 6000, 7000, ("Endpoints has no effect",)),
        (INI, {"IMSERVER_APP_RPC_PORT": "7777", **REDIS}, 6000, 7777, ("Endpoints",)),
        (INI.replace("Cluster = true", "Cluster = false"), {}, 6000, 7000, ()),
        ("", {}, 7800, 7900, ()),
        ("[common]\n", {}, 7800, 7900, ()),
        ("[common]\nHttpPort =\n", {}, 7800, 7900, ()),
        ("; nothing\n[etcd]\n", {}, 7800, 7900, ()),
        (
            '\ufeff[Common]\n  httpport = "6001" ; where\n  RPC_PORT: 7001\n',
            {},
            6001,
            7001,
            (),
        ),
    ],
)
def test_its_port_becomes_a_listener_that_speaks_the_client_dialect(
    ini: Path,
    text: str,
    environment: dict[str, str],
    port: int,
    rpc_port: int,
    warned: tuple[str, ...],
) -> None:
    settings = load(ini, text, **environment)
    assert settings.server.extra_listen == (ListenSettings(port, ws_dialect="client"),)
    assert settings.app.rpc_port == rpc_port
    assert (settings.app.http_port, settings.app.websocket_port) == (8080, 8089)
    assert len(settings.warnings) == bool(warned)
    assert all(each in settings.warnings[0] for each in warned)


def test_a_key_of_ones_own_and_unknown_names_are_reported_to_have_no_effect(
    ini: Path,
) -> None:
    warnings = load(
        ini, "[common]\nCryptoKey = 0123456789abcdef\nColour = red\n[log]\nlevel = 1\n"
    ).warnings
    named = [warning.partition(": ")[2].partition(" ")[0] for warning in warnings]
    assert named == ["CryptoKey", "common.colour", "log.level"]


def test_the_public_key_is_refused_once_the_server_has_keys_of_its_own(
    ini: Path,
) -> None:
    with pytest.raises(ConfigError, match="CryptoKey is the default of the original"):
        load(ini, INI, **KEYS)
    assert load(ini, INI.replace("CryptoKey", "; CryptoKey"), **KEYS)


@pytest.mark.parametrize("arguments", [["-c"], ["serve", "-c"]])
def test_it_starts_the_server_with_and_without_a_command(
    ini: Path, arguments: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ini.write_text(f"[common]\nHttpPort = {port}\n", encoding="utf-8")
        done = run_cli(
            *arguments,
            str(ini),
            IMSERVER_APP_HTTP_PORT="0",
            IMSERVER_APP_WEBSOCKET_PORT="0",
            IMSERVER_SERVER_DATA_DIR=str(ini.parent / "data"),
        )
    assert done.returncode == 1
    where = f"imserver: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert done.stderr == f"{where}, by the process {os.getpid()}\n"


# --- app.yaml of GoChat -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ports", "rpc_port", "silent_seconds"),
    [
        (YAML, (9190, 9191), 9192, 500),
        ("mysql: {dns: x}", (9090, 9091), 9092, 600),
        ("app: {worker_pool_size: 10}", (9090, 9091), 9092, 600),
        ("etcd: {timeout: 5}", (9090, 9091), 9092, 600),
        (
            "app: {heartbeattime: '30', rpc-port: '9192'}\njwt: {expire_time: '24'}",
            (9090, 9091),
            9192,
            30,
        ),
        (
            "app: {http_server_port: '9190', websocket_server_port: 9190}",
            (9190,),
            9092,
            600,
        ),
        ("app: {ip: 192.0.2.7}", (9090, 9091), 9092, 600),
    ],
)
def test_its_ports_become_listeners_that_speak_the_protobuf_dialect(
    yml: Path, text: str, ports: tuple[int, ...], rpc_port: int, silent_seconds: int
) -> None:
    settings = load(yml, text)
    host = "192.0.2.7" if "192.0.2.7" in text else ""
    listeners = tuple(
        ListenSettings(port, host, ws_dialect="protobuf") for port in ports
    )
    assert settings.server.extra_listen == listeners
    assert settings.app.rpc_port == rpc_port
    assert (settings.app.http_port, settings.app.websocket_port) == (8080, 8089)
    assert (
        settings_of(settings, ProtobufSettings).protobuf_silent_seconds
        == silent_seconds
    )
    assert settings.cluster.advertise == host


def test_keys_that_are_spelled_as_ours_are_ours(yml: Path) -> None:
    settings = load(yml, YAML)
    assert (settings.jwt.sign_key, settings.jwt.expire_time) == ("gooooIM", 700)
    assert (settings.app.salt, settings.redis.addr) == ("gogogoChat", "127.0.0.1:6379")
    assert settings.log.level == "debug"
    assert load(yml, "log: {target: console, level: error}").log.level == "info", (
        "one that is none here"
    )


@pytest.mark.parametrize(
    "text", ["", "app:\n  httpPort: 8080\n  rpcPort: 9001\n", "log:\n  level: info\n"]
)
def test_a_file_of_another_form_is_read_as_ever(yml: Path, text: str) -> None:
    assert load(yml, text) == load_config(os.devnull, {"IMSERVER_APP_RPC_PORT": "9001"})


@pytest.mark.parametrize("text", ["app: {rpc-port: '9001'}", "app: {node: 1}"])
def test_no_other_file_is_read_as_loosely(yml: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(yml, text)


def test_the_environment_and_our_own_keys_count_more(yml: Path) -> None:
    ours = "server:\n  extra_listen: [{port: 7800}]\n"
    settings = load(yml, YAML + ours, IMSERVER_APP_RPC_PORT="7777")
    assert (settings.server.extra_listen, settings.app.rpc_port) == (
        (ListenSettings(7800),),
        7777,
    )


def test_what_has_no_effect_is_reported_with_what_to_set_instead(yml: Path) -> None:
    idle, mysql, log = load(yml, YAML).warnings
    for name in (
        "worker_pool_size",
        "max_worker_task",
        "heartbeatInterval",
        "etcd.timeout",
        "rabbitmq.url",
    ):
        assert name in idle
    assert "storage.url" in mysql
    assert "root:root" not in mysql
    assert "app.log_file" in log


def test_whoever_has_set_it_gets_no_advice(yml: Path) -> None:
    text = "app: {log_file: log/im.log}\nmysql: {dns: x}\nlog: {target: file}\nstorage: {url: mysql://u:p@h/im}\n"
    assert load(yml, text).warnings == ()
    assert load(yml, "log: {target: console, level: error}").warnings == ()


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ("accounts: {}", True),
        ("accounts: {registration: true}", False),
        ("accounts: {registration: false}", False),
        ("features: []", False),
    ],
)
def test_a_closed_registration_is_reported_unless_it_was_set(
    yml: Path, settings: str, reported: bool
) -> None:
    own_key = YAML.replace("gooooIM", "a key of our own, long enough to be one")
    for text, is_demo in ((YAML, True), (own_key, False)):
        found = load(yml, f"{text}{settings}\n").warnings
        assert any("accounts.registration" in each for each in found) == (
            reported and not is_demo
        )


def test_the_public_signing_key_is_refused_once_the_server_has_keys_of_its_own(
    yml: Path,
) -> None:
    with pytest.raises(ConfigError, match="sign_key is the default of GoChat"):
        load(yml, YAML, **KEYS)
    assert load(
        yml, YAML.replace("gooooIM", "a key of our own, long enough to be one"), **KEYS
    )
