"""Event streams (server-sent events) of the core: ``GET /api/v1/events``."""

from __future__ import annotations

from imserver.core.core import Core, FeatureParts
from imserver.dialects.sse.api import PATH, Events, routes
from imserver.dialects.sse.streams import EventStreams
from imserver.dialects.sse.wire import NAME, SseDialect
from imserver.messages.services import MessageServices
from imserver.plugin.feature import Feature
from imserver.transport.stream import StreamPath


def _build(core: Core) -> FeatureParts:
    streams = EventStreams(
        core.sessions.sessions,
        core.identity.logins,
        core.channels.channels,
        core.sessions.connections,
        core.service(MessageServices).messaging,
        core.storage.store,
    )
    events = Events(
        core.identity.tenants, core.identity.authority, core.identity.logins, core.node.request_log, streams
    )
    return FeatureParts(streams=lambda _: {PATH: StreamPath("GET", events.open, events.refuse)})


# This row gives the dialect its name in settings. It has no WebSocket path, and a codec for each app.
FEATURE = Feature(
    NAME, _build, dialects=(SseDialect(""),), operations=tuple(routes.rows), uses=("messages?",)
)
