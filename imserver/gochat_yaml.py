"""``app.yaml`` of GoChat, the original of the protobuf dialect: what its settings are here, and which have no
equal.

Its two ports become more listeners, on which a bare ``/ws`` is the protobuf dialect's. Keys that are spelled
here as there (``redis.addr``, ``jwt.sign_key``, ``app.rpc-port``), and all others of ours, may be in it too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from imserver.settings import Config
from imserver.values import ConfigError, fold
from imserver.yaml_text import Mapping

_HTTP_PORT: Final = 9090
_WEBSOCKET_PORT: Final = 9091
_RPC_PORT: Final = 9092
_LEVELS: Final = ("info", "debug")
_NUMBERS: Final = ("app.rpcport", "app.heartbeattime", "jwt.expiretime")
"""Numbers that the original reads from quotes, too; its own file has its ports in quotes."""
_IDLE: Final = frozenset(
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
_OWN: Final = _IDLE | {
    "app.httpserverport",
    "app.websocketserverport",
    "app.ip",
    "app.heartbeattime",
    "mysql.dns",
    "log.target",
}
"""Keys that are the original's alone."""
_TELLING: Final = _OWN - {"app.node"}
"""Those by which its files are known: ``node`` is too likely a slip in one of ours."""
_OWN_SECTIONS: Final = ("mysql", "etcd", "rabbitmq")


class _Given(Struct, frozen=True):
    """One key of the file: as it is written there, its value, and the place for messages."""

    written: str
    value: Any
    place: str


class GochatYaml(Struct, frozen=True):
    """What one file says in words that are not ours. ``values`` are the settings that it makes, as files of
    our own write them; ``idle`` the keys that have no effect."""

    where: str
    values: dict[str, Any]
    idle: tuple[str, ...]
    has_mysql: bool
    logs_to_file: bool

    def warnings(self, config: Config) -> Iterator[str]:
        """What of the file has no effect with these settings, and what to set instead."""
        if self.idle:
            yield f"{self.where}: without effect: {', '.join(self.idle)}; there is no such part here"
        if self.has_mysql and not config.storage.url:
            yield (
                f"{self.where}: mysql.dns has no effect: this server has tables of its own, in a file under "
                "server.data_dir; set storage.url to keep them in another database"
            )
        if self.logs_to_file and not config.app.log_file:
            yield f"{self.where}: log.target is file, but which one is not said: set app.log_file"


def take(document: Mapping, where: str) -> GochatYaml | None:
    """Take out of a file what only GoChat's have; None, and nothing is taken, where there is no such key.

    ``where`` names the file in messages. Raises :class:`ConfigError`.
    """
    sections = {key: section for key, section in document.items() if isinstance(section, Mapping)}
    if not any(fold(f"{name}.{key}") in _TELLING for name, section in sections.items() for key in section):
        return None
    _unquote(sections)
    given: dict[str, _Given] = {}
    for name, section in sections.items():
        for key in list(section):
            folded = fold(f"{name}.{key}")
            if folded not in _OWN:
                continue
            place = f"{where}, line {section.lines[key]}: {name}.{key}"
            if folded in given:
                raise ConfigError(f"{place} is given twice, in two spellings")
            given[folded] = _Given(f"{name}.{key}", section[key], place)
            del section[key]
    for name in [name for name, section in sections.items() if fold(name) in _OWN_SECTIONS and not section]:
        del document[name]
    _know_level(sections)
    return GochatYaml(
        where,
        dict(_values(given)),
        tuple(given[name].written for name in given if name in _IDLE),
        "mysql.dns" in given,
        "log.target" in given and given["log.target"].value != "console",
    )


def _values(given: dict[str, _Given]) -> Iterator[tuple[str, Any]]:
    host = _host(given.get("app.ip"))
    http = _port(given.get("app.httpserverport"), _HTTP_PORT)
    websocket = _port(given.get("app.websocketserverport"), _WEBSOCKET_PORT)
    ports = [http] if http == websocket != 0 else [http, websocket]
    yield "server.extra_listen", [{"port": port, "host": host, "ws_dialect": "protobuf"} for port in ports]
    yield "app.rpc_port", _RPC_PORT
    if host:
        yield "cluster.advertise", host
    if "app.heartbeattime" in given:
        yield "websocket.protobuf_silent_seconds", given["app.heartbeattime"].value


def _port(given: _Given | None, usual: int) -> int:
    if given is None:
        return usual
    text = str(given.value)
    if isinstance(given.value, bool) or not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ConfigError(f"{given.place}: expected a port, got {given.value!r}")
    return int(text)


def _host(given: _Given | None) -> str:
    """The address to listen on; ``""``, which is ``server.host``, where it is this machine's own anyway."""
    if given is None:
        return ""
    try:
        address = ipaddress.ip_address(str(given.value))
    except ValueError:
        raise ConfigError(f"{given.place}: expected an address, got {given.value!r}") from None
    return "" if address.is_loopback else str(address)


def _unquote(sections: dict[Any, Mapping]) -> None:
    """Take numbers that stand in quotes for numbers, as the original does."""
    for name, section in sections.items():
        for key, value in section.items():
            quoted = isinstance(value, str) and value.isascii() and value.isdecimal()
            if quoted and fold(f"{name}.{key}") in _NUMBERS:
                section[key] = int(value)


def _know_level(sections: dict[Any, Mapping]) -> None:
    """Levels of the original that are none here log what matters."""
    for name, section in sections.items():
        for key in section:
            if fold(f"{name}.{key}") == "log.level" and section[key] not in _LEVELS:
                section[key] = _LEVELS[0]
