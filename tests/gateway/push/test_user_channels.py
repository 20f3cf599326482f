"""Pushes to users whose channels have a history: each is a publication, and reaches every session once."""

from collections.abc import Iterator

import pytest

from imserver.gateway.auth.observer import Observer
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.metrics import CountsByApp
from imserver.gateway.model import Event, Outcome
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.push import Publishing, Pushes, UserPush
from imserver.gateway.push.targets import Target, UserChannels
from tests.gateway.channels.test_channels import subscriber
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness, texts

OWN = "user:ann"
HELLO = Event("msg", "shop", "hello")


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as harness:
        harness.channel_settings = {"user": ChannelSettings(history_size=5, history_seconds=60, max_bytes=9)}
        harness.channels.options.history_apps = {MULTI}
        yield harness


def offsets(harness: Harness) -> list[tuple[int, str]]:
    """The history of the channel of the user ann."""
    page = harness.channels.histories.read(MULTI, OWN, limit=-1)
    return [(each.channel.offset, each.text) for each in page.publications if each.channel is not None]


def publishing_of(harness: Harness) -> Publishing:
    ids, services = Idempotency(100, 60), (harness.channels, harness.connections, harness.pending)
    return Publishing(harness.reach, *services, ids, CountsByApp(), Observer().absent)


def pushes_of(harness: Harness) -> Pushes:
    channels = UserChannels(harness.channels, harness.reach.to_user)
    return Pushes(Idempotency(100, 60), harness.reach, harness.metrics, channels)


def test_subscribers_receive_a_publication_and_other_sessions_a_push(harness: Harness) -> None:
    _, client, _ = subscriber(harness, channel=OWN)
    _, other = harness.login(MULTI, "ann", device="desk")
    publishing = publishing_of(harness)
    targets = [Target(user="ann"), Target(channel=OWN), Target(user="ann", device="desk")]
    assert publishing.to_targets(MULTI, targets, HELLO) == [Outcome.SENT] * 3
    (published,) = publishing.to_channels(MULTI, [OWN], HELLO, tags=b'{"a":"b"}', key="1")
    assert not isinstance(published, ChannelRefused)
    assert texts(client, other) == [["hello"] * 3, ["hello"] * 4]
    assert offsets(harness) == [(1, "hello"), (2, "hello"), (3, "hello")], "not what is for one device"
    publishing.to_channels(MULTI, [OWN], HELLO, with_history=False)
    assert texts(client, other) == [["hello"], ["hello"]]
    assert len(offsets(harness)) == 3


def test_the_history_has_what_absent_users_miss_and_they_are_reported(harness: Harness) -> None:
    publishing = publishing_of(harness)
    assert publishing.to_users(MULTI, ["ann", "bob"], HELLO, ttl_seconds=60) == [Outcome.SENT] * 2
    assert publishing.to_each(MULTI, ["ann"], [HELLO]) == [Outcome.SENT]
    assert offsets(harness) == [(1, "hello"), (2, "hello")]
    _, client, _ = subscriber(harness, channel=OWN)
    _, other = harness.login(MULTI, "ann", device="desk")
    harness.pending.look()
    assert texts(client, other) == [[], ["hello"]], "subscribers have it from the history"


def test_a_deleted_user_leaves_no_publications(harness: Harness) -> None:
    publishing_of(harness).to_users(MULTI, ["ann"], HELLO)
    harness.channels.histories.erase_user(MULTI, "bob", "deleted:1")
    assert offsets(harness) == [(1, "hello")]
    harness.channels.histories.erase_user(MULTI, "ann", "deleted:1")
    assert offsets(harness) == []
    harness.history.erase_user = lambda *_: None  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageUnavailable):
        harness.channels.histories.erase_user(MULTI, "ann", "deleted:1")


def test_a_user_whose_id_is_too_long_for_a_channel_receives_plain_pushes(harness: Harness) -> None:
    publishing, longest = publishing_of(harness), "u" * 250
    assert publishing.to_users(MULTI, [longest, f"{longest}u"], HELLO) == [Outcome.SENT, Outcome.NOT_SENT]


def test_a_push_that_the_channel_refuses_reaches_nobody(harness: Harness) -> None:
    _, client = harness.login(MULTI, "ann")
    (outcome,) = publishing_of(harness).to_users(MULTI, ["ann"], Event("msg", "shop", "ten bytes."))
    assert outcome is Outcome.REFUSED
    assert texts(client) == [[]]


def test_pushes_of_the_original_are_publications_once_for_each_id(harness: Harness) -> None:
    pushes = pushes_of(harness)
    _, client, _ = subscriber(harness, channel=OWN)
    found = [pushes.from_back_end(MULTI, UserPush("ann", "m1", "one")) for _ in range(2)]
    found.append(pushes.from_user(MULTI, "bob", UserPush("ann", "m1", "two")))
    found += pushes.to_each(MULTI, [UserPush("ann", "m1", "one"), UserPush("ann", "m2", "three"), UserPush()])
    assert pushes.to_many(MULTI, ["ann", ""], "m3", "four") == [Outcome.SENT, Outcome.NOT_SENT]
    sent, repeated = Outcome.SENT, Outcome.REPEATED
    assert found == [sent, repeated, sent, repeated, sent, Outcome.NOT_SENT]
    assert texts(client) == [["one", "two", "three", "four"]]
    assert offsets(harness) == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]
