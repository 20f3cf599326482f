"""Webhooks of channels: what back ends are sent when channels get and lose
their subscribers."""

from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import pytest

from imserver.backends.webhooks import parts
from imserver.backends.webhooks.parts import Occupancy
from imserver.backends.webhooks.requests import Receiver
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.back_end import AwayStore, BackEnd
from tests.gateway.core.cluster_harness import MULTI, Several
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import until

ALL = ("occupied", "vacated", "joined", "left")
NEWS = "news"


class Notified:
    """A back end that is notified about the channels of a node: lists of
    (event, channel, user)."""

    def __init__(self, node: Any, events: Sequence[str] = ALL) -> None:
        self.back_end = BackEnd()
        away: Any = AwayStore()
        self.webhooks = Webhooks(
            self.back_end, node.table.id_of, lambda: "node:1", away
        )  # type: ignore[arg-type]
        if events:
            self.webhooks.set(
                MULTI, Receiver(MULTI, "http://back.end", b"s", frozenset(events))
            )
        self.occupancy = Occupancy(node.channels, node.table.id_of, self.webhooks)

    @property
    def reports(self) -> list[tuple[str, str, str]]:
        return [
            (each["event"], each["channel"], each.get("user", ""))
            for each in self.back_end.events
        ]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as one:
        yield one


@pytest.fixture
def nodes() -> Iterator[Several]:
    with Several(2) as several:
        yield several


def joined(node: Any, user: str, channel: str = NEWS) -> Connection:
    connection: Connection = node.login(MULTI, user)[0]
    assert node.channels.subscriptions.join(MULTI, channel, connection)
    return connection


def test_a_channel_is_occupied_by_its_first_subscriber_and_vacated_after_the_last(
    harness: Harness,
) -> None:
    notified = Notified(harness)
    ann = joined(harness, "ann")
    bob = joined(harness, "bob")
    assert not harness.channels.subscriptions.join(MULTI, NEWS, ann)
    harness.channels.members.leave(MULTI, NEWS, ann)
    bob.lost()
    until(lambda: len(notified.reports) == 6)
    first, *middle, last = notified.reports
    assert (first, last) == (("occupied", NEWS, ""), ("vacated", NEWS, ""))
    assert middle == [
        (event, NEWS, user) for event in ("joined", "left") for user in ("ann", "bob")
    ]
    event = notified.back_end.events[1]
    assert event["connection"] == harness.table.id_of(ann)
    assert (event["dialect"], event["app"]) == ("cmd", MULTI)


def test_who_comes_back_soon_vacates_nothing(harness: Harness) -> None:
    notified = Notified(harness, ("occupied", "vacated"))
    ann = joined(harness, "ann")
    harness.channels.members.leave(MULTI, NEWS, ann)
    harness.channels.subscriptions.join(MULTI, NEWS, ann)
    until(lambda: notified.reports)
    gevent.sleep(2 * parts.VACATED_SECONDS)
    assert notified.reports == [("occupied", NEWS, "")]


@pytest.mark.parametrize(
    ("events", "wanted"),
    [(("joined",), ["joined"]), (("vacated",), ["vacated"]), (("login",), [])],
)
def test_only_events_that_the_app_names_are_sent(
    harness: Harness, events: Any, wanted: list[str]
) -> None:
    notified = Notified(harness, events)
    ann = joined(harness, "ann")
    harness.channels.members.leave(MULTI, NEWS, ann)
    until(lambda: len(notified.reports) == len(wanted))
    assert [event for event, *_ in notified.reports] == wanted


def test_the_first_and_the_last_subscriber_of_all_nodes_count(nodes: Several) -> None:
    one, two = (Notified(nodes[number], ("occupied", "vacated")) for number in (1, 2))
    ann = joined(nodes[1], "ann")
    bob = joined(nodes[2], "bob")
    nodes[1].channels.members.leave(MULTI, NEWS, ann)
    until(lambda: nodes.book.where(MULTI, NEWS) == {2: 1})
    joined(nodes[1], "cid")
    nodes[2].channels.members.leave(MULTI, NEWS, bob)
    until(lambda: nodes.book.where(MULTI, NEWS) == {1: 1})
    until(lambda: one.reports)
    assert (one.reports, two.reports) == ([("occupied", NEWS, "")], [])
    nodes[1].channels.members.leave_all(
        next(iter(nodes[1].hub.apps[MULTI].channels[NEWS].members))
    )
    until(lambda: len(one.reports) == 2)
    assert one.reports[1] == ("vacated", NEWS, "")
    assert not two.reports


def test_of_first_subscribers_at_the_same_time_one_occupies_the_channel(
    nodes: Several,
) -> None:
    notified = [Notified(nodes[number], ("occupied",)) for number in (1, 2)]
    for number in (1, 2):
        nodes[number].registry.hold()
    joining = [gevent.spawn(joined, nodes[number], f"u{number}") for number in (1, 2)]
    gevent.sleep(0)
    for number in (1, 2):
        nodes[number].registry.release()
    gevent.joinall(joining, timeout=60)
    until(lambda: any(each.reports for each in notified))
    assert sorted(len(each.reports) for each in notified) == [0, 1]
