"""The centrifuge service in one process: what takes too long with a real
client."""

from collections.abc import Callable, Iterator
from time import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gevent
import pytest

from imserver.backends.webhooks.back_ends import BackEndRequests
from imserver.dialects.centrifuge import codes, service
from imserver.dialects.centrifuge.declared import CentrifugeSettings
from imserver.dialects.centrifuge.service import (
    GRACE_SECONDS,
    CentrifugeAnswers,
    CentrifugeService,
    CentrifugeState,
)
from imserver.dialects.centrifuge.wire import (
    CallMethod,
    CentrifugeDialect,
    CentrifugeLogin,
    CentrifugeProtobufDialect,
    ClientView,
    PresenceResult,
    SubscribeResult,
)
from imserver.gateway import errors
from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.auth.rules import LoginDecision
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.members import ChannelMember, ChannelRefused
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import AskPresence, Login, Reply, Request
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import CommandRow
from imserver.gateway.transport.gate import Head
from imserver.gateway.transport.states import CLOSING
from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from imserver.messenger.log.commands import Send
from tests.gateway.channels.test_channels import NEWS, check_that_readers_share_pages
from tests.gateway.channels.test_channels import harness as harness
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import Client


class CentrifugeHarness(Harness):
    """Subscribers of the centrifuge dialect in the app 101; without ``logins``
    they have no tokens."""

    def __init__(self, logins: Any = None) -> None:
        super().__init__(logins=logins)
        if logins is None:
            logins = Mock(resolve=lambda app: app, is_open=lambda _app: False)
            logins.check.return_value = LoginDecision(user="ann")
        else:
            logins.bare_dialects.add("centrifuge")
        self.catch_up = Mock()
        back_ends = BackEndRequests(self.back_end, self.table.id_of, str)  # type: ignore[arg-type]
        consent = ChannelConsent(back_ends, Mock(hooks={}), self.channels, MutedUsers())
        commands = ChannelCommands(self.channels, logins, consent, {}, self.table)
        config = Config(of_features=(("centrifuge", CentrifugeSettings(app="101")),))
        parts = {
            "consent": consent,
            "channel_commands": commands,
            "back_ends": back_ends,
            "config": config,
        }
        node = SimpleNamespace(version="1.0.0")
        tenants = SimpleNamespace(get=lambda _app: None)
        core = self.core(logins=logins, node=node, tenants=tenants, **parts)
        self.centrifuge = CentrifugeService(
            core, CentrifugeAnswers(core), Mock(catch_up=self.catch_up)
        )
        self.dispatcher.add(self.centrifuge.commands())

    def subscriber(self, channel: str, **ends: int) -> tuple[Connection, Client]:
        connection, client = self.connect(
            dialect=CentrifugeDialect().joined(MESSAGE_COMMANDS)
        )
        connection.dialect_state = CentrifugeState(ends=dict(ends))
        self.hub.join(self.hub.apps["101"], connection, "ann", "")
        self.channels.subscriptions.join("101", channel, connection)
        return connection, client

    def log_in(
        self,
        command: CentrifugeLogin,
        answer: Callable[[Reply], object] = print,
        last_seen: float = 0.0,
    ) -> tuple[Connection, Client]:
        """Begin a session of ann."""
        connection, client = self.connect(dialect=CentrifugeDialect())
        connection.dialect_state = CentrifugeState(app="101")
        connection.last_seen = last_seen
        assert self.centrifuge.login(connection, command, answer) is None
        return connection, client


@pytest.fixture(name="node")
def _node() -> Iterator[CentrifugeHarness]:
    with CentrifugeHarness() as node:
        yield node


def test_a_subscription_ends_only_after_the_time_to_renew_its_token(
    node: CentrifugeHarness,
) -> None:
    now = int(time())
    connection, client = node.subscriber("news", news=now - GRACE_SECONDS + 60)
    node.centrifuge.check_ends(connection)
    assert connection.is_open
    connection.dialect_state.ends = {"news": now - GRACE_SECONDS - 5}  # type: ignore[union-attr]
    node.centrifuge.check_ends(connection)
    assert connection.state == CLOSING
    assert client.close_code() == 3006


def test_a_channel_that_was_left_does_not_end_a_connection(
    node: CentrifugeHarness,
) -> None:
    connection, _ = node.subscriber("news", other=1)
    node.centrifuge.check_ends(connection)
    assert connection.is_open
    assert connection.dialect_state.ends is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "app"),
    [
        ("/connection/websocket", "101"),
        ("/connection/shop/websocket", "shop"),
        ("/connection/my%20shop/websocket", "my shop"),
        ("/connection/system:x/websocket", ""),
        ("/connection/action%3A1/websocket", ""),
    ],
)
def test_the_path_names_the_app(node: CentrifugeHarness, path: str, app: str) -> None:
    connection: Any = SimpleNamespace(dialect_state=None, last_seen=0.0)
    node.centrifuge.opened(connection, Head("GET", path, "1.1", "192.0.2.1", 1, {}))
    assert connection.dialect_state.app == app
    assert connection.last_seen > 0, "it has to log in in time"


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("away", [False, True])
def test_the_channel_of_a_user_never_recovers(
    node: CentrifugeHarness, position: bool, away: bool
) -> None:
    """What was pushed to the user during the cut is not stored."""
    node.catch_up.follow.side_effect = StorageUnavailable("away") if away else None
    answers: list[Reply] = []
    node.log_in(
        CentrifugeLogin("", {"#ann": ("epoch", 7)} if position else {}), answers.append
    )
    assert answers[0].data.subs["#ann"] == SubscribeResult(was_recovering=position)  # type: ignore[union-attr]


def test_pings_may_begin_after_the_answer_to_a_login(node: CentrifugeHarness) -> None:
    seen: list[float] = []
    connections = node.context.connections
    connection, _ = node.log_in(
        CentrifugeLogin(""),
        lambda _: seen.extend(each.last_seen for each in connections),
        1.0,
    )
    assert seen == [1.0]
    assert not connection.last_seen


def test_a_client_that_connects_too_often_comes_back_later(
    node: CentrifugeHarness,
) -> None:
    node.channels.subscriptions.subscribe_each = Mock(
        side_effect=ChannelRefused("rate")
    )  # type: ignore[method-assign]
    _, client = node.log_in(CentrifugeLogin("", {}))
    assert client.close_code() == 4003


def test_a_client_that_logged_in_without_the_log_begins_again_when_it_is_back(
    node: CentrifugeHarness,
) -> None:
    node.catch_up.follow.side_effect = StorageUnavailable("away")
    node.catch_up.answers.return_value = False
    connection, client = node.log_in(CentrifugeLogin(""))
    node.centrifuge.check_ends(connection)
    assert connection.is_open
    node.catch_up.answers.return_value = True
    node.centrifuge.check_ends(connection)
    assert client.close_code() == 3010


@pytest.mark.parametrize(
    ("method", "data", "reply"),
    [
        ("send", b'{"to":"bob","text":"hi"}', Reply(200)),
        ("send", b"", Reply(errors.ReplyCode.BAD_PARAMETER)),
        ("react", b'{"id":7,"emoji":"+1"}', Reply(errors.ReplyCode.NO_ROUTE)),
        ("price", b"", Reply(codes.NOT_AVAILABLE)),
    ],
)
def test_an_app_without_a_back_end_has_the_methods_of_this_server(
    node: CentrifugeHarness, method: str, data: bytes, reply: Reply
) -> None:
    sent: list[Send] = []

    def send(_: Connection, command: Send, answer: Any) -> None:
        sent.append(command)
        answer(Reply(200))

    node.dispatcher.add({Send: CommandRow(send, answers=True)})
    connection, _ = node.subscriber("news")
    node.sessions.login(connection, Login("101", "ann"))
    answers: list[Reply] = []
    answer = node.dispatcher.run(connection, CallMethod(method, data), answers.append)
    assert [*answers, *filter(None, [answer])] == [reply]
    assert sent == ([Send("bob", body=b"hi")] if reply.code == 200 else [])


@pytest.mark.parametrize("dialect", [CentrifugeDialect(), CentrifugeProtobufDialect()])
def test_others_are_served_while_many_subscribers_are_encoded(
    monkeypatch: pytest.MonkeyPatch, dialect: CentrifugeDialect
) -> None:
    monkeypatch.setattr(service, "is_long_turn", lambda: True)
    members = [
        ChannelMember(f"c{number}", "ann", "", "", number, "", "")
        for number in range(1001)
    ]
    answers = CentrifugeAnswers(Mock())
    runs = list[int]()
    others = [gevent.spawn(runs.append, number) for number in range(2)]
    reply = answers.presence(dialect, AskPresence(NEWS), members, 1001, "")
    assert all(other.ready() for other in others)
    whole = PresenceResult(
        {each.connection: ClientView("ann", each.connection) for each in members}
    )
    request = Request("1", "presence", None)
    assert (
        len(
            {
                len(dialect.encode_reply(request, each) or b"")
                for each in (reply, Reply(200, whole))
            }
        )
        == 1
    )


@pytest.mark.parametrize("dialect", [CentrifugeDialect(), CentrifugeProtobufDialect()])
def test_readers_of_the_same_page_share_its_bytes(
    harness: Harness, dialect: CentrifugeDialect
) -> None:
    check_that_readers_share_pages(harness, CentrifugeAnswers(Mock()), dialect)
