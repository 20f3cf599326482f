"""The face: time, logs, files, and requests to the outside."""

from imserver.assets import asset_path
from imserver.clock import every, is_long_turn, retry_pause, serve_others, steady_time, until_beat
from imserver.logging import RateLimitedLog
from imserver.threads import Threads
from imserver.transport.outgoing import BadUrl, Outgoing, PublicRequests, Unreachable
from imserver.transport.proxies import network_of

__all__ = [
    "BadUrl",
    "Outgoing",
    "PublicRequests",
    "RateLimitedLog",
    "Threads",
    "Unreachable",
    "asset_path",
    "every",
    "is_long_turn",
    "network_of",
    "retry_pause",
    "serve_others",
    "steady_time",
    "until_beat",
]
