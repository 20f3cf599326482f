"""Subscriptions of users who leave a group, at any moment."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers
from imserver.gateway.model import Outcome, Subscribe
from imserver.gateway.push.targets import Target
from imserver.gateway.transport.connection import Connection
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.stored_channels import ChannelLog
from tests.gateway.push.test_publishing import HELLO, Harness, publishing_of
from tests.gateway.transport.harness import until
from tests.messenger.log_file import Gates, LogFile
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
        group = node.group("ann", "ann", "bob")
        ann, bob = node.speaker("ann"), node.speaker("bob")
        consent = Consent(Mock(), Mock(hooks={}), node.channels, MutedUsers())
        channel = f"group:{group}"

        def go_away() -> None:
            node.gates.away = failure

        def leave() -> None:
            node.log.groups.leave(APP, group, ["ann"])
            node.during(2, go_away)

        consent.between = leave
        assert subscribe(node, consent, ann, channel) == 200
        ended = until(lambda: [body for body in ann.bodies() if body["cmd"] == "unsubscribed"])
        assert [body["response"]["data"]["code"] for body in ended] == [2500 if failure else 2000]
        assert node.channels.members.channels_of(ann.connection) == ()
        assert subscribe(node, consent, bob, channel) == (1008 if failure else 200)


def test_the_channels_of_users_and_groups_reach_their_sessions() -> None:
    harness = Harness()
    gates = Gates()
    store = LogFile().open(gates)
    log = store.part(MessageLog)
    group = log.groups.create("101", "ann", "", ["bob", "eve", "zoe"]).conversation
    targets = [Target(channel=f"group:{group}"), Target(channel="user:ann"), Target(group=str(group))]
    publishing = publishing_of(harness)
    harness.histories.stored = ChannelLog(store, Mock(), Mock(), Mock(), Mock())
    assert publishing.to_targets("101", targets, HELLO, ("eve",)) == [Outcome.SENT] * 3
    everybody = ("users", "101", "ann", "bob", "zoe")
    assert harness.received == [everybody, ("users", "101", "ann"), everybody]
    log.groups.leave("101", group, ["ann", "bob"])
    assert publishing.to_targets("101", targets[:1], HELLO, ("eve",)) == [Outcome.NOT_SENT]
    log.writer.append("101", [Draft(sender="ann", to_user="bob")])
    for name in (f"group:{group + 1}", "group:99"):
        assert publishing.to_targets("101", [Target(channel=name)], HELLO) == [Outcome.NOT_SENT], (
            "it is no group"
        )
    gates.away = True
    assert publishing.to_targets("101", targets[:1], HELLO) == [Outcome.FAILED]
    (found,) = publishing.to_channels("101", [f"group:{group}"], HELLO)
    assert isinstance(found, ChannelRefused)
    assert found.outcome is Outcome.FAILED
