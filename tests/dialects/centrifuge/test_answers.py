"""Answers about channels: many members, and readers of one page."""

from unittest.mock import Mock

import gevent
import pytest

from imserver.dialects.centrifuge import service as centrifuge_service
from imserver.dialects.centrifuge.service import CentrifugeAnswers
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeProtobufDialect,
    ClientView,
    PresenceResult,
)
from imserver.gateway.channels.members import ChannelMember
from imserver.gateway.model import AskPresence, Reply, Request
from tests.gateway.channels.test_channels import NEWS, check_that_readers_share_pages
from tests.gateway.channels.test_channels import harness as harness
from tests.gateway.hub.harness import Harness

DIALECTS = [CentrifugeDialect(), CentrifugeProtobufDialect()]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_others_are_served_while_many_subscribers_are_encoded(
    monkeypatch: pytest.MonkeyPatch, dialect: CentrifugeDialect
) -> None:
    monkeypatch.setattr(centrifuge_service, "is_long_turn", lambda: True)
    members = [ChannelMember(f"c{number}", "ann", "", "", number, "", "") for number in range(1001)]
    answers, runs = CentrifugeAnswers(Mock()), list[int]()
    others = [gevent.spawn(runs.append, number) for number in range(2)]
    reply = answers.presence(dialect, AskPresence(NEWS), members, 1001, "")
    assert all(other.ready() for other in others)
    whole = PresenceResult({each.connection: ClientView("ann", each.connection) for each in members})
    request = Request("1", "presence", None)
    assert len(dialect.encode_reply(request, reply) or b"") == len(
        dialect.encode_reply(request, Reply(200, whole)) or b""
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_readers_of_the_same_page_share_its_bytes(harness: Harness, dialect: CentrifugeDialect) -> None:
    check_that_readers_share_pages(harness, CentrifugeAnswers(Mock()), dialect)
