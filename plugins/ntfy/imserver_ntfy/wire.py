"""The requests of subscribers, and the forms in which they get messages
(https://docs.ntfy.sh/subscribe/api/)."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import time
from typing import Final

import msgspec

from imserver.plugin.wire import Dialect, DialectState, Event

from .message import (
    DEFAULT_PRIORITY,
    INVALID_SINCE,
    INVALID_TOPIC,
    NtfyMessage,
    Parameters,
    bad,
    new_message,
)

NAME: Final = "ntfy"
"""Name of the feature and its dialect, the namespace of its channels, and the
type of its publications."""
MAX_TOPICS: Final = 100
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_WORD: Final = re.compile(r"[-_A-Za-z0-9]{1,64}")
"""The form of a topic, and of an id."""
_decode = msgspec.json.Decoder(NtfyMessage).decode


def channel_of(topic: str) -> str:
    """The channel of a topic: ``ntfy:alerts`` for ``alerts``. Raises ApiProblem
    if a topic cannot have this name."""
    if not _WORD.fullmatch(topic):
        raise bad(INVALID_TOPIC, "a topic has 1 to 64 letters, digits, - and _")
    return f"{NAME}:{topic}"


def message_of(event: Event) -> NtfyMessage | None:
    """The message in a publication to a topic.

    A publication of another protocol becomes a message with its text. Returns
    None if the event is not a publication to a topic.
    """
    part = event.channel
    if event.kind != "msg" or part is None or not part.name.startswith(f"{NAME}:"):
        return None
    topic = part.name.partition(":")[2]
    if event.type == NAME:
        try:
            return msgspec.structs.replace(
                _decode(event.data), event="message", topic=topic
            )
        except (ValueError, RecursionError):
            pass  # another publisher has used this type: it is a text
    message = new_message("message", topic)
    if event.id:
        message.id = event.id
    elif part.offset:
        # Any id that is the same for all subscribers.
        message.id = f"at-{part.offset}"
    if event.time:
        message.time = event.time
    message.message = event.data.decode() or event.text
    return message


Since = Callable[[NtfyMessage, int], bool]
"""A function that tells whether a message is before the first one that a
subscriber wants: (message, number of newer ones)."""


def read_since(text: str) -> Since | None:
    """The start from which a subscriber wants messages, from the parameter
    ``since``.

    It is ``all``, ``none``, ``latest``, a duration such as ``10m``, a Unix
    time, or the id of a message. Returns None if only new messages are wanted.
    Raises ApiProblem.
    """
    if text in ("", "none"):
        return None
    if text == "all":
        return _is_before_none
    if text == "latest":
        return _is_before_latest
    seconds = _duration_in(text)
    if seconds is not None:
        return _since_time(time() - seconds)
    if text.isdecimal():
        return _since_time(float(text))
    if not _WORD.fullmatch(text):
        raise bad(
            INVALID_SINCE,
            "since is all, none, latest, an id, a Unix time, or a duration such as 10m",
        )
    return _since_message(text)


def _duration_in(text: str) -> float | None:
    """The seconds of a duration such as ``1h30m``. The result is None if the
    text is not a duration."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if "".join(map("".join, parts)) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _is_before_none(_message: NtfyMessage, _newer: int) -> bool:
    """No message is before the first one that is wanted."""
    return False


def _is_before_latest(_message: NtfyMessage, newer: int) -> bool:
    """Only the newest message is wanted."""
    return newer == 1


def _since_time(first: float) -> Since:
    """The messages from this Unix time on are wanted."""

    def is_before(message: NtfyMessage, _newer: int) -> bool:
        return message.time < first

    return is_before


def _since_message(id: str) -> Since:
    """The messages after the message with this id are wanted."""

    def is_before(message: NtfyMessage, _newer: int) -> bool:
        return message.id == id

    return is_before


class Wish(DialectState, kw_only=True):
    """A request to subscribe, and the state of its connection.

    ``poll``: only stored messages are wanted. ``since``: from where on.
    ``words``: id, text and title of wanted messages. ``tags``: a message must
    have each of them. An empty filter admits all messages.
    """

    topics: str
    channels: tuple[str, ...]
    poll: bool
    since: Since | None
    words: tuple[str, str, str]
    priorities: frozenset[int]
    tags: frozenset[str]
    is_open: bool = False
    """Whether ``open`` was sent. No sign of life comes before it."""

    @classmethod
    def read(cls, path: str, parameters: Parameters) -> Wish:
        """Read a request to subscribe, whose path is ``/ntfy/<topics>/…``.

        The parameter ``scheduled`` has no effect, because no message is
        scheduled. Raises ApiProblem.
        """
        get = parameters.get
        topics = path.split("/")[2]
        poll = parameters.has("poll", "po")
        channels = _channels_of(topics)
        since = get("since", "si")
        # A poll without a start would get nothing.
        if poll and not since:
            since = "all"
        return cls(
            topics=topics,
            channels=channels,
            poll=poll,
            since=read_since(since),
            words=(get("id"), get("message", "m"), get("title", "t")),
            priorities=parameters.priorities(),
            tags=frozenset(parameters.tags()),
        )

    def accepts(self, message: NtfyMessage) -> bool:
        """Whether the filters of the subscriber admit this message."""
        texts = (message.id, message.message, message.title)
        for word, text in zip(self.words, texts, strict=True):
            if word not in ("", text):
                return False
        priority = message.priority or DEFAULT_PRIORITY
        if self.priorities and priority not in self.priorities:
            return False
        return self.tags.issubset(message.tags)

    def reconnects(self, channel: str) -> bool:
        """Always true. A client that has missed something comes back with a new
        connection."""
        return True


def _channels_of(topics: str) -> tuple[str, ...]:
    """The channels of topics such as ``alerts,backups``, each once. Raises
    ApiProblem if they are too many, or if a name is not valid."""
    channels = tuple(dict.fromkeys(map(channel_of, topics.split(","))))
    if len(channels) > MAX_TOPICS:
        raise bad(INVALID_TOPIC, f"a request has at most {MAX_TOPICS} topics")
    return channels


class NtfyDialect(Dialect):
    """The codec of one form of messages. ``encode`` makes their bytes."""

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
        """Encode a publication to a topic.

        Returns a function that gives each subscriber the bytes, or ``b""`` if
        its filters do not admit the message. Returns None for other events.
        """
        message = message_of(event)
        if message is None:
            return None
        payload = self.encode(message)

        def encode(_user: str, state: DialectState | None) -> bytes:
            """The bytes for one subscriber."""
            if isinstance(state, Wish) and state.accepts(message):
                return payload
            return b""

        return encode

    def encode_ping(self, state: DialectState | None) -> bytes:
        """Encode the sign of life of a stream; ``b""`` before it is open."""
        if not isinstance(state, Wish) or not state.is_open:
            return b""
        return self.encode(new_message("keepalive", state.topics))


def _json_line(message: NtfyMessage) -> bytes:
    """Encode a message as a line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def _sse_event(message: NtfyMessage) -> bytes:
    """Encode a message as a server-sent event. Its name is left out for
    ordinary messages, which browsers take as the default."""
    data = b"data: %b\n\n" % msgspec.json.encode(message)
    if message.event == "message":
        return data
    return b"event: %b\n%b" % (message.event.encode(), data)


def _raw_line(message: NtfyMessage) -> bytes:
    """Encode only the text of a message, as one line."""
    return message.message.replace("\n", " ").encode() + b"\n"


FRAMES: Final = NtfyDialect(msgspec.json.encode)
STREAMS: Final = {
    "json": NtfyDialect(_json_line, "application/x-ndjson; charset=utf-8"),
    "sse": NtfyDialect(_sse_event, "text/event-stream; charset=utf-8"),
    "raw": NtfyDialect(_raw_line, "text/plain; charset=utf-8"),
}
"""Last segment of the path of a stream → its codec."""
