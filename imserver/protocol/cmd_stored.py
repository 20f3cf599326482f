"""Commands of the ``cmd`` dialect about what is stored: how their data is read, and how an entry is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from imserver import errors
from imserver.model import Ack, Command, Conversations, Hide, History, Message, Read, Send, Sync
from imserver.protocol.forgiving import Refused, fields_of, text_in, well_formed

MAX_ID: Final = 2**63 - 1
MAX_CLIENT_MSG_ID_BYTES: Final = 64
MAX_TYPE_BYTES: Final = 32
MAX_RECEIVER_BYTES: Final = 255
MAX_PAGE: Final = 200
"""Most entries of a page."""
_PAGE: Final = 50
MAX_MENTIONS: Final = 100
MAX_HIDDEN: Final = 1000
"""Most ids that are hidden at once."""


def id_in(fields: dict[str, Any], key: str) -> int:
    """The id in a field, 0 if it is missing. Raises :class:`Refused` 1001."""
    value = fields.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value


def needed_id(fields: dict[str, Any], key: str) -> int:
    """The id in a field. Raises :class:`Refused` 1001, also if it is missing."""
    value = id_in(fields, key)
    if not value:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value


def short_text(fields: dict[str, Any], key: str, most_bytes: int) -> str:
    """The text in a field, ``""`` if it is missing. Raises :class:`Refused` 1001."""
    text = text_in(fields, key)
    if len(text.encode()) > most_bytes or "\0" in text:  # `text` of a search is no message content
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return text


def limit_in(fields: dict[str, Any]) -> int:
    """How many entries a page may have. Raises :class:`Refused` 1001."""
    return min(id_in(fields, "limit") or _PAGE, MAX_PAGE)


def _body(fields: dict[str, Any]) -> tuple[str, bytes]:
    """Type and bytes of what is to be stored: ``text``, or any JSON as ``data``."""
    if "data" not in fields:
        return short_text(fields, "type", MAX_TYPE_BYTES) or "text", text_in(fields, "text").encode()
    kind = short_text(fields, "type", MAX_TYPE_BYTES) or "custom"
    if "text" in fields or kind == "text":
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return kind, _json(fields["data"])


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a character, which JSON's escapes can write
        return well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def _meta(fields: dict[str, Any]) -> bytes:
    mentions = fields.get("mentions", [])
    if not mentions:
        return b""
    if (
        not isinstance(mentions, list)
        or len(mentions) > MAX_MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    users = [well_formed(user) for user in mentions]
    if any(len(user.encode()) > MAX_RECEIVER_BYTES for user in users):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return msgspec.json.encode({"mentions": users})


def _verbatim(data: bytes) -> dict[str, Any]:
    """The fields with folded keys; what stands in ``data`` is kept as it was written."""
    fields = fields_of(data)
    if "data" in fields:
        whole: dict[str, Any] = json.loads(data)
        fields["data"] = next(
            value for key, value in reversed(whole.items()) if key.casefold() == "data" and value is not None
        )
    return fields


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_decode_text = msgspec.json.Decoder(_Text).decode


def _send_text(data: bytes) -> Send | None:
    """What a plain message says; None for anything that has to be looked at closer."""
    try:
        said = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to, client_id = said.to, said.client_id
    plain = (
        bool(to) != bool(said.conversation)
        and len(to) <= MAX_RECEIVER_BYTES // 4
        and len(client_id) <= MAX_CLIENT_MSG_ID_BYTES // 4
        and 0 <= said.conversation <= MAX_ID
        and "\0" not in to
        and "\0" not in client_id
    )
    return Send(to, said.conversation, body=said.text.encode(), id=client_id) if plain else None


def _send(data: bytes) -> Send:
    return _send_text(data) or _send_anything(data)


def _send_anything(data: bytes) -> Send:
    fields = _verbatim(data)
    to, conversation = short_text(fields, "to", MAX_RECEIVER_BYTES), id_in(fields, "conversation")
    if bool(to) == bool(conversation):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    kind, body = _body(fields)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    about = id_in(fields, "replyto")
    return Send(to, conversation, "message", kind, body, client_id, about, _meta(fields))


def _recall(data: bytes) -> Send:
    fields = fields_of(data)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    return Send(kind="recall", id=client_id, about=needed_id(fields, "id"))


def _edit(data: bytes) -> Send:
    fields = _verbatim(data)
    kind, body = _body(fields)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    about = needed_id(fields, "id")
    return Send(kind="edit", type=kind, body=body, id=client_id, about=about, meta=_meta(fields))


def _sync(data: bytes) -> Sync:
    fields = fields_of(data)
    version = id_in(fields, "version") if "version" in fields else -1
    return Sync(id_in(fields, "cursor"), limit_in(fields), version)


def _history(data: bytes) -> History:
    fields = fields_of(data)
    return History(needed_id(fields, "conversation"), id_in(fields, "before"), limit_in(fields))


def _conversations(data: bytes) -> Conversations:
    fields = fields_of(data)
    return Conversations(id_in(fields, "before"), limit_in(fields))


def _read(data: bytes) -> Read:
    fields = fields_of(data)
    return Read(needed_id(fields, "conversation"), needed_id(fields, "id"))


def _ack(data: bytes) -> Ack:
    return Ack(needed_id(fields_of(data), "id"))


def _hide(data: bytes) -> Hide:
    ids = fields_of(data).get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= MAX_HIDDEN:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Hide(tuple([needed_id({"id": each}, "id") for each in ids]))


STORED_COMMANDS: Final[dict[str, Callable[[bytes], Command]]] = {
    "send": _send,
    "recall": _recall,
    "edit": _edit,
    "sync": _sync,
    "history": _history,
    "conversations": _conversations,
    "read": _read,
    "hide": _hide,
    "ack": _ack,
}


class Shown(msgspec.Struct, omit_defaults=True):
    """An entry as clients see it."""

    id: int
    conversation: int
    seq: int
    kind: str
    sender: str = msgspec.field(name="from")
    to: str = ""
    type: str = ""
    text: str | None = None
    data: Raw | None = None
    base64: bytes | None = None
    client_msg_id: str = msgspec.field(default="", name="clientMsgID")
    about: int = 0
    meta: Raw | None = None
    time: int = 0


def shown(message: Message) -> Shown:
    """What clients are shown: a body that is text as ``text``, JSON as ``data``, else as ``base64``."""
    entry = Shown(
        message.id,
        message.conversation,
        message.seq,
        message.kind,
        message.sender,
        message.to,
        client_msg_id=message.client_msg_id,
        about=message.about,
        time=message.time_ms,
    )
    if message.meta:
        entry.meta = Raw(message.meta)
    if message.kind in ("message", "edit"):
        entry.type = message.type
        if message.type == "text":
            _show_text(entry, message.body)
        else:
            _show_data(entry, message.body)
    return entry


def _show_text(entry: Shown, body: bytes) -> None:
    try:
        entry.text = body.decode()
    except UnicodeDecodeError:
        entry.base64 = body


def _show_data(entry: Shown, body: bytes) -> None:
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        _show_text(entry, body)
    else:
        entry.data = Raw(body)
