"""Every dialect against the contract; and one that is made up, to show what adding a dialect takes."""

from imserver.model import Event, Heartbeat, Login, Ping, Say, TalkLogin
from imserver.protocol.action import ActionDialect
from imserver.protocol.client import ClientDialect
from imserver.protocol.cmd import CmdDialect
from imserver.protocol.registry import BY_NAME, DIALECTS
from tests.hub.world import World
from tests.integration.raw import BINARY, TEXT, frame
from tests.protocol.contract import CommandContract, DialectContract
from tests.protocol.line import LineDialect


class TestCmd(CommandContract):
    """The native dialect."""

    dialect = CmdDialect()
    samples = {  # noqa: RUF012
        Login: b'{"seq":"1","cmd":"login","data":{"userID":"ann","appID":101}}',
        Heartbeat: b'{"seq":"2","cmd":"heartbeat","data":{}}',
        Ping: b'{"seq":"3","cmd":"ping"}',
    }


class TestAction(CommandContract):
    """One user talks to one other, or to a room."""

    dialect = ActionDialect()
    app = "action:1"
    samples = {  # noqa: RUF012
        TalkLogin: b'{"seq":"1","action":"login","data":{"userId":"ann","appId":1,"groupsId":"5"}}',
        Heartbeat: b'{"seq":"2","action":"heartbeat","data":{}}',
        Say: b'{"seq":"3","action":"sendmsg","data":{"msgType":"text","message":"hi"}}',
    }


class TestClient(DialectContract):
    """Its clients are told things and have nothing to say."""

    dialect = ClientDialect()


class TestLine(CommandContract):
    """The made-up one."""

    dialect = LineDialect()
    samples = {Login: b"login 101 ann", Heartbeat: b"beat", Ping: b"ping"}  # noqa: RUF012


def test_every_dialect_of_the_registry_is_held_to_the_contract() -> None:
    contracts = [*DialectContract.__subclasses__(), *CommandContract.__subclasses__()]
    held = {contract.dialect.name for contract in contracts if hasattr(contract, "dialect")}
    assert {dialect.name for dialect in DIALECTS} <= held


def test_no_two_dialects_share_a_name() -> None:
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS) == len(BY_NAME)


def test_users_of_different_dialects_meet_in_one_app_each_told_in_their_own_words() -> None:
    with World() as world:
        _, lines = world.connect(dialect=LineDialect())
        _, cmds = world.connect(dialect=CmdDialect())
        lines.send(frame(BINARY, b"login 101 ann"))
        lines.probe()
        cmds.send(frame(TEXT, b'{"cmd":"login","data":{"userID":"bob","appID":101}}'))
        cmds.probe()
        assert world.delivery.to_app("101", Event("msg", "eve", "hi", "9")) == 2
        lines.probe(b"2")
        cmds.probe(b"2")
        assert lines.payloads() == [b"login 200", b"eve: hi"], "no word for an enter: nothing is sent"
        assert cmds.payloads()[-1] == CmdDialect().encode_event(Event("msg", "eve", "hi", "9"))
