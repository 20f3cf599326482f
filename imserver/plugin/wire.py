"""The face: dialects, commands, events and connections."""

from importlib import import_module

from imserver.gateway import base64url as base64url
from imserver.gateway.hub.fanout import AckedState as AckedState
from imserver.gateway.model import AskHistory as AskHistory
from imserver.gateway.model import AskPresence as AskPresence
from imserver.gateway.model import BadFrame as BadFrame
from imserver.gateway.model import ChannelPart as ChannelPart
from imserver.gateway.model import Command as Command
from imserver.gateway.model import Compressed as Compressed
from imserver.gateway.model import DialectState as DialectState
from imserver.gateway.model import Event as Event
from imserver.gateway.model import Heartbeat as Heartbeat
from imserver.gateway.model import Limit as Limit
from imserver.gateway.model import Login as Login
from imserver.gateway.model import Outcome as Outcome
from imserver.gateway.model import Publish as Publish
from imserver.gateway.model import Reply as Reply
from imserver.gateway.model import Request as Request
from imserver.gateway.model import Signal as Signal
from imserver.gateway.model import Subscribe as Subscribe
from imserver.gateway.model import Unsubscribe as Unsubscribe
from imserver.gateway.model import id_of as id_of
from imserver.gateway.notify import Notify as Notify
from imserver.gateway.notify import PushNotice as PushNotice
from imserver.gateway.notify import PushResult as PushResult
from imserver.gateway.notify import PushService as PushService
from imserver.gateway.protocol.dialect import Dialect as Dialect
from imserver.gateway.protocol.dialect import Readers as Readers
from imserver.gateway.protocol.forgiving import Fields as Fields
from imserver.gateway.protocol.forgiving import Partial as Partial
from imserver.gateway.protocol.forgiving import Refused as Refused
from imserver.gateway.protocol.forgiving import has_nul as has_nul
from imserver.gateway.protocol.forgiving import well_formed as well_formed
from imserver.gateway.protocol.forgiving import without_nulls as without_nulls
from imserver.gateway.protocol.publications import on_one_line as on_one_line
from imserver.gateway.protocol.publications import payload_of as payload_of
from imserver.gateway.transport.connection import Connection as Connection
from imserver.gateway.transport.connection import app_and_user as app_and_user
from imserver.gateway.transport.dispatch import CommandRow as CommandRow
from imserver.gateway.transport.dispatch import CommandTable as CommandTable
from imserver.gateway.transport.gate import Head as Head
from imserver.gateway.transport.gate import host_of as host_of
from imserver.gateway.transport.stream import Stream as Stream
from imserver.gateway.transport.stream import StreamEncoding as StreamEncoding
from imserver.gateway.transport.stream import StreamPath as StreamPath


class LateModule:
    """Stands for a module, and imports it when one of its names is first used.

    It is for codecs with a large library.
    """

    def __init__(self, name: str) -> None:
        """Take the name of the module, and import nothing yet."""
        self._name = name

    def __getattr__(self, name: str) -> object:
        """Import the module, and return one of its names."""
        module = import_module(self._name)
        # From now on, all names are found without this method.
        vars(self).update(vars(module))
        return getattr(module, name)
