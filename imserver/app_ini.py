"""``conf/app.ini`` of the original of the client dialect: what its settings are here, and which have no
equal.

``[common]`` ``HttpPort``, ``RPCPort``, ``Cluster``, ``CryptoKey``; ``[etcd]`` ``Endpoints``. Its port becomes
one more listener, on which ``/ws`` is the client dialect's whatever the query.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from imserver.settings import Config
from imserver.values import ConfigError, fold

PUBLIC_KEY: Final = "Adba723b7fe06819"
"""The CryptoKey that the original comes with: anybody can look it up."""

_PORTS: Final = {"httpport": 7800, "rpcport": 7900}
_KEY_BYTES: Final = (16, 24, 32)
_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "f", "false", "n", "no", "off"})
_ENDED: Final = "what its nodes share is in Redis here: set redis.url, or IMSERVER_REDIS_URL"


class AppIni(Struct, frozen=True):
    """One file, read and checked; ``unknown`` names what stands in it that nobody knows."""

    where: str
    http_port: int
    rpc_port: int
    cluster: bool
    crypto_key: str
    endpoints: str
    unknown: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """The settings that the file makes, as files of our own write them."""
        return {
            "server.extra_listen": [{"port": self.http_port, "ws_dialect": "client"}],
            "app.rpc_port": self.rpc_port,
        }

    def warnings(self, config: Config) -> Iterator[str]:
        """What of the file has no effect with these settings, and what to set instead.

        Raises ConfigError if its key is the public one and the server is no demonstration.
        """
        if self.cluster and not config.clustered:
            yield f"{self.where}: Cluster is true, but this node is alone until it knows a Redis; {_ENDED}"
        elif self.cluster and self.endpoints:
            yield f"{self.where}: Endpoints has no effect: the nodes meet in Redis instead of etcd"
        if self.crypto_key == PUBLIC_KEY and not config.demo:
            raise ConfigError(
                f"{self.where}: CryptoKey is the one that the original comes with, which anybody knows: "
                "remove it or choose another"
            )
        if self.crypto_key and self.crypto_key != PUBLIC_KEY:
            yield (
                f"{self.where}: CryptoKey has no effect: client ids are encrypted with a key made from this "
                "server's own secret (server.secret_file)"
            )
        for name in self.unknown:
            yield f"{self.where}: {name} is no setting and has no effect"


def parse(text: str, where: str) -> AppIni:
    """Read the text of such a file; ``where`` names it in messages. Raises :class:`ConfigError`."""
    parser = configparser.ConfigParser(
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=("#", ";"),
        allow_no_value=True,
        interpolation=None,
        default_section="",
        empty_lines_in_values=False,
    )
    parser.optionxform = fold  # type: ignore[assignment, method-assign]
    try:
        # Indented lines continue nothing in the original.
        parser.read_string("\n".join(map(str.strip, text.removeprefix("\ufeff").splitlines())), where)
    except configparser.Error as error:
        raise ConfigError(f"{where}: not a valid INI file: {_one_line(error)}") from None
    given: dict[str, str] = {}
    unknown = []
    for section in parser.sections():
        for key, value in parser.items(section):
            name = f"{fold(section)}.{key}"
            if name in _KNOWN:
                given[name] = (value or "").strip().strip("\"'`")
            else:
                unknown.append(f"{section}.{key}")
    return AppIni(
        where,
        _port(given, "HttpPort", where),
        _port(given, "RPCPort", where),
        _flag(given.get("common.cluster", ""), where),
        _key(given.get("common.cryptokey", ""), where),
        given.get("etcd.endpoints", ""),
        tuple(unknown),
    )


_KNOWN: Final = frozenset(
    {"common.httpport", "common.rpcport", "common.cluster", "common.cryptokey", "etcd.endpoints"}
)


def _port(given: dict[str, str], name: str, where: str) -> int:
    key = fold(name)
    text = given.get(f"common.{key}", "")
    if not text:
        return _PORTS[key]
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ConfigError(f"{where}: {name}: expected a port, got {text!r}")
    return int(text)


def _flag(text: str, where: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ConfigError(f"{where}: Cluster: expected true or false, got {text!r}")
    return text.lower() in _TRUE


def _key(text: str, where: str) -> str:
    if text and len(text.encode()) not in _KEY_BYTES:
        raise ConfigError(f"{where}: CryptoKey: expected 16, 24 or 32 bytes, got {len(text.encode())}")
    return text


def _one_line(error: configparser.Error) -> str:
    """What configparser says, without the name of the source, which it repeats."""
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: {error.option} is given twice"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: the section {error.section} is given twice"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno}: a section such as [common] has to come first"
    if isinstance(error, configparser.ParsingError):
        return f"line {error.errors[0][0]}: expected key = value"
    return error.message.partition("\n")[0]
