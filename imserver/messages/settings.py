"""The settings of the messenger, and the rates of streamed messages and searches."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct

from imserver.auth.rates import Rate
from imserver.config.declared import about
from imserver.config.settings import Amount, AppCount, Count, Duration, Seconds
from imserver.plugin.feature import FeatureSettings

PIECES: Final = Rate(
    "pieces", "pieces of streamed messages", "app", "limits.pieces_per_second", "1008, over HTTP 429"
)
SEARCH_MILLISECONDS: Final = 15_000
"""The time that the searches of one user may take in a minute."""
SEARCH_TIME: Final = Rate(
    "search_time",
    "milliseconds of searches of messages",
    "user",
    f"{SEARCH_MILLISECONDS} a minute",
    "1008, over HTTP 429",
)


class StreamLimits(Struct, frozen=True):
    """Keys of section ``limits``: streamed messages of an app on one node."""

    pieces_per_second: Seconds = 0.0
    open_streams: Count = 10000
    stream_bytes: Amount = 131072
    stream_seconds: Duration = 60.0


class RetentionSettings(Struct, frozen=True):
    """Keys of section ``storage``: for how many seconds, and how many of the newest messages of each app are
    stored; 0: for ever, all."""

    retention_seconds: Seconds = 0.0
    retention_messages: Count = 0


class AppRetention(Struct, frozen=True):
    """The same of one app."""

    retention_seconds: Annotated[
        Seconds, about("The longest age of stored messages in seconds; 0: the server's setting.")
    ] = 0.0
    retention_messages: Annotated[
        AppCount, about("The maximum number of stored messages; 0: the server's setting.")
    ] = 0


SETTINGS: Final = FeatureSettings(
    {"limits": StreamLimits, "storage": RetentionSettings},
    AppRetention,
    core_keys=("store_conversations",),
)
