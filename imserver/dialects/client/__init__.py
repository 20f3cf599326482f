"""The client dialect: browsers only receive, and their back end controls each
of them by HTTP."""

from imserver.dialects.client import api
from imserver.dialects.client.service import ClientService
from imserver.dialects.client.wire import NAME, ClientDialect
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the service of the dialect for one node."""
    service = ClientService(core)
    return Parts(
        services=(service,),
        opened={NAME: service.opened},
        ended=(service.ended,),
    )


FEATURE = FeatureRow(NAME, _build, (ClientDialect(),), api.ROUTES)
