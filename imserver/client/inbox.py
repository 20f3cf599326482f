"""The position of a client in the log of its app, and the requests of its catch-up, without any I/O
(docs/reference/protocol.md, "sync" and "ack")."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any, Final

import msgspec

from imserver.client.entries import BeginAnew, ConversationPage, Entry

PAGE: Final = 200
"""Entries of a page of what was missed, the most that the server gives."""
ACK_SECONDS: Final = 1.0
"""How long what has come may wait for its acknowledgement; the server waits for ten."""
ACK_ENTRIES: Final = 500
"""Entries after which one is sent at once."""

COME_BACK: Final = 3000
"""Close code of a connection over which the client cannot catch up at the moment, as the database does not
answer: it tries again over another one."""

Ask = tuple[str, dict[str, Any]]
"""A command and its data."""


class Reached:
    """Stands among what waits to be taken: all before it, and our own messages up to ``place``, has come."""

    __slots__ = ("place", "taken")

    def __init__(self, place: int) -> None:
        self.place = place
        self.taken = False

    def take(self) -> int:
        """The place; from now on it is that for good."""
        self.taken = True
        return self.place


class _SyncPage(msgspec.Struct):
    messages: tuple[Entry, ...]
    more: bool = msgspec.field(name="hasMore")
    begin_anew: bool = msgspec.field(default=False, name="beginAnew")


class Inbox:
    """Owner of the cursor: the greatest id that has come. ``None`` is "from now on".

    After each login the server is told the cursor, and either sends what was missed by itself, or has to be
    asked for it page by page. While pages come, what is told beside them is passed over: it comes again.
    """

    def __init__(self, cursor: int | None) -> None:
        self.cursor = cursor
        self._behind = True
        self._acks = False
        self._unacknowledged = 0
        self._since = 0.0
        self._mark: Reached | None = None

    def login_fields(self) -> dict[str, Any]:
        """What the login says besides who one is."""
        self._behind, self._acks, self._unacknowledged = True, self.cursor is not None, 0
        return {"cursor": self.cursor, "acks": True} if self._acks else {}

    def logged_in(self, data: Any) -> Ask | None:
        """What to ask first, if anything; ``data`` is that of the answer to the login."""
        if self.cursor is None:
            return "conversations", {"limit": 1}
        if isinstance(data, dict) and data.get("recovered") is True:
            self._behind = False
            return None
        return self._sync()

    def answered(self, cmd: str, data: Any) -> tuple[list[Entry | BeginAnew], Ask | None]:
        """What the answer to such a question brings, and what to ask next. Raises ValueError."""
        if cmd == "conversations":
            newest = msgspec.convert(data, ConversationPage).conversations
            self.cursor = newest[0].before if newest else 0
            return [], self._sync()
        page = msgspec.convert(data, _SyncPage)
        if page.begin_anew and self.cursor:
            self.cursor = 0
            return [BeginAnew()], self._sync()
        brought: list[Entry | BeginAnew] = [entry for entry in page.messages if self._new(entry)]
        if page.more and brought:
            return brought, self._sync()
        self._behind = False
        return brought, None

    def told(self, entry: Entry) -> bool:
        """Whether an entry that was told is new."""
        return not self._behind and self._new(entry)

    def stored(self, place: int) -> Reached | None:
        """What we sent is stored at this id. If everything before it has come, the mark to put behind that,
        unless one stands there: whoever only sends must not fill the queue."""
        if self._behind:
            return None  # a page brings it, and what comes before it
        self.cursor = max(self.cursor or 0, place)
        if self._mark is not None and not self._mark.taken:
            self._mark.place = max(self._mark.place, place)
            return None
        self._mark = Reached(place)
        return self._mark

    def ack_at(self) -> float:
        """When the next acknowledgement is due (monotonic); infinite if there is nothing to acknowledge."""
        return self._since + ACK_SECONDS if self._unacknowledged and self._acks else inf

    def ack(self, now: float) -> Ask | None:
        """How to acknowledge all that has come, if that is due."""
        if not self._acks or (now < self.ack_at() and self._unacknowledged < ACK_ENTRIES):
            return None
        self._unacknowledged = 0
        return "ack", {"id": self.cursor}

    def _new(self, entry: Entry) -> bool:
        """Note an entry, also one that is told again as its acknowledgement did not come in time."""
        if not self._unacknowledged:
            self._since = monotonic()
        self._unacknowledged += 1
        if entry.id <= (self.cursor or 0):
            return False
        self.cursor = entry.id
        self._mark = None
        return True

    def _sync(self) -> Ask:
        return "sync", {"cursor": self.cursor or 0, "limit": PAGE}
