"""Event streams (server-sent events) of the core: ``GET /api/v1/events``."""

from imserver.gateway.core.core import Core, Parts
from imserver.gateway.dialects.sse.api import (
    NAME,
    PATH,
    EventStreams,
    SseDialect,
    StoresMessages,
    routes,
)
from imserver.gateway.feature import FeatureRow
from imserver.gateway.transport.stream import StreamPath


def _build(core: Core) -> Parts:
    """Make the service of event streams, and name the path of the streams."""
    messenger = next(iter(core.all_of(StoresMessages)), None)  # type: ignore[type-abstract]
    streams = EventStreams(core, messenger)
    path = StreamPath("GET", streams.open, streams.refuse)
    return Parts(streams=lambda _: {PATH: path})


# This row gives the dialect its name in settings. The dialect has no WebSocket
# path, and each app has a codec of its own.
FEATURE = FeatureRow(
    NAME, _build, dialects=(SseDialect(""),), routes=routes.rows, uses=("messages?",)
)
