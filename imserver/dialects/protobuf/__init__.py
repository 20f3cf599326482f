"""The protobuf dialect: GoChat's frames on ``/ws``, and its routes for accounts, friends and groups."""

from __future__ import annotations

from imserver.dialects.protobuf import api
from imserver.dialects.protobuf.declared import SETTINGS, ProtobufSettings
from imserver.dialects.protobuf.service import ProtobufService
from imserver.dialects.protobuf.uplink import ProtobufUplink
from imserver.dialects.protobuf.wire import NAME, PLAIN
from imserver.features.accounts.parts import accounts_of
from imserver.features.groups.parts import groups_of
from imserver.plugin import DialectParts, Feature, FeatureParts
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def _build(core: Core) -> FeatureParts:
    people = accounts_of(core)
    silent_seconds = settings_of(core.config, ProtobufSettings).protobuf_silent_seconds
    messaging = core.service(MessageServices).messaging
    uplink = ProtobufUplink(messaging, core.storage.store)
    service = ProtobufService(core, messaging, uplink)
    return FeatureParts(
        api.GoChatApi(
            core.identity.tenants, people.accounts, people.friends, groups_of(core), core.identity.relations
        ),
        service.rows(),
        {NAME: DialectParts(check=service.check_token, silent_seconds=silent_seconds)},
        (service.ended,),
    )


FEATURE = Feature(
    NAME, _build, (PLAIN,), api.ROUTES, uses=("messages", "accounts", "groups"), settings=SETTINGS
)
