"""What a messenger may ask of the server (docs/reference/protocol.md, "Stored messages"), without any I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final, Generic, TypeVar

import msgspec

from imserver import errors
from imserver.client.entries import ConversationPage, Marks, Page, ReceiptPage, Sent
from imserver.client.errors import ClientError, CommandRefused
from imserver.client.wire import Reply

CARRY_SECONDS: Final = 30.0
"""How long something is asked, over however many connections."""
SENDS: Final = frozenset({"send", "edit", "recall"})
"""Commands whose answers say where something is stored."""
_LATER: Final = frozenset({errors.REPLY_NOT_LOGGED_IN, errors.REPLY_NOT_STORED})

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A command with its data, and what its answer is."""

    cmd: str
    data: dict[str, Any]
    answer: type[Answer]

    def read(self, reply: Reply) -> Answer:
        """What an answer says. Raises :class:`CommandRefused`; :class:`ClientError` if it makes no sense."""
        if not reply.ok:
            raise CommandRefused(reply.cmd, reply.code, reply.text)
        try:
            return msgspec.convert(reply.data, self.answer)
        except msgspec.ValidationError as error:
            raise ClientError(f"{reply.cmd}: {error}") from error


def lasts(reply: Reply) -> bool:
    """Whether asking again would bring the same: not if the database does not answer, or the login is under
    way."""
    return reply.code not in _LATER


def send(
    to: str,
    text: str | None,
    conversation: int,
    data: Any,
    type: str,
    client_msg_id: str,
    reply_to: int,
    mentions: Sequence[str],
) -> Question[Sent]:
    """Raises ValueError if it is for nobody, for two, or says nothing."""
    asked = _where(to, conversation) | _body(text, data, type) | {"clientMsgID": client_msg_id or new_id()}
    if reply_to:
        asked["replyTo"] = reply_to
    if mentions:
        asked["mentions"] = list(mentions)
    return Question("send", asked, Sent)


def edit(id: int, text: str | None, data: Any, type: str) -> Question[Sent]:
    """Raises ValueError if it says nothing."""
    return Question("edit", {"id": id, "clientMsgID": new_id()} | _body(text, data, type), Sent)


def recall(id: int) -> Question[Sent]:
    """Take a message back."""
    return Question("recall", {"id": id, "clientMsgID": new_id()}, Sent)


def typing(to: str, conversation: int) -> Question[None]:
    """Raises ValueError if it is for nobody or for two."""
    return Question("typing", _where(to, conversation), type(None))


def mark(kind: str, conversation: int, id: int) -> Question[None]:
    """``read`` or ``received``."""
    return Question(kind, {"conversation": conversation, "id": id}, type(None))


def hide(ids: Sequence[int]) -> Question[None]:
    """Entries not to be shown any more."""
    return Question("hide", {"ids": list(ids)}, type(None))


def marks(version: int) -> Question[Marks]:
    """What was marked behind a version."""
    return Question("marks", {"version": version}, Marks)


def receipts(conversation: int, after: str, limit: int) -> Question[ReceiptPage]:
    """How far others are."""
    return Question("receipts", {"conversation": conversation, "after": after, "limit": limit}, ReceiptPage)


def conversations(before: int, limit: int) -> Question[ConversationPage]:
    """One's conversations."""
    return Question("conversations", {"before": before, "limit": limit}, ConversationPage)


def history(conversation: int, before: int, limit: int) -> Question[Page]:
    """What was said in a conversation."""
    return Question("history", {"conversation": conversation, "before": before, "limit": limit}, Page)


def search(text: str, conversation: int, before: int, limit: int) -> Question[Page]:
    """Where something was said."""
    asked = {"text": text, "conversation": conversation, "before": before, "limit": limit}
    return Question("search", asked, Page)


def new_id() -> str:
    """An id of a message that nobody else gives."""
    return token_hex(12)


def _where(to: str, conversation: int) -> dict[str, Any]:
    if bool(to) == bool(conversation):
        raise ValueError("either a user or a conversation")
    return {"to": to} if to else {"conversation": conversation}


def _body(text: str | None, data: Any, type: str) -> dict[str, Any]:
    if (text is None) == (data is None):
        raise ValueError("either text or data")
    body: dict[str, Any] = {"text": text} if data is None else {"data": data}
    if type:
        body["type"] = type
    return body
