"""The own dialect against the contract; and one that is made up, to show what
adding a dialect takes."""

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.model import Heartbeat, Login, Ping
from tests.gateway.protocol.contract import CommandContract
from tests.gateway.protocol.line import LineDialect


class TestCmd(CommandContract):
    dialect = CmdDialect()
    requests = {  # noqa: RUF012
        b'{"seq":"1","cmd":"login","data":{"userID":"ann","appID":101}}': Login,
        b'{"seq":"2","cmd":"heartbeat","data":{}}': Heartbeat,
        b'{"seq":"3","cmd":"ping"}': Ping,
    }


class TestLine(CommandContract):
    dialect = LineDialect()
    requests = {b"login 101 ann": Login, b"beat": Heartbeat, b"ping": Ping}  # noqa: RUF012
