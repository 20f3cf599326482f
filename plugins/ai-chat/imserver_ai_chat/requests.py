"""The requests of clients: a chat, and the message that they send to it."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct, field

from imserver.plugin.http import ApiProblem
from imserver.plugin.wire import Limit

_ID_BYTES: Final = 16
"""Number of bytes in the id of a question whose answer is made again."""
_CHAT: Final = re.compile(r"([1-9]\d{0,17})(?:-([1-9]\d{0,15}))?")


class Chat(NamedTuple):
    """A chat of a user: the bot, and the number of the group in which they talk
    (0: no group, the two are alone)."""

    bot: str
    conversation: int

    @classmethod
    def of(cls, id: str) -> Chat:
        """Read the id of a chat. Raises ApiProblem."""
        match = _CHAT.fullmatch(id)
        if match is None:
            raise ApiProblem.invalid(
                "the id of a chat is that of a bot (7), or of a bot and a group (7-12)"
            )
        return cls(match[1], int(match[2] or 0))

    def channel(self, user: str) -> str:
        """The channel of the chat for a user. Open streams name it."""
        if self.conversation:
            return f"group:{self.conversation}"
        return f"user:{user}"


class _Message(Struct):
    """A message of a client. The AI SDK sends ``parts``, AG-UI sends
    ``content``."""

    role: str
    id: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    content: str | list[dict[str, Any]] = ""


class _Body(Struct):
    messages: list[_Message]
    id: str = ""
    trigger: str = "submit-message"
    message_id: str | None = field(default=None, name="messageId")
    thread_id: str = field(default="", name="threadId")
    run_id: str = field(default="", name="runId")


class Question(NamedTuple):
    """A message to a chat. ``client_msg_id``: if a message is sent again with
    this id, it is stored once. ``run``: the name of the answer for clients of
    AG-UI."""

    chat: Chat
    text: str
    client_msg_id: str
    thread: str
    run: str


_decode: Final = msgspec.json.Decoder(_Body).decode


def read_message(body: bytes, is_run: bool = False) -> Question:
    """Read a request of the AI SDK or AG-UI, whose last message is the new one.
    ``is_run``: the id of the run serves as the id of the message. Raises
    ApiProblem."""
    try:
        request = _decode(body)
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(str(error)) from None
    if not request.messages or request.messages[-1].role != "user":
        raise ApiProblem.invalid("`messages`: the last one is of the user")

    message = request.messages[-1]
    text = _text_of(message)
    if is_run:
        id = request.run_id
    else:
        id = message.id
    # To make an answer again, the question is stored once more, with another
    # id.
    if request.trigger == "regenerate-message":
        name = f"{id}/{request.message_id or uuid4()}"
        id = blake2b(name.encode(), digest_size=_ID_BYTES).hexdigest()
    if len(id.encode()) > Limit.CLIENT_MSG_ID_BYTES or "\0" in id:
        raise ApiProblem.invalid("`messages`: the id of a message is too long")

    thread = request.id or request.thread_id
    return Question(Chat.of(thread), text, id, thread, request.run_id)


def _text_of(message: _Message) -> str:
    """The text of a message. Raises ApiProblem."""
    if isinstance(message.content, str) and message.content:
        text = message.content
    elif isinstance(message.content, list):
        text = _text_of_parts(message.content)
    else:
        text = _text_of_parts(message.parts)
    if not text.strip() or "\0" in text:
        raise ApiProblem.invalid("`messages`: the last one has no text, or U+0000")
    return text


def _text_of_parts(parts: list[dict[str, Any]]) -> str:
    """The texts of the parts of a message, one on each line. Raises ApiProblem
    if a part is not a text."""
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiProblem.invalid(
                "`messages`: this server carries only the text of the user, no files"
            )
    return "\n".join([part["text"] for part in parts])
