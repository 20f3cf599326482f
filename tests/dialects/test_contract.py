"""Every foreign dialect against the contract."""

from imserver.dialects.action.wire import AckNumber, ActionDialect, ActionLogin, Say
from imserver.dialects.centrifuge.wire import CentrifugeDialect, CentrifugeLogin, CentrifugeProtobufDialect
from imserver.dialects.client.wire import ClientDialect
from imserver.dialects.protobuf.wire import (
    ChatLogin,
    ChatMessage,
    ChatSync,
    FullProtobufDialect,
    ProtobufDialect,
)
from imserver.dialects.pusher.wire import (
    ClientEvent,
    PusherDialect,
    PusherSubscribe,
    PusherUnsubscribe,
    SignIn,
)
from imserver.gateway.model import Heartbeat, Publish, Subscribe
from imserver.messenger.messages.commands import Send
from imserver.messenger.messages.wire import MESSAGE_COMMANDS
from tests.dialects.action.harness import ActionHarness
from tests.dialects.protobuf.test_full_wire import REQUESTS
from tests.gateway.hub.harness import Harness
from tests.gateway.protocol import test_contract as of_gateway
from tests.gateway.protocol.contract import CommandContract, DialectContract
from tests.integration.raw import BINARY, frame
from tests.rows import DIALECTS


class TestAction(CommandContract):
    """One user talks to one other, or to a room."""

    dialect = ActionDialect()
    node = ActionHarness
    app = "action:1"
    requests = {  # noqa: RUF012
        b'{"seq":"1","action":"login","data":{"userId":"ann","appId":1,"groupsId":"5"}}': ActionLogin,
        b'{"seq":"2","action":"heartbeat","data":{}}': Heartbeat,
        b'{"seq":"3","action":"sendmsg","data":{"msgType":"text","message":"hi"}}': Say,
        b'{"seq":"4","action":"ack","data":{"ackId":1}}': AckNumber,
    }


class TestClient(DialectContract):
    """Its clients are told things and have nothing to say."""

    dialect = ClientDialect()


class TestProtobuf(DialectContract):
    """Whose logins name nobody: their token does."""

    dialect = ProtobufDialect()
    requests = {  # noqa: RUF012
        bytes.fromhex("08 01 12 0e 0a 05 61 2e 62 2e 63 12 05 70 68 6f 6e 65"): ChatLogin,
        bytes.fromhex("08 02"): Heartbeat,
        bytes.fromhex("08 03 12 11 0a 0a 08 02 10 05 18 07 2a 02 68 69 10 03 1a 01 61"): ChatMessage,
        bytes.fromhex("08 05 12 02 08 09"): ChatSync,
    }


class TestPusher(DialectContract):
    """Whose connections have no user until the back end signs one."""

    dialect = PusherDialect()
    requests = {  # noqa: RUF012
        b'{"event":"pusher:subscribe","data":{"channel":"private-a","auth":"k:1f"}}': PusherSubscribe,
        b'{"event":"pusher:unsubscribe","data":{"channel":"private-a"}}': PusherUnsubscribe,
        b'{"event":"client-moved","channel":"private-a","data":{"x":1}}': ClientEvent,
        b'{"event":"pusher:signin","data":{"auth":"k:1f","user_data":"{\\"id\\":\\"ann\\"}"}}': SignIn,
    }


class TestFullProtobuf(DialectContract):
    """The same with words for all that is stored."""

    dialect = FullProtobufDialect()
    requests = {  # noqa: RUF012
        **TestProtobuf.requests,
        **dict(REQUESTS),
    }


class TestCentrifuge(DialectContract):
    """Whose frames may have several requests, and whose clients may send nothing unreadable."""

    dialect = CentrifugeDialect().joined(MESSAGE_COMMANDS)
    requests = {  # noqa: RUF012
        b'{"id":1,"connect":{"token":"a.b.c"}}': CentrifugeLogin,
        b'{"id":2,"subscribe":{"channel":"news","recover":true,"offset":7}}': Subscribe,
        b'{"id":3,"publish":{"channel":"news","data":{}}}': Publish,
        b'{"id":4,"rpc":{"method":"imserver:send","data":{"to":"bob","text":"hi"}}}': Send,
    }

    def test_an_unreadable_request_does_not_end_a_connection(self) -> None:
        """It does, with the code of the original."""
        with Harness() as harness:
            _, client = harness.connect(dialect=self.dialect)
            client.send(frame(BINARY, b"\xff\x00nonsense"))
            assert client.close_code() == 3501


class TestCentrifugeProtobuf(TestCentrifuge):
    """The same in protobuf."""

    dialect = CentrifugeProtobufDialect()
    harmless = b""
    requests = {  # noqa: RUF012
        bytes.fromhex("0801 2207 0a05 612e622e63"): CentrifugeLogin,
        bytes.fromhex("0802 2a0a 0a046e657773 1801 3807"): Subscribe,
    }


def test_every_dialect_of_the_registry_is_held_to_the_contract() -> None:
    contracts = [*vars(of_gateway).values(), *globals().values()]
    checked = {contract.dialect.name for contract in contracts if hasattr(contract, "dialect")}
    assert {dialect.name for dialect in DIALECTS} <= checked
