"""The face: time, logs, files, and requests to the outside."""

from imserver import __version__
from imserver.assets import asset_path
from imserver.clock import is_long_turn, retry_pause, serve_others, steady_time, until_beat
from imserver.logging import RateLimitedLog, RequestLog
from imserver.transport.outgoing import (
    ANSWER_BYTES,
    NO_HEADERS,
    USER_AGENT,
    NothingListens,
    Outgoing,
    Unreachable,
)
from imserver.transport.proxies import network_of
from imserver.transport.public_requests import URL_CHARACTERS, BadUrl, PublicRequests

__all__ = [
    "ANSWER_BYTES",
    "NO_HEADERS",
    "URL_CHARACTERS",
    "USER_AGENT",
    "BadUrl",
    "NothingListens",
    "Outgoing",
    "PublicRequests",
    "RateLimitedLog",
    "RequestLog",
    "Unreachable",
    "__version__",
    "asset_path",
    "is_long_turn",
    "network_of",
    "retry_pause",
    "serve_others",
    "steady_time",
    "until_beat",
]
