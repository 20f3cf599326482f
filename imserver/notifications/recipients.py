"""Whom a notification may still reach: asked when it is decided, and again
right before it is sent."""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from imserver.plugin.identity import Relations
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import serve_others
from imserver.plugin.storage import Store


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
        found: set[tuple[str, str]] = set()
        for number, (sender, users) in enumerate(by_sender.items(), 1):
            found.update(
                (user, sender) for user in self.relations.blocked_by(app, sender, users)
            )
            if not number % 16:
                serve_others()
        return found

    def are_over(self, app: str, items: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Whether users need not, or may not, be notified any more of (user,
        conversation, entry).

        They have read it, were banned, have left the conversation, or have
        blocked the sender; or the message was recalled, or has expired. An open
        question is not over when it is read, but when it is answered: its
        author may have reminded them. Of what is not stored (conversation 0)
        only the ban counts.
        """
        stored = self.store.part(MessageLog)
        users: dict[int, list[str]] = {}
        for user, conversation, _ in items:
            if conversation:
                users.setdefault(conversation, []).append(user)
        if not users:
            return [self.is_banned(app, user) for user, _, _ in items]
        positions = stored.conversations.read_positions(app, users)
        ids = list({entry for _, conversation, entry in items if conversation})
        messages = {
            each.id: each
            for each in stored.entries.find(app, ids)
            if each.kind == "message"
        }
        blocks = self.blocks(
            app,
            {
                (user, messages[entry].sender)
                for user, _, entry in items
                if entry in messages
            },
        )
        questions = {id: each.ask for id, each in messages.items()}

        def is_over(user: str, conversation: int, entry: int) -> bool:
            position = positions.get((user, conversation))
            if (
                position is None
                or entry not in messages
                or (user, messages[entry].sender) in blocks
            ):
                return True
            question = questions[entry]
            if question is not None and (question.state or question.may_answer(user)):
                return bool(question.state)
            return position >= entry

        return [
            self.is_banned(app, user)
            or (conversation != 0 and is_over(user, conversation, entry))
            for user, conversation, entry in items
        ]
