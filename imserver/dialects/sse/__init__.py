"""Event streams (server-sent events) of the core: ``GET /api/v1/events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.core.core import Core, FeatureParts
from imserver.dialects.sse.api import PATH, Events, EventStreams, routes
from imserver.dialects.sse.wire import NAME, SseDialect
from imserver.plugin.feature import Feature
from imserver.transport.stream import StreamPath

if TYPE_CHECKING:
    from imserver.plugin.messages import MessageServices


def _build(core: Core) -> FeatureParts:
    streams = EventStreams(
        core.sessions.sessions,
        core.identity.logins,
        core.channels.channels,
        core.sessions.connections,
        _messenger(core),
    )
    events = Events(
        core.identity.tenants,
        core.identity.authority,
        core.identity.logins,
        core.node.request_log,
        streams,
        core.identity.keys,
    )
    return FeatureParts(streams=lambda _: {PATH: StreamPath("GET", events.open, events.refuse)})


def _messenger(core: Core) -> MessageServices | None:
    if "messages" not in core.features:
        return None
    from imserver.plugin.messages import MessageServices  # imports the messenger

    return core.service(MessageServices)


# This row gives the dialect its name in settings. It has no WebSocket path, and a codec for each app.
FEATURE = Feature(
    NAME, _build, dialects=(SseDialect(""),), operations=tuple(routes.rows), uses=("messages?",)
)
