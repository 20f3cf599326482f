"""Settings: the file, the environment, the command line, and what is said about
mistakes."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from imserver.gateway.config.load import dump
from imserver.gateway.config.settings import (
    AppSettings,
    Config,
    KeySettings,
    RedisSettings,
)
from imserver.gateway.config.values import RENAMED, ConfigError
from imserver.gateway.errors import StartError
from imserver.gateway.node import feature_list
from imserver.gateway.node.feature_list import load_config, load_with_locations
from imserver.gateway.process import DataDirectory
from tests.fuzz.target import lists_of
from tests.rows import DECLARED

ORIGINAL_APP_YAML = """\
app:
  logFile: log/gin.log # 日志文件位置
  httpPort: 8080 # http端口
  webSocketPort: 8089 # webSocket端口
  rpcPort: 9001 # 分布式部署程序内部通讯端口
  httpUrl: 127.0.0.1:8080
  webSocketUrl:  127.0.0.1:8089


redis:
  addr: "localhost:6379"
  password: ""
  DB: 0
  poolSize: 30
  minIdleConns: 30
"""

ROWS = lists_of(Path(__file__).with_name("config_rows.txt"))
Load = Callable[..., Config]
DEFAULTS = load_config(os.devnull, {})
shown_of = partial(dump, declared=DECLARED)


def read(
    folder: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any
) -> Config:
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    settings, locations = load_with_locations(str(file), environ or {}, overrides)
    feature_list.check(settings, locations)
    return settings


def refusal(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """Why this file is refused: its line and the reason."""
    with pytest.raises(StartError) as caught:
        read(folder, text, environ)
    output = str(caught.value)
    assert "\n" not in output
    return output.replace(f"{folder}/", "").removeprefix("my.yaml, ")


def refusal_of_app(folder: Path, settings: str) -> str:
    """Why the settings of the app ``shop`` are refused. They are in line 7."""
    text = f"server:\n  host: localhost\napps:\n  tea: {{}}\n  shop:\n    open: true\n    {settings}\n"
    if settings.startswith("open"):
        text = text.replace("    open: true\n", "    max_channels: 1\n")
    output = refusal(folder, text)
    assert output.startswith("line 7: ")
    return output.removeprefix("line 7: ")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """``load(text, environ={}, **overrides)`` of a file named my.yaml, in the
    current folder."""
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of

    return partial(read, tmp_path)


@pytest.fixture
def complaint(load: Load, tmp_path: Path) -> Callable[..., str]:
    """What is said about a file named my.yaml; its folder is left out."""
    return partial(refusal, tmp_path)


@pytest.mark.parametrize(("url", "shown"), ROWS["dumps"])
def test_a_dump_hides_keys_and_passwords(load: Load, url: str, shown: str) -> None:
    keys = "api: {keys: [{key: pa55-key-of-the-tests, scopes: [push]}]}"
    database = "storage: {url: 'postgresql://me@db/im?password=pa55'}"
    text = shown_of(
        load(f"{keys}\n{database}\nredis: {{password: pa55, url: '{url}'}}")
    )
    assert "pa55" not in text
    assert yaml.safe_load(text)["redis"]["url"] == shown


@pytest.mark.parametrize("spelling", ["minIdleConns", "minIDleConns"])
def test_the_original_servers_file_is_accepted_as_it_is(
    load: Load, spelling: str
) -> None:
    got = load(ORIGINAL_APP_YAML.replace("minIdleConns", spelling))
    app = AppSettings(
        "log/gin.log", 8080, 8089, 9001, "127.0.0.1:8080", "127.0.0.1:8089"
    )
    redis = RedisSettings(addr="localhost:6379", pool_size=30, min_idle_conns=30)
    assert (got.app, got.redis, got.warnings, got.clustered) == (app, redis, (), True)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "app:\n", "---\n"])
def test_a_file_that_sets_nothing_changes_nothing(load: Load, text: str) -> None:
    assert load(text, **{"server.data_dir": DEFAULTS.server.data_dir}) == DEFAULTS


def test_a_mapping_or_list_replaces_the_default_as_a_whole(load: Load) -> None:
    got = load(
        "apps:\n  7: &a {loginPolicy: multi}\n  b: *a\n  c: {<<: *a}\n  shop: {}\n"
        "server: {trusted_proxies: []}\napp: {http_port: 1}"
    )
    multi = DECLARED.app_of({"login_policy": "multi"})
    assert got.apps == {"7": multi, "b": multi, "c": multi, "shop": DECLARED.app_of({})}
    assert (got.server.trusted_proxies, got.app.http_port, got.app.websocket_port) == (
        (),
        1,
        8089,
    )
    got = load(
        "api: {keys: [{key: key-of-the-tests-1234, scopes: [push, read], apps: [101, shop]}]}"
    )
    assert got.api.keys == (
        KeySettings("key-of-the-tests-1234", ("push", "read"), ("101", "shop")),
    )
    assert not got.demo
    assert Config().demo


def test_a_number_of_processes_may_be_auto_anywhere(
    load: Load, complaint: Callable[..., str]
) -> None:
    assert load("server: {processes: auto}").server.processes == 0
    assert load("", {"IMSERVER_SERVER_PROCESSES": "auto"}).server.processes == 0
    assert load("", **{"server.processes": "auto"}).server.processes == 0
    wrong = "server.processes: expected int, got 'many'"
    assert complaint("server: {processes: many}") == f"line 1: {wrong}"
    with pytest.raises(
        ConfigError, match=r"^command line: server.processes: expected int, got '-1'"
    ):
        load("", **{"server.processes": "-1"})
    with pytest.raises(ConfigError, match=r"app.http_port: expected int"):
        load("", {"IMSERVER_APP_HTTP_PORT": "auto"})


@pytest.mark.parametrize(("text", "output"), ROWS["files"])
def test_a_mistake_in_a_file_is_named_by_line(
    complaint: Callable[..., str], text: str, output: str
) -> None:
    assert complaint(text).startswith(output)


def test_a_short_key_of_account_tokens_is_a_warning() -> None:
    for key, is_short in (
        ("", False),
        ("gooooIM", False),
        ("s" * 31, True),
        ("s" * 32, False),
    ):
        warnings = load_config(os.devnull, {}, {"jwt.sign_key": key}).warnings
        assert (
            any(
                "jwt.sign_key: whoever has a token can guess" in text
                for text in warnings
            )
            == is_short
        )


def test_a_file_that_cannot_be_read_is_named_and_a_variable_may_name_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.yaml: cannot be read: No such file or directory"
    ):
        load_config(str(tmp_path / "none.yaml"), {})
    file = tmp_path / "my.yaml"
    file.write_bytes(b"app: \xff\xfe")
    with pytest.raises(ConfigError, match=r"my\.yaml: is not UTF-8 text"):
        load_config(str(file), {})
    file = tmp_path / "my.yaml"
    file.write_text("app: {http_port: 5}", encoding="utf-8")
    assert load_config(None, {"IMSERVER_CONFIG": str(file)}).app.http_port == 5


@pytest.mark.parametrize(("settings", "output"), ROWS["apps"])
def test_a_mistake_in_an_app_is_named_by_line_and_app(
    tmp_path: Path, settings: str, output: str
) -> None:
    assert refusal_of_app(tmp_path, settings).startswith(output)


@pytest.mark.parametrize(
    "name", ["' shop'", "'shop '", '"a\\tb"', f"'{'x' * 192}'", f"'{'水' * 180}'"]
)
def test_the_name_of_an_app_is_checked(
    complaint: Callable[..., str], name: str
) -> None:
    output = complaint(f"apps:\n  101: {{}}\n  {name}: {{}}")
    assert output.startswith("line 3: apps.")
    assert "an app's name has 1 to 191 characters" in output


@pytest.mark.parametrize(
    ("key", "output"),
    [
        ("''", "line 3: apps: expected a name, got ''"),
        ("true", "line 3: apps.True: expected str"),
        ("'101'", "line 3: apps.101 is given twice, as a number and as text"),
    ],
)
def test_a_key_that_cannot_name_an_app_is_named(
    complaint: Callable[..., str], key: str, output: str
) -> None:
    assert complaint(f"apps:\n  101: {{}}\n  {key}: {{}}").startswith(output)


def test_the_command_line_wins_over_variables_of_any_type_over_the_file(
    load: Load,
) -> None:
    text = "app: {http_port: 1, rpc_port: 2, websocket_port: 3}"
    environ = {"IMSERVER_APP_HTTP_PORT": "11", "IMSERVER_APP_RPC_PORT": "12"}
    got = load(text, environ, **{"app.http_port": 21})
    assert (got.app.http_port, got.app.rpc_port, got.app.websocket_port) == (21, 12, 3)
    assert got.redis.pool_size == 30
    got = load(
        "",
        {
            "IMSERVER_APP_LOG_FILE": "12",
            "IMSERVER_APP_HTTPPORT": " 80 ",
            "IMSERVER_LIMITS_LOGIN_SECONDS": "1.5",
            "IMSERVER_WEBSOCKET_DEFLATE": "true",
            "IMSERVER_LOG_REQUESTS": "0",
            "IMSERVER_SERVER_HTTP": "wsgi",
            "IMSERVER_SERVER_ORIGINS": "[a.example, b.example]",
            "IMSERVER_APPS": "{9: {login_policy: refuse}}",
            "IMSERVER_API_KEYS": "[{key: key-of-the-tests-1234, scopes: [push]}]",
            "HOME": "/root",
        },
    )
    assert (got.app.log_file, got.app.http_port, got.limits.login_seconds) == (
        "12",
        80,
        1.5,
    )
    assert (got.websocket.deflate, got.log.requests, got.server.http) == (
        True,
        False,
        "wsgi",
    )
    assert got.server.origins == ("a.example", "b.example")
    assert got.apps == {"9": DECLARED.app_of({"login_policy": "refuse"})}
    assert got.api.keys == (KeySettings("key-of-the-tests-1234", ("push",)),)
    assert got.warnings == ()
    got = load(
        "", {"IMSERVER_HTTP_PORT": "1", "IMSERVER_KEY": "of the command line itself"}
    )
    assert got.warnings == (
        "environment: IMSERVER_HTTP_PORT is not a setting and has no effect",
    )


def test_the_data_folder_of_a_file_is_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "my.yaml").write_text("app: {http_port: 5}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = load_config("shop/my.yaml", {})
    assert (found.server.data_dir, found.warnings) == ("shop/data", ())
    assert (
        load_config(
            "shop/my.yaml", {"IMSERVER_SERVER_DATA_DIR": "here"}
        ).server.data_dir
        == "here"
    )
    assert (
        load_config("shop/my.yaml", {}, {"server.data_dir": "here"}).server.data_dir
        == "here"
    )
    monkeypatch.chdir("shop")
    assert load_config("my.yaml", {}).server.data_dir == "data"


def test_a_data_folder_in_the_current_folder_that_is_not_used_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "my.yaml").touch()
    monkeypatch.chdir(tmp_path)
    DataDirectory("data").start()
    (warning,) = load_config("shop/my.yaml", {}).warnings
    assert (
        f"it is {tmp_path / 'shop' / 'data'}; the folder {tmp_path / 'data'} has the data of a"
        in warning
    )
    (tmp_path / "shop" / "data").mkdir()
    assert load_config("shop/my.yaml", {}).warnings == ()


@pytest.mark.parametrize(("variable", "text", "output"), ROWS["variables"])
def test_a_mistake_of_a_variable(
    complaint: Callable[..., str], variable: str, text: str, output: str
) -> None:
    assert complaint("", {variable: text}).startswith(variable + output)
    twice = {"IMSERVER_APP_HTTP_PORT": "1", "IMSERVER_APP_HTTPPORT": "2"}
    assert (
        complaint("", twice)
        == "IMSERVER_APP_HTTP_PORT: app.http_port is given twice, in two spellings"
    )
    text = "app: {http_port: 1}\nredis: {url: 'redis://localhost'}"
    output = complaint(text, {"IMSERVER_REDIS_URL": "cache"})
    assert output.startswith("my.yaml: redis.url: expected a URL"), (
        "no line of the file"
    )


def test_no_two_settings_share_a_variable_or_a_folded_name() -> None:
    names = len(DECLARED.rows) + sum(name in DECLARED.rows for name in RENAMED.values())
    assert len(DECLARED.by_folded) == names
    assert len({folded.replace(".", "") for folded in DECLARED.by_folded}) == names
