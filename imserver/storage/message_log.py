"""What the message log can be asked and told: :class:`imserver.storage.log.Log` does it in a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from imserver.storage.log_contract import (
    Change,
    Conversation,
    Draft,
    Entry,
    Marks,
    Membership,
    Noted,
    OnCommitted,
    Receipt,
    Rejected,
    Stored,
    Talk,
)

if TYPE_CHECKING:
    from imserver.storage.group_contract import Right


class MessageLog(Protocol):
    """The log of every app. All of it may switch, and raises StorageUnavailable, which is temporary."""

    on_committed: OnCommitted

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Stored]:
        """Store drafts, in their order; returns after the commit. What is rejected costs the rest nothing.

        Raises StorageUnavailable: nothing was stored. Only :class:`StorageUnsure`, where the answer to a
        COMMIT does not come, says that it may have been; who tries again with a ``client_msg_id`` gets the
        one entry in any case. Where drafts had to be stored one by one, some answers may say the same.
        """

    # --- reading the log ------------------------------------------------------------------------------------

    def head(self, app: str) -> int:
        """The greatest id; 0: nothing was ever stored."""

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        """App → the id of its newest entry, of those among ``apps`` that have one."""

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired. A cursor below it must begin anew."""

    def stored_before(self, app: str, time: int) -> int:
        """The greatest id that was stored before this Unix second, as far as it has not expired."""

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        """The whole log behind an id."""

    def entries(self, app: str, ids: Sequence[int]) -> list[Entry]:
        """Those of these entries that exist, in the order of their ids."""

    def sync(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What the user may read behind an id, in order, and whether there is more."""

    def catch_up(
        self, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        """The same with what was said in rooms: ``places`` has for each room that is wanted the id behind
        which, and under ``""`` that for what the user may read."""

    def history(
        self, app: str, user: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], bool]:
        """What the user may read of a conversation before an id (0: its end): the newest, in order, without
        what the user has hidden, and whether there is more before."""

    def said(self, app: str, room: str, before: int, limit: int) -> tuple[list[Entry], bool]:
        """What was said in a room before an id (0: its end): the newest, in order, and whether there is more
        before."""

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        """The newest texts before an id (0: the end) that say ``text`` and that the user may read, in order:
        of one conversation, or (0) of all. Neither what the user has hidden nor what was recalled. The
        letters of ASCII count alike in any case, others too if a word is all small, all capital or begins so.

        And the id before which to go on; 0: all was looked through. After half a second it comes back with
        what it has, be it nothing.
        """

    # --- conversations --------------------------------------------------------------------------------------

    def conversation(self, app: str, conversation: int) -> Conversation | None:
        """One conversation."""

    def conversations(self, app: str, ids: Sequence[int]) -> list[Conversation]:
        """Those of these conversations that exist, in the order of their ids."""

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        """The conversation of two users, if they ever had one."""

    def talks(self, app: str, user: str, before: int, limit: int) -> tuple[list[Talk], bool]:
        """The user's conversations whose newest id is below ``before`` (0: all), those with the newest entry
        first, and whether there are more."""

    def memberships(self, app: str, user: str) -> list[Membership]:
        """All of a user's memberships, those that have ended too."""

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        """Who is a member, by their ids, behind ``after``."""

    def member(self, app: str, conversation: int, user: str) -> Membership | None:
        """The membership of a user that has not ended."""

    # --- groups ---------------------------------------------------------------------------------------------

    def create(self, app: str, owner: str, name: str, users: Sequence[str], meta: bytes = b"") -> Change:
        """Make a group of the owner and others; its first entry is of kind ``group``."""

    def join(
        self,
        app: str,
        conversation: int,
        users: Sequence[str],
        by: str = "",
        role: str = "member",
        *,
        most: int = 0,
        right: Right | None = None,
    ) -> Change | Rejected:
        """Make users members; who is one stays as they are. One entry of kind ``join`` names the new ones.

        ``most``: so many members a group may have then; 0: as many as come. ``right``, here and below: who
        has it may make the change; None: anybody.
        """

    def leave(
        self,
        app: str,
        conversation: int,
        users: Sequence[str],
        by: str = "",
        *,
        heir: bool = False,
        right: Right | None = None,
    ) -> Change | Rejected:
        """End memberships; one entry of kind ``leave`` names whose.

        ``heir``: where the owner is among them, the first admin that is left, else the first member, is the
        owner from then on; the entry that says so comes before.
        """

    def rename(
        self, app: str, conversation: int, name: str, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Give a group another name; its entry is of kind ``group``."""

    def set_open(
        self, app: str, conversation: int, is_open: bool, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Let anybody join a group, or not any more; its entry is of kind ``group``. Nothing is stored where
        it is so already."""

    def set_member(
        self,
        app: str,
        conversation: int,
        user: str,
        *,
        role: str | None = None,
        muted_until: int | None = None,
        by: str = "",
        right: Right | None = None,
    ) -> Change | Rejected:
        """Change a member's role or silence; its entry is of kind ``group``. Nothing is stored where it is so
        already. Whoever is made the owner takes the place of the one before, who is an admin then."""

    # --- marks ----------------------------------------------------------------------------------------------

    def note(
        self, app: str, user: str, conversation: int, *, read: int = 0, received: int = 0
    ) -> Noted | None:
        """The user has read, or received, up to an id: never back, and never beyond the log. What was read
        was received. None: the user never was in this conversation."""

    def hide(self, app: str, user: str, ids: Sequence[int]) -> int:
        """The user does not want to see these entries; the version of the user's marks."""

    def forget(self, app: str, user: str) -> None:
        """Delete all marks of a user, who is gone for good."""

    def marks(self, app: str, user: str, after: int) -> Marks:
        """What the user marked behind a version."""

    def receipts(self, app: str, user: str, conversation: int, after: str, limit: int) -> list[Receipt]:
        """Where the other members are who noted anything, by their ids behind ``after``; nothing for
        somebody who is no member."""

    # --- retention ------------------------------------------------------------------------------------------

    def apps(self) -> list[str]:
        """The apps that have entries which have not expired, by name."""

    def expire(self, app: str, *, older_than_seconds: float = 0, more_than: int = 0) -> int:
        """Delete the oldest entries: those stored longer ago, and all but the newest; how many."""
