"""Configuration files: ours, those of the originals and of Centrifugo."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from imserver.dialects.centrifuge.migration import Migration
from imserver.dialects.centrifuge.migration_options import BadSettings
from imserver.dialects.client.settings_file import read
from imserver.gateway.config.load import dump
from imserver.gateway.config.values import ConfigError
from imserver.gateway.config.yaml import read_yaml, write_yaml
from imserver.gateway.node.feature_list import declarations_of, load_features, load_with_locations

from .target import Target

FOLDER = Path(tempfile.mkdtemp(prefix="imserver-fuzz-"))


def written_of(path: Path) -> str:
    """The settings of a file, as ``imserver check-config`` prints them."""
    config, _ = load_with_locations(str(path), environ={})
    return dump(config, declarations_of(load_features(config)))


def check_yaml(data: bytes) -> None:
    """A file of settings is read, or refused with ConfigError in one line."""
    with suppress(ConfigError):
        read_yaml(data.decode("utf-8", "replace"), "file.yaml")
    path = FOLDER / "imserver.yaml"
    path.write_bytes(data)
    lines = 1
    try:
        written = written_of(path)
    except ConfigError as error:
        lines += str(error).count("\n")
    else:
        path.write_text(written, encoding="utf-8")
        assert written_of(path) == written, "no round trip"
    assert lines == 1, "the error has several lines"


def check_ini(data: bytes) -> None:
    """The same for ``app.ini`` of the original of the client dialect."""
    with suppress(ConfigError):
        read(data.decode("utf-8", "replace"), "app.ini")


def check_centrifugo(data: bytes) -> None:
    """The settings of Centrifugo are converted, or refused with BadSettings."""
    try:
        document = msgspec.json.decode(data, type=dict[str, object])
    except (ValueError, RecursionError):
        return
    with suppress(BadSettings):
        write_yaml(Migration(document, "default").settings)


TARGETS = (
    Target(
        "yaml",
        check_yaml,
        lambda: (
            b"app: {http_port: 8080}\napps:\n  shop:\n    login: token\n"
            b"    jwt: [{key: 'k', algorithm: HS256}]\n",
            b"mysql:\n  host: 127.0.0.1\nredis: {addr: 'localhost:6379'}\nlog: {level: debug}\n",
            b"a: &a [1, 0x1f, 0b1, 1.5e3, 22:10, 2001-12-14, ~, yes]\nb: *a\n<<: {c: !!str 1}\n",
        ),
        seconds=0.5,
    ),
    Target(
        "ini",
        check_ini,
        lambda: (b"[common]\nHttpPort = 6000\nRPCPort = 7000\nCluster = true\nCryptoKey = Adba723b7fe06819\n"
                 b"[etcd]\nEndpoints = 127.0.0.1:2379\n",),
    ),
    Target(
        "centrifugo",
        check_centrifugo,
        lambda: (
            b'{"client":{"token":{"hmac_secret_key":"k","jwks_public_endpoint":"https://x/k"},'
            b'"allowed_origins":["*"],"connection_limit":9},"http_api":{"key":"k"},'
            b'"engine":{"type":"redis","redis":{"address":["redis://:p@h:1/2"]}},"channel":{"namespaces":'
            b'[{"name":"a","presence":true,"history_size":10,"history_ttl":"60s"}]}}',
            b'{"token_hmac_secret_key":"k","namespaces":[{"name":"a"}],"port":"8000"}',
        ),
    ),
)  # fmt: skip
