"""The own dialect against the contract; and one that is made up, to show what adding a dialect takes."""

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.model import Event, Heartbeat, Login, Ping
from tests.gateway.hub.harness import Harness
from tests.gateway.protocol.contract import CommandContract
from tests.gateway.protocol.line import LineDialect
from tests.integration.raw import BINARY, TEXT, frame


class TestCmd(CommandContract):
    """The native dialect."""

    dialect = CmdDialect()
    requests = {  # noqa: RUF012
        b'{"seq":"1","cmd":"login","data":{"userID":"ann","appID":101}}': Login,
        b'{"seq":"2","cmd":"heartbeat","data":{}}': Heartbeat,
        b'{"seq":"3","cmd":"ping"}': Ping,
    }


class TestLine(CommandContract):
    """The made-up one."""

    dialect = LineDialect()
    requests = {b"login 101 ann": Login, b"beat": Heartbeat, b"ping": Ping}  # noqa: RUF012


def test_users_of_different_dialects_in_one_app_get_their_own_frames() -> None:
    with Harness() as harness:
        _, lines = harness.connect(dialect=LineDialect())
        _, cmds = harness.connect(dialect=CmdDialect())
        lines.send(frame(BINARY, b"login 101 ann"))
        lines.probe()
        cmds.send(frame(TEXT, b'{"cmd":"login","data":{"userID":"bob","appID":101}}'))
        cmds.probe()
        assert harness.fanout.to_app("101", Event("msg", "eve", "hi", "9")) == 2
        lines.probe(b"2")
        cmds.probe(b"2")
        assert lines.payloads() == [b"login 200", b"eve: hi"], "no word for an enter: nothing is sent"
        assert cmds.payloads()[-1] == CmdDialect().encode_event(Event("msg", "eve", "hi", "9"))
