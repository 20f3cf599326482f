"""The dialects of the core. Those of features are in their rows."""

from __future__ import annotations

from imserver.protocol.cmd import CmdDialect
from imserver.protocol.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (CmdDialect(),)
"""One instance of each codec, shared by all connections of a process."""
