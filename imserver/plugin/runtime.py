"""The face: time, logs, files, and requests to the outside."""

from time import monotonic, time
from typing import Final

from imserver.assets import asset_path
from imserver.clock import every, is_long_turn, retry_pause, serve_others, until_beat
from imserver.logging import RateLimitedLog
from imserver.model import Service
from imserver.threads import Threads
from imserver.transport.outgoing import BadUrl, Outgoing, PublicRequests, Unreachable
from imserver.transport.proxies import network_of

__all__ = [
    "BadUrl",
    "Outgoing",
    "PublicRequests",
    "RateLimitedLog",
    "Service",
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


_STEADY_FROM: Final = time() - monotonic()


def steady_time() -> float:
    """Unix seconds that go on evenly while this process lives, whatever is done to the clock of the machine.

    For what is due in so many seconds. Another process may be off by all that the clock was set meanwhile, so
    who takes over its dues bounds them. Times of day, and times that are shown, are those of ``time()``.
    """
    return _STEADY_FROM + monotonic()
