"""Configuration files of two original servers: the settings they map to, and those without an equivalent.

- ``conf/app.ini`` of go-websocket (client dialect): ``[common]`` ``HttpPort``, ``RPCPort``, ``Cluster``,
  ``CryptoKey``; ``[etcd]`` ``Endpoints``. Its port becomes an additional listener, where ``/ws`` always uses
  the client dialect.
- ``app.yaml`` of GoChat (protobuf dialect): its two ports become additional listeners, where ``/ws`` without
  a
  query uses the protobuf dialect. Keys with the same name here (``redis.addr``, ``jwt.sign_key``,
  ``app.rpc-port``), and all other settings of this server, may be in it too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imserver.config.declared import plain
from imserver.config.settings import Config
from imserver.config.values import ConfigError, fold
from imserver.config.yaml import Mapping

if TYPE_CHECKING:
    import configparser

# --- conf/app.ini of go-websocket ---

PUBLIC_KEY: Final = "Adba723b7fe06819"
"""The default CryptoKey of the original, which is public."""

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "f", "false", "n", "no", "off"})
_ENDED: Final = "nodes share their state in Redis: set redis.url, or IMSERVER_REDIS_URL"


class AppIni(Struct, frozen=True):
    """A parsed and checked file. ``unknown``: names of unknown keys."""

    where: str
    http_port: int
    rpc_port: int
    cluster: bool
    crypto_key: str
    endpoints: str
    unknown: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The settings of the file, in this server's form."""
        return {
            "server.extra_listen": [{"port": self.http_port, "ws_dialect": "client"}],
            "app.rpc_port": self.rpc_port,
        }

    def warnings(self, config: Config) -> Iterator[str]:
        """Describe the entries without effect under these settings, and what to set instead.

        Raises ConfigError if the key is the public one and the server is not in demo mode.
        """
        if self.cluster and not config.clustered:
            yield f"{self.where}: Cluster is true, but without Redis this node runs alone; {_ENDED}"
        elif self.cluster and self.endpoints:
            yield f"{self.where}: Endpoints has no effect: nodes find each other through Redis, not etcd"
        if self.crypto_key == PUBLIC_KEY and not config.demo:
            raise ConfigError(
                f"{self.where}: CryptoKey is the default of the original, which is public: "
                "remove it or choose another"
            )
        if self.crypto_key and self.crypto_key != PUBLIC_KEY:
            yield (
                f"{self.where}: CryptoKey has no effect: client ids are encrypted with a key derived from "
                "this server's own secret (server.secret_file)"
            )
        for name in self.unknown:
            yield f"{self.where}: {name} is not a setting and has no effect"


def read_app_ini(text: str, where: str) -> AppIni:
    """Parse the text of such a file. ``where``: its name in messages. Raises :class:`ConfigError`."""
    import configparser  # few need it

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
        # The original has no continuation lines.
        parser.read_string("\n".join(map(str.strip, text.removeprefix("\ufeff").splitlines())), where)
    except configparser.Error as error:
        raise ConfigError(f"{where}: not a valid INI file: {_ini_problem(error)}") from None
    values: dict[str, str] = {}
    unknown = []
    for section in parser.sections():
        for key, value in parser.items(section):
            name = f"{fold(section)}.{key}"
            if name in _INI_KEYS:
                values[name] = (value or "").strip().strip("\"'`")
            else:
                unknown.append(f"{section}.{key}")
    cluster, crypto_key = values.get("common.cluster", "").lower(), values.get("common.cryptokey", "")
    if cluster not in _TRUE | _FALSE:
        raise ConfigError(f"{where}: Cluster: expected true or false, got {values['common.cluster']!r}")
    if crypto_key and (size := len(crypto_key.encode())) not in (16, 24, 32):
        raise ConfigError(f"{where}: CryptoKey: expected 16, 24 or 32 bytes, got {size}")
    return AppIni(
        where=where,
        http_port=_ini_port(values, "HttpPort", where),
        rpc_port=_ini_port(values, "RPCPort", where),
        cluster=cluster in _TRUE,
        crypto_key=crypto_key,
        endpoints=values.get("etcd.endpoints", ""),
        unknown=tuple(unknown),
    )


_INI_KEYS: Final = frozenset(
    {"common.httpport", "common.rpcport", "common.cluster", "common.cryptokey", "etcd.endpoints"}
)


def _ini_port(given: dict[str, str], name: str, where: str) -> int:
    key = fold(name)
    text = given.get(f"common.{key}", "")
    if not text:
        return {"httpport": 7800, "rpcport": 7900}[key]
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ConfigError(f"{where}: {name}: expected a port, got {text!r}")
    return int(text)


def _ini_problem(error: configparser.Error) -> str:
    """The message of configparser without the name of the source."""
    import configparser

    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: {error.option} is given twice"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: the section {error.section} is given twice"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno}: a section such as [common] must come first"
    if isinstance(error, configparser.ParsingError):
        return f"line {error.errors[0][0]}: expected key = value"
    return error.message.partition("\n")[0]


# --- app.yaml of GoChat ---

_LEVELS: Final = ("info", "debug")
_NUMBERS: Final = ("app.rpcport", "app.heartbeattime", "jwt.expiretime")
"""Numbers that the original reads from quotes, too; its own file has its ports in quotes."""
_UNUSED: Final = frozenset(
    {
        "app.workerpoolsize",
        "app.maxworkertask",
        "app.heartbeatinterval",
        "app.node",
        "etcd.endpoints",
        "etcd.timeout",
        "rabbitmq.url",
    }
)
"""Keys that nothing here depends on, those of its older editions included."""
_OWN: Final = _UNUSED | {
    "app.httpserverport",
    "app.websocketserverport",
    "app.ip",
    "app.heartbeattime",
    "mysql.dns",
    "log.target",
}
"""Keys that are the original's alone."""
_SIGNATURE: Final = _OWN - {"app.node"}
"""Sections by which its files are known, without ``node``: that may be a slip in a file of ours."""
_OWN_SECTIONS: Final = ("mysql", "etcd", "rabbitmq")


class _Given(Struct, frozen=True):
    """One key of the file: as it is written there, its value, and the place for messages."""

    written: str
    value: Any
    location: str


class GochatYaml(Struct, frozen=True):
    """The settings of one file of another server. ``values`` are the settings that it makes, as files of
    our own write them; ``idle`` the keys that have no effect."""

    where: str
    values: dict[str, Any]
    idle: tuple[str, ...]
    has_mysql: bool
    logs_to_file: bool

    def warnings(self, config: Config) -> Iterator[str]:
        """The settings of the file that have no effect, and what to set instead."""
        if self.idle:
            yield f"{self.where}: no effect: {', '.join(self.idle)}; this server has no such part"
        if self.has_mysql and not config.storage.url:
            yield (
                f"{self.where}: mysql.dns has no effect: this server has its own database, by default a file "
                "in server.data_dir; set storage.url to use another one"
            )
        if self.logs_to_file and not config.app.log_file:
            yield f"{self.where}: log.target is file, but no file is named: set app.log_file"
        # Without accounts, nothing declares this key.
        if not config.demo and plain(config)["accounts"].get("registration", False) is None:
            yield (
                f"{self.where}: POST /register is closed, because the server is not in demo mode: set "
                "accounts.registration: true"
            )


def take_gochat(document: Mapping, where: str) -> GochatYaml | None:
    """Remove the keys that only GoChat's files have, and return them. None: the file has no such key.

    ``where`` names the file in messages. Raises :class:`ConfigError`.
    """
    sections = {key: section for key, section in document.items() if isinstance(section, Mapping)}
    if not any(fold(f"{name}.{key}") in _SIGNATURE for name, section in sections.items() for key in section):
        return None
    given: dict[str, _Given] = {}
    for name, section in sections.items():
        for key, value in list(section.items()):
            folded = fold(f"{name}.{key}")
            if folded in _NUMBERS and isinstance(value, str) and value.isascii() and value.isdecimal():
                section[key] = int(value)  # as the original does
            if folded == "log.level" and value not in _LEVELS:
                section[key] = _LEVELS[0]  # levels of the original that are none here log what matters
            if folded not in _OWN:
                continue
            location = f"{where}, line {section.lines[key]}: {name}.{key}"
            if folded in given:
                raise ConfigError(f"{location} is given twice, in two spellings")
            given[folded] = _Given(f"{name}.{key}", section[key], location)
            del section[key]
    for name in [name for name, section in sections.items() if fold(name) in _OWN_SECTIONS and not section]:
        del document[name]
    return GochatYaml(
        where,
        dict(_gochat_values(given)),
        tuple(given[name].written for name in given if name in _UNUSED),
        "mysql.dns" in given,
        "log.target" in given and given["log.target"].value != "console",
    )


def _gochat_values(given: dict[str, _Given]) -> Iterator[tuple[str, Any]]:
    host = _gochat_host(given.get("app.ip"))
    http = _gochat_port(given.get("app.httpserverport"), 9090)
    websocket = _gochat_port(given.get("app.websocketserverport"), 9091)
    ports = [http] if http == websocket != 0 else [http, websocket]
    yield "server.extra_listen", [{"port": port, "host": host, "ws_dialect": "protobuf"} for port in ports]
    yield "app.rpc_port", 9092
    if host:
        yield "cluster.advertise", host
    if "app.heartbeattime" in given:
        yield "websocket.protobuf_silent_seconds", given["app.heartbeattime"].value


def _gochat_port(given: _Given | None, usual: int) -> int:
    if given is None:
        return usual
    text = str(given.value)
    if isinstance(given.value, bool) or not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ConfigError(f"{given.location}: expected a port, got {given.value!r}")
    return int(text)


def _gochat_host(given: _Given | None) -> str:
    """The address to listen on; ``""``, which is ``server.host``, where it is this machine's own anyway."""
    if given is None:
        return ""
    try:
        address = ipaddress.ip_address(str(given.value))
    except ValueError:
        raise ConfigError(f"{given.location}: expected an address, got {given.value!r}") from None
    return "" if address.is_loopback else str(address)
