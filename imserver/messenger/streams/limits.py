"""Limits of streamed messages of an app: settings, and the rate of pieces."""

from typing import Final

from msgspec import Struct

from imserver.gateway.auth.rates import Rate
from imserver.gateway.config.settings import Amount, Count, Duration, Seconds

PIECES: Final = Rate(
    "pieces",
    "pieces of streamed messages",
    "app",
    "limits.pieces_per_second",
    "1008, over HTTP 429",
)


class StreamLimits(Struct, frozen=True):
    """Keys of section ``limits``: streamed messages of an app on one node."""

    pieces_per_second: Seconds = 0.0
    open_streams: Count = 10000
    stream_bytes: Amount = 131072
    stream_seconds: Duration = 60.0
