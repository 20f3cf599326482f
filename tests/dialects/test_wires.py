"""Commands that a feature brings to the dialects of other servers, and nodes
without stored messages."""

import json
from typing import Any

import pytest

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.wire import CentrifugeDialect
from imserver.dialects.protobuf.wire import FULL, PLAIN
from imserver.dialects.pusher.wire import PusherDialect
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdDialect
from imserver.gateway.errors import StartError
from imserver.gateway.model import BadFrame, Ping, Reply, Request
from tests.gateway.node.test_wires import LAMP, Nodes
from tests.gateway.node.test_wires import nodes as nodes
from tests.integration.protobuf import Output, outputs
from tests.integration.raw import text


def test_each_node_has_the_methods_of_its_features(nodes: Nodes) -> None:
    with_lamp = nodes.start("centrifuge", "lamp")
    without = nodes.start("centrifuge")
    method = b'{"id":1,"rpc":{"method":"imserver:light","data":{"on":true}}}'
    found = [
        node.core.codec(CentrifugeDialect()).decode(method)
        for node in (with_lamp, without)
    ]
    assert [request.code for request in found] == [0, codes.METHOD_NOT_FOUND]
    assert type(found[0].command) in with_lamp.core.dispatcher.table


def test_clients_with_a_cursor_have_commands_of_features_in_json() -> None:
    namespace: dict[str, Any] = {}
    exec(LAMP, namespace)
    wire = namespace["FEATURE"].wire["protobuf"]
    full = FULL.joined(wire)
    plain = PLAIN.joined(wire)
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
        for dialect in (
            CmdDialect(),
            ChannelCmdDialect(),
            CentrifugeDialect(),
            FULL,
            PLAIN,
            PusherDialect(),
        )
        if dialect.readers is not None
    }
    with pytest.raises(
        StartError, match=r"^the dialect pusher takes no commands of features$"
    ):
        PusherDialect().joined({})
    with pytest.raises(
        StartError,
        match=r"^the dialect protobuf: '7' is no number of a kind, which is at",
    ):
        FULL.joined({"7": lambda _: Ping()})


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
        assert json.loads(client.payloads()[1])["response"] == {
            "code": 200,
            "msg": "Success",
            "data": None,
        }
    clients[0].send(
        text('{"action":"sendmsg","data":{"msgType":"text","message":"hi"}}')
    )
    clients[1].expect(3)
    message = json.loads(clients[1].payloads()[2])["data"]
    assert (message["content"], message["from"], "ackId" in message) == (
        "hi",
        "ann",
        False,
    )
