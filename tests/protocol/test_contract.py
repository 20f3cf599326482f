"""Every dialect against the contract; and one that is made up, to show what adding a dialect takes."""

from imserver.model import (
    ChatLogin,
    ChatMessage,
    ChatSync,
    Event,
    Heartbeat,
    Login,
    Ping,
    Say,
    TalkLogin,
)
from imserver.protocol.action import ActionDialect
from imserver.protocol.client import ClientDialect
from imserver.protocol.cmd import CmdDialect
from imserver.protocol.protobuf import FullProtobufDialect, ProtobufDialect
from imserver.protocol.registry import BY_NAME, DIALECTS
from tests.hub.world import World
from tests.integration.raw import BINARY, TEXT, frame
from tests.protocol.contract import CommandContract, DialectContract, RequestContract
from tests.protocol.line import LineDialect
from tests.protocol.test_protobuf_full import ASKED


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


class TestProtobuf(RequestContract):
    """Whose logins name nobody: their token does."""

    dialect = ProtobufDialect()
    samples = {  # noqa: RUF012
        ChatLogin: bytes.fromhex("08 01 12 0e 0a 05 61 2e 62 2e 63 12 05 70 68 6f 6e 65"),
        Heartbeat: bytes.fromhex("08 02"),
        ChatMessage: bytes.fromhex("08 03 12 11 0a 0a 08 02 10 05 18 07 2a 02 68 69 10 03 1a 01 61"),
        ChatSync: bytes.fromhex("08 05 12 02 08 09"),
    }


class TestFullProtobuf(RequestContract):
    """The same with words for all that is stored."""

    dialect = FullProtobufDialect()
    samples = {  # noqa: RUF012
        **TestProtobuf.samples,
        **{type(command): payload for payload, command in ASKED},
    }


class TestLine(CommandContract):
    """The made-up one."""

    dialect = LineDialect()
    samples = {Login: b"login 101 ann", Heartbeat: b"beat", Ping: b"ping"}  # noqa: RUF012


def test_every_dialect_of_the_registry_is_held_to_the_contract() -> None:
    kinds = (DialectContract, RequestContract, CommandContract)
    contracts = [contract for kind in kinds for contract in kind.__subclasses__()]
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
