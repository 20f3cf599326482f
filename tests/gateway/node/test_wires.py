"""Commands that a feature brings to the dialects of others, on two nodes in one
process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect
from imserver.gateway.model import Event
from imserver.gateway.node.node import Node
from tests.gateway.node.test_feature_list import offer
from tests.gateway.node.test_node import Harness, Requests
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
    """Starts nodes with some features. The feature ``lamp`` is of another
    distribution."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness

    def start(self, *features: str) -> Node:
        config = self.harness.settings(
            server={"data_dir": str(self.harness.folder / "-".join(features))}
        )
        node = Node(
            replace(config, features=features),
            Requests(),
            lambda _: self.harness.application,
        )  # type: ignore[arg-type]
        self.harness.nodes.append(node)
        node.start()
        return node

    def ask(self, node: Node, name: str, data: str) -> list[Any]:
        """Code and data of the answer to a command of a client that subscribes
        to a channel first."""
        client = self.harness.join(node, "ann")
        for command in (
            '"subscribe","data":{"channel":"news"}',
            f'"{name}","data":{data}',
        ):
            client.send(text(f'{{"cmd":{command}}}'))
        client.expect(3)
        answer = json.loads(client.payloads()[2])["response"]
        return [answer["code"], answer["data"]]


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """What starts nodes that find the feature ``lamp``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lights.py").write_text(LAMP)
    offer(tmp_path, "lights", "lights:FEATURE")
    with Harness(tmp_path) as harness:
        yield Nodes(harness)


def test_each_node_has_the_commands_of_its_features(nodes: Nodes) -> None:
    with_lamp = nodes.start("lamp")
    without = nodes.start()
    assert nodes.ask(with_lamp, "light", '{"On":true}') == [200, {"on": True}]
    assert nodes.ask(with_lamp, "light", '{"on":1}') == [1001, None]
    assert nodes.ask(without, "light", '{"on":true}') == [1010, None]
    plain = ChannelCmdDialect()
    assert with_lamp.core.codec(plain) is with_lamp.core.codec(plain), (
        "so that connections share frames"
    )


def test_without_stored_messages_their_commands_are_unknown_and_a_stream_begins_now(
    nodes: Nodes,
) -> None:
    """Logins without a cursor work as ever."""
    node = nodes.start()
    hi = Event("msg", "shop", "hi")
    assert nodes.ask(node, "send", '{"to":"bob","text":"hi"}') == [1010, None]
    client = nodes.harness.call(node.core.node.ws_port).upgrade()
    for more in (',"cursor":0', ""):
        client.send(
            text(f'{{"cmd":"login","data":{{"userID":"ann","appID":101{more}}}}}')
        )
    client.expect(2)
    assert [json.loads(each)["response"]["code"] for each in client.payloads()] == [
        1010,
        200,
    ]
    node.core.reach.to_user("101", "ann", hi)
    client.expect(3)
    assert json.loads(client.payloads()[2])["response"]["data"]["msg"] == "hi"
    stream = nodes.harness.call(node.core.node.http_port)
    stream.send(
        b"GET /api/v1/events?app=101&user=bob&cursor=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    )
    stream.expect(b'"resumed":false}\n\n')
    assert b"\nid: " not in stream.waiting
    node.core.reach.to_user("101", "bob", hi)
    stream.expect(b'"text":"hi"}\n\n')
