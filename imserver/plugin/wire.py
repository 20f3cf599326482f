"""The face: dialects, commands, events and connections."""

from importlib import import_module

from imserver.hub.fanout import AckedState
from imserver.model import (
    AskHistory,
    AskPresence,
    BadFrame,
    ChannelPart,
    Command,
    Compressed,
    DialectState,
    Event,
    Heartbeat,
    Limit,
    Login,
    Outcome,
    Publish,
    Reply,
    Request,
    Signal,
    Subscribe,
    Unsubscribe,
    id_of,
)
from imserver.notify import Notify, PushNotice, PushResult, PushService
from imserver.protocol.dialect import Dialect, Readers
from imserver.protocol.forgiving import Fields, Partial, Refused, has_nul, well_formed, without_nulls
from imserver.protocol.publications import on_one_line, payload_of
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable
from imserver.transport.gate import Head, host_of
from imserver.transport.stream import Stream, StreamEncoding, StreamPath

__all__ = [
    "AckedState",
    "AskHistory",
    "AskPresence",
    "BadFrame",
    "ChannelPart",
    "Command",
    "CommandRow",
    "CommandTable",
    "Compressed",
    "Connection",
    "Dialect",
    "DialectState",
    "Event",
    "Fields",
    "Head",
    "Heartbeat",
    "LateModule",
    "Limit",
    "Login",
    "Notify",
    "Outcome",
    "Partial",
    "Publish",
    "PushNotice",
    "PushResult",
    "PushService",
    "Readers",
    "Refused",
    "Reply",
    "Request",
    "Signal",
    "Stream",
    "StreamEncoding",
    "StreamPath",
    "Subscribe",
    "Unsubscribe",
    "app_and_user",
    "has_nul",
    "host_of",
    "id_of",
    "on_one_line",
    "payload_of",
    "well_formed",
    "without_nulls",
]


class LateModule:
    """Stand-in for a module that is imported when one of its names is first used, for a codec with a
    large library."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        module = import_module(self._name)
        vars(self).update(vars(module))
        return getattr(module, name)
