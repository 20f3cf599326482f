"""Checks whether a notification may still reach a user: when it is decided, and
again right before it is sent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.identity import Relations
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import serve_others
from imserver.plugin.storage import Store

_SENDERS_A_TURN: Final = 16
"""After the blocks of this number of senders, other greenlets get a turn."""


class Recipients(Struct, frozen=True):
    """Decides which users may be notified. The methods switch, and raise
    StorageUnavailable. ``is_banned`` (app, user) does neither."""

    store: Store
    relations: Relations
    is_banned: Callable[[str, str], bool]

    def blocks(
        self, app: str, pairs: Iterable[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        """The pairs (user, sender) among these in which the user has blocked
        the sender."""
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
        """For each (user, conversation, entry): whether the user need not, or
        may not, be notified of it any more.

        That is so if the user has read it, was banned, has left the
        conversation, or has blocked the sender; or if the message was recalled,
        or has expired. An open question is over only when it is answered, not
        when it is read, because its author may have sent a reminder. For a push
        that is not stored (conversation 0) only a ban counts.
        """
        stored = [
            (user, conversation, entry)
            for user, conversation, entry in items
            if conversation
        ]
        over = self._over(app, stored)
        return [
            self.is_banned(app, user) or (user, conversation, entry) in over
            for user, conversation, entry in items
        ]

    def _over(
        self, app: str, items: Sequence[tuple[str, int, int]]
    ) -> set[tuple[str, int, int]]:
        """The (user, conversation, entry) among these that are over. Bans are
        not checked."""
        if not items:
            return set()
        users_by_conversation: dict[int, list[str]] = {}
        for user, conversation, _ in items:
            users_by_conversation.setdefault(conversation, []).append(user)
        log = self.store.part(MessageLog)
        positions = log.conversations.read_positions(app, users_by_conversation)
        ids = list({entry for _, _, entry in items})
        messages = {
            each.id: each
            for each in log.entries.find(app, ids)
            if each.kind == "message"
        }
        # The property ``ask`` decodes the question, so it is read only once.
        questions = {id: each.ask for id, each in messages.items()}
        pairs = {
            (user, messages[entry].sender)
            for user, _, entry in items
            if entry in messages
        }
        blocked = self.blocks(app, pairs)

        def is_over(user: str, conversation: int, entry: int) -> bool:
            """Whether a user need not be notified of an entry any more."""
            position = positions.get((user, conversation))
            # The user has left, or the message was recalled or has expired.
            if position is None or entry not in messages:
                return True
            if (user, messages[entry].sender) in blocked:
                return True
            question = questions[entry]
            if question is not None and (question.state or question.may_answer(user)):
                return bool(question.state)
            return position >= entry

        return {item for item in items if is_over(*item)}
