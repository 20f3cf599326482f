"""What subscribers ask for, and the forms in which they get it
(https://docs.ntfy.sh/subscribe/api/)."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import time
from typing import Final

import msgspec

from imserver.plugin.wire import Dialect, DialectState, Event

from .message import NtfyMessage, Parameters, bad, new_message

NAME: Final = "ntfy"
"""Name of the feature and its dialect, namespace of its channels, and type of
its publications."""
MAX_TOPICS: Final = 100
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_WORD: Final = re.compile(r"[-_A-Za-z0-9]{1,64}")
"""A topic, or an id."""
_decode = msgspec.json.Decoder(NtfyMessage).decode


def channel_of(topic: str) -> str:
    """The channel of a topic. Raises ApiProblem if no topic can have this
    name."""
    if not _WORD.fullmatch(topic):
        raise bad(40009, "a topic has 1 to 64 letters, digits, - and _")
    return f"{NAME}:{topic}"


def message_of(event: Event) -> NtfyMessage | None:
    """The message that a publication is; None: it is none of a topic."""
    part = event.channel
    if event.kind != "msg" or part is None or not part.name.startswith(f"{NAME}:"):
        return None
    message = new_message("message", part.name.partition(":")[2])
    if event.type == NAME:
        try:
            return msgspec.structs.replace(
                _decode(event.data), event="message", topic=message.topic
            )
        except (ValueError, RecursionError):
            pass  # of another publisher: it is a text
    message.id = event.id or (f"at-{part.offset}" if part.offset else message.id)
    message.time, message.message = (
        event.time or message.time,
        event.data.decode() or event.text,
    )
    return message


Since = Callable[[NtfyMessage, int], bool]
"""Whether a message is before the first one that a subscriber wants: (message,
number of newer ones)."""


def read_since(text: str) -> Since | None:
    """From where a subscriber wants messages; None: only new ones. Raises
    ApiProblem."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if text in ("", "none"):
        return None
    if text in ("all", "latest"):
        return lambda _message, newer: text == "latest" and newer == 1
    if text.isdecimal() or "".join(map("".join, parts)) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        first = time() - seconds if parts else float(text)
        return lambda message, _newer: message.time < first
    if not _WORD.fullmatch(text):
        raise bad(
            40008,
            "since is all, none, latest, an id, a Unix time, or a duration such as 10m",
        )
    return lambda message, _newer: message.id == text


class Wish(DialectState, kw_only=True):
    """A request to subscribe, and the state of its connection. ``words``: id,
    text and title of the messages. ``tags``: each has to be there. What is
    empty admits all messages."""

    topics: str
    channels: tuple[str, ...]
    poll: bool
    since: Since | None
    words: tuple[str, str, str]
    priorities: frozenset[int]
    tags: frozenset[str]
    is_open: bool = False
    """Whether ``open`` was sent, which no sign of life precedes."""

    @classmethod
    def read(cls, path: str, parameters: Parameters) -> Wish:
        """Read a request. ``scheduled`` changes nothing: no message is
        scheduled. Raises ApiProblem."""
        get = parameters.get
        topics = path.split("/")[2]
        poll = parameters.has("poll", "po")
        channels = tuple(dict.fromkeys(map(channel_of, topics.split(","))))
        if len(channels) > MAX_TOPICS:
            raise bad(40009, f"a request has at most {MAX_TOPICS} topics")
        return cls(
            topics=topics,
            channels=channels,
            poll=poll,
            since=read_since(get("since", "si") or ("all" if poll else "")),
            words=(get("id"), get("message", "m"), get("title", "t")),
            priorities=parameters.priorities(),
            tags=frozenset(parameters.tags()),
        )

    def accepts(self, message: NtfyMessage) -> bool:
        """Whether the subscriber wants this message."""
        own = (message.id, message.message, message.title)
        wanted = all(
            word in ("", text) for word, text in zip(self.words, own, strict=True)
        )
        has_priority = not self.priorities or (message.priority or 3) in self.priorities
        return wanted and has_priority and self.tags.issubset(message.tags)

    def reconnects(self, channel: str) -> bool:
        """Whether the client comes back with a new connection if it has missed
        something: yes."""
        return True


class NtfyDialect(Dialect):
    """The codec of one form of messages: ``encode`` makes their bytes."""

    name = NAME
    path = "/ntfy/*/ws"
    logs_in = False
    pinged = True

    def __init__(
        self, encode: Callable[[NtfyMessage], bytes], content_type: str = ""
    ) -> None:
        self.encode = encode
        self.content_type = content_type

    def encode_event(
        self, event: Event
    ) -> Callable[[str, DialectState | None], bytes] | None:
        """A publication to a topic, for those who want it."""
        message = message_of(event)
        if message is None:
            return None
        payload = self.encode(message)
        return lambda _, state: (
            payload if isinstance(state, Wish) and state.accepts(message) else b""
        )

    def encode_ping(self, state: DialectState | None) -> bytes:
        """The sign of life of a stream."""
        if not isinstance(state, Wish) or not state.is_open:
            return b""
        return self.encode(new_message("keepalive", state.topics))


def _event(message: NtfyMessage) -> bytes:
    if message.event == "message":
        name = b""
    else:
        name = b"event: %b\n" % message.event.encode()
    return b"%bdata: %b\n\n" % (name, msgspec.json.encode(message))


FRAMES: Final = NtfyDialect(msgspec.json.encode)
STREAMS: Final = {
    "json": NtfyDialect(
        lambda message: msgspec.json.encode(message) + b"\n",
        "application/x-ndjson; charset=utf-8",
    ),
    "sse": NtfyDialect(_event, "text/event-stream; charset=utf-8"),
    "raw": NtfyDialect(
        lambda message: message.message.replace("\n", " ").encode() + b"\n",
        "text/plain; charset=utf-8",
    ),
}
"""Last segment of the path of a stream → its codec."""
