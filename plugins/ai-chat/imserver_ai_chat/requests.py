"""What clients ask for: a chat, and the message that they send to it."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct, field

from imserver.plugin.http import ApiProblem
from imserver.plugin.wire import Limit

_CHAT: Final = re.compile(r"([1-9]\d{0,17})(?:-([1-9]\d{0,15}))?")


class Chat(NamedTuple):
    """With whom a user speaks, and where: the bot, and the number of the group
    (0: the two alone)."""

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

    def place(self, user: str) -> str:
        """Where it is for a user, as streams of texts name it."""
        if self.conversation:
            return f"group:{self.conversation}"
        return f"user:{user}"


class _Said(Struct):
    """A message of a client. The AI SDK has ``parts``, AG-UI ``content``."""

    role: str
    id: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    content: str | list[dict[str, Any]] = ""


class _Body(Struct):
    messages: list[_Said]
    id: str = ""
    trigger: str = "submit-message"
    message_id: str | None = field(default=None, name="messageId")
    thread_id: str = field(default="", name="threadId")
    run_id: str = field(default="", name="runId")


class Asked(NamedTuple):
    """A message to a chat. ``client_msg_id``: who sends it again with this id
    has the first one stored. ``run``: the name of the answer for clients of
    AG-UI."""

    chat: Chat
    text: str
    client_msg_id: str
    thread: str
    run: str


_decode: Final = msgspec.json.Decoder(_Body).decode


def read_message(body: bytes, is_run: bool = False) -> Asked:
    """Read a request of the AI SDK or AG-UI: its last message is the new one.
    ``is_run``: the id of the run is that of the message. Raises ApiProblem."""
    try:
        read = _decode(body)
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(str(error)) from None
    thread = read.id or read.thread_id
    if not read.messages or read.messages[-1].role != "user":
        raise ApiProblem.invalid("`messages`: the last one is of the user")
    said = read.messages[-1]
    text = said.content
    parts = said.parts
    if not isinstance(text, str) or not text:  # other parts than text are not carried
        parts = text if isinstance(text, list) else parts
        if any(
            part.get("type") != "text" or not isinstance(part.get("text"), str)
            for part in parts
        ):
            raise ApiProblem.invalid(
                "`messages`: this server carries only the text of the user, no files"
            )
        text = "\n".join([part["text"] for part in parts])
    if not text.strip() or "\0" in text:
        raise ApiProblem.invalid("`messages`: the last one has no text, or U+0000")
    name = read.run_id if is_run else said.id
    # an answer that is made anew has a question of its own
    if read.trigger == "regenerate-message":
        name = blake2b(
            f"{name}/{read.message_id or uuid4()}".encode(), digest_size=16
        ).hexdigest()
    if len(name.encode()) > Limit.CLIENT_MSG_ID_BYTES or "\0" in name:
        raise ApiProblem.invalid("`messages`: the id of a message is too long")
    return Asked(Chat.of(thread), text, name, thread, read.run_id)
