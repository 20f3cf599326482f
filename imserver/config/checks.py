"""What the settings have to be beside what their types say: what goes together, how a text must look."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from imserver.config.settings import PUBLIC_SIGN_KEY, Config, TenantSettings
from imserver.config.values import ConfigError

#: how ``redis.url`` may begin
REDIS_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

#: how ``storage.url`` may begin
STORAGE_SCHEMES: Final = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")

MIN_KEY_CHARACTERS: Final = 20
"""Length below which an API key is refused: a shorter one could be guessed."""
MAKE_SECRET: Final = "openssl rand -hex 32"
"""The shell command that error texts suggest for a new secret."""

_MAKE_KEY: Final = f"make one with 'imserver key create' or '{MAKE_SECRET}'"
_PLACEHOLDER: Final = re.compile(r"(replace|change)[-_ ]?me|openssl rand|long random text", re.IGNORECASE)

_RESERVED_PATHS: Final = ("/acc", "/ws", "/health", "/ready")


def is_placeholder(secret: str) -> bool:
    """Whether ``secret`` is an example text of the documentation, which everybody knows."""
    return _PLACEHOLDER.search(secret) is not None


def check_tenant(tenant: TenantSettings, where: str) -> None:
    """What the types of an app's settings cannot say. Raises ConfigError, which names ``where``."""
    _check_networks(tenant.api_allow_from, f"{where}.api_allow_from")
    for row in tenant.jwt:
        if row.key and row.key_file:
            raise ConfigError(f"{where}.jwt: expected either key or key_file in an entry, not both")
        if not (row.key or row.key_file or row.algorithm == "HS256"):
            raise ConfigError(f"{where}.jwt: {row.algorithm} needs a public key: key or key_file")
    kids = [row.kid for row in tenant.jwt]
    if len(set(kids)) != len(kids):
        raise ConfigError(f"{where}.jwt: two entries need two different kid")
    webhook = tenant.webhook
    if (webhook.url or webhook.authorise_url) and bool(webhook.secret) == bool(webhook.secret_file):
        raise ConfigError(
            f"{where}.webhook: expected either secret or secret_file: what is sent is signed with it"
        )
    for key in ("url", "authorise_url"):
        url = getattr(webhook, key)
        if url and not re.match(r"https?://[^/]", url):
            raise ConfigError(f"{where}.webhook.{key}: expected an http:// or https:// address, got {url!r}")


def check(config: Config, where: str) -> None:
    """What no single setting's type can say. Raises ConfigError, which names ``where``."""
    _check_listening(config, where)
    _check_apps(config, where)
    _check_urls(config, where)
    cluster = config.cluster
    if cluster.renew_seconds * 2 > cluster.lease_seconds:
        raise ConfigError(
            f"{where}: cluster.lease_seconds {cluster.lease_seconds:g} must be at least twice "
            f"cluster.renew_seconds {cluster.renew_seconds:g}"
        )
    if config.server.processes > 1 and not config.clustered:
        raise ConfigError(
            f"{where}: server.processes {config.server.processes} needs a Redis that the processes share: "
            "set redis.url, for example redis://127.0.0.1:6379"
        )
    _check_secrets(config, where)


def _check_secrets(config: Config, where: str) -> None:
    """API keys and the signing key of accounts. The secrets of apps are checked where they are loaded."""
    keys = [key.key for key in config.api.keys]
    if len(set(keys)) != len(keys):
        raise ConfigError(f"{where}: api.keys: one key is given twice")
    for number, key in enumerate(keys):
        name = f"{where}: api.keys[{number}].key"
        if is_placeholder(key):
            raise ConfigError(f"{name}: this is a placeholder of the documentation; {_MAKE_KEY}")
        if len(key) < MIN_KEY_CHARACTERS:
            raise ConfigError(
                f"{name}: expected at least {MIN_KEY_CHARACTERS} characters, got {len(key)}; {_MAKE_KEY}"
            )
    if is_placeholder(config.jwt.sign_key):
        raise ConfigError(
            f"{where}: jwt.sign_key: this is a placeholder of the documentation; "
            f"make one with '{MAKE_SECRET}'"
        )


def _check_listening(config: Config, where: str) -> None:
    """Ports, paths and networks."""
    app, echo_path = config.app, config.debug.echo_path
    if app.http_port and app.http_port == app.websocket_port:
        raise ConfigError(f"{where}: app.http_port and app.websocket_port are both {app.http_port}")
    ports = [app.http_port, app.websocket_port, *(row.port for row in config.server.extra_listen)]
    for row in config.server.extra_listen:
        if row.port and ports.count(row.port) > 1:
            raise ConfigError(f"{where}: server.extra_listen: port {row.port} is given twice")
    if echo_path and (not echo_path.startswith("/") or echo_path in _RESERVED_PATHS):
        raise ConfigError(f"{where}: debug.echo_path: expected a free path such as /echo, got {echo_path!r}")
    _check_networks(config.server.trusted_proxies, f"{where}: server.trusted_proxies")


def _check_apps(config: Config, where: str) -> None:
    for name, tenant in config.apps.items():
        check_tenant(tenant, f"{where}: apps.{name}")
        if tenant.same_as and (tenant.same_as not in config.apps or config.apps[tenant.same_as].same_as):
            raise ConfigError(
                f"{where}: apps.{name}.same_as: expected an app that is configured and stands for itself, "
                f"got {tenant.same_as!r}"
            )
    if config.jwt.sign_key == PUBLIC_SIGN_KEY and not config.demo:
        raise ConfigError(
            f"{where}: jwt.sign_key is the one that GoChat comes with, which anybody knows: choose another, "
            "or none"
        )


def _check_urls(config: Config, where: str) -> None:
    """Where the database, Redis and the bucket are."""
    scheme, colon, rest = config.storage.url.partition(
        ":///" if config.storage.url.startswith("sqlite") else "://"
    )
    if config.storage.url and not (scheme in STORAGE_SCHEMES and colon and rest):
        raise ConfigError(
            f"{where}: storage.url: expected sqlite:///path, or a URL that begins with one of "
            f"{', '.join(STORAGE_SCHEMES[1:])}"
        )
    scheme = config.redis.url.partition("://")[0]
    if config.redis.url and scheme not in REDIS_SCHEMES:
        raise ConfigError(
            f"{where}: redis.url: expected a URL that begins with one of {', '.join(REDIS_SCHEMES)}"
        )
    uploads = config.uploads
    if uploads.s3_url and not re.match(r"https?://[^/]", uploads.s3_url):
        raise ConfigError(f"{where}: uploads.s3_url: expected an http:// or https:// address")
    if uploads.s3_url and not (uploads.s3_bucket and uploads.s3_access_key and uploads.s3_secret_key):
        needed = "uploads.s3_bucket, uploads.s3_access_key and uploads.s3_secret_key"
        raise ConfigError(f"{where}: uploads.s3_url needs {needed}")


def _check_networks(networks: Iterable[str], where: str) -> None:
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ConfigError(f"{where}: expected networks such as 10.0.0.0/8, got {network!r}") from None
