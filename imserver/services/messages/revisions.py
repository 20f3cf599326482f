"""Revisions: what recalls or edits a message, as it is stored. Stateless."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Literal

from imserver.storage.log.contract import Draft, Entry

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog


def may_be_revised(entry: Entry, user: str) -> bool:
    """Whether an entry is a message of this user (``""``: of anybody). One that was recalled is, too: who
    recalls or edits it may be resending what was stored before that, and is to have the first answer."""
    was_message = entry.kind == "message" or (entry.kind == "recall" and entry.about == entry.id)
    return was_message and (not user or entry.sender == user)


def revision(
    log: MessageLog | None,
    app: str,
    user: str,
    about: int,
    kind: Literal["recall", "edit"],
    *,
    type: str = "text",
    body: bytes = b"",
    client_msg_id: str = "",
    meta: bytes = b"",
) -> Draft | None:
    """What takes a message back, or says what it says now; None: it is no message of this user.

    ``user`` ``""`` is a back end, whose are all. Switches; raises StorageUnavailable.
    """
    found = [] if log is None else log.entries(app, [about])
    if not found or not may_be_revised(found[0], user):
        return None
    return Draft(
        sender=user,
        kind=kind,
        type=type,
        body=body,
        client_msg_id=client_msg_id,
        time_ms=int(time() * 1000),
        about=about,
        meta=meta,
        conversation=found[0].conversation,
    )
