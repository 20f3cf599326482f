"""The centrifuge service in one process: what takes too long with a real client."""

from time import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from imserver.auth.rules import ALLOWED
from imserver.errors import StorageUnavailable
from imserver.model import CentrifugeLogin, Reply
from imserver.protocol.centrifuge import CentrifugeDialect
from imserver.services.channels.commands import ChannelCommands
from imserver.services.channels.consent import ChannelConsent
from imserver.services.dialects.centrifuge_service import (
    GRACE_SECONDS,
    CentrifugeAnswers,
    CentrifugeService,
    CentrifugeState,
    _Admission,
)
from imserver.services.nodes import NodeQueries
from imserver.transport.connection import CLOSING, OPEN, Connection
from imserver.transport.gate import Head
from imserver.webhooks.back_ends import BackEnds
from tests.hub.harness import Harness
from tests.transport.harness import Client


class CentrifugeHarness(Harness):
    """Subscribers of the centrifuge dialect in the app 101; without ``logins`` they have no tokens."""

    def __init__(self, logins: Any = None) -> None:
        super().__init__()
        if logins is None:
            logins = Mock(resolve=lambda app: app, is_open=lambda _app: False)
        else:
            self.sessions._logins = logins
        self.catch_up = Mock()
        back_ends = BackEnds(self.back_end, self.table.id_of)  # type: ignore[arg-type]
        consent = ChannelConsent(back_ends, Mock(hooks={}), Mock(), self.channels)
        self.centrifuge = CentrifugeService(
            self.sessions,
            logins,
            self.channels,
            ChannelCommands(self.channels, logins, consent, {}, self.table),
            consent,
            CentrifugeAnswers(back_ends),
            back_ends,
            self.connections,
            NodeQueries(),
            self.catch_up,
            "101",
            25,
        )

    def subscriber(self, channel: str, **ends: int) -> tuple[Connection, Client]:
        connection, client = self.connect(dialect=CentrifugeDialect())
        connection.dialect_state = CentrifugeState(ends=dict(ends))
        self.hub.join(self.hub.apps["101"], connection, "ann", "")
        self.channels.join("101", channel, connection)
        return connection, client


def test_a_subscription_ends_only_after_the_time_to_renew_its_token() -> None:
    with CentrifugeHarness() as harness:
        now = int(time())
        connection, client = harness.subscriber("news", news=now - GRACE_SECONDS + 60)
        harness.centrifuge.check_ends(connection)
        assert connection.state == OPEN
        connection.dialect_state.ends = {"news": now - GRACE_SECONDS - 5}  # type: ignore[union-attr]
        harness.centrifuge.check_ends(connection)
        assert connection.state == CLOSING
        assert client.close_code() == 3006


def test_a_channel_that_was_left_does_not_end_a_connection() -> None:
    with CentrifugeHarness() as harness:
        connection, _ = harness.subscriber("news", other=1)
        harness.centrifuge.check_ends(connection)
        assert connection.state == OPEN
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
def test_the_path_names_the_app(path: str, app: str) -> None:
    with CentrifugeHarness() as harness:
        connection: Any = SimpleNamespace(dialect_state=None, last_seen=0.0)
        harness.centrifuge.opened(connection, Head("GET", path, "1.1", "192.0.2.1", 1, {}))
        assert connection.dialect_state.app == app
        assert connection.last_seen > 0, "it has to log in in time"


@pytest.mark.parametrize("position", [False, True])
def test_only_a_client_with_a_position_needs_the_database_at_its_login(position: bool) -> None:
    with CentrifugeHarness() as harness:
        connection, client = harness.subscriber("news")
        harness.catch_up.recover.side_effect = StorageUnavailable("away")
        command = CentrifugeLogin("", {"#ann": ("epoch", 7)} if position else {})
        answers: list[Reply] = []
        harness.centrifuge._subscribe_each(
            connection, CentrifugeState(), _Admission(ALLOWED), command, answers.append
        )
        if position:
            assert (answers, client.close_code()) == ([], 3004)
        else:
            own = answers[0].data.subs["#ann"]  # type: ignore[union-attr]
            assert (own.recoverable, own.epoch, own.offset) == (False, "", 0)
