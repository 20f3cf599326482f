"""Checks whether a notification may still reach a user: when it is decided, and
again right before it is sent."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.identity import Relations
from imserver.plugin.messages import Ask, MessageLog
from imserver.plugin.runtime import serve_others
from imserver.plugin.storage import Store

_SENDERS_A_TURN: Final = 16
"""After the blocks of this number of senders, other greenlets get a turn."""


class Recipients(Struct, frozen=True):
    """Tells whether users may be notified of messages.

    The methods switch greenlets, and raise StorageUnavailable. ``is_banned``
    (app, user) does neither.
    """

    store: Store
    relations: Relations
    is_banned: Callable[[str, str], bool]

    def blocks(
        self, app: str, pairs: Iterable[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        """Return the pairs in which the user has blocked the sender.

        ``pairs``: (user, sender). One query reads the blocks of a sender.
        """
        by_sender = self._users_by_sender(app, pairs)
        blocked: set[tuple[str, str]] = set()
        for number, (sender, users) in enumerate(by_sender.items(), 1):
            blocking_users = self.relations.blocked_by(app, sender, users)
            blocked.update((user, sender) for user in blocking_users)
            if not number % _SENDERS_A_TURN:
                serve_others()
        return blocked

    def _users_by_sender(
        self, app: str, pairs: Iterable[tuple[str, str]]
    ) -> dict[str, list[str]]:
        """Return sender → the users of ``pairs``, if users can block the sender.

        Nobody can block a back end, for example.
        """
        by_sender: dict[str, list[str]] = {}
        for user, sender in pairs:
            if self.relations.limits(app, sender):
                by_sender.setdefault(sender, []).append(user)
        return by_sender

    def are_over(self, app: str, items: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Tell for messages whether their users need no notification any more.

        ``items``: (user, conversation, entry). A notification is over if the
        user has read the message, was banned, has left the conversation, or has
        blocked the sender. It is also over if the message was recalled, or has
        expired.

        An open question is over only when it is answered, not when it is read,
        because its author may have sent a reminder. For a push that is not
        stored (conversation 0) only a ban counts.
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

    def _blocks_of_senders(
        self,
        app: str,
        items: Iterable[tuple[str, int, int]],
        messages: Mapping[int, tuple[str, Ask | None]],
    ) -> set[tuple[str, str]]:
        """Return (user, sender) for users who have blocked the sender of an entry.

        ``items``: (user, conversation, entry). ``messages``: entry → its sender
        and its question.
        """
        pairs = {
            (user, messages[entry][0]) for user, _, entry in items if entry in messages
        }
        return self.blocks(app, pairs)

    def _read_positions(
        self, app: str, items: Iterable[tuple[str, int, int]]
    ) -> dict[tuple[str, int], int]:
        """Return (user, conversation) → the position up to which the user has read.

        ``items``: (user, conversation, entry). A user who has left the
        conversation is missing.
        """
        users_by_conversation: dict[int, list[str]] = {}
        for user, conversation, _ in items:
            users_by_conversation.setdefault(conversation, []).append(user)
        conversations = self.store.part(MessageLog).conversations
        return conversations.read_positions(app, users_by_conversation)

    def _over(
        self, app: str, items: Sequence[tuple[str, int, int]]
    ) -> set[tuple[str, int, int]]:
        """Return the (user, conversation, entry) among these that are over.

        Bans are not checked. See :meth:`are_over` for the reasons.
        """
        if not items:
            return set()
        positions = self._read_positions(app, items)
        messages = self._find_messages(app, {entry for _, _, entry in items})
        blocked = self._blocks_of_senders(app, items, messages)
        over: set[tuple[str, int, int]] = set()
        for user, conversation, entry in items:
            position = positions.get((user, conversation))
            # The user has left, or the message was recalled or has expired.
            if position is None or entry not in messages:
                over.add((user, conversation, entry))
                continue
            sender, question = messages[entry]
            is_blocked = (user, sender) in blocked
            if is_blocked or _is_done(question, entry, user, position):
                over.add((user, conversation, entry))
        return over

    def _find_messages(
        self, app: str, ids: Collection[int]
    ) -> dict[int, tuple[str, Ask | None]]:
        """Return message → its sender, and its question or None.

        Messages that were recalled or have expired are left out.
        """
        entries = self.store.part(MessageLog).entries.find(app, list(ids))
        # The property ``ask`` decodes the question, so it is read only once.
        return {
            each.id: (each.sender, each.ask)
            for each in entries
            if each.kind == "message"
        }


def _is_done(question: Ask | None, entry: int, user: str, position: int) -> bool:
    """Whether a user has read a message, or answered its question.

    ``question``: None if the message asks nothing. ``position``: the last entry
    of the conversation that the user has read.
    """
    if question is not None and (question.state or question.may_answer(user)):
        return bool(question.state)
    return position >= entry
