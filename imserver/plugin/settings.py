"""The face: settings of features and apps."""

from imserver.config.declared import Secret, SecretFile, Url
from imserver.config.settings import (
    MAX_USER_BYTES,
    Amount,
    ChannelSettings,
    Config,
    Count,
    Duration,
    TenantSettings,
    app_settings_of,
    settings_of,
)
from imserver.config.values import HTTP_URL, ConfigError, Locations, valid_name
from imserver.transport.proxies import is_here

__all__ = [
    "HTTP_URL",
    "MAX_USER_BYTES",
    "Amount",
    "ChannelSettings",
    "Config",
    "ConfigError",
    "Count",
    "Duration",
    "Locations",
    "Secret",
    "SecretFile",
    "TenantSettings",
    "Url",
    "app_settings_of",
    "on_several_machines",
    "settings_of",
    "valid_name",
]


def on_several_machines(config: Config) -> bool:
    """Whether the settings are for nodes on several machines; nothing is resolved."""
    from imserver.cluster.redis.connection import address_of  # a node alone saves hiredis

    only_here = is_here(config.cluster.advertise or "127.0.0.1")
    return config.clustered and not (only_here and address_of(config.redis).is_local)
