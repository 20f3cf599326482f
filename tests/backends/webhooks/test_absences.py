"""Who is to be notified of a stored message, when, and how often; on a real
database."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from imserver.backends.webhooks.absences import Absences
from imserver.backends.webhooks.requests import Receiver
from imserver.gateway.sessions.presence import Online
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.backends.webhooks.test_feeds import APP, EVENTS, Node
from tests.gateway.core.back_end import BackEnd
from tests.gateway.transport.harness import until
from tests.messenger.accounts import add_account

pytestmark = pytest.mark.usefixtures("quick")


class Harness(Node):
    """A node with notifications; ``online`` are the users who are."""

    def __init__(
        self, folder: Path, seconds: float, back_end: BackEnd | None = None
    ) -> None:
        self.back_end = back_end or BackEnd()
        super().__init__(folder, self.back_end)
        self.feeds.set(
            APP, Receiver(APP, "http://back.end/", b"secret", EVENTS, seconds)
        )
        self.online: set[str] = set()
        self.registry = SimpleNamespace(healthy=lambda: True)
        self.bots: set[str] = set()
        presence: Any = SimpleNamespace(
            online=self._presence,
            are_online=lambda *which: self._presence(*which).users,
        )

        def bots_among(_app: str, users: Sequence[str]) -> Any:
            return [
                SimpleNamespace(user=user, bot=True)
                for user in self.bots.intersection(users)
            ]

        absences = Absences(
            self.feeds,
            presence,
            lambda: self.registry.healthy(),
            self.store,
            bots_among,
        )
        self.feeds.attach(self.log, absences.make_consumer)

    @property
    def log(self) -> MessageLog:
        return self.store.part(MessageLog)

    def say(self, conversation: int, text: str) -> None:
        """Ann writes to a conversation."""
        draft = Draft(
            sender="ann", conversation=conversation, body=text.encode(), time_ms=1
        )
        self.log.writer.append(APP, [draft])

    def _presence(self, _app: str, users: Sequence[str]) -> Online:
        return Online([user in self.online for user in users])

    def login(self, user: str) -> None:
        self.online.add(user)
        self.feeds.came_online(APP, user)

    @property
    def absent(self) -> list[dict[str, Any]]:
        return [event for event in self.back_end.events if event["event"] == "absent"]

    def rows(self) -> list[Any]:
        return self.store.read(
            lambda sql: sql.query("SELECT member, due FROM absence ORDER BY member")
        )

    def quiet(self) -> bool:
        """Whether all entries were looked at, and nothing waits for its
        time."""
        noting = self.feed.noting
        return (
            noting is not None
            and not noting.count
            and all(due == 0 for _, due in self.rows())
        )


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    one = Harness(tmp_path, 0.0)
    yield one
    one.kill()


def test_an_offline_receiver_is_reported_once_until_they_were_online(
    harness: Harness,
) -> None:
    harness.online = {"ann"}
    harness.send("ann", "x" * 300)
    until(lambda: harness.absent)
    event = harness.absent[0]
    assert event["id"] == "event-1"
    del event["id"], event["time"], event["node"]
    about = {
        "conversation": 1,
        "kind": "user",
        "stored": {"id": 1, "conversation": 1, "seq": 1},
    }
    shown = {"sender": "ann", "unread": 1, "type": "text", "preview": "x" * 200}
    assert event == {"event": "absent", "app": APP, "user": "zoe", **about, **shown}
    harness.send("ann", "again", "and again")
    until(harness.quiet)
    harness.login("zoe")
    until(lambda: not harness.rows())
    harness.send("ann", "while online")
    until(harness.quiet)
    assert len(harness.absent) == 1
    harness.online.discard("zoe")
    harness.send("ann", "gone again")
    until(lambda: len(harness.absent) == 2)
    assert (harness.absent[1]["preview"], harness.absent[1]["unread"]) == (
        "gone again",
        5,
    )


def test_each_conversation_is_reported_and_each_offline_member_of_a_group(
    harness: Harness,
) -> None:
    harness.online = {"ann", "bob"}
    group = harness.log.groups.create(
        APP, "ann", "tea", ["bob", "eve", "zoe"]
    ).conversation
    harness.say(group, "hi all")
    harness.send("bob", "hi zoe")
    until(lambda: len(harness.absent) == 3)
    found = {
        (event["user"], event["kind"], event.get("name"), event["preview"])
        for event in harness.absent
    }
    assert found == {
        ("eve", "group", "tea", "hi all"),
        ("zoe", "group", "tea", "hi all"),
        ("zoe", "user", None, "hi zoe"),
    }
    harness.log.groups.leave(APP, group, ["eve"], "eve")
    harness.log.groups.join(APP, group, ["kim"], "ann")
    harness.login("eve")
    harness.online.discard("eve")
    harness.say(group, "more")
    until(lambda: len(harness.absent) == 4)
    assert harness.absent[3]["user"] == "kim"


def test_a_bot_is_never_absent(harness: Harness) -> None:
    bot = add_account(harness.store, APP, bot=1)
    harness.bots.add(bot)
    group = harness.log.groups.create(APP, "ann", "tea", [bot, "zoe"]).conversation
    harness.online = {"ann"}
    harness.log.writer.append(
        APP, [Draft(sender="ann", to_user=bot, body=b"hi bot", time_ms=1)]
    )
    harness.say(group, "hi all")
    until(lambda: harness.absent and harness.quiet())
    assert [event["user"] for event in harness.absent] == ["zoe"]
    assert harness.store.rows("SELECT last_id FROM event_feed") == [(1,)], (
        "one event in all"
    )


def test_users_who_read_or_leave_or_are_back_in_time_are_not_reported(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.send("ann", "one")  # makes the database
    until(lambda: harness.absent)
    harness.login("zoe")
    until(lambda: not harness.rows())
    harness.online.clear()
    harness.feeds.set(APP, Receiver(APP, "http://back.end/", b"secret", EVENTS, 600))
    log = harness.log
    group = log.groups.create(APP, "ann", "tea", ["eve", "kim"]).conversation
    harness.send("ann", "read soon")
    harness.say(group, "hi")
    until(lambda: len(harness.rows()) == 3)
    log.marks.note(APP, "zoe", 1, read=2**40)
    log.groups.leave(APP, group, ["eve"], "eve")
    harness.online.add("kim")
    harness.store.write(lambda sql: sql.execute("UPDATE absence SET due = 1"))

    def looked() -> bool:
        harness.feed.next_due = 0
        assert harness.feed.notifier is not None
        harness.feed.notifier.wake()
        return not harness.rows()

    until(looked)
    assert len(harness.absent) == 1


def test_the_delay_goes_on_after_the_node_was_killed(tmp_path: Path) -> None:
    back_end = BackEnd()
    first = Harness(tmp_path, 600, back_end)
    first.send("ann", "hi")
    until(lambda: first.store.has_database and first.rows())
    until(lambda: first.feed.next_due >= first.rows()[0][1])
    due = int(time() * 1000) + 500
    first.store.write(lambda sql: sql.execute("UPDATE absence SET due = %s", (due,)))
    first.kill()
    assert not first.absent
    second = Harness(tmp_path, 600, back_end)
    try:
        until(lambda: second.absent)
        assert second.absent[0]["time"] >= due // 1000
    finally:
        second.kill()


def test_a_registry_that_is_away_delays_reports(harness: Harness) -> None:
    healthy = False
    harness.registry.healthy = lambda: healthy
    harness.send("ann", "hi")
    until(lambda: harness.store.has_database and harness.rows())
    for _ in range(10):
        gevent.sleep(0.01)
    assert not harness.absent
    healthy = True
    until(lambda: harness.absent)


def test_members_who_joined_while_another_node_noted_are_reported(
    harness: Harness,
) -> None:
    group = harness.log.groups.create(APP, "ann", "tea", ["bob"]).conversation
    harness.online = {"ann"}
    harness.say(group, "one")
    until(lambda: len(harness.absent) == 1)
    # Another node has the lease while kim joins.
    harness.store.execute("UPDATE event_feed SET owner = 'two'")
    until(lambda: harness.feed.sender is None)
    assert harness.log.groups.join(APP, group, ["kim"], "ann")
    ((head,),) = harness.store.rows("SELECT last_id FROM log")
    change = "UPDATE event_feed SET owner = 'one', noted_id = %s, entry_id = %s"
    harness.store.execute(change, (head, head))
    until(lambda: harness.feed.owned)
    harness.say(group, "two")
    until(lambda: any(event["user"] == "kim" for event in harness.absent))


def test_nothing_is_read_for_apps_that_do_not_want_absent(harness: Harness) -> None:
    harness.feeds.set(
        APP, Receiver(APP, "http://back.end/", b"secret", EVENTS - {"absent"})
    )
    harness.send("ann", "one")
    until(lambda: harness.feed.noting.position == 1)
    assert harness.rows() == []
