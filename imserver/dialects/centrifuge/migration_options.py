"""Options of Centrifugo that a migration reads one by one, and what has no equivalent here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    "opentelemetry": "see /metrics",
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
"""Option, or section → why it is not carried over, or what to use (``""``: it has no equivalent)."""
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
"""The same for the options of a namespace."""
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
"""Values of Centrifugo that need no note, because this server has the same."""
_SHOWN_WHOLE: Final = ("engine", "channel.proxy", "client.proxy", "rpc.proxy", "websocket")
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
"""Options and sections that need no note: their part of this server is always on, or does not matter."""


class BadSettings(ImserverError):
    """The settings of Centrifugo cannot be read."""


class Options:
    """Options that are taken one by one; those that nobody takes are left over."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._taken: set[str] = set()

    def has(self, option: str) -> bool:
        """Whether an option is set."""
        return bool(self._find(option))

    def _find(self, option: str) -> Any:
        found: Any = self._document
        for name in option.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def peek(self, option: str, kind: Any, default: Any) -> Any:
        """The value of an option, of this type; null or nothing: ``default``. Raises BadSettings."""
        found = self._find(option)
        if found is None:
            return default
        is_number = isinstance(found, bool) and kind is int
        if is_number or not isinstance(found, kind):
            raise BadSettings(f"{option}: expected another type of value")
        return found

    def take(self, option: str, kind: Any, default: Any) -> Any:
        """As :meth:`peek`. The option is not left over."""
        self._taken.add(option)
        return self.peek(option, kind, default)

    def seconds(self, option: str) -> float:
        """A duration in seconds; 0: none. Raises BadSettings."""
        self._taken.add(option)
        return seconds_of(self._find(option), option)

    def drop_proxies(self) -> None:
        """Leave no proxy over but for what is not carried over of it."""
        for option in [option for option, _ in self.rest() if option.startswith(("proxies", *_PROXIES))]:
            if option.rpartition(".")[2] in _OF_PROXIES or option == "proxies":
                self._taken.add(option)

    def rest(self) -> Iterator[tuple[str, Any]]:
        """The options that were not taken, and say something."""

        def walk(document: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
            for name, value in document.items():
                option = f"{prefix}{name}"
                if option in self._taken or not value or value == _DEFAULTS.get(option):
                    continue
                if isinstance(value, Mapping):
                    yield from walk(value, f"{option}.")
                else:
                    yield option, value

        yield from walk(self._document, "")

    def notes_of_the_rest(self) -> list[str]:
        """One note for each section or option that was not taken."""
        notes = dict[str, None]()
        for option, _ in self.rest():
            parts = option.split(".")
            names = [".".join(parts[: count + 1]) for count in range(len(parts))]
            if not _IGNORED.isdisjoint(names):
                continue
            known = next((name for name in reversed(names) if name in NO_EQUIVALENT), None)
            if known is None:
                notes[f"{option}: unknown option"] = None
            else:
                shown = option if known in _SHOWN_WHOLE else known
                notes[f"{shown}: {NO_EQUIVALENT[known] or 'no equivalent'}"] = None
        return [*notes]


_PROXIES: Final = ("client.proxy.", "channel.proxy.", "rpc.proxy.")
_OF_PROXIES: Final = ("endpoint", "timeout", "http_headers", "include_connection_meta")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")


def seconds_of(value: Any, option: str) -> float:
    """Seconds of a duration such as ``1h30m``. Raises :class:`BadSettings`."""
    if not value:
        return 0.0
    if not (isinstance(value, str) and re.fullmatch(f"(?:{_PART.pattern})+", value)):
        raise BadSettings(f"{option}: expected a duration such as 300s or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    return int(total) if total == int(total) else total


def rows_of(found: list[Any], option: str) -> Iterator[Document]:
    for row in found:
        if not (isinstance(row, Mapping) and isinstance(row.get("name"), str) and row["name"]):
            raise BadSettings(f"{option}: expected objects with a name")
        yield dict(row)
