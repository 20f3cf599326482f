"""When something was last read from or written to a connection: the kernel knows, so nobody has to count."""

from __future__ import annotations

import _socket
import struct
from typing import Final

_last_data: Final = struct.Struct("=44xI4xI").unpack
"""``tcpi_last_data_sent`` and ``tcpi_last_data_recv`` of ``struct tcp_info``: milliseconds ago."""
_INFO_BYTES: Final = 56
FOREVER: Final = float("inf")


def quiet_seconds(sock: _socket.socket) -> float:
    """For how long no data has passed, either way; :data:`FOREVER` where the kernel does not say."""
    try:
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return FOREVER
    return FOREVER if len(info) < _INFO_BYTES else min(_last_data(info)) / 1000
