"""What clients of the protobuf dialect send, as drafts for the log; or why it is refused."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import ChatMessage
from imserver.protocol.cmd_stored import MAX_MENTIONS, MAX_RECEIVER_BYTES
from imserver.protocol.protobuf import MAX_ID, ST_GROUP, ST_SINGLE, account, type_name
from imserver.services.messages.revisions import may_be_revised
from imserver.storage.log.contract import (
    INVALID,
    NOT_MEMBER,
    UNKNOWN_CONVERSATION,
    Draft,
    Entry,
    Rejected,
)

RECALL, EDIT = 1, 2
"""Kinds of what a client sends, besides messages (0)."""
_CODE_OF: Final = {
    UNKNOWN_CONVERSATION: errors.REPLY_NO_DATA,
    INVALID: errors.REPLY_BAD_PARAMETER,
}
"""Why a message was not stored → the reply code; any other: 1003."""


def code_of(why: Rejected) -> int:
    """The reply code for what was refused."""
    return _CODE_OF.get(why.reason, errors.REPLY_UNAUTHORIZED)


def draft_of(
    user: str, command: ChatMessage, found: dict[int, Entry] | None
) -> Draft | Rejected | StorageUnavailable:
    """What is to be stored, or why not. ``found`` has the entries that recalls and edits are about (None:
    they cannot be looked up now)."""
    sender = command.sender
    if not sender or sender != account(user):
        return Rejected(NOT_MEMBER)
    if command.kind == 0:
        place = _place(sender, command)
    elif command.kind not in (RECALL, EDIT):
        return Rejected(INVALID)
    elif found is None:
        return StorageUnavailable("what it is about cannot be looked up")
    else:
        about = found.get(command.about)
        if about is None or not may_be_revised(about, user):
            return Rejected(NOT_MEMBER)
        place = about.peer(user), 0 if about.members else about.conversation
    meta = _meta(command.meta)
    if place is None or meta is None:
        return Rejected(INVALID)
    recall = command.kind == RECALL
    return Draft(
        sender=user,
        kind="recall" if recall else "edit" if command.kind == EDIT else "message",
        type="text" if recall else type_name(command.type),
        body=b"" if recall else command.content,
        client_msg_id=command.client_msg_id,
        time_ms=command.sent_ms,
        about=command.about,
        meta=b"" if recall else meta,
        to_user=place[0],
        conversation=place[1],
    )


def _place(sender: int, command: ChatMessage) -> tuple[str, int] | None:
    """The user or the conversation that a message is for; None: nobody may send that."""
    receiver = command.receiver
    if not 0 < receiver <= MAX_ID:
        return None
    if command.session_type == ST_GROUP:
        return "", receiver
    if command.session_type == ST_SINGLE and receiver != sender:
        return str(receiver), 0
    return None


class _Meta(msgspec.Struct):
    mentions: list[str] = []


_decode_meta = msgspec.json.Decoder(_Meta).decode


def _meta(given: bytes) -> bytes | None:
    """Mentions as they are stored; None for what is none. Whatever else stands there is passed over."""
    if not given:
        return b""
    try:
        mentions = _decode_meta(given).mentions
    except ValueError:
        return None
    if len(mentions) > MAX_MENTIONS or any(len(each.encode()) > MAX_RECEIVER_BYTES for each in mentions):
        return None
    return msgspec.json.encode({"mentions": mentions}) if mentions else b""
