"""An entry of the message log, as dialects tell it."""

from __future__ import annotations

from imserver.model import Message
from imserver.storage.log_contract import Entry


def message_of(entry: Entry) -> Message:
    """An entry as dialects tell it."""
    members = entry.members
    to = (members[0] if members[1] == entry.sender else members[1]) if members else ""
    return Message(
        entry.id,
        entry.conversation,
        entry.seq,
        entry.sender,
        to,
        entry.kind,
        entry.type,
        entry.body,
        entry.client_msg_id,
        entry.time_ms,
        entry.about,
        entry.meta,
        entry.room,
    )
