"""Lists of conversations, as clients are shown them."""

from __future__ import annotations

from msgspec import Struct, field

from imserver.protocol.cmd_stored import Shown, shown
from imserver.storage.log.contract import ConversationSummary, message_of


class Conversation(Struct, omit_defaults=True):
    """A conversation as its member sees it."""

    id: int
    kind: str
    unread: int = field(default=-1)
    read: int = field(default=-1)
    role: str = ""
    peer: str = ""
    name: str = ""
    last: Shown | None = None
    place: int = 0
    """Where to page on, where that is not the id of ``last``, which is the newest that is not hidden."""


class ConversationPage(Struct):
    """Conversations, those with the newest entries first."""

    conversations: list[Conversation]
    more: bool = field(name="hasMore")


def listed(talk: ConversationSummary, user: str) -> Conversation:
    """One of a user's conversations, as the user is shown it."""
    known, last = talk.conversation, talk.last
    peer = next((each for each in known.members if each != user), "")
    found = Conversation(known.id, known.kind, talk.unread, talk.read, talk.role, peer, known.name)
    if last is not None:
        found.last = shown(message_of(last))
    if last is None or last.id != talk.place:
        found.place = talk.place
    return found
