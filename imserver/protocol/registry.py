"""The dialects that this server speaks: the one place that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from imserver.protocol.action import ActionDialect
from imserver.protocol.client import ClientDialect
from imserver.protocol.cmd import CmdDialect
from imserver.protocol.dialect import Dialect
from imserver.protocol.protobuf import ProtobufDialect

DIALECTS: tuple[Dialect, ...] = (CmdDialect(), ClientDialect(), ActionDialect(), ProtobufDialect())
"""One instance of each dialect, shared by all connections of a process."""

BY_NAME: dict[str, Dialect] = {dialect.name: dialect for dialect in DIALECTS}
"""Name → dialect."""


def choose(params: Mapping[str, str], bare: str) -> str:
    """The name of the dialect that a client of ``/ws`` means.

    ``params`` are the parameters of its query; ``bare`` is what the listener speaks with those whose query
    says nothing (``""``: the protobuf dialect, as the original on that path did).
    """
    if "systemId" in params:
        return "client"
    if "uid" in params:
        return "action"
    return bare or "protobuf"
