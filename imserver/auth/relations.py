"""Questions of the core about two users: may one reach the other, and know whether they are online?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol


class Relations(Protocol):
    """Answers what one user of an app may know of another, and do to them.

    Every route and command that names or shows a user asks here. ``by`` ``""`` is a back end: it acts for the
    app, and nothing is hidden from it. Every question but :meth:`limits` may switch and raise
    StorageUnavailable. The answers here are those of :class:`NoRelations`.
    """

    def limits(self, app: str, by: str) -> bool:
        """Whether anything in this app can be hidden from ``by``. Never switches."""
        return False

    def blocked_by(self, app: str, by: str, users: Iterable[str]) -> list[str]:
        """The users among ``users`` who have blocked ``by``, in a fixed order."""
        return []

    def may_reach(self, app: str, by: str, user: str) -> bool:
        """Whether something of ``by`` may reach ``user``, wherever that is not a stored message."""
        return True

    def may_write(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may write to ``user``. The log decides the same about stored messages."""
        return True

    def may_gather(self, app: str, by: str) -> bool:
        """Whether ``by`` may make groups, add people to groups, and join groups without an invitation."""
        return True

    def strangers_among(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """The users among ``users`` whom ``by`` may not add to a group: they join by an invitation."""
        return set()

    def blockers(self, app: str, by: str, limit: int) -> tuple[str, ...]:
        """Users who have blocked ``by``, at most ``limit``."""
        return ()

    def may_see_presence(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may know whether ``user`` is online."""
        return True

    def visible(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """The users among ``users`` whose presence ``by`` may know."""
        return set(users)


class NoRelations(Relations):
    """Nobody blocks others or hides their presence: everybody may do everything. Never switches."""
