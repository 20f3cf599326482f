"""The face: settings of features and apps."""

from imserver.config.declared import Secret, SecretFile, Url
from imserver.config.settings import (
    MAX_USER_BYTES,
    Amount,
    AppCount,
    ChannelSettings,
    Config,
    Count,
    Duration,
    TenantSettings,
    Text,
    app_settings_of,
    settings_of,
)
from imserver.config.values import EITHER_SECRET, HTTP_URL, ConfigError, Locations, valid_name

__all__ = [
    "EITHER_SECRET",
    "HTTP_URL",
    "MAX_USER_BYTES",
    "Amount",
    "AppCount",
    "ChannelSettings",
    "Config",
    "ConfigError",
    "Count",
    "Duration",
    "Locations",
    "Secret",
    "SecretFile",
    "TenantSettings",
    "Text",
    "Url",
    "app_settings_of",
    "settings_of",
    "valid_name",
]
