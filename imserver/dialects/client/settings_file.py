"""``conf/app.ini`` of go-websocket: its translation into settings, and warnings
about entries without an equivalent.

Known entries are ``HttpPort``, ``RPCPort``, ``Cluster`` and ``CryptoKey`` in
``[common]``, and ``Endpoints`` in ``[etcd]``. The port becomes an additional
listener, where ``/ws`` always uses the client dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imserver.plugin.settings import Config, ConfigError, Locations

if TYPE_CHECKING:
    import configparser

SUFFIX: Final = ".ini"
"""The ending of the names of such files."""
PUBLIC_KEY: Final = "Adba723b7fe06819"
"""The default CryptoKey of the original, which is public."""

_KEY_BYTES: Final = (16, 24, 32)
"""The sizes of an AES key in bytes."""
_PORTS: Final = {"httpport": 7800, "rpcport": 7900}
"""The ports that the original uses if none are set."""
_MAX_PORT: Final = 65_535
_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "f", "false", "n", "no", "off"})
_ENDED: Final = "nodes share their state in Redis: set redis.url, or IMSERVER_REDIS_URL"


def read(
    text: str, where: str
) -> tuple[dict[str, Any], Callable[[Config], Iterator[str]]]:
    """Translate the settings of go-websocket.

    Returns the settings, and a function that yields a warning for each entry
    without effect under the settings of a server. The function raises
    ConfigError if the key is the public one and the server is not in demo
    mode. ``where``: the name of the file in messages. Raises
    :class:`ConfigError`.
    """
    values, unknown = _entries(_parse(text, where))
    is_cluster = _is_cluster(values, where)
    crypto_key = _checked_key(values, where)
    listener = {"port": _ini_port(values, "HttpPort", where), "ws_dialect": "client"}
    settings = {
        "server.extra_listen": [listener],
        "app.rpc_port": _ini_port(values, "RPCPort", where),
    }
    without_effect = _WithoutEffect(
        where,
        is_cluster=is_cluster,
        has_endpoints=bool(values.get("etcd.endpoints")),
        crypto_key=crypto_key,
        unknown=unknown,
    )
    return settings, without_effect.warnings


def _is_cluster(values: dict[str, str], where: str) -> bool:
    """Whether the entry ``Cluster`` is true. Raises ConfigError if it is
    neither true nor false."""
    cluster = values.get("common.cluster", "").lower()
    if cluster not in _TRUE | _FALSE:
        raise ConfigError(
            f"{where}: Cluster: expected true or false, got {values['common.cluster']!r}"
        )
    return cluster in _TRUE


def _checked_key(values: dict[str, str], where: str) -> str:
    """The entry ``CryptoKey``; ``""`` if it is not set. Raises ConfigError if
    it is no key of AES."""
    crypto_key = values.get("common.cryptokey", "")
    size = len(crypto_key.encode())
    if crypto_key and size not in _KEY_BYTES:
        raise ConfigError(
            f"{where}: CryptoKey: expected 16, 24 or 32 bytes, got {size}"
        )
    return crypto_key


class _WithoutEffect(Struct, frozen=True):
    """The entries of a file that become no setting.

    ``is_cluster``: several nodes work together. ``has_endpoints``: addresses of
    etcd are set. ``crypto_key``: the key that encrypts ids (``""``: none).
    ``unknown``: names of unknown entries.
    """

    where: str
    is_cluster: bool
    has_endpoints: bool
    crypto_key: str
    unknown: list[str]

    def warnings(self, config: Config) -> Iterator[str]:
        """Yield a warning for each of these entries, under the settings of a
        server.

        Raises ConfigError if the key is the public one and the server is not in
        demo mode.
        """
        where = self.where
        yield from self._warnings_of_cluster(config)
        # Everybody knows this key, so it must not be left in use by mistake.
        is_public = self.crypto_key == PUBLIC_KEY
        if is_public and not config.demo:
            raise ConfigError(
                f"{where}: CryptoKey is the default of the original, which is public: "
                "remove it or choose another"
            )
        if self.crypto_key and not is_public:
            yield (
                f"{where}: CryptoKey has no effect: client ids are encrypted with a key derived from "
                "this server's own secret (server.secret_file)"
            )
        for name in self.unknown:
            yield f"{where}: {name} is not a setting and has no effect"

    def _warnings_of_cluster(self, config: Config) -> Iterator[str]:
        """Yield a warning if the settings want a cluster, and cannot have it as
        they say."""
        where = self.where
        if self.is_cluster and not config.clustered:
            yield f"{where}: Cluster is true, but without Redis this node runs alone; {_ENDED}"
        elif self.is_cluster and self.has_endpoints:
            yield f"{where}: Endpoints has no effect: nodes find each other through Redis, not etcd"


def _parse(text: str, where: str) -> configparser.ConfigParser:
    """Parse a file as the original does.

    Names are compared without regard to case, and a value may be followed by a
    comment. Raises ConfigError.
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
    # The original does not know continuation lines.
    lines = map(str.strip, text.removeprefix("\ufeff").splitlines())
    try:
        parser.read_string("\n".join(lines), where)
    except configparser.Error as error:
        raise ConfigError(
            f"{where}: not a valid INI file: {_ini_problem(error)}"
        ) from None
    return parser


def _entries(parser: configparser.ConfigParser) -> tuple[dict[str, str], list[str]]:
    """The values of the known entries, and the names of the unknown ones.

    A known entry is named by its section and key in lower case, for example
    ``common.httpport``. Quotes around a value are removed.
    """
    values: dict[str, str] = {}
    unknown = []
    for section in parser.sections():
        for key, value in parser.items(section):
            name = f"{Locations.fold(section)}.{key}"
            # The original ignores unknown entries, but a typing error should be
            # seen.
            if name in _INI_KEYS:
                values[name] = (value or "").strip().strip("\"'`")
            else:
                unknown.append(f"{section}.{key}")
    return values, unknown


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
    """The port in an entry of ``[common]``, or the usual port of the original
    if it is not set. Raises ConfigError."""
    key = Locations.fold(name)
    text = given.get(f"common.{key}", "")
    if not text:
        return _PORTS[key]
    # isdecimal() alone also accepts digits of other scripts.
    if not (text.isascii() and text.isdecimal() and int(text) <= _MAX_PORT):
        raise ConfigError(f"{where}: {name}: expected a port, got {text!r}")
    return int(text)


def _ini_problem(error: configparser.Error) -> str:
    """The reason why a file is no INI file, with its line if that is known."""
    import configparser

    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: {error.option} is given twice"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: the section {error.section} is given twice"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno}: a section such as [common] must come first"
    if isinstance(error, configparser.ParsingError):
        return f"line {error.errors[0][0]}: expected key = value"
    # The first line has no name of the source in it.
    return error.message.partition("\n")[0]
