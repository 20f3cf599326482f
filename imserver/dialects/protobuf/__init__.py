"""The protobuf dialect: GoChat's frames on ``/ws``, and its routes for
accounts, friends and groups."""

from imserver.dialects.protobuf import api
from imserver.dialects.protobuf.declared import SETTINGS
from imserver.dialects.protobuf.service import ProtobufService
from imserver.dialects.protobuf.uplink import ProtobufUplink
from imserver.dialects.protobuf.wire import NAME, PLAIN
from imserver.messenger.groups.parts import groups_of
from imserver.people.accounts.parts import accounts_of
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the services of the dialect for one node, and of GoChat's routes."""
    people = accounts_of(core)
    messaging = core.service(MessageServices).messaging
    service = ProtobufService(core, messaging, ProtobufUplink(messaging, core.store))
    gochat = api.GoChatApi(
        tenants=core.tenants,
        accounts=people.accounts,
        friends=people.friends,
        groups=groups_of(core),
        relations=core.relations,
    )
    return Parts(
        services=(gochat,),
        commands=service.commands(),
        checks={NAME: service.check},
        ended=(service.ended,),
    )


FEATURE = FeatureRow(
    NAME,
    _build,
    (PLAIN,),
    api.ROUTES,
    uses=("messages", "accounts", "groups"),
    settings=SETTINGS,
)
