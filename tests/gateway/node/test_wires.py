"""Commands that a feature brings to the dialects of others, on two nodes in one process."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.wire import CentrifugeDialect
from imserver.dialects.protobuf.wire import FULL, PLAIN
from imserver.dialects.pusher.wire import PusherDialect
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdDialect
from imserver.gateway.errors import StartError
from imserver.gateway.model import BadFrame, Event, Ping, Reply, Request
from imserver.gateway.node.node import Node
from tests.gateway.node.test_feature_list import offer
from tests.gateway.node.test_node import Harness, Requests
from tests.integration.protobuf import Output, outputs
from tests.integration.raw import text

LAMP = """
from imserver.gateway.core.core import Parts
from imserver.gateway.feature import FeatureRow
from imserver.gateway.model import Command, Reply
from imserver.gateway.protocol.forgiving import Fields
from imserver.gateway.transport.dispatch import CommandRow

class Light(Command, frozen=True):
    on: bool

def light(data):
    return Light(Fields.of(data).flag("on"))

FEATURE = FeatureRow(
    "lamp",
    lambda core: Parts(
        commands={Light: CommandRow(lambda connection, command: Reply(200, {"on": command.on}))}
    ),
    wire={"cmd": {"light": light}, "centrifuge": {"light": light}, "protobuf": {"64": light}},
)
"""


class Nodes:
    """Starts nodes with some features. The feature ``lamp`` is of another distribution."""

    def __init__(self, folder: Path) -> None:
        self.harness = Harness(folder)

    def start(self, *features: str) -> Node:
        config = self.harness.settings(server={"data_dir": str(self.harness.folder / "-".join(features))})
        node = Node(replace(config, features=features), Requests(), lambda _: self.harness.application)  # type: ignore[arg-type]
        self.harness.nodes.append(node)
        node.start()
        return node

    def ask(self, node: Node, name: str, data: str) -> list[Any]:
        """Code and data of the answer to a command of a client that subscribes to a channel first."""
        client = self.harness.join(node, "ann")
        client.send(text('{"cmd":"subscribe","data":{"channel":"news"}}'))
        client.send(text(f'{{"cmd":"{name}","data":{data}}}'))
        client.expect(3)
        answer = json.loads(client.payloads()[2])["response"]
        return [answer["code"], answer["data"]]


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lights.py").write_text(LAMP)
    offer(tmp_path, "lights", "lights:FEATURE")
    nodes, before = Nodes(tmp_path), gc.get_threshold()
    try:
        yield nodes
    finally:
        for caller in nodes.harness.callers:
            caller.sock.close()
        for node in nodes.harness.nodes:
            node.stop()
        gc.set_threshold(*before)


def test_each_node_has_the_commands_of_its_features(nodes: Nodes) -> None:
    with_lamp, without = nodes.start("centrifuge", "lamp"), nodes.start("centrifuge")
    assert nodes.ask(with_lamp, "light", '{"On":true}') == [200, {"on": True}]
    assert nodes.ask(with_lamp, "light", '{"on":1}') == [1001, None]
    assert nodes.ask(without, "light", '{"on":true}') == [1010, None]
    method = b'{"id":1,"rpc":{"method":"imserver:light","data":{"on":true}}}'
    found = [node.core.codec(CentrifugeDialect()).decode(method) for node in (with_lamp, without)]
    assert [request.code for request in found] == [0, codes.METHOD_NOT_FOUND]
    assert type(found[0].command) in with_lamp.core.dispatcher.table
    assert with_lamp.core.codec(PLAIN) is with_lamp.core.codec(PLAIN), "so that connections share frames"


def test_clients_with_a_cursor_have_commands_of_features_in_json() -> None:
    namespace: dict[str, Any] = {}
    exec(LAMP, namespace)
    wire = namespace["FEATURE"].wire["protobuf"]
    full, plain = FULL.joined(wire), PLAIN.joined(wire)
    request = full.decode(b'\x08\x40\x12\x0b{"on":true}')
    assert request == Request("", "64", namespace["Light"](True))
    assert outputs(full.encode_reply(request, Reply(200, {"on": True})) or b"") == [
        Output(64, 200, "Success", b'{"on":true}')
    ]
    request = full.decode(b'\x08\x40\x12\x08{"on":1}')
    assert outputs(full.encode_reply(request, Reply(request.code)) or b"") == [
        Output(64, 1001, "参数不合法", b"")
    ]
    for codec, payload in ((plain, b'\x08\x40\x12\x08{"on":1}'), (FULL, b"\x08\x40")):
        with pytest.raises(BadFrame):
            codec.decode(payload)


def test_only_some_dialects_take_commands_of_features() -> None:
    assert {"cmd", "centrifuge", "protobuf"} == {
        dialect.name
        for dialect in (CmdDialect(), ChannelCmdDialect(), CentrifugeDialect(), FULL, PLAIN, PusherDialect())
        if dialect.readers is not None
    }
    with pytest.raises(StartError, match=r"^the dialect pusher takes no commands of features$"):
        PusherDialect().joined({})
    with pytest.raises(StartError, match=r"^the dialect protobuf: '7' is no number of a kind, which is at"):
        FULL.joined({"7": lambda _: Ping()})


def test_without_stored_messages_their_commands_are_unknown(nodes: Nodes) -> None:
    """Pings, logins without a cursor and channels work as ever."""
    node = nodes.start()
    assert nodes.ask(node, "send", '{"to":"bob","text":"hi"}') == [1010, None]
    assert nodes.ask(node, "publish", '{"channel":"lobby","text":"hi"}')[0] == 1003
    client = nodes.harness.call(node.core.node.ws_port).upgrade()
    client.send(text('{"cmd":"login","data":{"userID":"ann","appID":101,"cursor":0}}'))
    client.send(text('{"cmd":"login","data":{"userID":"ann","appID":101}}'))
    client.expect(2)
    assert [json.loads(each)["response"]["code"] for each in client.payloads()] == [1010, 200]
    node.core.reach.to_user("101", "ann", Event("msg", "shop", "hi"))
    client.expect(3)
    assert json.loads(client.payloads()[2])["response"]["data"]["msg"] == "hi"


def test_without_stored_messages_a_stream_begins_now(nodes: Nodes) -> None:
    node = nodes.start()
    stream = nodes.harness.call(node.core.node.http_port)
    stream.send(b"GET /api/v1/events?app=101&user=ann&cursor=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    stream.expect(b'"resumed":false}\n\n')
    assert b"\nid: " not in stream.waiting
    node.core.reach.to_user("101", "ann", Event("msg", "shop", "hi"))
    stream.expect(b'"text":"hi"}\n\n')


def test_without_stored_messages_users_of_the_action_dialect_talk_and_acknowledge_nothing(
    nodes: Nodes,
) -> None:
    node = nodes.start("action")
    login = '{"action":"login","data":{"userId":"%s","appId":1,"toUid":"%s","groupsId":"0","acks":true}}'
    clients = []
    for user, peer in (("ann", "bob"), ("bob", "ann")):
        client = nodes.harness.call(node.core.node.ws_port).upgrade(f"/ws?uid={user}")
        clients.append(client)
        client.send(text(login % (user, peer)))
        client.expect(2)
        assert json.loads(client.payloads()[1])["response"] == {"code": 200, "msg": "Success", "data": None}
    clients[0].send(text('{"action":"sendmsg","data":{"msgType":"text","message":"hi"}}'))
    clients[1].expect(3)
    message = json.loads(clients[1].payloads()[2])["data"]
    assert (message["content"], message["from"], "ackId" in message) == ("hi", "ann", False)
