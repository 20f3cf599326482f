"""The face: settings of features and apps."""

from imserver.cluster.registry import on_several_machines
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
