"""Every foreign dialect against the contract."""

from imserver.dialects.action.wire import AckNumber, ActionDialect, ActionLogin, Say
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeProtobufDialect,
)
from imserver.dialects.client.wire import ClientDialect
from imserver.dialects.protobuf.wire import FullProtobufDialect, ProtobufDialect
from imserver.dialects.pusher.wire import PusherDialect
from imserver.gateway.model import Heartbeat
from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from tests.dialects.action.harness import ActionHarness
from tests.gateway.hub.harness import Harness
from tests.gateway.protocol import test_contract as of_gateway
from tests.gateway.protocol.contract import CommandContract, DialectContract
from tests.integration.raw import BINARY, frame
from tests.rows import DIALECTS
from tests.samples import requests_of


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
    requests = requests_of("protobuf", dialect)


class TestPusher(DialectContract):
    """Whose connections have no user until the back end signs one."""

    dialect = PusherDialect()
    requests = requests_of("pusher", dialect)


class TestFullProtobuf(DialectContract):
    """The same with words for all that is stored."""

    dialect = FullProtobufDialect()
    requests = TestProtobuf.requests | requests_of("protobuf-full", dialect)


class TestCentrifuge(DialectContract):
    """Whose frames may have several requests, and whose clients may send
    nothing unreadable."""

    dialect = CentrifugeDialect().joined(MESSAGE_COMMANDS)
    requests = requests_of("centrifuge", dialect)

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
    requests = requests_of("centrifuge", dialect)


def test_every_dialect_of_the_registry_is_held_to_the_contract() -> None:
    contracts = [*vars(of_gateway).values(), *globals().values()]
    checked = {
        contract.dialect.name for contract in contracts if hasattr(contract, "dialect")
    }
    assert {dialect.name for dialect in DIALECTS} <= checked
