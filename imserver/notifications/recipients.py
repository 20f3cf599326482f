"""The users whom a notification may still reach: asked when it is decided, and
again right before it is sent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.identity import Relations
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import serve_others
from imserver.plugin.storage import Store

_SENDERS_A_TURN: Final = 16
"""After the blocks of so many senders the loop serves others."""


class Recipients(Struct, frozen=True):
    """Says who may be notified. Switches, and raises StorageUnavailable, but
    ``is_banned``: (app, user)."""

    store: Store
    relations: Relations
    is_banned: Callable[[str, str], bool]

    def blocks(
        self, app: str, pairs: Iterable[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        """Those of these (user, sender) where the user has blocked the
        sender."""
        by_sender: dict[str, list[str]] = {}
        for user, sender in pairs:
            if self.relations.limits(app, sender):
                by_sender.setdefault(sender, []).append(user)

        blocked: set[tuple[str, str]] = set()
        for number, (sender, users) in enumerate(by_sender.items(), 1):
            blocked.update(
                (user, sender) for user in self.relations.blocked_by(app, sender, users)
            )
            if not number % _SENDERS_A_TURN:
                serve_others()
        return blocked

    def are_over(self, app: str, items: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Whether users need not, or may not, be notified any more of (user,
        conversation, entry).

        They have read it, were banned, have left the conversation, or have
        blocked the sender; or the message was recalled, or has expired. An open
        question is not over when it is read, but when it is answered: its
        author may have reminded them. Of what is not stored (conversation 0)
        only the ban counts.
        """
        stored = [item for item in items if item[1]]
        over = self._over(app, stored)
        return [self.is_banned(app, item[0]) or item in over for item in items]

    def _over(
        self, app: str, items: Sequence[tuple[str, int, int]]
    ) -> set[tuple[str, int, int]]:
        """Those of these (user, conversation, entry) that are over without regard
        to bans."""
        if not items:
            return set()
        users: dict[int, list[str]] = {}
        for user, conversation, _ in items:
            users.setdefault(conversation, []).append(user)
        log = self.store.part(MessageLog)
        positions = log.conversations.read_positions(app, users)
        messages = {
            each.id: each
            for each in log.entries.find(app, list({entry for _, _, entry in items}))
            if each.kind == "message"
        }
        questions = {id: each.ask for id, each in messages.items()}
        senders = {
            (user, messages[entry].sender)
            for user, _, entry in items
            if entry in messages
        }
        blocked = self.blocks(app, senders)

        def is_over(user: str, conversation: int, entry: int) -> bool:
            position = positions.get((user, conversation))
            if position is None or entry not in messages:
                return True
            if (user, messages[entry].sender) in blocked:
                return True
            question = questions[entry]
            if question is not None and (question.state or question.may_answer(user)):
                return bool(question.state)
            return position >= entry

        return {item for item in items if is_over(*item)}
