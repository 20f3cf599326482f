"""The Durable Streams protocol: streams of bytes or JSON over HTTP. Each stream
is in a stored channel."""

from typing import Final

from imserver.plugin import FeatureRow, Parts, SettingsRow
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import every
from imserver.plugin.services import Core

from .rows import TABLES
from .service import DIALECT, NAME, ROUTES, DurableStreams, DurableStreamSettings

SWEEP_SECONDS: Final = 60.0


def _build(core: Core) -> Parts:
    """Return the parts of the feature for a node.

    A background job removes expired streams once a minute.
    """
    streams = DurableStreams(core, core.service(MessageServices).messaging)
    sweep = every(SWEEP_SECONDS, streams.sweep, "expired streams could not be removed")
    return Parts(
        services=(streams,),
        ended=(streams.ended,),
        streams=streams.paths,
        run=(sweep,),
    )


FEATURE: Final = FeatureRow(
    NAME,
    _build,
    (DIALECT,),
    routes=ROUTES,
    uses=("messages",),
    settings=SettingsRow({NAME: DurableStreamSettings}),
    tables=TABLES,
)
