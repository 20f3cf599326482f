"""``conf/app.ini`` of go-websocket: the settings that it maps to, and those
without an equivalent.

``[common]`` ``HttpPort``, ``RPCPort``, ``Cluster``, ``CryptoKey``; ``[etcd]``
``Endpoints``. Its port becomes an additional listener, where ``/ws`` always
uses the client dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from imserver.plugin.settings import Config, ConfigError, Locations

if TYPE_CHECKING:
    import configparser

SUFFIX: Final = ".ini"
"""How the names of such files end."""
PUBLIC_KEY: Final = "Adba723b7fe06819"
"""The default CryptoKey of the original, which is public."""

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "f", "false", "n", "no", "off"})
_ENDED: Final = "nodes share their state in Redis: set redis.url, or IMSERVER_REDIS_URL"


def read(
    text: str, where: str
) -> tuple[dict[str, Any], Callable[[Config], Iterator[str]]]:
    """The settings of such a file in this server's form, and what tells its
    entries without effect under the settings of a server: it raises ConfigError
    if the key is the public one and that is not in demo mode.

    ``where``: its name in messages. Raises :class:`ConfigError`.
    """
    import configparser  # few need it

    parser = configparser.ConfigParser(
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=("#", ";"),
        allow_no_value=True,
        interpolation=None,
        default_section="",
        empty_lines_in_values=False,
    )
    parser.optionxform = Locations.fold  # type: ignore[assignment, method-assign]
    try:
        # The original has no continuation lines.
        parser.read_string(
            "\n".join(map(str.strip, text.removeprefix("\ufeff").splitlines())), where
        )
    except configparser.Error as error:
        raise ConfigError(
            f"{where}: not a valid INI file: {_ini_problem(error)}"
        ) from None
    values: dict[str, str] = {}
    unknown = []
    for section in parser.sections():
        for key, value in parser.items(section):
            name = f"{Locations.fold(section)}.{key}"
            if name in _INI_KEYS:
                values[name] = (value or "").strip().strip("\"'`")
            else:
                unknown.append(f"{section}.{key}")
    cluster, crypto_key = (
        values.get("common.cluster", "").lower(),
        values.get("common.cryptokey", ""),
    )
    if cluster not in _TRUE | _FALSE:
        raise ConfigError(
            f"{where}: Cluster: expected true or false, got {values['common.cluster']!r}"
        )
    if crypto_key and (size := len(crypto_key.encode())) not in (16, 24, 32):
        raise ConfigError(
            f"{where}: CryptoKey: expected 16, 24 or 32 bytes, got {size}"
        )
    listener = {"port": _ini_port(values, "HttpPort", where), "ws_dialect": "client"}
    settings = {
        "server.extra_listen": [listener],
        "app.rpc_port": _ini_port(values, "RPCPort", where),
    }
    has_endpoints = bool(values.get("etcd.endpoints"))

    def warnings(config: Config) -> Iterator[str]:
        if cluster in _TRUE and not config.clustered:
            yield f"{where}: Cluster is true, but without Redis this node runs alone; {_ENDED}"
        elif cluster in _TRUE and has_endpoints:
            yield f"{where}: Endpoints has no effect: nodes find each other through Redis, not etcd"
        if crypto_key == PUBLIC_KEY and not config.demo:
            raise ConfigError(
                f"{where}: CryptoKey is the default of the original, which is public: "
                "remove it or choose another"
            )
        if crypto_key and crypto_key != PUBLIC_KEY:
            yield (
                f"{where}: CryptoKey has no effect: client ids are encrypted with a key derived from "
                "this server's own secret (server.secret_file)"
            )
        for name in unknown:
            yield f"{where}: {name} is not a setting and has no effect"

    return settings, warnings


_INI_KEYS: Final = frozenset(
    {
        "common.httpport",
        "common.rpcport",
        "common.cluster",
        "common.cryptokey",
        "etcd.endpoints",
    }
)


def _ini_port(given: dict[str, str], name: str, where: str) -> int:
    key = Locations.fold(name)
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
