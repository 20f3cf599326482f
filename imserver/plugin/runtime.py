"""Time, logs, files and outgoing HTTP requests, for features."""

from time import monotonic, time
from typing import Final

from imserver.gateway.assets import asset_path as asset_path
from imserver.gateway.clock import every as every
from imserver.gateway.clock import is_long_turn as is_long_turn
from imserver.gateway.clock import retry_pause as retry_pause
from imserver.gateway.clock import serve_others as serve_others
from imserver.gateway.clock import until_beat as until_beat
from imserver.gateway.logging import RateLimitedLog as RateLimitedLog
from imserver.gateway.model import Service as Service
from imserver.gateway.threads import Threads as Threads
from imserver.gateway.transport.outgoing import BadUrl as BadUrl
from imserver.gateway.transport.outgoing import Outgoing as Outgoing
from imserver.gateway.transport.outgoing import PublicRequests as PublicRequests
from imserver.gateway.transport.outgoing import Unreachable as Unreachable
from imserver.gateway.transport.proxies import network_of as network_of

_STEADY_FROM: Final = time() - monotonic()


def steady_time() -> float:
    """Return Unix seconds that pass evenly while this process lives.

    They do so even if somebody sets the clock of the machine. Use them for
    deadlines some seconds ahead. In another process they may differ by the
    amount by which the clock was set, so code that takes over its deadlines has
    to bound them. Use ``time()`` for times of day, and for times that are
    shown.
    """
    return _STEADY_FROM + monotonic()
