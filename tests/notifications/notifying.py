"""A node that notifies, on a real database, with a fake sender; for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from time import time
from types import SimpleNamespace

import gevent
from msgspec import json

from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.backends.webhooks.event_rows import EventStore
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.metrics import Metrics
from imserver.gateway.storage.statements import text_of
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.deliverer import LogFollower
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.receipts import Receipts
from imserver.notifications.contract import Delivery, PushEndpoint, Shown
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.notifier import Notifier
from imserver.notifications.recipients import Recipients
from imserver.notifications.rows import NotificationRows, Results
from imserver.people.accounts.contract import Account
from tests.backends.webhooks.consumer_users import end

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
    """Takes deliveries, as the sender of notifications does, and remembers what it got."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.away = False

    def shown(self, user: str = "") -> list[Shown]:
        return [json.decode(one.body, type=Shown) for one in self.taken if not user or one.user == user]

    def texts(self, user: str = "") -> list[str]:
        """``body`` of what was shown, ``close`` for what was closed, in order."""
        return [one.body if one.kind == "message" else one.kind for one in self.shown(user)]


class NotifyingNode:
    """One node. ``kill`` ends it as a killed process ends: nothing is given back."""

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
        log.writer.listener = SimpleNamespace(committed=self.follower.committed, batch_stored=lambda *_: 0.0)  # type: ignore[assignment]
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
            lambda app, user, endpoint, conversation, entry: f"{user}-{endpoint}-{conversation}-{entry}",
            lambda app, due_ms: None,
        )
        self.receipts = Receipts(SimpleNamespace(send=lambda *_: None), self.store)  # type: ignore[arg-type]
        self.receipts.on_read.append(self.notifier.read)
        self.is_sending = True
        self._run = gevent.spawn(self.notifier.work.run)

    def subscribe(self, *users: str, app: str = APP, language: str = "en", device: str = "") -> PushEndpoint:
        for user in users:
            url = f"https://{HOST}/{app}/{user}{device}"
            one = self.rows.add_endpoint(PushEndpoint(0, app, user, url, "p", "a", device, language), 5)
        self.notifier.work.changed()
        return one

    def send(self, sender: str, to: str | int, *texts: str, meta: bytes = b"") -> list[int]:
        user, conversation = (to, 0) if isinstance(to, str) else ("", to)
        now = int(time() * 1000)
        drafts = [
            Draft(
                sender=sender,
                to_user=user,
                conversation=conversation,
                body=text.encode(),
                time_ms=now,
                meta=meta,
            )
            for text in texts
        ]
        return [each.entry.id for each in self.store.part(MessageLog).writer.append(APP, drafts)]  # type: ignore[union-attr]

    def read(self, user: str, conversation: int, upto: int = 1 << 40) -> None:
        """As a client of this node does."""
        self.receipts.note(APP, user, conversation, read=upto)

    def dues(self) -> list[tuple[str, int, int]]:
        """(user, due, notified) of all rows."""
        statement = "SELECT member, due, notified_id FROM notify_due ORDER BY member, conversation"
        return [(text_of(user), due, notified) for user, due, notified in self.store.rows(statement)]

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
        """Send what waits, after a last look."""
        if self.service.away or not self.lease.is_owned:
            return
        found = self.rows.deliveries(HOST, int(time() * 1000), 10_000)
        messages = [one for one in found if one.kind == "message"]
        items = [(one.user, one.conversation, one.entry) for one in messages]
        was_read = dict(zip([one.id for one in messages], self.recipients.are_over(APP, items), strict=True))
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
