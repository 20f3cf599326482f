"""Who is notified of what, once, on a real database; what is sent is taken by a
fake push service."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from time import process_time, time
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.lock import BoundedSemaphore
from msgspec import json

from imserver.backends.webhooks import consumer
from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.backends.webhooks.event_rows import EventStore
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.metrics import Metrics
from imserver.gateway.storage.statements import text_of
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.deliverer import LogFollower
from imserver.messenger.delivery.receipts import Receipts
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Message
from imserver.notifications import notifier
from imserver.notifications.contract import (
    ConversationWish,
    Delivery,
    PushEndpoint,
    QuietHours,
    Shown,
    ShownAction,
    Wishes,
)
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.keywords import searched_text
from imserver.notifications.notifier import Notifier
from imserver.notifications.recipients import Recipients
from imserver.notifications.rows import NotificationRows, Results
from imserver.people.accounts.contract import Account
from tests.backends.webhooks.consumer_users import end
from tests.messenger.log_file import Gates
from tests.support import until

APP = "shop"
HOST = "push.test"


class People:
    """Accounts, who is banned, and who has blocked whom, of all nodes."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.blocks: set[tuple[str, str]] = set()
        """(user, whom they have blocked)."""
        self.banned: set[str] = set()

    def limits(self, _app: str, by: str) -> bool:
        return by != ""

    def is_banned(self, _app: str, user: str) -> bool:
        return user in self.banned

    def those_of(self, _app: str, users: Sequence[str]) -> list[Account]:
        return [self.accounts[user] for user in users if user in self.accounts]

    def blocked_by(self, _app: str, by: str, users: Iterable[str]) -> list[str]:
        return [user for user in users if (user, by) in self.blocks]

    def add(self, id: int, nickname: str, avatar: str = "", bot: bool = False) -> str:
        account = Account(id, APP, "", nickname, avatar, bot=bot)
        self.accounts[account.user] = account
        return account.user


class PushService:
    """Takes deliveries, as the sender of notifications does, and remembers what
    it got."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []

    def shown(self, user: str = "") -> list[Shown]:
        return [
            json.decode(one.body, type=Shown)
            for one in self.taken
            if not user or one.user == user
        ]

    def texts(self, user: str = "") -> list[str]:
        """``body`` of what was shown, ``close`` for what was closed, in
        order."""
        return [
            one.body if one.kind == "message" else one.kind for one in self.shown(user)
        ]


class NotifyingNode:
    """One node. ``kill`` ends it as a killed process ends: nothing is given
    back."""

    def __init__(
        self,
        folder: Path,
        service: PushService | None = None,
        rules: AppNotifySettings | None = None,
        name: str = "one",
        people: People | None = None,
        url: str = "",
    ) -> None:
        self.service = service or PushService()
        self.people = people or People()
        at_once = AppNotifySettings(after_seconds=0.0, again_seconds=0.0)
        self.rules: AppNotifySettings | None = rules or at_once
        self.store = Store(StorageSettings(url), str(folder), threaded=False)
        self.store.start()
        log = self.store.part(MessageLog)
        nobody = SimpleNamespace(is_wanted=lambda app: False, deliver=lambda *_: None)
        self.follower = LogFollower(log, nobody, Metrics())  # type: ignore[arg-type]
        log.writer.report_to(
            SimpleNamespace(
                committed=self.follower.committed, batch_stored=lambda *_: 0.0
            )
        )  # type: ignore[arg-type]
        self.rows = NotificationRows(self.store)
        self.lease = DeliveryLease()
        self.recipients = Recipients(self.store, self.people, self.people.is_banned)  # type: ignore[arg-type]
        self.notifier = Notifier(
            self.store,
            self.rows,
            EventStore(self.store),
            self.follower.watch,
            lambda: name,
            lambda _app: self.rules,
            self.people.those_of,
            self.recipients,
            self.lease,
            self._send,
            lambda app, user, endpoint, conversation, entry: (
                f"{user}-{endpoint}-{conversation}-{entry}"
            ),
        )
        self.receipts = Receipts(SimpleNamespace(send=lambda *_: None), self.store)  # type: ignore[arg-type]
        self.receipts.report_to(self.notifier.note_read)
        self.is_sending = True
        self.notifier.report_to(got_lease=self._send)
        self._delivers = BoundedSemaphore()
        self._run = gevent.spawn(self.notifier.work.run)

    def subscribe(
        self, *users: str, app: str = APP, language: str = "en", device: str = ""
    ) -> PushEndpoint:
        for user in users:
            url = f"https://{HOST}/{app}/{user}{device}"
            one = self.rows.add_endpoint(
                PushEndpoint(0, app, user, url, "p", "a", device, language), 5
            )
        self.notifier.work.changed()
        return one

    def send(
        self, sender: str, to: str | int, *texts: str, meta: bytes = b""
    ) -> list[int]:
        user, conversation = (to, 0) if isinstance(to, str) else ("", to)
        now = int(time() * 1000)
        where = {
            "to_user": user,
            "conversation": conversation,
            "time_ms": now,
            "meta": meta,
        }
        drafts = [Draft(sender=sender, body=text.encode(), **where) for text in texts]
        return [
            each.entry.id
            for each in self.store.part(MessageLog).writer.append(APP, drafts)
        ]  # type: ignore[union-attr]

    def recall(self, message: int, conversation: int = 1) -> None:
        """Ann recalls a message."""
        recall = Draft(
            sender="ann",
            conversation=conversation,
            kind="recall",
            about=message,
            time_ms=1,
        )
        self.store.part(MessageLog).writer.append(APP, [recall])

    def read(self, user: str, conversation: int, upto: int = 1 << 40) -> None:
        """As a client of this node does."""
        self.receipts.note(APP, user, conversation, read=upto)

    def dues(self) -> list[tuple[str, int, int]]:
        """(user, due, notified) of all rows."""
        statement = "SELECT member, due, notified_id FROM notify_due ORDER BY member, conversation"
        return [
            (text_of(user), due, notified)
            for user, due, notified in self.store.rows(statement)
        ]

    def settled(self, app: str = APP) -> bool:
        """Whether the whole log was looked at, and nothing is due now."""
        positions = self.rows.apps()
        head = self.store.part(MessageLog).entries.head(app)
        return positions.get(app) == head and all(
            not due or due > time() * 1000 + 50 for _, due, _ in self.dues()
        )

    def _send(self, _hosts: Collection[str] = ()) -> None:
        if self.is_sending:
            gevent.spawn(self.deliver)

    def deliver(self) -> None:
        """Send what waits, after a last look; one after the other, as the
        consumer of a host does."""
        with self._delivers:
            if self.lease.is_owned:
                self._deliver()

    def _deliver(self) -> None:
        found = self.rows.deliveries(HOST, int(time() * 1000), 10_000)
        messages = [one for one in found if one.kind == "message"]
        items = [(one.user, one.conversation, one.entry) for one in messages]
        was_read = dict(
            zip(
                [one.id for one in messages],
                self.recipients.are_over(APP, items),
                strict=True,
            )
        )
        self.service.taken += [one for one in found if not was_read.get(one.id)]
        self.rows.settle(Results([one.id for one in found]))

    def kill(self) -> None:
        self._run.kill()
        end([each.consumer for each in self.notifier._followed.values()])
        self.store.close()

    def stop(self) -> None:
        self.notifier.stop()
        self.kill()


StartNode = Callable[..., NotifyingNode]


@pytest.fixture
def quick(hasty_consumers: None, constants: Callable[..., None]) -> None:
    """Short pauses."""

    def until_beat(seconds: float = 1.0) -> float:
        return seconds

    constants(consumer, LOOK_SECONDS=0.01, until_beat=until_beat)
    constants(notifier, READ_SECONDS=0.01, until_beat=until_beat)
    constants(DeliveryLease, RENEW_SECONDS=0.1)


@pytest.fixture
def start(quick: None, tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[NotifyingNode] = []

    def start_node(**options: Any) -> NotifyingNode:
        nodes.append(NotifyingNode(tmp_path, **options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()


@pytest.fixture
def node(start: StartNode) -> NotifyingNode:
    return start()


def test_a_receiver_is_notified_on_each_device_with_what_it_needs_to_answer(
    node: NotifyingNode,
) -> None:
    ann = node.people.add(7, "Ann", "/a.png")
    first = node.subscribe("zoe", device="phone")
    second = node.subscribe("zoe", device="desk", language="zh-CN")
    before = int(time() * 1000)
    (id,) = node.send(ann, "zoe", "hi")
    until(lambda: len(node.service.taken) == 2)
    assert [one.endpoint for one in node.service.taken] == [first.id, second.id]
    assert len({one.topic for one in node.service.taken}) == 1
    shown = node.service.shown()[0]
    assert shown.time >= before
    assert shown == Shown(
        "message",
        f"{APP}:1",
        "Ann",
        "hi",
        "/a.png",
        conversation=1,
        id=id,
        count=1,
        time=shown.time,
        token=f"zoe-{first.id}-1-{id}",
    )
    assert node.service.taken[0].ttl > 3600
    until(node.settled)
    assert [notified for _, _, notified in node.dues()] == [id]


def test_devices_of_applications_get_the_number_of_conversations_for_their_icon(
    node: NotifyingNode,
) -> None:
    node.subscribe("zoe")
    node.rows.add_endpoint(PushEndpoint(0, APP, "zoe", "fake:t1", "", ""), 5)

    def badges() -> list[tuple[str, int | None]]:
        waiting = node.rows.deliveries("fake", 1 << 60, 10)
        return [(one.kind, json.decode(one.body, type=Shown).badge) for one in waiting]

    node.send("ann", "zoe", "one")
    until(lambda: badges() == [("message", 1)])
    node.send("bob", "zoe", "two")
    until(lambda: badges() == [("message", 1), ("message", 2)])
    node.send("bob", "zoe", "three")  # replaces the one before
    until(lambda: len(node.service.taken) == 3)
    until(node.settled)
    assert badges() == [("message", 1), ("message", 2)]
    node.read("zoe", 2)
    until(lambda: badges() == [("message", 1), ("close", 1)])
    node.read("zoe", 1)
    until(lambda: badges() == [("close", 1), ("close", 0)])
    assert {each.badge for each in node.service.shown()} == {None}


def test_the_sender_a_bot_and_a_user_without_endpoints_are_not_notified(
    node: NotifyingNode,
) -> None:
    bot = node.people.add(9, "Bot", bot=True)
    group = (
        node.store.part(MessageLog)
        .groups.create(APP, "ann", "tea", ["zoe", "kim", bot])
        .conversation
    )
    node.subscribe("ann", "zoe", bot)
    node.send("ann", group, "hi")
    node.send("ann", bot, "you")
    node.send("ann", "ann", "note to myself")
    until(lambda: node.service.taken)
    until(node.settled)
    assert [one.user for one in node.service.taken] == ["zoe"]
    assert node.service.shown()[0].title == "tea"
    assert node.service.texts() == ["ann: hi"]
    assert [user for user, _, _ in node.dues()] == ["zoe"]


@pytest.mark.parametrize("how", ["read", "closed", "recalled"])
def test_what_is_over_before_its_time_is_not_notified(
    start: StartNode, how: str
) -> None:
    node = start(rules=AppNotifySettings(after_seconds=1.0))
    node.subscribe("zoe", "kim")
    question = ask(node, "zoe")
    node.send("ann", "kim", "hi")
    until(lambda: len(node.dues()) == 2)
    if how == "read":
        node.read("zoe", 1)
    elif how == "closed":
        node.store.part(MessageLog).asks.cancel(APP, "ann", question)
    else:
        node.recall(question)
    until(lambda: node.service.taken)
    until(node.settled)
    assert [one.user for one in node.service.taken] == ["kim"]
    assert [user for user, _, _ in node.dues()] == ["kim"]


def ask(node: NotifyingNode, conversation: str | int, **more: Any) -> int:
    """Ann asks whether to deploy."""
    options = [{"text": text, "value": text.lower()} for text in ("Yes", "No", "Later")]
    meta = json.encode({"ask": {"options": options, **more}})
    (id,) = node.send("ann", conversation, "Deploy?", meta=meta)
    return id


def test_a_question_has_two_answers_for_those_who_may_answer_and_goes_when_it_is_closed(
    node: NotifyingNode,
) -> None:
    stored = node.store.part(MessageLog)
    group = stored.groups.create(APP, "ann", "tea", ["zoe", "kim", "bob"]).conversation
    node.subscribe("zoe", "kim", "bob")
    question = ask(node, group, of=["zoe", "kim"])
    until(lambda: len(node.service.taken) == 3)
    until(node.settled)
    taken = {one.user: json.decode(one.body, type=Shown) for one in node.service.taken}
    answers = (ShownAction("answer:yes", "Yes"), ShownAction("answer:no", "No"))
    assert {user: shown.actions for user, shown in taken.items()} == {
        "zoe": answers,
        "kim": answers,
        "bob": (),
    }
    assert taken["bob"].body == "ann: Question: Deploy?"
    stored.asks.answer(APP, "kim", question, value="no")
    until(lambda: len(node.service.taken) == 6)
    until(node.settled)
    assert [
        json.decode(one.body, type=Shown).kind for one in node.service.taken[3:]
    ] == ["close"] * 3
    assert (
        stored.conversations.unread(APP, {group: ["zoe"]}, {})[group].count("zoe") == 1
    )


def test_those_who_have_not_answered_are_reminded_though_they_have_read_the_question(
    node: NotifyingNode,
) -> None:
    stored = node.store.part(MessageLog)
    group = stored.groups.create(APP, "ann", "tea", ["zoe", "kim", "bob"]).conversation
    node.subscribe("zoe", "kim", "bob")
    question = ask(node, group, need=3)
    until(lambda: len(node.service.taken) == 3)
    for user in ("zoe", "kim", "bob"):
        node.read(user, group)
    until(lambda: len(node.service.taken) == 6)
    until(node.settled)
    stored.asks.answer(APP, "kim", question, value="no")
    node.people.blocks.add(("bob", "ann"))
    stored.asks.remind(APP, "ann", question)
    until(lambda: len(node.service.taken) == 7)
    until(node.settled)
    last = node.service.taken[-1]
    shown = json.decode(last.body, type=Shown)
    assert (last.user, shown.kind, shown.id) == ("zoe", "message", question)
    assert [each.action for each in shown.actions] == ["answer:yes", "answer:no"]
    stored.asks.cancel(APP, "ann", question)
    until(lambda: len(node.service.taken) == 8)
    assert json.decode(node.service.taken[-1].body, type=Shown).kind == "close"


@pytest.mark.parametrize("change", ["banned", "left", "blocked", "recalled", "read"])
def test_what_is_not_for_the_user_any_more_is_not_sent(
    node: NotifyingNode, change: str
) -> None:
    node.is_sending = False
    group = (
        node.store.part(MessageLog)
        .groups.create(APP, "ann", "tea", ["zoe", "kim"])
        .conversation
    )
    node.subscribe("zoe", "kim")
    ids = node.send("ann", group, "secret")
    until(lambda: len(node.rows.deliveries(HOST, int(time() * 1000), 9)) == 2)
    if change == "banned":
        node.people.banned.add("zoe")
    elif change == "left":
        node.store.part(MessageLog).groups.leave(APP, group, ["zoe"], "ann")
    elif change == "blocked":
        node.people.blocks.add(("zoe", "ann"))
    elif change == "read":
        node.read("zoe", group)
    else:
        node.recall(ids[0], group)
    node.deliver()
    assert node.service.texts("zoe") == []
    assert node.service.texts("kim") == (
        [] if change == "recalled" else ["ann: secret"]
    )
    if change not in ("recalled", "read"):
        node.is_sending = True
        node.recall(ids[0], group)
        until(lambda: node.service.texts("kim") == ["ann: secret", "close"])


def test_nobody_is_notified_while_they_are_banned(node: NotifyingNode) -> None:
    node.subscribe("zoe", "kim")
    node.people.banned.add("zoe")
    assert node.recipients.are_over(APP, [("zoe", 0, 0), ("kim", 0, 0)]) == [
        True,
        False,
    ]
    node.send("ann", "zoe", "secret")
    node.send("ann", "kim", "hi")
    until(lambda: node.service.texts("kim"))
    until(node.settled)
    assert [user for user, _, _ in node.dues()] == ["kim"]
    node.people.banned.clear()
    node.send("ann", "zoe", "back again")
    until(lambda: node.service.texts("zoe") == ["back again"])


def test_a_conversation_that_is_read_elsewhere_is_closed_on_all_devices(
    node: NotifyingNode,
) -> None:
    node.subscribe("zoe", device="phone")
    node.subscribe("zoe", device="desk")
    node.send("ann", "zoe", "hi")
    until(lambda: len(node.service.taken) == 2)
    until(node.settled)
    node.read("zoe", 1)
    until(lambda: len(node.service.taken) == 4)
    assert node.service.texts() == ["hi", "hi", "close", "close"]
    assert {one.topic for one in node.service.taken} == {node.service.taken[0].topic}
    assert {one.tag for one in node.service.shown()} == {f"{APP}:1"}
    until(lambda: not node.dues())


def test_what_was_read_in_part_stays_until_the_rest_is_read(
    node: NotifyingNode,
) -> None:
    node.subscribe("zoe")
    (first,) = node.send("ann", "zoe", "one")
    until(lambda: node.service.taken)
    node.is_sending = False
    (second,) = node.send("ann", "zoe", "two")
    until(lambda: node.rows.hosts(0))
    until(node.settled)
    node.read("zoe", 1, first)
    until(
        lambda: (
            node.settled() and [notified for _, _, notified in node.dues()] == [second]
        )
    )
    node.read("zoe", 1, second)
    until(lambda: not node.dues())
    node.deliver()
    assert node.service.texts() == ["one", "close"], "the second one had not left"


def test_levels_muted_conversations_and_quiet_hours(node: NotifyingNode) -> None:
    users = ["kim", "mentions", "nothing", "muted", "unmuted", "quiet"]
    group = (
        node.store.part(MessageLog).groups.create(APP, "ann", "tea", users).conversation
    )
    node.subscribe(*users)
    now = int(time())
    for wish in (
        ("mentions", ConversationWish(group, "mentions")),
        ("nothing", ConversationWish(group, "nothing")),
        ("muted", ConversationWish(group, "all", now + 60)),
        ("unmuted", ConversationWish(group, "all", now - 1)),
    ):
        node.rows.set_conversation_wish(APP, *wish)
    minute = now // 60 % 1440
    node.rows.set_wishes(
        APP, "quiet", Wishes(quiet=QuietHours(minute, (minute + 120) % 1440))
    )
    node.send("ann", group, "look", meta=b'{"mentions":["mentions","nothing"]}')
    until(lambda: len(node.service.taken) == 3)
    until(node.settled)
    assert {one.user for one in node.service.taken} == {"kim", "unmuted", "mentions"}
    (due,) = [due for user, due, _ in node.dues() if user == "quiet"]
    assert 3600 < due / 1000 - now <= 7260
    node.send("ann", group, "and so on")
    until(lambda: len(node.service.texts("kim")) == 2)
    until(node.settled)
    assert node.service.shown("mentions")[0].count == 1
    assert node.service.texts("nothing") == node.service.texts("muted") == []


def test_keywords_and_a_level_for_all_groups(node: NotifyingNode) -> None:
    users = ["words", "usual", "own"]
    group = (
        node.store.part(MessageLog).groups.create(APP, "ann", "tea", users).conversation
    )
    node.subscribe(*users)
    node.rows.set_wishes(
        APP, "words", Wishes(groups="mentions", keywords=("Green Tea", "设计"))
    )
    for user in ("usual", "own"):
        node.rows.set_wishes(APP, user, Wishes(groups="mentions"))
    node.rows.set_conversation_wish(APP, "own", ConversationWish(group), "mentions")
    texts = ["greener teas", "a cup of GREEN TEA, please", "新设计稿"]
    for number, text in enumerate(texts, 1):
        node.send("ann", group, text)
        until(lambda number=number: len(node.service.texts("own")) == number)
        until(node.settled)
    assert node.service.texts("words") == [f"ann: {text}" for text in texts[1:]]
    assert node.service.texts("usual") == []
    node.send("ann", "usual", "to you alone")
    until(lambda: node.service.texts("usual") == ["to you alone"])
    assert not searched_text(
        Message(1, 1, 1, "ann", ("ann", "words"), body=b"green tea")
    )


@pytest.mark.parametrize("by", ["user", "app"])
def test_texts_are_hidden_if_the_user_or_the_app_wants_it(
    node: NotifyingNode, by: str
) -> None:
    if by == "user":
        node.rows.set_wishes(APP, "zoe", Wishes(preview=False))
    else:
        node.rules = AppNotifySettings(after_seconds=0, preview=False)
    node.subscribe("zoe", language="zh")
    node.subscribe("kim")
    node.send("ann", "zoe", "secret")
    node.send("ann", "kim", "open")
    until(lambda: len(node.service.taken) == 2)
    assert node.service.texts("zoe") == ["新消息"]
    assert node.service.texts("kim") == (["open"] if by == "user" else ["New message"])


def test_nobody_is_notified_of_a_sender_whom_they_have_blocked(
    node: NotifyingNode,
) -> None:
    node.people.blocks.add(("zoe", "ann"))
    group = (
        node.store.part(MessageLog)
        .groups.create(APP, "ann", "tea", ["zoe", "kim", "bob"])
        .conversation
    )
    node.subscribe("zoe", "kim")
    node.send("bob", group, "from bob")
    node.send("ann", group, "from ann")
    until(lambda: {"zoe", "kim"} == {one.user for one in node.service.taken})
    until(node.settled)
    assert node.service.texts("zoe")[-1] == "bob: from bob"
    assert node.service.texts("kim")[-1] == "ann: from ann"


def test_a_message_may_say_what_is_shown_or_that_nothing_is(
    node: NotifyingNode,
) -> None:
    node.subscribe("zoe")
    node.send("", "zoe", "not shown", meta=b'{"notify":false}')
    until(node.settled)
    assert node.dues() == []
    notify = {
        "title": "Shop",
        "text": "Sent",
        "url": "/o/17",
        "ttl": 60,
        "silent": True,
    }
    meta = json.encode({"notify": {**notify, "time_sensitive": True}})
    node.send("", "zoe", "order 17", meta=meta)
    until(lambda: node.service.taken)
    shown = node.service.shown()[0]
    assert (shown.title, shown.body, shown.url, node.service.taken[0].ttl) == (
        "Shop",
        "Sent",
        "/o/17",
        60,
    )
    assert shown.silent
    assert shown.time_sensitive


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a restart"])
def test_many_messages_without_notifications_stop_nobody(
    start: StartNode, again: bool
) -> None:
    node = start(rules=AppNotifySettings(after_seconds=1.0 if again else 0.5))
    users = [f"u{number}" for number in range(150)]
    log = node.store.part(MessageLog)
    group = log.groups.create(APP, "ann", "tea", users).conversation
    node.subscribe(*users, "zoe")
    until(lambda: node.lease.is_owned)
    node.send("ann", group, "hi")
    node.send("ann", group, *["nothing"] * 600, meta=b'{"notify":false}')
    node.send("ann", "zoe", "you")
    until(lambda: node.rows.apps().get(APP) == log.entries.head(APP))
    if again:
        node.kill()
        node = start(service=node.service, rules=AppNotifySettings(after_seconds=0.0))
        until(lambda: node.lease.is_owned)
    began = process_time()
    longest = 0.0
    while len(node.service.taken) < 151:
        turn = process_time()
        gevent.sleep(0.001)
        longest = max(longest, process_time() - turn)
        assert process_time() - began < 5, "CPU seconds"
    assert longest < 1
    assert node.service.texts("zoe") == ["you"]
    assert node.service.texts("u149") == ["ann: hi"]


def test_the_notification_of_a_member_who_left_is_closed(node: NotifyingNode) -> None:
    log = node.store.part(MessageLog)
    group = log.groups.create(APP, "ann", "tea", ["zoe", "kim"]).conversation
    node.subscribe("zoe", "kim")
    node.send("ann", group, "hi")
    until(lambda: len(node.service.taken) == 2)
    log.groups.leave(APP, group, ["zoe"], "ann")
    log.groups.join(APP, group, ["bob"], "ann")
    node.subscribe("bob")
    node.send("ann", group, "more")
    until(lambda: len(node.service.taken) == 4)
    until(node.settled)
    assert node.service.texts("zoe") == ["ann: hi"]
    assert (node.service.texts("kim"), node.service.texts("bob")) == (
        ["ann: hi", "ann: more"],
        ["ann: more"],
    )
    node.notifier.note_read(APP, "zoe", group)
    until(lambda: node.service.texts("zoe") == ["ann: hi", "close"])


def test_what_was_received_or_read_again_closes_nothing(node: NotifyingNode) -> None:
    heard: list[tuple[str, str, int]] = []
    node.receipts.report_to(lambda *of: heard.append(of))
    node.send("ann", "zoe", "one", "two")
    node.receipts.note(APP, "zoe", 1, received=2)
    assert heard == []
    for upto in (1, 1, 2):
        node.receipts.note(APP, "zoe", 1, read=upto)
    node.receipts.note(APP, "zoe", 9, read=1)
    assert heard == [(APP, "zoe", 1)] * 2


# --- crashes and outages ------------------------------------------------------


def test_another_node_goes_on_after_the_one_with_the_lease_was_killed(
    start: StartNode,
) -> None:
    rules = AppNotifySettings(after_seconds=1.0)
    service = PushService()
    first = start(rules=rules, service=service)
    first.subscribe("zoe", "kim", "bob")
    until(lambda: first.lease.is_owned)
    second = start(rules=rules, service=service, name="two")
    first.send("ann", "zoe", "told by the first")
    until(lambda: service.taken)
    until(first.settled)
    first.send("ann", "kim", "noted by the first")
    until(lambda: len(first.dues()) == 2)
    assert not second.lease.is_owned
    first.kill()
    second.store.execute("UPDATE event_feed SET lease_until = 1")
    second.send("ann", "bob", "sent while nobody notifies")
    until(lambda: len(service.taken) == 3)
    until(second.settled)
    assert second.lease.is_owned
    assert sorted((one.user, one.entry) for one in service.taken) == [
        ("bob", 3),
        ("kim", 2),
        ("zoe", 1),
    ]


def test_a_reminder_that_a_node_has_noted_comes_from_the_next_one(
    start: StartNode,
) -> None:
    first = start(rules=AppNotifySettings(after_seconds=3600.0))
    first.subscribe("zoe")
    until(lambda: first.lease.is_owned)
    question = ask(first, "zoe")
    until(lambda: len(first.dues()) == 1)
    first.read("zoe", 1)
    first.store.part(MessageLog).asks.remind(APP, "ann", question)
    until(first.settled)
    first.stop()
    second = start(
        rules=AppNotifySettings(after_seconds=0.0), service=first.service, name="two"
    )
    until(lambda: second.service.taken)
    until(second.settled)
    assert [(one.user, one.entry) for one in second.service.taken] == [
        ("zoe", question)
    ]


def test_a_read_on_a_node_without_the_lease_closes_too_and_one_that_stops_gives_the_lease_back(
    start: StartNode,
) -> None:
    first = start()
    first.subscribe("zoe")
    until(lambda: first.lease.is_owned)
    second = start(name="two", service=first.service)
    first.send("ann", "zoe", "one")
    until(lambda: first.service.taken)
    until(lambda: second.notifier.apps)
    second.read("zoe", 1)
    until(lambda: first.service.texts() == ["one", "close"])
    first.stop()
    began = time()
    second.send("ann", "zoe", "two")
    until(lambda: len(first.service.taken) == 3)
    assert time() - began < 5
    assert first.service.texts() == ["one", "close", "two"]


def test_nothing_is_lost_or_notified_twice_while_the_database_is_away(
    start: StartNode,
) -> None:
    node = start(rules=AppNotifySettings(after_seconds=0.8, again_seconds=0))
    node.subscribe("zoe", "kim")
    node.send("ann", "zoe", "one")
    until(lambda: node.service.taken)
    until(node.settled)
    node.send("ann", "kim", "two")
    until(lambda: len(node.dues()) == 2)
    due = max(due for _, due, _ in node.dues())

    gates = Gates()
    node.store.database().runner = gates
    gates.away = True
    node.notifier.note_read(APP, "zoe", 1)
    until(
        lambda: time() * 1000 > due + 200,
        what="it is time to decide, and the database is away",
    )
    gates.away = False
    node.read("zoe", 1)
    until(lambda: set(node.service.texts()) == {"close", "one", "two"})
    until(node.settled)
    # What was read once more while it was decided closes twice.
    assert [text for text in node.service.texts() if text != "close"] == ["one", "two"]
