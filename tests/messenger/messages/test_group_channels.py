"""Subscriptions of users who leave a group, at any moment."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Subscribe
from imserver.gateway.transport.connection import Connection
from tests.gateway.transport.harness import until
from tests.messenger.messaging_harness import APP, MessageClient, Node


class Consent(ChannelConsent):
    """``between``: runs after the first check of a member, and before the subscription."""

    between: Callable[[], object] | None = None

    def check_member(self, connection: Connection, channel: str) -> None:
        super().check_member(connection, channel)
        between, self.between = self.between, None
        if between is not None:
            between()


def subscribe(node: Node, consent: Consent, client: MessageClient, channel: str) -> int:
    """Subscribe; the code of the answer."""
    commands = ChannelCommands(
        node.channels, Mock(), consent, {"cmd": CmdAnswers(ChannelCmdDialect())}, Mock()
    )
    codes: list[int] = []
    refused = commands.subscribe(
        client.connection, Subscribe(channel), lambda reply: codes.append(reply.code)
    )
    return refused.code if refused is not None else codes.pop()


@pytest.mark.parametrize("failure", [False, True])
def test_who_leaves_while_subscribing_does_not_stay_subscribed(failure: bool) -> None:
    with Node() as node:
        group = node.log.create(APP, "ann", ["ann", "bob"])
        ann, bob = node.speaker("ann"), node.speaker("bob")
        consent = Consent(Mock(), Mock(hooks={}), node.channels, MutedUsers())
        channel = f"group:{group}"

        def fail(*_arguments: object) -> None:
            raise StorageUnavailable("away")

        def leave() -> None:
            if failure:
                node.log.member = fail  # type: ignore[assignment,method-assign]
            node.log.leave(APP, group, ["ann"])

        consent.between = leave
        assert subscribe(node, consent, ann, channel) == 200
        ended = until(lambda: [body for body in ann.bodies() if body["cmd"] == "unsubscribed"])
        assert [body["response"]["data"]["code"] for body in ended] == [2500 if failure else 2000]
        assert node.channels.members.channels_of(ann.connection) == ()
        assert subscribe(node, consent, bob, channel) == (1008 if failure else 200)
