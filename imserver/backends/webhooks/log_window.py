"""A window of log entries that a consumer reads by position, and webhooks that
get the entries of one user."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct

from imserver.backends.webhooks.consumer import (
    Consumer,
    DeliveryLease,
    Failure,
    LeasedWork,
)
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.runtime import Service

if TYPE_CHECKING:
    from imserver.backends.webhooks.event_rows import EventStore
    from imserver.plugin.messages import Entry, MessageLog, Messaging
    from imserver.plugin.storage import Store

log = logging.getLogger(__name__)

MAX_BUFFERED: Final = 5000
"""The most entries of an app that wait in memory. Further ones are read from
the log later."""
MAX_BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""Limit of the bytes of their content."""
PAGE: Final = 500
"""The number of entries that one read fetches."""
_HOOK_PAGE: Final = 100
"""The number of entries that one read fetches for one of many webhooks."""


class LogWindow:
    """The entries of an app's log after a position.

    Some of them are in memory: entries that this node stores are added, and
    need not be read from the database. ``read`` may leave out entries that the
    receiver must not get.
    """

    def __init__(
        self,
        read: Callable[[int, int], Sequence[Entry]],
        position: int,
        page: int = PAGE,
    ) -> None:
        """``read`` returns the first entries after an id; its second parameter
        is the most entries that it returns."""
        self._read = read
        self.page = page
        """The number of entries that are read together."""
        self.position = position
        """The id up to which the entries were taken."""
        self._entries: deque[Entry] = deque()
        self._size = 0
        """Bytes of the content of the entries in memory."""
        self._end = position
        """The id up to which the entries are in memory."""
        self.head = position
        """The id up to which entries are known to be stored."""

    def committed(self, first: int, last: int, entries: Sequence[Entry]) -> None:
        """Add the entries of a transaction of this node.

        ``first`` and ``last``: the ids that it stored. If the window does not
        reach up to them, or is full, they are read from the log later. Never
        switches greenlets.
        """
        if (
            first == self._end + 1
            and len(self._entries) < MAX_BUFFERED
            and self._size < MAX_BUFFERED_BYTES
        ):
            self._add(entries)
            self._end = last
        self.head = max(self.head, last)

    def _add(self, entries: Sequence[Entry]) -> None:
        """Add entries behind those in memory, and count their bytes."""
        self._entries += entries
        self._size += sum([len(entry.body) for entry in entries])

    @property
    def count(self) -> int:
        """The number of entries to take, as far as is known."""
        return len(self._entries) + self.head - self._end

    def skip(self) -> None:
        """Take all known entries. Never switches greenlets."""
        self._entries.clear()
        self._size = 0
        self._end = self.head
        self.position = self.head

    def first(self, limit: int = 0) -> list[Entry]:
        """Return the first entries after the position.

        ``limit`` 0: as many as one page has. May switch greenlets. Raises
        StorageUnavailable.
        """
        limit = limit or self.page
        if len(self._entries) < limit and self.head > self._end:
            self._read_page()
        return list(islice(self._entries, limit))

    def _read_page(self) -> None:
        """Read more entries into the window.

        Switches greenlets. Raises StorageUnavailable.
        """
        head = self.head
        page = self._read(self._end, self.page)
        # The query switches: a commit may have continued the window meanwhile.
        self._add([entry for entry in page if entry.id > self._end])
        if page:
            self._end = max(self._end, page[-1].id)
        # An incomplete page is the end of the log as it was before the query.
        if len(page) < self.page:
            self._end = max(self._end, head)
        self.head = max(self.head, self._end)

    def after(self, seen: int) -> int:
        """Return the position behind the first ``seen`` entries in memory.

        Never switches greenlets.
        """
        # Ids after the last entry in memory may have no entry for the receiver.
        if seen == len(self._entries):
            return self._end
        if seen:
            return self._entries[seen - 1].id
        return self.position

    def take(self, upto: int) -> None:
        """Take the entries up to an id out of the window.

        The receiver has them, or does not want them. Never switches greenlets.
        """
        while self._entries and self._entries[0].id <= upto:
            self._size -= len(self._entries.popleft().body)
        self.position = max(self.position, upto)


class RememberedMembers:
    """The members of groups of an app, without bots, in memory.

    Whoever reads the log must call :meth:`forget` when somebody joins or
    leaves.
    """

    MOST = 100_000
    """The most members in memory, of all groups together."""
    PAGE = 1000
    """The number of members that one read fetches."""

    def __init__(self, stored: MessageLog, app: str) -> None:
        """Remember the members of no group yet."""
        self._conversations = stored.conversations
        self._app = app
        self._by_group: dict[int, tuple[str, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, group: int) -> tuple[str, ...]:
        """Return the members of a group.

        They are read at the first call, which switches greenlets, and may raise
        StorageUnavailable.
        """
        if group not in self._by_group:
            users = self._read(group)
            if self._count + len(users) > self.MOST:
                self.clear()
            self._by_group[group] = tuple(users)
            self._count += len(users)
        return self._by_group[group]

    def _read(self, group: int) -> list[str]:
        """Read the members of a group, page by page.

        Bots are left out. Switches greenlets. Raises StorageUnavailable.
        """
        users: list[str] = []
        after = ""
        while True:
            rows = self._conversations.members(self._app, group, after, self.PAGE)
            users += [row.user for row in rows if not row.bot]
            # The last page is not full.
            if len(rows) < self.PAGE:
                return users
            after = rows[-1].user

    def forget(self, group: int) -> None:
        """Forget the members of a group, so that they are read again.

        Never switches greenlets.
        """
        self._count -= len(self._by_group.pop(group, ()))

    def clear(self) -> None:
        """Forget the members of all groups. Never switches greenlets."""
        self._by_group.clear()
        self._count = 0


class LogHook(Struct, frozen=True, kw_only=True):
    """A webhook that gets the entries that ``user`` may read.

    The user is a bot, for example. ``position``: its receiver has all entries
    up to this position in the log.
    """

    app: str
    user: str
    position: int


H = TypeVar("H", bound=LogHook)


class HookOwner(Protocol[H]):
    """The owner of webhooks: it knows how to deliver to them.

    Its methods may switch greenlets, and raise StorageUnavailable.
    """

    def hooks(self) -> Mapping[Any, H]:
        """Key → the webhook, for all apps. The owner chooses the keys. A
        webhook with a new key begins at its stored position."""

    def wants(self, hook: H, entry: Entry) -> bool | None:
        """Whether the receiver gets an entry. None: nothing can be sent to this
        webhook now, so the entry waits."""

    def deliver(self, sender: HookSender[H], entry: Entry) -> Failure | None:
        """Try to deliver an entry. After success or the last attempt, the owner
        takes the entry from the window."""

    def advance(self, hook: H, position: int) -> None:
        """Store a position."""


class LogHooks(Service, Generic[H], dict=True):
    """Delivers log entries to webhooks of single users, in order.

    One node delivers for all nodes. It has a lease in the table of feeds, under
    the name of the node, which a restart does not change. The entries for a
    user are read as clients do, with a cursor: the stored position. Each
    webhook has a consumer, so a URL that fails or hangs delays nobody else.

    ``lease_name`` stands where feeds have the name of the app; no app has this
    name. ``are_bots``: all users are bots, so :meth:`Entries.readers` knows
    them.
    """

    name: str
    lease_name: str
    store: Store
    events: EventStore
    messaging: Messaging
    node: Callable[[], str]
    owner: HookOwner[H]
    are_bots: bool

    def __post_init__(self) -> None:
        """Begin without the lease, so that nothing is sent yet."""
        self._follower = self.messaging.follower
        self.lease = DeliveryLease()
        self.work = LeasedWork(self.name, self._renew, self._wake_senders)
        self.senders: dict[Any, HookSender[H]] = {}
        """Key → the sender of a webhook. Read it only."""
        self._more_apps: Callable[[], Collection[str]] = tuple
        """Returns apps in whose logs to look for new entries, too."""
        self._on_look: list[
            Callable[[Mapping[str, int], Mapping[str, Collection[str]]], object]
        ] = []
        """The functions of :meth:`report_to`."""
        self._seen: dict[str, int] = {}
        """App → the id up to which the log was read."""

    def look_also_in(self, apps: Callable[[], Collection[str]]) -> None:
        """Look for new entries in these apps, too, from now on."""
        self._more_apps = apps

    def report_to(
        self,
        looked: Callable[[Mapping[str, int], Mapping[str, Collection[str]]], object],
    ) -> None:
        """Call a function after each search for new entries, from now on.

        It gets app → the id of its newest entry, and app → the users who may
        read something new.
        """
        self._on_look.append(looked)

    def _renew(self) -> None:
        """Take or renew the lease, and learn which webhooks exist.

        Without the lease, this node sends to no webhook. Switches greenlets.
        Raises StorageUnavailable.
        """
        if not self.store.has_database:
            return
        # Read before the query, so that the lease does not seem to last longer
        # than it does.
        since = monotonic()
        hooks = self.owner.hooks()
        is_granted = bool(hooks) and self._claim()
        if not self.lease.renew(since, is_granted):
            # Another node may have delivered meanwhile: begin at the stored
            # positions.
            self._send_only_to({})
            if is_granted:
                hooks = self.owner.hooks()
            else:
                hooks = {}
        self._send_only_to(hooks)

    def _claim(self) -> bool:
        """Take or renew the lease in the database.

        Returns whether this node has it. Switches greenlets. Raises
        StorageUnavailable.
        """
        name = self.lease_name
        # The position 0 is not used: each webhook has its own.
        rows = self.events.claim({name: 0}, self.node(), DeliveryLease.SECONDS)
        return name in rows

    def _send_only_to(self, hooks: Mapping[Any, H]) -> None:
        """Send to exactly these webhooks from now on.

        After :meth:`stop`, nothing is sent to any webhook. Never switches
        greenlets.
        """
        if self.work.has_ended:
            hooks = {}
        for key in self.senders.keys() - hooks.keys():
            self.senders.pop(key).consumer.stop()
        for key, hook in hooks.items():
            if key in self.senders:
                # Its address or its secret may have changed.
                self.senders[key].hook = hook
            else:
                self.senders[key] = HookSender(self, hook)

    def _wake_senders(self) -> None:
        """Wake the senders with something new to read, and report what is new.

        Switches greenlets. Raises StorageUnavailable.
        """
        apps = {sender.hook.app for sender in self.senders.values()}
        apps.update(self._more_apps())
        self._follower.watch(self.work.news, apps)
        if not apps or not self.store.has_database:
            self._seen = {}
            return

        entries = self.stored().entries
        heads = entries.heads(list(apps))
        seen = {app: heads.get(app, 0) for app in apps}
        # App → the bots that may read one of its new entries. At the first look
        # nobody knows which entries are new.
        readers = {
            app: entries.readers(app, self._seen[app], seen[app])
            for app in apps & self._seen.keys()
        }
        self._look_for_senders(seen, readers)
        for on_look in self._on_look:
            on_look(heads, readers)
        self._seen = seen

    def _look_for_senders(
        self, seen: Mapping[str, int], readers: Mapping[str, Collection[str]]
    ) -> None:
        """Tell each sender how far its log has grown.

        ``seen``: app → the last entry. ``readers``: app → the bots that may
        read one of its new entries.
        """
        for sender in self.senders.values():
            hook = sender.hook
            # If the users are not bots, nobody knows who may read an entry.
            has_more = not self.are_bots or hook.user in readers.get(hook.app, ())
            sender.look(seen[hook.app], has_more)

    def stored(self) -> MessageLog:
        """Return the stored messages."""
        # Imported here to save memory on a node without stored messages.
        from imserver.plugin.messages import MessageLog

        return self.store.part(MessageLog)

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back.

        Switches greenlets. If the database does not answer, the lease expires
        by itself.
        """
        self.work.end()
        senders = list(self.senders.values())
        self.senders = {}
        try:
            # This also stores the positions.
            Consumer.stop_all([sender.consumer for sender in senders])
            if senders:
                self.events.release([self.lease_name], self.node())
        except StorageUnavailable as error:
            log.debug("the lease of %s could not be given back: %s", self.name, error)


class HookSender(Generic[H]):
    """Sends entries to one webhook, while this node has the lease."""

    def __init__(self, hooks: LogHooks[H], hook: H) -> None:
        """Begin at the stored position of the webhook."""
        self.hook = hook
        self._hooks = hooks
        self.window = LogWindow(self._read_entries, hook.position, _HOOK_PAGE)
        self._has_looked = False
        """Whether :meth:`look` was called, so that the end of the log is
        known."""
        self.consumer = Consumer(
            f"the webhook of {hook.user} in {hook.app}",
            hooks.lease,
            read=self._next,
            deliver=self._deliver,
            save=self._save,
        )

    def look(self, head: int, has_more: bool) -> None:
        """Note that the log has entries up to ``head``.

        ``has_more``: this user may read new ones. Never switches greenlets.
        """
        window = self.window
        if head > window.head:
            # The new ids have no entry for this user. Before the first call
            # that is not known, so the entries are read.
            if self._has_looked and not has_more:
                window.committed(window.head + 1, head, ())
            self._has_looked = True
            window.head = head
        if window.count:
            self.consumer.wake()

    def _read_entries(self, after: int, limit: int) -> Sequence[Entry]:
        """Read entries after an id that the user of the webhook may read."""
        stored = self._hooks.stored().entries
        entries, *_ = stored.sync(self.hook.app, self.hook.user, after, limit)
        return entries

    def _deliver(self, entry: Entry) -> Failure | None:
        """Try to deliver an entry, as the owner of the webhook does it."""
        return self._hooks.owner.deliver(self, entry)

    def _save(self) -> None:
        """Store how far the receiver has the entries."""
        self._hooks.owner.advance(self.hook, self.window.position)

    def _next(self) -> Entry | None:
        """Return the next entry that the receiver wants.

        None: no entry waits, or the next one must wait longer. Unwanted entries
        are taken from the window. Switches greenlets. Raises
        StorageUnavailable.
        """
        window = self.window
        while window.count:
            for entry in window.first(1):
                wants = self._hooks.owner.wants(self.hook, entry)
                if wants is None:
                    return None
                if wants:
                    return entry
                window.take(entry.id)
            # Skips ids without an entry, so that the loop ends.
            window.take(window.after(0))
        return None
