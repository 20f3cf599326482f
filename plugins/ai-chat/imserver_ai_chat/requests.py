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
    """A chat of a user with a bot, alone or in a group."""

    bot: str
    conversation: int
    """The number of the group; 0 if the two are alone."""

    @classmethod
    def of(cls, id: str) -> Chat:
        """Read the id of a chat: ``7`` is a chat with bot 7, and ``7-12`` one
        in group 12.

        Raises ApiProblem.
        """
        match = _CHAT.fullmatch(id)
        if match is None:
            raise ApiProblem.invalid(
                "the id of a chat is that of a bot (7), or of a bot and a group (7-12)"
            )
        return cls(match[1], int(match[2] or 0))

    def channel(self, user: str) -> str:
        """The channel in which the bot streams its answers to a user.

        It is ``group:12`` in a group, and ``user:5`` for user 5 alone with the
        bot.
        """
        if self.conversation:
            return f"group:{self.conversation}"
        return f"user:{user}"


class _Message(Struct):
    """A message of a client.

    The AI SDK sends ``{"role": "user", "parts": [{"type": "text", "text":
    "Hi"}]}``. AG-UI sends the text, or such parts, as ``content``.
    """

    role: str
    id: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    content: str | list[dict[str, Any]] = ""


class _Body(Struct):
    """The body of a request. The AI SDK names the chat ``id``, AG-UI
    ``threadId``."""

    messages: list[_Message]
    id: str = ""
    trigger: str = "submit-message"
    message_id: str | None = field(default=None, name="messageId")
    thread_id: str = field(default="", name="threadId")
    run_id: str = field(default="", name="runId")


class Question(NamedTuple):
    """A message to a chat."""

    chat: Chat
    text: str
    client_msg_id: str
    """If a message is sent again with this id, it is stored once."""
    thread: str
    """The id of the chat, as the client has written it."""
    run: str
    """The name of the answer for clients of AG-UI."""


_decode: Final = msgspec.json.Decoder(_Body).decode


def read_message(body: bytes, is_run: bool = False) -> Question:
    """Read a request of the AI SDK or AG-UI.

    It has the whole chat, and its last message is the new one.
    ``is_run``: the id of the run serves as the id of the message. Raises
    ApiProblem.
    """
    request = _read_body(body)
    message = request.messages[-1]
    text = _text_of(message)
    if is_run:
        id = request.run_id
    else:
        id = message.id
    if request.trigger == "regenerate-message":
        id = _id_of_repetition(id, request)
    if len(id.encode()) > Limit.CLIENT_MSG_ID_BYTES or "\0" in id:
        raise ApiProblem.invalid("`messages`: the id of a message is too long")

    thread = request.id or request.thread_id
    return Question(
        Chat.of(thread), text, client_msg_id=id, thread=thread, run=request.run_id
    )


def _read_body(body: bytes) -> _Body:
    """Decode a request. Raises ApiProblem if it does not end with a message of
    the user."""
    try:
        request = _decode(body)
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(str(error)) from None
    if not request.messages or request.messages[-1].role != "user":
        raise ApiProblem.invalid("`messages`: the last one is of the user")
    return request


def _id_of_repetition(id: str, request: _Body) -> str:
    """Return the id under which a question is stored once more.

    The user wants another answer to it. A request that is sent twice has one
    id, if it names the answer that is replaced.
    """
    name = f"{id}/{request.message_id or uuid4()}"
    return blake2b(name.encode(), digest_size=_ID_BYTES).hexdigest()


def _text_of(message: _Message) -> str:
    """Return the text of a message. Raises ApiProblem if there is no text."""
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
    """Return the texts of the parts of a message, one on each line.

    Raises ApiProblem if a part is not a text.
    """
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiProblem.invalid(
                "`messages`: this server carries only the text of the user, no files"
            )
    return "\n".join([part["text"] for part in parts])
