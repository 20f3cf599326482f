"""Audiences: one notification to the devices of many users.

The node that notifies goes through the users page by page. The deliveries to a page and the position behind
it are one transaction, so a node that is killed leaves nothing to be sent twice. Little of an audience waits
to be sent at a time: other notifications need not wait for it, and it can be cancelled.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from math import inf
from time import monotonic
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from imserver.features.notifications.audience_rows import AudienceRows
from imserver.features.notifications.contract import NO_DATA, Audience
from imserver.features.notifications.declared import AppNotifySettings
from imserver.features.notifications.pushes import PushNotifications
from imserver.features.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import Store
from imserver.plugin.wire import Event

log: Final = logging.getLogger(__name__)

MOST_ACTIVE: Final = 100
"""Audiences of all apps among which the next one is chosen."""


class AudiencePages(Struct, frozen=True):
    """How an audience is cut into pages.

    ``users``: of a page. ``waiting``: after so many deliveries that wait to be sent, the next page comes
    later. ``look_seconds``: how often it is looked whether enough was sent.
    """

    users: int = 250
    waiting: int = 1000
    look_seconds: float = 0.2


_PAGES: Final = AudiencePages()


class Audiences:
    """Goes through audiences while this node has the lease of the notifier. Owner of the order in which they
    have their turns, and of the budgets of apps.

    ``node``: the name of this node. ``wake`` says that deliveries to some hosts were added.
    """

    def __init__(
        self,
        store: Store,
        rows: AudienceRows,
        pushes: PushNotifications,
        rules_of: Callable[[str], AppNotifySettings | None],
        lease: DeliveryLease,
        node: Callable[[], str],
        wake: Callable[[Collection[str]], object],
        pages: AudiencePages = _PAGES,
    ) -> None:
        self._pages = pages
        self._store = store
        self.rows = rows
        self._pushes = pushes
        self._rules_of = rules_of
        self._lease = lease
        self._node = node
        self._wake = wake
        self._turns: dict[int, float] = {}
        """Audience → when it had its last turn (monotonic)."""
        self._free_at: dict[str, float] = {}
        """App → when its budget allows the next page (monotonic)."""
        self._active: Counter[str] = Counter()
        self._looks_at = inf
        """When something may have changed that nobody announces (monotonic)."""
        self._has_ended = False
        self.consumer = Consumer(
            "audiences",
            lease,
            self._read,
            self._queue,
            until_due=lambda: max(self._looks_at - monotonic(), 0.0),
        )

    @property
    def active(self) -> Counter[str]:
        """App → its audiences that have not ended, while this node goes through them. Never switches."""
        return self._active if self._lease.is_owned else Counter()

    def look(self) -> None:
        """Look whether there is something to do. Switches. Raises StorageUnavailable."""
        if self._lease.is_owned and not self._has_ended and self.rows.active(1):
            self.consumer.wake()

    def stop(self) -> None:
        """Queue nothing more. Switches."""
        self._has_ended = True
        Consumer.stop_all([self.consumer])

    # --- the consumer's functions ---------------------------------------------------------------------------

    def _read(self) -> Audience | None:
        """The audience that has its turn. Switches. Raises StorageUnavailable."""
        active = self.rows.active(MOST_ACTIVE)
        self._active = Counter(each.app for each in active)
        now = monotonic()
        self._looks_at = now + self._pages.look_seconds if active else inf
        self._turns = {each.id: self._turns.get(each.id, 0.0) for each in active}
        waiting = self.rows.waiting([each.id for each in active])
        for each in sorted(active, key=lambda one: self._turns[one.id]):
            if each.state == "queued":
                if not waiting.get(each.id):
                    self.rows.finish(each.id)
            elif waiting.get(each.id, 0) < self._pages.waiting and self._free_at.get(each.app, 0.0) <= now:
                self._turns[each.id] = now
                return each
        return None

    def _queue(self, audience: Audience) -> Failure | None:
        """Queue the deliveries to the next users. Switches. Raises StorageUnavailable and NotOwner."""
        app, rules = audience.app, self._rules_of(audience.app)
        if rules is None or not rules.enabled:
            self.rows.cancel(app, audience.id)
            return None
        users = self._users_after(audience)
        content = audience.content
        notify = replace(content.notify, tag=content.notify.tag or f"audience {audience.id}")
        data = b"" if content.data == NO_DATA else bytes(content.data)
        event = Event("msg", "", "", data=data)
        wanted = [(user, event, notify) for user in users]
        deliveries = self._pushes.deliveries(app, rules, wanted, audience.id) if users else []
        is_last = len(users) < self._pages.users
        if self.rows.add_page(audience, users, deliveries, is_last, self._node()) and deliveries:
            begin = max(monotonic(), self._free_at.get(app, 0.0))
            self._free_at[app] = begin + len(deliveries) / rules.audience_per_second
            self._wake({each.host for each in deliveries})
        return None

    def _users_after(self, audience: Audience) -> Sequence[str]:
        app, after, limit = audience.app, audience.last_user, self._pages.users
        if audience.kind == "users":
            users = audience.target.users
            begin = bisect_right(users, after) if after else 0
            return users[begin : begin + limit]
        if audience.kind == "all":
            return self.rows.users_with_endpoints(app, after, limit)
        conversations = self._store.part(MessageLog).conversations
        members = conversations.members(app, audience.target.group, after, limit)
        return [each.user for each in members]
