"""``app.yaml`` of GoChat: its translation into settings, and warnings about
entries without an equivalent.

Its two ports become additional listeners, where ``/ws`` without a query uses
the protobuf dialect. The file may also have keys whose names are equal here
(``redis.addr``, ``jwt.sign_key``, ``app.rpc-port``), and all other settings of
this server.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from msgspec import Struct

from imserver.plugin.settings import Config, ConfigError, Locations

SUFFIX: Final = ""
"""The ending of the names of such files. It is empty, because they are YAML, as
this server's own files are."""
_LEVELS: Final = ("info", "debug")
_HTTP_PORT: Final = 9090
_WEBSOCKET_PORT: Final = 9091
_RPC_PORT: Final = 9092
"""The ports that GoChat uses if none are set."""
_MAX_PORT: Final = 65_535
_NUMBERS: Final = ("app.rpcport", "app.heartbeattime", "jwt.expiretime")
"""Settings whose numbers the original also reads from quotes. Its own file has
its ports in quotes."""
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
"""Keys that have no effect here, including keys of older editions."""
_OWN: Final = _UNUSED | {
    "app.httpserverport",
    "app.websocketserverport",
    "app.ip",
    "app.heartbeattime",
    "mysql.dns",
    "log.target",
}
"""Keys that only the original has."""
_SIGNATURE: Final = _OWN - {"app.node"}
"""Keys by which the original's files are recognised. ``node`` is not one,
because it may be a slip in a file of ours."""
_OWN_SECTIONS: Final = ("mysql", "etcd", "rabbitmq")


class _Given(Struct, frozen=True):
    """A key of the file.

    ``written``: its spelling there. ``location``: the file and the line, for
    messages.
    """

    written: str
    value: Any
    location: str


def read(
    document: Any, where: str
) -> tuple[dict[str, Any], Callable[[Config], Iterator[str]]] | None:
    """Translate the keys that only GoChat's files have, and remove them from
    ``document``.

    Returns the settings for these keys, and a function that yields a warning
    for each key without effect. Returns None if the file has no such key, so
    is not one of GoChat. ``where`` names the file in messages. Raises
    :class:`ConfigError`.
    """
    sections: dict[str, Any] = {
        key: section for key, section in document.items() if isinstance(section, dict)
    }
    if not _is_of_gochat(sections):
        return None

    given: dict[str, _Given] = {}
    for name, section in sections.items():
        _take_own_keys(name, section, where, given)
    _remove_empty_sections(document, sections)
    settings = dict(_gochat_values(given))
    return settings, partial(_warnings, given, where)


def _remove_empty_sections(document: Any, sections: Mapping[str, Any]) -> None:
    """Remove the sections of GoChat that are empty now. A section that this
    server does not know would be an error."""
    for name, section in sections.items():
        if not section and Locations.fold(name) in _OWN_SECTIONS:
            del document[name]


def _take_own_keys(
    name: str, section: Any, where: str, given: dict[str, _Given]
) -> None:
    """Move the keys that only GoChat has from a section to ``given``.

    Values of the other keys get the form that they have here. ``name``: of the
    section. Raises ConfigError if a key is there twice.
    """
    for key in list(section):
        # Keys may be written with dashes, underscores or capitals.
        folded = Locations.fold(f"{name}.{key}")
        section[key] = _as_here(folded, section[key])
        if folded not in _OWN:
            continue
        written = f"{name}.{key}"
        location = f"{where}, line {section.lines[key]}: {written}"
        if folded in given:
            raise ConfigError(f"{location} is given twice, in two spellings")
        given[folded] = _Given(written, section.pop(key), location)


def _is_of_gochat(sections: Mapping[str, Any]) -> bool:
    """Whether a file has a key that only GoChat's files have."""
    names: set[str] = set()
    for name, section in sections.items():
        names.update(Locations.fold(f"{name}.{key}") for key in section)
    return not names.isdisjoint(_SIGNATURE)


def _as_here(folded: str, value: Any) -> Any:
    """The value of a key, in the form that it has in files of this server.

    ``folded``: the key in lower case without separators, for example
    ``app.rpcport``.
    """
    is_text = isinstance(value, str)
    if folded in _NUMBERS and is_text and value.isascii() and value.isdecimal():
        return int(value)  # as the original does
    if folded == "log.level" and value not in _LEVELS:
        # A level that only the original has becomes the usual one.
        return _LEVELS[0]
    return value


def _warnings(given: Mapping[str, _Given], where: str, config: Config) -> Iterator[str]:
    """Yield a warning for each key without effect under the settings of the
    server."""
    idle = [entry.written for name, entry in given.items() if name in _UNUSED]
    if idle:
        keys = ", ".join(idle)
        yield f"{where}: no effect: {keys}; this server has no such part"
    if "mysql.dns" in given and not config.storage.url:
        yield (
            f"{where}: mysql.dns has no effect: this server has its own database, by default a file "
            "in server.data_dir; set storage.url to use another one"
        )

    if _logs_to_file(given) and not config.app.log_file:
        yield f"{where}: log.target is file, but no file is named: set app.log_file"

    if _is_registration_closed(config):
        yield (
            f"{where}: POST /register is closed, because the server is not in demo mode: set "
            "accounts.registration: true"
        )


def _logs_to_file(given: Mapping[str, _Given]) -> bool:
    """Whether the settings of GoChat want a log file. GoChat chooses its name
    itself, and this server does not."""
    log_target = given.get("log.target")
    return log_target is not None and log_target.value != "console"


def _is_registration_closed(config: Config) -> bool:
    """Whether nobody can register, because the settings do not say so and the
    server is not in demo mode."""
    # Without accounts, no feature declares this key.
    rows = (row for section, row in config.of_features if section == "accounts")
    is_unset = any(getattr(row, "registration", False) is None for row in rows)
    return is_unset and not config.demo


def _gochat_values(given: dict[str, _Given]) -> Iterator[tuple[str, Any]]:
    """Yield the settings for the keys of GoChat: the name of a setting, and its
    value."""
    host = _gochat_host(given.get("app.ip"))
    ports = _gochat_ports(given)
    yield (
        "server.extra_listen",
        [{"port": port, "host": host, "ws_dialect": "protobuf"} for port in ports],
    )
    yield "app.rpc_port", _RPC_PORT
    if host:
        yield "cluster.advertise", host
    if "app.heartbeattime" in given:
        yield "websocket.protobuf_silent_seconds", given["app.heartbeattime"].value


def _gochat_ports(given: Mapping[str, _Given]) -> list[int]:
    """The ports at which the server listens.

    GoChat has one port for HTTP and one for WebSockets. Here each serves both.
    Two ports that are 0 are two free ports.
    """
    http = _gochat_port(given.get("app.httpserverport"), _HTTP_PORT)
    websocket = _gochat_port(given.get("app.websocketserverport"), _WEBSOCKET_PORT)
    if http == websocket != 0:
        return [http]
    return [http, websocket]


def _gochat_port(given: _Given | None, default_port: int) -> int:
    """The port that a key names, or the usual one if it is not set. Raises
    ConfigError."""
    if given is None:
        return default_port
    text = str(given.value)
    is_number = text.isascii() and text.isdecimal()
    if isinstance(given.value, bool) or not is_number or int(text) > _MAX_PORT:
        raise ConfigError(f"{given.location}: expected a port, got {given.value!r}")
    return int(text)


def _gochat_host(given: _Given | None) -> str:
    """The address to listen on, from the key ``app.ip``.

    Returns ``""``, which stands for ``server.host``, if the key is not set or
    names an address of this machine alone. Raises ConfigError.
    """
    if given is None:
        return ""
    try:
        address = ipaddress.ip_address(str(given.value))
    except ValueError:
        raise ConfigError(
            f"{given.location}: expected an address, got {given.value!r}"
        ) from None
    if address.is_loopback:
        return ""
    return str(address)
