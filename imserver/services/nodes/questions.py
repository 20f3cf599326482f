"""What nodes ask each other, and the answers: one table, by name (the control channel of ``cluster.rpc``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)


class Names(Struct, frozen=True, array_like=True):
    """Users of an app who are online here: at most ``limit``, beginning behind the name ``after``."""

    app: str
    after: str | None
    limit: int


class NamesAnswer(Struct, frozen=True, array_like=True):
    """``count`` are all users of the app here; ``names`` those that were asked for, in order."""

    count: int
    names: list[str]


class Kick(Struct, frozen=True, array_like=True):
    """Close the connections of a user; answered with the number of addressed sessions.

    ``online``: a session of theirs is addressed somewhere, so connections that are not are closed too.
    """

    app: str
    user: str
    ban_seconds: float
    online: bool = False


class Alive(Struct, frozen=True, array_like=True):
    """Does this session of yours answer a ping?"""

    app: str
    user: str
    session_id: int


class State(Struct, frozen=True, array_like=True):
    """How are you? Answered with the data of ``/system/state``."""

    debug: bool
    detail: bool


encode = msgspec.msgpack.Encoder().encode


class Questions:
    """The table of what this node answers. Owner: the node, which adds the rows.

    A row reads one type and returns what can be encoded. It may block within the asker's patience.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[msgspec.msgpack.Decoder[Any], Callable[[Any], Any]]] = {}

    def add(self, kind: str, asked: type, answer: Callable[[Any], Any]) -> None:
        """Answer questions of this kind."""
        self._rows[kind] = (msgspec.msgpack.Decoder(asked), answer)

    def answer(self, kind: str, body: bytes) -> bytes:
        """Answer one question.

        Raises KeyError for an unknown kind and ValueError for a body that cannot be read.
        """
        decoder, row = self._rows[kind]
        return encode(row(decoder.decode(body)))


def read(answers: Mapping[str, bytes], kind: type) -> dict[str, Any]:
    """The answers by node, decoded; one that cannot be read is left out and logged."""
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
    found = {}
    for node, data in answers.items():
        try:
            found[node] = decoder.decode(data)
        except ValueError:
            log.warning("the answer of %s cannot be read", node)
    return found
