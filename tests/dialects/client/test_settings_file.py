"""conf/app.ini of go-websocket: it starts this server, and what has no equal here is told."""

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from imserver.cli import main
from imserver.gateway.config.settings import Config, ListenSettings
from imserver.gateway.config.values import ConfigError
from imserver.gateway.node.feature_list import load_config
from tests.support import run_cli

ORIGINAL = """\
[common]
HttpPort = 6000
RPCPort = 7000
# 是否集群，单机则设为false
Cluster = true
# 对称加密key
CryptoKey = Adba723b7fe06819

[etcd]
Endpoints = 127.0.0.1:2379, 127.0.0.2:2379, 127.0.0.3:2379
"""
REDIS = {"IMSERVER_REDIS_URL": "redis://127.0.0.1:6379"}
KEYS = {"IMSERVER_API_KEYS": "[{key: secret-key-of-the-tests, scopes: [push]}]"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of
    return tmp_path / "app.ini"


def load(file: Path, text: str, **environment: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), environment)


@pytest.mark.parametrize(
    ("text", "environment", "port", "rpc_port", "warned"),
    [
        (ORIGINAL, {}, 6000, 7000, ("Cluster is true", "redis.url")),
        (ORIGINAL, REDIS, 6000, 7000, ("Endpoints has no effect",)),
        (ORIGINAL, {"IMSERVER_APP_RPC_PORT": "7777", **REDIS}, 6000, 7777, ("Endpoints",)),
        (ORIGINAL.replace("Cluster = true", "Cluster = false"), {}, 6000, 7000, ()),
        ("", {}, 7800, 7900, ()),
        ("[common]\n", {}, 7800, 7900, ()),
        ("[common]\nHttpPort =\n", {}, 7800, 7900, ()),
        ("; nothing\n[etcd]\n", {}, 7800, 7900, ()),
        ('\ufeff[Common]\n  httpport = "6001" ; where\n  RPC_PORT: 7001\n', {}, 6001, 7001, ()),
    ],
)
def test_its_port_becomes_a_listener_that_speaks_the_client_dialect(
    file: Path, text: str, environment: dict[str, str], port: int, rpc_port: int, warned: tuple[str, ...]
) -> None:
    settings = load(file, text, **environment)
    assert settings.server.extra_listen == (ListenSettings(port, ws_dialect="client"),)
    assert settings.app.rpc_port == rpc_port
    assert (settings.app.http_port, settings.app.websocket_port) == (8080, 8089)
    assert len(settings.warnings) == bool(warned)
    assert all(each in settings.warnings[0] for each in warned)


def test_a_key_of_ones_own_and_unknown_names_are_reported_to_have_no_effect(file: Path) -> None:
    warnings = load(file, "[common]\nCryptoKey = 0123456789abcdef\nColour = red\n[log]\nlevel = 1\n").warnings
    assert [warning.partition(": ")[2].partition(" ")[0] for warning in warnings] == [
        "CryptoKey",
        "common.colour",
        "log.level",
    ]


def test_the_public_key_is_refused_once_the_server_has_keys_of_its_own(file: Path) -> None:
    with pytest.raises(ConfigError, match="CryptoKey is the default of the original"):
        load(file, ORIGINAL, **KEYS)
    assert load(file, ORIGINAL.replace("CryptoKey", "; CryptoKey"), **KEYS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("HttpPort = 1", r"line 1: a section such as \[common\] must come first"),
        ("[common]\nHttpPort = 1\nHttpPort = 2", "line 3: httpport is given twice"),
        ("[common]\n[common]", "line 2: the section common is given twice"),
        ("[common]\n= 5", "line 2: expected key = value"),
        ("[common]\nHttpPort = many", "HttpPort: expected a port, got 'many'"),
        ("[common]\nRPCPort = 65536", "RPCPort: expected a port, got '65536'"),
        ("[common]\nCluster = perhaps", "Cluster: expected true or false, got 'perhaps'"),
        ("[common]\nCryptoKey = short", "CryptoKey: expected 16, 24 or 32 bytes, got 5"),
    ],
)
def test_mistakes_are_reported_in_one_line_that_names_the_file(file: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load(file, text)
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


def test_check_config_shows_what_becomes_of_it(file: Path) -> None:
    file.write_text(ORIGINAL, encoding="utf-8")
    for arguments in (["check-config", "-c", str(file)], ["-c", str(file), "check-config"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0
        assert "port: 6000" in done.output
        assert "ws_dialect: client" in done.output


@pytest.mark.parametrize("arguments", [["-c"], ["serve", "-c"]])
def test_it_starts_the_server_with_and_without_a_command(file: Path, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(f"[common]\nHttpPort = {port}\n", encoding="utf-8")
        done = run_cli(
            *arguments,
            str(file),
            IMSERVER_APP_HTTP_PORT="0",
            IMSERVER_APP_WEBSOCKET_PORT="0",
            IMSERVER_SERVER_DATA_DIR=str(file.parent / "data"),
        )
    assert done.returncode == 1
    where = f"imserver: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert done.stderr == f"{where}, by the process {os.getpid()}\n"
