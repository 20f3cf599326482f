"""The face: settings of features and apps."""

from imserver.gateway.config.declared import Secret as Secret
from imserver.gateway.config.declared import SecretFile as SecretFile
from imserver.gateway.config.declared import Url as Url
from imserver.gateway.config.settings import MAX_USER_BYTES as MAX_USER_BYTES
from imserver.gateway.config.settings import Amount as Amount
from imserver.gateway.config.settings import ChannelSettings as ChannelSettings
from imserver.gateway.config.settings import Config as Config
from imserver.gateway.config.settings import Count as Count
from imserver.gateway.config.settings import Duration as Duration
from imserver.gateway.config.settings import TenantSettings as TenantSettings
from imserver.gateway.config.settings import app_settings_of as app_settings_of
from imserver.gateway.config.settings import settings_of as settings_of
from imserver.gateway.config.values import HTTP_URL as HTTP_URL
from imserver.gateway.config.values import ConfigError as ConfigError
from imserver.gateway.config.values import Locations as Locations
from imserver.gateway.config.values import valid_name as valid_name
from imserver.gateway.transport.proxies import is_here


def on_several_machines(config: Config) -> bool:
    """Tell whether the settings are for nodes on several machines.

    No name is looked up in the DNS.
    """
    # Imported here, because a node without a cluster needs no client of Redis.
    from imserver.gateway.cluster.redis.connection import address_of

    only_here = is_here(config.cluster.advertise or "127.0.0.1")
    return config.clustered and not (only_here and address_of(config.redis).is_local)
