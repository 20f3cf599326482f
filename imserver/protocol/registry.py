"""The dialects of the core. Those of features are in their rows."""

from __future__ import annotations

from collections.abc import Mapping

from imserver.protocol.action import ActionDialect
from imserver.protocol.centrifuge import CentrifugeDialect, CentrifugeProtobufDialect
from imserver.protocol.client import ClientDialect
from imserver.protocol.cmd import CmdDialect
from imserver.protocol.dialect import Dialect
from imserver.protocol.protobuf import ProtobufDialect

DIALECTS: tuple[Dialect, ...] = (
    CmdDialect(),
    ClientDialect(),
    ActionDialect(),
    ProtobufDialect(),
    CentrifugeDialect(),
)
"""One instance of each dialect, shared by all connections of a process."""

CENTRIFUGE_PROTOBUF = CentrifugeProtobufDialect()
"""The centrifuge dialect for clients that offer the subprotocol ``centrifuge-protobuf``."""

BY_NAME: dict[str, Dialect] = {dialect.name: dialect for dialect in DIALECTS}
"""Name → dialect."""


def choose(params: Mapping[str, str], bare: str) -> str:
    """The dialect that a client of ``/ws`` has chosen.

    ``params``: the parameters of its query. ``bare``: the dialect of this listener for clients whose query
    does not choose (``""``: the protobuf dialect, as in the original on that path).
    """
    if "systemId" in params:
        return "client"
    if "uid" in params:
        return "action"
    return bare or "protobuf"
