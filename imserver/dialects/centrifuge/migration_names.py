"""Settings of Centrifugo 5, which are flat, in the form of Centrifugo 6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from imserver.dialects.centrifuge.migration_options import Document

WITHOUT_NAMESPACE: Final = "channel.without_namespace"
_PERSONAL: Final = "client.subscribe_to_user_personal_channel"
_PREFIXES: Final = (
    ("subscription_token_", "client.subscription_token."),
    ("token_", "client.token."),
    ("client_", "client."),
    ("channel_", "channel."),
    ("api_", "http_api."),
    ("redis_", "engine.redis."),
    ("rpc_ping_", "rpc.ping."),
    ("websocket_", "websocket."),
    ("http_stream_", "http_stream."),
    ("sse_", "sse."),
    ("admin_", "admin."),
    ("grpc_api_", "grpc_api."),
    ("uni_websocket_", "uni_websocket."),
    ("uni_http_stream_", "uni_http_stream."),
    ("uni_sse_", "uni_sse."),
    ("uni_grpc_", "uni_grpc."),
    ("nats_", "broker.nats."),
    ("opentelemetry_", "opentelemetry."),
    ("graphite_", "graphite."),
    ("tls_", "http_server.tls."),
    ("log_", "log."),
    ("shutdown_", "shutdown."),
    ("usage_stats_", "usage_stats."),
    ("prometheus_", "prometheus."),
    ("internal_", "http_server.internal_"),
)
_NAMES: Final[Mapping[str, str]] = {
    "address": "http_server.address",
    "admin": "admin.enabled",
    "allow_anonymous_connect_without_token": "client.allow_anonymous_connect_without_token",
    "allowed_origins": "client.allowed_origins",
    "broker": "broker.type",
    "channel_regex": f"{WITHOUT_NAMESPACE}.channel_regex",
    "connect_proxy_name": "client.proxy.connect.proxy_name",
    "debug": "debug.enabled",
    "disallow_anonymous_connection_tokens": "client.disallow_anonymous_connection_tokens",
    "engine": "engine.type",
    "global_history_meta_ttl": "channel.history_meta_ttl",
    "graphite": "graphite.enabled",
    "grpc_api": "grpc_api.enabled",
    "health": "health.enabled",
    "http_stream": "http_stream.enabled",
    "name": "node.name",
    "namespaces": "channel.namespaces",
    "opentelemetry": "opentelemetry.enabled",
    "pid_file": "pid_file",
    "ping_interval": "client.ping_interval",
    "pong_timeout": "client.pong_timeout",
    "port": "http_server.port",
    "presence_manager": "presence_manager.type",
    "prometheus": "prometheus.enabled",
    "proxies": "proxies",
    "refresh_proxy_name": "client.proxy.refresh.proxy_name",
    "rpc_namespace_boundary": "rpc.namespace_boundary",
    "rpc_namespaces": "rpc.namespaces",
    "rpc_ping": "rpc.ping.enabled",
    "rpc_proxy_name": "rpc.without_namespace.proxy_name",
    "separate_subscription_token_config": "client.subscription_token.enabled",
    "sse": "sse.enabled",
    "swagger": "swagger.enabled",
    "tls": "http_server.tls.enabled",
    "tls_external": "http_server.tls.external",
    "uni_grpc": "uni_grpc.enabled",
    "uni_http_stream": "uni_http_stream.enabled",
    "uni_sse": "uni_sse.enabled",
    "uni_websocket": "uni_websocket.enabled",
    "user_personal_channel_namespace": f"{_PERSONAL}.personal_channel_namespace",
    "user_personal_single_connection": f"{_PERSONAL}.single_connection",
    "user_subscribe_to_personal": f"{_PERSONAL}.enabled",
    "webtransport": "webtransport.enabled",
}
"""Flat name → name in version 6, where no prefix says it."""
_OF_NAMESPACE: Final = re.compile(
    "allow(ed)?_.*|presence|join_leave|force_.*|history_.*|delta_publish|.*_proxy_name"
)
"""Names of options of a namespace, which version 5 also has at the top."""
_SECTION_OF_CALL: Final = {
    "subscribe_stream": "channel.proxy.subscribe_stream",
    "sub_refresh": "channel.proxy.sub_refresh",
    "subscribe": "channel.proxy.subscribe",
    "publish": "channel.proxy.publish",
    "connect": "client.proxy.connect",
    "refresh": "client.proxy.refresh",
    "rpc": "rpc.proxy",
}
"""Call of a proxy → its settings in version 6."""
_SHARED: Final = ("http_headers", "binary_encoding", "include_connection_meta", "grpc_metadata")


def nested(document: Document) -> Document:
    """Settings of version 5 or 6 with the names and the form of version 6."""
    found: Document = {}
    sections = {name: _plain(value) for name, value in document.items() if isinstance(value, Mapping)}
    for name, value in document.items():
        if name not in sections and name != "granular_proxy_mode":
            _put(
                found,
                name
                if name in ("consumers", "proxies", "pid_file", "enable_unreleased_features")
                else _renamed(name),
                _plain(value),
            )
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section}
    if {"client", "channel", "rpc"} & sections.keys():
        return found
    return _with_proxies(found, document.get("granular_proxy_mode") is True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _renamed(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("proxy_"):
        rest = name.removeprefix("proxy_")
        for call, section in _SECTION_OF_CALL.items():
            if rest == call:
                return f"{WITHOUT_NAMESPACE}.{name}"
            if rest.startswith(f"{call}_"):
                return f"{section}.{rest.removeprefix(f'{call}_')}"
        return f"shared_proxy.{rest}"
    if _OF_NAMESPACE.fullmatch(name):
        return f"{WITHOUT_NAMESPACE}.{name}"
    for prefix, section in _PREFIXES:
        if name.startswith(prefix):
            return section + name.removeprefix(prefix)
    return name


def _with_proxies(found: Document, granular: bool) -> Document:
    """Enable the proxies that version 5 enables by their address, or in granular mode by their name."""
    shared = found.pop("shared_proxy", {})
    client, rpc = found.setdefault("client", {}), found.setdefault("rpc", {})
    for call in ("connect", "refresh"):
        proxy = client.get("proxy", {}).get(call)
        if proxy:
            proxy["enabled"] = True
    if rpc.get("proxy") or rpc.get("without_namespace", {}).get("proxy_name"):
        rpc.setdefault("without_namespace", {})["proxy_enabled"] = True
    channel = found.setdefault("channel", {})
    rows = [channel.setdefault("without_namespace", {}), *channel.get("namespaces", [])]
    for row in rows:
        if not isinstance(row, dict):
            continue
        for call in ("subscribe_stream", "sub_refresh", "subscribe", "publish"):
            enabled = row.pop(f"proxy_{call}", False) or (granular and f"{call}_proxy_name" in row)
            if enabled:
                row[f"{call}_proxy_enabled"] = True
    for row in rpc.get("namespaces", []):
        if isinstance(row, dict) and row.pop("rpc_proxy_name", ""):
            row["proxy_enabled"] = True
    for proxy in [*client.get("proxy", {}).values(), *channel.get("proxy", {}).values(), rpc.get("proxy")]:
        if isinstance(proxy, dict):
            proxy |= {name: value for name, value in shared.items() if name in _SHARED and name not in proxy}
    return found


def _put(document: Document, option: str, value: Any) -> None:
    *sections, name = option.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[name] = value
