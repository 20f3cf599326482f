"""Pusher's protocol and HTTP API. Clients and libraries of Pusher use them
unchanged."""

from functools import partial

from imserver.backends.webhooks import webhooks_of
from imserver.dialects.pusher import api
from imserver.dialects.pusher.apps import PusherApps, PusherHooks, entrance
from imserver.dialects.pusher.declared import SETTINGS
from imserver.dialects.pusher.service import NAME, PusherService
from imserver.dialects.pusher.wire import PusherDialect
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the services of the dialect for one node. ``configure`` reads the
    secrets of its apps."""
    hooks = PusherHooks(webhooks_of(core))
    apps = PusherApps(core.tenants, hooks, core.channels)
    core.logins.add_entrance(entrance)
    service = PusherService(core, apps, hooks)
    core.queries.add("app_connections", str, partial(api.count_connections, core))
    return Parts(
        services=(api.PusherApi(apps, service, core, core.channels),),
        commands=service.commands(),
        opened={NAME: service.opened},
        configure=apps.secrets.configure,
    )


FEATURE = FeatureRow(
    NAME, _build, (PusherDialect(),), api.ROUTES, uses=("webhooks",), settings=SETTINGS
)
