"""The Durable Streams protocol: streams of bytes or JSON over HTTP, each in a stored channel."""

from typing import Final

from imserver.plugin import FeatureRow, Parts, SettingsRow
from imserver.plugin.services import Core

from .rows import TABLES
from .service import DIALECT, NAME, ROUTES, DurableStreams, DurableStreamSettings


def _build(core: Core) -> Parts:
    streams = DurableStreams(core)
    return Parts((streams,), ended=(streams.ended,), streams=streams.paths)


FEATURE: Final = FeatureRow(
    NAME,
    _build,
    (DIALECT,),
    routes=ROUTES,
    uses=("messages",),
    settings=SettingsRow({NAME: DurableStreamSettings}),
    tables=TABLES,
)
