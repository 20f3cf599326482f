"""app.yaml of GoChat: it starts this server at GoChat's ports, and what has no equal here is told."""

import os
from pathlib import Path

import pytest

from imserver.dialects.protobuf.declared import ProtobufSettings
from imserver.gateway.config.settings import Config, settings_of
from imserver.gateway.config.values import ConfigError
from imserver.gateway.node.feature_list import load_config

ORIGINAL = """\
app:
  salt: "gogogoChat"
  node: 1
  ip: "127.0.0.1"
  http_server_port: "9190"
  websocket_server_port: "9191"
  rpc-port: "9192"
  worker_pool_size: 10
  max_worker_task: 1024
  heartbeattime: 500 # s
  heartbeatInterval: 60
jwt:
  sign_key: "gooooIM"
  expire_time: 700
mysql:
  dns: "root:root@tcp(127.0.0.1:3306)/gochat?charset=utf8mb4&parseTime=True&loc=Local"
redis:
  addr: "127.0.0.1:6379"
  password: ""
etcd:
  endpoints:
    - "localhost:2379"
  timeout: 5
rabbitmq:
  url: "amqp://guest:guest@localhost:5672/"
log:
  target: "file"
  level: "debug"
"""
KEYS = {"IMSERVER_API_KEYS": "[{key: secret-key-of-the-tests, scopes: [push]}]"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of
    return tmp_path / "app.yaml"


def load(file: Path, text: str, **environment: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), environment)


def listens(settings: Config) -> list[tuple[int, str, str]]:
    return [(row.port, row.host, row.ws_dialect) for row in settings.server.extra_listen]


DEFAULTS = [(9090, "", "protobuf"), (9091, "", "protobuf")]


@pytest.mark.parametrize(
    ("text", "listeners", "rpc_port", "silent_seconds"),
    [
        (ORIGINAL, [(9190, "", "protobuf"), (9191, "", "protobuf")], 9192, 500),
        ("mysql: {dns: x}", DEFAULTS, 9092, 600),
        ("app: {worker_pool_size: 10}", DEFAULTS, 9092, 600),
        ("etcd: {timeout: 5}", DEFAULTS, 9092, 600),
        ("app: {heartbeattime: '30', rpc-port: '9192'}\njwt: {expire_time: '24'}", DEFAULTS, 9192, 30),
        ("app: {http_server_port: '9190', websocket_server_port: 9190}", [(9190, "", "protobuf")], 9092, 600),
        (
            "app: {ip: 192.0.2.7}",
            [(9090, "192.0.2.7", "protobuf"), (9091, "192.0.2.7", "protobuf")],
            9092,
            600,
        ),
    ],
)
def test_its_ports_become_listeners_that_speak_the_protobuf_dialect(
    file: Path, text: str, listeners: list[tuple[int, str, str]], rpc_port: int, silent_seconds: int
) -> None:
    settings = load(file, text)
    assert listens(settings) == listeners
    assert settings.app.rpc_port == rpc_port
    assert (settings.app.http_port, settings.app.websocket_port) == (8080, 8089)
    assert settings_of(settings, ProtobufSettings).protobuf_silent_seconds == silent_seconds
    assert settings.cluster.advertise == ("192.0.2.7" if "192.0.2.7" in text else "")


def test_keys_that_are_spelled_as_ours_are_ours(file: Path) -> None:
    settings = load(file, ORIGINAL)
    assert (settings.jwt.sign_key, settings.jwt.expire_time) == ("gooooIM", 700)
    assert (settings.app.salt, settings.redis.addr) == ("gogogoChat", "127.0.0.1:6379")
    assert settings.log.level == "debug"
    assert load(file, "log: {target: console, level: error}").log.level == "info", "one that is none here"


@pytest.mark.parametrize("text", ["", "app:\n  httpPort: 8080\n  rpcPort: 9001\n", "log:\n  level: info\n"])
def test_a_file_of_another_form_is_read_as_ever(file: Path, text: str) -> None:
    assert load(file, text) == load_config(os.devnull, {"IMSERVER_APP_RPC_PORT": "9001"})


@pytest.mark.parametrize("text", ["app: {rpc-port: '9001'}", "app: {node: 1}"])
def test_no_other_file_is_read_as_loosely(file: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(file, text)


def test_the_environment_and_our_own_keys_count_more(file: Path) -> None:
    ours = "server:\n  extra_listen: [{port: 7800}]\n"
    assert listens(load(file, ORIGINAL + ours)) == [(7800, "", "")]
    settings = load(file, ORIGINAL + ours, IMSERVER_APP_RPC_PORT="7777")
    assert settings.app.rpc_port == 7777


def test_what_has_no_effect_is_reported_with_what_to_set_instead(file: Path) -> None:
    idle, mysql, log = load(file, ORIGINAL).warnings
    for name in ("worker_pool_size", "max_worker_task", "heartbeatInterval", "etcd.timeout", "rabbitmq.url"):
        assert name in idle
    assert "storage.url" in mysql
    assert "root:root" not in mysql
    assert "app.log_file" in log


def test_whoever_has_set_it_gets_no_advice(file: Path) -> None:
    text = "app: {log_file: log/im.log}\nmysql: {dns: x}\nlog: {target: file}\nstorage: {url: mysql://u:p@h/im}\n"
    assert load(file, text).warnings == ()
    assert load(file, "log: {target: console, level: error}").warnings == ()


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
    file: Path, settings: str, reported: bool
) -> None:
    own_key = ORIGINAL.replace("gooooIM", "a key of our own, long enough to be one")
    for text, is_demo in ((ORIGINAL, True), (own_key, False)):
        found = load(file, f"{text}{settings}\n").warnings
        assert any("accounts.registration" in each for each in found) == (reported and not is_demo)


def test_the_public_signing_key_is_refused_once_the_server_has_keys_of_its_own(file: Path) -> None:
    with pytest.raises(ConfigError, match="sign_key is the default of GoChat"):
        load(file, ORIGINAL, **KEYS)
    assert load(file, ORIGINAL.replace("gooooIM", "a key of our own, long enough to be one"), **KEYS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app:\n  http_server_port: many", "line 2: app.http_server_port: expected a port, got 'many'"),
        ("app:\n  websocket_server_port: 65536", "app.websocket_server_port: expected a port, got 65536"),
        ("app:\n  websocket_server_port: true", "app.websocket_server_port: expected a port, got True"),
        ("app:\n  ip: here", "line 2: app.ip: expected an address, got 'here'"),
        ("app:\n  heartbeattime: soon", "websocket.protobuf_silent_seconds: expected"),
        ("app:\n  ip: 127.0.0.1\n  IP: 127.0.0.2", "line 3: app.IP is given twice, in two spellings"),
        ("app:\n  http_server_port: 8080", "port 8080 is given twice"),
        ("app:\n  ip: 127.0.0.1\n  colour: red", "line 3: unknown key 'app.colour'"),
        ("etcd:\n  timeout: 5\n  colour: red", "line 1: unknown key 'etcd'"),
    ],
)
def test_mistakes_are_reported_in_one_line_that_names_the_file(file: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(file, text)
    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
