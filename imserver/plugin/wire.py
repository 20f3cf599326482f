"""The face: dialects, commands, events and connections."""

from importlib import import_module

from imserver.hub.fanout import AckedState as AckedState
from imserver.model import AskHistory as AskHistory
from imserver.model import AskPresence as AskPresence
from imserver.model import BadFrame as BadFrame
from imserver.model import ChannelPart as ChannelPart
from imserver.model import Command as Command
from imserver.model import Compressed as Compressed
from imserver.model import DialectState as DialectState
from imserver.model import Event as Event
from imserver.model import Heartbeat as Heartbeat
from imserver.model import Limit as Limit
from imserver.model import Login as Login
from imserver.model import Outcome as Outcome
from imserver.model import Publish as Publish
from imserver.model import Reply as Reply
from imserver.model import Request as Request
from imserver.model import Signal as Signal
from imserver.model import Subscribe as Subscribe
from imserver.model import Unsubscribe as Unsubscribe
from imserver.model import id_of as id_of
from imserver.notify import Notify as Notify
from imserver.notify import PushNotice as PushNotice
from imserver.notify import PushResult as PushResult
from imserver.notify import PushService as PushService
from imserver.protocol.dialect import Dialect as Dialect
from imserver.protocol.dialect import Readers as Readers
from imserver.protocol.forgiving import Fields as Fields
from imserver.protocol.forgiving import Partial as Partial
from imserver.protocol.forgiving import Refused as Refused
from imserver.protocol.forgiving import has_nul as has_nul
from imserver.protocol.forgiving import well_formed as well_formed
from imserver.protocol.forgiving import without_nulls as without_nulls
from imserver.protocol.publications import on_one_line as on_one_line
from imserver.protocol.publications import payload_of as payload_of
from imserver.transport.connection import Connection as Connection
from imserver.transport.connection import app_and_user as app_and_user
from imserver.transport.dispatch import CommandRow as CommandRow
from imserver.transport.dispatch import CommandTable as CommandTable
from imserver.transport.gate import Head as Head
from imserver.transport.gate import host_of as host_of
from imserver.transport.stream import Stream as Stream
from imserver.transport.stream import StreamEncoding as StreamEncoding
from imserver.transport.stream import StreamPath as StreamPath


class LateModule:
    """Stand-in for a module that is imported when one of its names is first used, for a codec with a
    large library."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        module = import_module(self._name)
        vars(self).update(vars(module))
        return getattr(module, name)
