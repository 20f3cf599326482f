"""The client dialect: browsers that only listen. Their back end controls each of them by HTTP."""

from __future__ import annotations

from imserver.dialects.client import api
from imserver.dialects.client.service import ClientService
from imserver.dialects.client.wire import NAME, ClientDialect
from imserver.plugin import Feature, FeatureParts
from imserver.plugin.services import Core


def _build(core: Core) -> FeatureParts:
    service = ClientService(core)
    return FeatureParts((service,), opened={NAME: service.opened}, ended=(service.ended,))


FEATURE = Feature(NAME, _build, (ClientDialect(),), api.ROUTES)
