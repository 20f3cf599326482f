"""The dialects that this server speaks: the one place that names them all."""

from __future__ import annotations

from imserver.protocol.cmd import CmdDialect
from imserver.protocol.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (CmdDialect(),)
"""One instance of each dialect, shared by all connections of a process."""

BY_PATH: dict[str, Dialect] = {dialect.path: dialect for dialect in DIALECTS}
"""WebSocket path → the dialect that is spoken there."""
