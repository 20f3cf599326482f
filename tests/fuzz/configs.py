"""Configuration files: ours, those of the originals and of Centrifugo."""

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
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_features,
    load_with_locations,
)

from .target import Target

_folder = tempfile.TemporaryDirectory(prefix="imserver-fuzz-")
FOLDER = Path(_folder.name)


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
    Target("yaml", check_yaml, seconds=0.5),
    Target("ini", check_ini),
    Target("centrifugo", check_centrifugo),
)
