"""Options of Centrifugo that a migration reads one after the other. Flat
options (version 5) are nested as in version 6."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from imserver.plugin.errors import ImserverError

Document = dict[str, Any]

NO_EQUIVALENT: Final[Mapping[str, str]] = {
    "admin": "there is no admin page; see `imserver doctor` and /metrics",
    "broker": "publications go through Redis",
    "channel.history_meta_ttl": "positions live as long as the history",
    "channel.max_length": "names have up to 255 bytes",
    "channel.namespace_boundary": "the boundary is :",
    "channel.private_prefix": "the prefix is $",
    "channel.proxy": "of proxies only addresses, timeouts and http_headers are carried over",
    "channel.publication_data_format": "data are JSON",
    "channel.user_boundary": "the boundary is #",
    "channel.user_separator": "names of channels have no lists of users",
    "client.channel_limit": "a connection has up to 1,000 channels",
    "client.channel_position_check_delay": "positions are checked every 5 seconds",
    "client.channel_position_max_time_lag": "",
    "client.concurrency": "commands of a connection run one after the other",
    "client.connect_code_to_unidirectional_disconnect": "there are no unidirectional transports",
    "client.connect_include_server_time": "",
    "client.connection_rate_limit": "",
    "client.expired_close_delay": "it is 25 s",
    "client.expired_sub_close_delay": "it is 25 s",
    "client.history_max_publication_limit": "a page has up to 512 KiB",
    "client.insecure": "insecure modes are not carried over",
    "client.insecure_skip_token_signature_verify": "insecure modes are not carried over",
    "client.pong_timeout": "see websocket.client_silent_seconds",
    "client.presence_update_interval": "presence is exact",
    "client.proxy": "of proxies only addresses, timeouts and http_headers are carried over",
    "client.recovery_max_publication_limit": "a recovery has up to 512 KiB",
    "client.user_connection_limit": "see login_policy of the app",
    "client.user_id_http_header": "use session tokens, or authorise_url",
    "consumers": "for PostgreSQL see `imserver-client outbox`",
    "engine": "see section redis",
    "grpc_api": "there is no gRPC; use the HTTP API",
    "http_api.disabled": "",
    "http_api.error_mode": "requests choose it by the header X-Centrifugo-Error-Mode",
    "http_api.external": "all ports serve the API",
    "http_api.handler_prefix": "it is /api",
    "http_api.insecure": "insecure modes are not carried over",
    "http_server.internal_address": "see trusted_proxies and your proxy",
    "http_server.internal_port": "see trusted_proxies and your proxy",
    "http_server.tls": "TLS belongs to the proxy in front (docs/guides/deploy.md)",
    "http_stream": "see section limits",
    "map_broker": "there are no map subscriptions",
    "opentelemetry": "see tracing.endpoint",
    "presence_manager": "presence goes through Redis",
    "proxies": "of proxies only addresses, timeouts and http_headers are carried over",
    "rpc.namespace_boundary": "the boundary is :",
    "rpc.namespaces": "all methods go to one address",
    "rpc.ping": "",
    "rpc.proxy": "of proxies only addresses, timeouts and http_headers are carried over",
    "sse": "see section limits",
    "shutdown.timeout": "see section drain",
    "uni_grpc": "clients that only receive use /connection/uni_sse",
    "uni_http_stream": "see section limits",
    "uni_sse": "see section limits",
    "uni_websocket": "clients that only receive use /connection/uni_sse",
    "websocket": "see sections limits and websocket",
    "webtransport": "there is no WebTransport",
}
"""Option or section → the reason why it is not translated, or its replacement.
``""`` means that it has no equivalent."""
NAMESPACE_NO_EQUIVALENT: Final[Mapping[str, str]] = {
    "allow_tags_filter": "a subscription with a tags filter is refused",
    "auto_cache_recovery": "a client recovers if it asks for it",
    "channel_regex": "",
    "history_meta_ttl": "positions live as long as the history",
    "map": "there are no map subscriptions",
    "map_clients_presence_channel_prefix": "there are no map subscriptions",
    "map_users_presence_channel_prefix": "there are no map subscriptions",
    "publication_data_format": "data are JSON",
    "shared_poll": "there are no shared-poll subscriptions",
    "subscribe_stream_proxy_bidirectional": "there are no stream proxies",
    "subscribe_stream_proxy_enabled": "there are no stream proxies",
    "subscribe_stream_proxy_name": "there are no stream proxies",
    "subscription_type": "all channels are streams",
}
"""Options of a namespace that this server does not need → the reason."""
_DEFAULTS: Final[Mapping[str, Any]] = {
    "channel.max_length": 255,
    "channel.namespace_boundary": ":",
    "channel.private_prefix": "$",
    "channel.user_boundary": "#",
    "channel.user_separator": ",",
    "client.channel_limit": 128,
    "client.expired_close_delay": "25s",
    "client.expired_sub_close_delay": "25s",
    "emulation.handler_prefix": "/emulation",
    "http_api.handler_prefix": "/api",
    "http_stream.handler_prefix": "/connection/http_stream",
    "rpc.namespace_boundary": ":",
    "sse.handler_prefix": "/connection/sse",
    "uni_http_stream.handler_prefix": "/connection/uni_http_stream",
    "uni_sse.handler_prefix": "/connection/uni_sse",
    "websocket.handler_prefix": "/connection/websocket",
}
"""Values of Centrifugo that need no note, because this server has the same
values."""
_SHOWN_WHOLE: Final = (
    "engine",
    "channel.proxy",
    "client.proxy",
    "rpc.proxy",
    "websocket",
)
"""Sections whose notes name the option."""
_IGNORED: Final = frozenset(
    [
        "debug",
        "emulation",
        "graphite",
        "health",
        "http_stream.enabled",
        "log",
        "node",
        "pid_file",
        "prometheus",
        "sse.enabled",
        "uni_http_stream.enabled",
        "uni_sse.enabled",
        "swagger",
        "usage_stats",
    ]
)
"""Options and sections that need no note. Either this server always does what
they turn on, or they do not matter."""


class BadSettings(ImserverError):
    """The settings of Centrifugo are unreadable."""


class Options:
    """The options of Centrifugo that a migration translates one by one.

    An option is named by its path, for example ``client.token.issuer``.
    ``take`` notes that the option was translated. ``untaken`` then lists the
    options that were not translated, so that no option is forgotten.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._taken: set[str] = set()

    def has(self, option: str) -> bool:
        """Whether an option is set."""
        return bool(self._find(option))

    def _find(self, option: str) -> Any:
        """The value of an option, or None if it is not set."""
        value: Any = self._document
        for name in option.split("."):
            if isinstance(value, Mapping):
                value = value.get(name)
            else:
                value = None
        return value

    def peek(self, option: str, kind: Any, default: Any) -> Any:
        """The value of an option.

        ``kind`` is the type that the option must have, or a tuple of types.
        Returns ``default`` if the option is null or missing. Raises BadSettings
        if the option has another type.
        """
        value = self._find(option)
        if value is None:
            return default
        # Python counts True and False as numbers.
        is_bool_as_number = isinstance(value, bool) and kind is int
        if is_bool_as_number or not isinstance(value, kind):
            raise BadSettings(f"{option}: expected another type of value")
        return value

    def take(self, option: str, kind: Any, default: Any) -> Any:
        """The value of an option, as :meth:`peek` returns it. The option counts
        as taken."""
        self._taken.add(option)
        return self.peek(option, kind, default)

    def seconds(self, option: str) -> float:
        """A duration in seconds; 0 if the option is not set. The option counts
        as taken. Raises BadSettings."""
        self._taken.add(option)
        return seconds_of(self._find(option), option)

    def drop_proxies(self) -> None:
        """Count the options of translated proxies as taken.

        The migration reads these options as a whole section and not one by one.
        Without this method, they would get notes.
        """
        # A list, because taking an option changes the result of untaken().
        for option, _ in list(self.untaken()):
            is_of_proxies = option.startswith(("proxies", *_PROXIES))
            is_translated = option.rpartition(".")[2] in _OF_PROXIES
            if is_of_proxies and (is_translated or option == "proxies"):
                self._taken.add(option)

    def untaken(self) -> Iterator[tuple[str, Any]]:
        """List the options that were not taken, with their values.

        Options with an empty value, or with the default of Centrifugo, are left
        out, because they change nothing.
        """
        return self._untaken_in(self._document, prefix="")

    def _untaken_in(
        self, section: Mapping[str, Any], prefix: str
    ) -> Iterator[tuple[str, Any]]:
        """List the options of a section that were not taken. ``prefix`` is the
        path of the section with a dot, for example ``client.token.``."""
        for name, value in section.items():
            option = f"{prefix}{name}"
            if option in self._taken or not value or value == _DEFAULTS.get(option):
                continue
            if isinstance(value, Mapping):
                yield from self._untaken_in(value, f"{option}.")
            else:
                yield option, value

    def notes_of_untaken(self) -> list[str]:
        """One note for each section or option that was not taken, for example
        ``"broker: publications go through Redis"``."""
        # A dict keeps the order, and has one note for all options of a section.
        notes = dict[str, None]()
        for option, _ in self.untaken():
            parts = option.split(".")
            # "a.b.c" → "a", "a.b", "a.b.c"
            names = [".".join(parts[: count + 1]) for count in range(len(parts))]
            if _IGNORED.isdisjoint(names):
                notes[_note_of(option, names)] = None
        return list(notes)


def _note_of(option: str, names: list[str]) -> str:
    """The note about an option that was not taken.

    ``names``: the option and the sections around it, the widest section first.
    The reason in the note is the reason of the most specific name that is in
    :data:`NO_EQUIVALENT`.
    """
    section = next((name for name in reversed(names) if name in NO_EQUIVALENT), None)
    if section is None:
        return f"{option}: unknown option"
    shown_name = option if section in _SHOWN_WHOLE else section
    why = NO_EQUIVALENT[section] or "no equivalent"
    return f"{shown_name}: {why}"


_PROXIES: Final = ("client.proxy.", "channel.proxy.", "rpc.proxy.")
_OF_PROXIES: Final = ("endpoint", "timeout", "http_headers", "include_connection_meta")
_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_DURATION: Final = re.compile(f"(?:{_PART.pattern})+")


def seconds_of(value: Any, option: str) -> float:
    """The seconds of a duration such as ``1h30m``; 0 if it is empty.

    A whole number is returned as an int, so that settings show ``90`` and not
    ``90.0``. Raises :class:`BadSettings`.
    """
    if not value:
        return 0.0
    # All options of Centrifugo for times are texts with a unit.
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise BadSettings(f"{option}: expected a duration such as 300s or 1h30m")
    total = 0.0
    for number, unit in _PART.findall(value):
        total += float(number) * _UNITS[unit]
    if total == int(total):
        return int(total)
    return total


def rows_of(given: list[Any], option: str) -> Iterator[Document]:
    """Yield copies of the objects in a list. Each must have a ``name``.

    Raises BadSettings if a name is missing. ``option`` names the list in the
    error.
    """
    for row in given:
        if not (
            isinstance(row, Mapping)
            and isinstance(row.get("name"), str)
            and row["name"]
        ):
            raise BadSettings(f"{option}: expected objects with a name")
        yield dict(row)


# --- version 5 ----------------------------------------------------------------

WITHOUT_NAMESPACE: Final = "channel.without_namespace"
_PERSONAL: Final = "client.subscribe_to_user_personal_channel"
_SECTIONS: Final = (
    "admin",
    "channel",
    "client",
    "graphite",
    "grpc_api",
    "http_stream",
    "log",
    "opentelemetry",
    "prometheus",
    "shutdown",
    "sse",
    "uni_grpc",
    "uni_http_stream",
    "uni_sse",
    "uni_websocket",
    "usage_stats",
    "websocket",
)
"""Sections with flat options in version 5. The name of each such option begins
with the name of its section."""
_PREFIXES: Final = (
    ("subscription_token_", "client.subscription_token."),
    ("token_", "client.token."),
    ("api_", "http_api."),
    ("redis_", "engine.redis."),
    ("rpc_ping_", "rpc.ping."),
    ("nats_", "broker.nats."),
    ("tls_", "http_server.tls."),
    ("internal_", "http_server.internal_"),
    *((f"{section}_", f"{section}.") for section in _SECTIONS),
)
_SWITCHES: Final = (
    "admin",
    "debug",
    "graphite",
    "grpc_api",
    "health",
    "http_stream",
    "opentelemetry",
    "prometheus",
    "sse",
    "swagger",
    "uni_grpc",
    "uni_http_stream",
    "uni_sse",
    "uni_websocket",
    "webtransport",
)
"""Flat names of options that turn on the section with the same name."""
_OF_CLIENT: Final = (
    "allow_anonymous_connect_without_token",
    "allowed_origins",
    "disallow_anonymous_connection_tokens",
    "ping_interval",
    "pong_timeout",
)
_NAMES: Final[Mapping[str, str]] = {
    **{name: f"{name}.enabled" for name in _SWITCHES},
    **{name: f"client.{name}" for name in _OF_CLIENT},
    "address": "http_server.address",
    "broker": "broker.type",
    "channel_regex": f"{WITHOUT_NAMESPACE}.channel_regex",
    "connect_proxy_name": "client.proxy.connect.proxy_name",
    "engine": "engine.type",
    "global_history_meta_ttl": "channel.history_meta_ttl",
    "name": "node.name",
    "namespaces": "channel.namespaces",
    "port": "http_server.port",
    "presence_manager": "presence_manager.type",
    "refresh_proxy_name": "client.proxy.refresh.proxy_name",
    "rpc_namespace_boundary": "rpc.namespace_boundary",
    "rpc_namespaces": "rpc.namespaces",
    "rpc_ping": "rpc.ping.enabled",
    "rpc_proxy_name": "rpc.without_namespace.proxy_name",
    "separate_subscription_token_config": "client.subscription_token.enabled",
    "tls": "http_server.tls.enabled",
    "tls_external": "http_server.tls.external",
    "user_personal_channel_namespace": f"{_PERSONAL}.personal_channel_namespace",
    "user_personal_single_connection": f"{_PERSONAL}.single_connection",
    "user_subscribe_to_personal": f"{_PERSONAL}.enabled",
}
"""Flat name → name in version 6, for options whose flat name does not begin
with the name of a section."""
_OF_NAMESPACE: Final = re.compile(
    "allow(ed)?_.*|presence|join_leave|force_.*|history_.*|delta_publish|.*_proxy_name"
)
"""Names of options of a namespace. Version 5 has these options at the top
level, too."""
_SECTION_OF_CALL: Final = {
    "subscribe_stream": "channel.proxy.subscribe_stream",
    "sub_refresh": "channel.proxy.sub_refresh",
    "subscribe": "channel.proxy.subscribe",
    "publish": "channel.proxy.publish",
    "connect": "client.proxy.connect",
    "refresh": "client.proxy.refresh",
    "rpc": "rpc.proxy",
}
"""Call of a proxy → the section with its settings in version 6."""
_SHARED: Final = (
    "http_headers",
    "binary_encoding",
    "include_connection_meta",
    "grpc_metadata",
)


def nested(document: Document) -> Document:
    """The settings of Centrifugo in the form of version 6, with its names.

    Version 5 has flat names: ``token_issuer`` becomes the option ``issuer`` of
    the section ``client.token``. Settings of version 6 stay as they are.
    """
    converted: Document = {}
    sections = {
        name: _plain(value)
        for name, value in document.items()
        if isinstance(value, Mapping)
    }
    for name, value in document.items():
        if name not in sections and name != "granular_proxy_mode":
            _put_option(converted, _renamed(name), _plain(value))
    for name, section in sections.items():
        converted[name] = {**converted.get(name, {}), **section}
    # Only version 6 has these sections. Then the proxies are already in the
    # form of version 6.
    if {"client", "channel", "rpc"} & sections.keys():
        return converted
    return _with_proxies(converted, document.get("granular_proxy_mode") is True)


def _put_option(document: Document, name: str, value: Any) -> None:
    """Put an option into its section. Its name may be ``client.token.issuer``,
    for example."""
    *section_names, option_name = name.split(".")
    section = document
    for part in section_names:
        section = section.setdefault(part, {})
    section[option_name] = value


def _plain(value: Any) -> Any:
    """A copy of a value in which all keys of objects are texts. YAML also
    allows numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _renamed(name: str) -> str:
    """The name in version 6 of a flat option of version 5. An unknown name
    stays unchanged.

    For example, ``proxy_subscribe`` becomes
    ``channel.without_namespace.proxy_subscribe``, and ``proxy_connect_timeout``
    becomes ``client.proxy.connect.timeout``.
    """
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("proxy_"):
        return _renamed_proxy_option(name.removeprefix("proxy_"))
    if _OF_NAMESPACE.fullmatch(name):
        return f"{WITHOUT_NAMESPACE}.{name}"
    for prefix, section in _PREFIXES:
        if name.startswith(prefix):
            return section + name.removeprefix(prefix)
    return name


def _renamed_proxy_option(option: str) -> str:
    """The name in version 6 of a flat option ``proxy_<option>``.

    An option that names no call is shared by all proxies, and copied to each
    of them later.
    """
    for call, section in _SECTION_OF_CALL.items():
        if option == call:
            return f"{WITHOUT_NAMESPACE}.proxy_{call}"
        if option.startswith(f"{call}_"):
            return f"{section}.{option.removeprefix(f'{call}_')}"
    return f"shared_proxy.{option}"


def _with_proxies(document: Document, granular: bool) -> Document:
    """Change ``document`` so that it enables proxies as in version 6.

    A *proxy* is a back end that Centrifugo asks. In version 5, a proxy is
    enabled if it has an address or, in granular mode, a name. Version 6 has
    options that enable proxies. ``granular``: whether the settings use the
    granular mode.
    """
    shared = document.pop("shared_proxy", {})
    client = document.setdefault("client", {})
    rpc = document.setdefault("rpc", {})
    channel = document.setdefault("channel", {})
    client_proxies = client.get("proxy", {})
    for call in ("connect", "refresh"):
        if client_proxies.get(call):
            client_proxies[call]["enabled"] = True
    _enable_rpc_proxies(rpc)
    _enable_proxies_of_namespaces(channel, granular)
    proxies = [*client_proxies.values(), *channel.get("proxy", {}).values()]
    _share(shared, [*proxies, rpc.get("proxy")])
    return document


def _enable_proxies_of_namespaces(channel: Document, granular: bool) -> None:
    """Enable the proxies of channels. The same options may stand at the top and
    in each namespace."""
    top = channel.setdefault("without_namespace", {})
    for row in [top, *channel.get("namespaces", [])]:
        if isinstance(row, dict):
            _enable_channel_proxies(row, granular)


def _enable_rpc_proxies(rpc: Document) -> None:
    """Enable the proxies of methods. In version 5 a name enables them."""
    if rpc.get("proxy") or rpc.get("without_namespace", {}).get("proxy_name"):
        rpc.setdefault("without_namespace", {})["proxy_enabled"] = True
    for row in rpc.get("namespaces", []):
        if isinstance(row, dict) and row.pop("rpc_proxy_name", ""):
            row["proxy_enabled"] = True


def _enable_channel_proxies(row: Document, granular: bool) -> None:
    """Enable the proxies of one namespace of channels.

    ``granular``: whether a name enables a proxy, too.
    """
    for call in ("subscribe_stream", "sub_refresh", "subscribe", "publish"):
        is_enabled = row.pop(f"proxy_{call}", False)
        is_named = granular and f"{call}_proxy_name" in row
        if is_enabled or is_named:
            row[f"{call}_proxy_enabled"] = True


def _share(shared: Document, proxies: Iterable[Any]) -> None:
    """Copy the options that version 5 has once for all proxies into each proxy
    that does not set them itself."""
    options = {name: value for name, value in shared.items() if name in _SHARED}
    for proxy in proxies:
        if isinstance(proxy, dict):
            for name, value in options.items():
                proxy.setdefault(name, value)
