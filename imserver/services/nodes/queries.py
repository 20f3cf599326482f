"""Node queries: what nodes ask each other, and one table of the answers (control channel of the RPC)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry
    from imserver.cluster.registry import Lease
    from imserver.cluster.rpc.server import Rpc
    from imserver.services.nodes.messages import NodeMessages

log = logging.getLogger(__name__)


class NamesQuery(Struct, frozen=True, array_like=True):
    """Online users of an app on the queried node: at most ``limit``, after the name ``after``."""

    app: str
    after: str | None
    limit: int


class NamesAnswer(Struct, frozen=True, array_like=True):
    """``count`` users of the app are here; ``names`` are those asked for, in order."""

    count: int
    names: list[str]


class AliveQuery(Struct, frozen=True, array_like=True):
    """Does this session answer a ping?"""

    app: str
    user: str
    session_id: int


class StateQuery(Struct, frozen=True, array_like=True):
    """The data of ``/system/state``."""

    debug: bool
    detail: bool


encode = msgspec.msgpack.Encoder().encode


class NodeQueries:
    """The queries that this node answers: a table from name to type and function. Owner: the node.

    A function gets the decoded query and returns what can be encoded. It may block as long as the asking node
    waits.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[msgspec.msgpack.Decoder[Any], Callable[[Any], Any]]] = {}

    def add(self, kind: str, query: type, answer: Callable[[Any], Any]) -> None:
        """Answer queries of this kind."""
        self._rows[kind] = (msgspec.msgpack.Decoder(query), answer)

    def answer(self, kind: str, body: bytes) -> bytes:
        """Answer one query. Raises KeyError for an unknown kind and ValueError for an unreadable body."""
        decoder, row = self._rows[kind]
        return encode(row(decoder.decode(body)))


def read(answers: Mapping[str, bytes], kind: type) -> dict[str, Any]:
    """The decoded answers by node; an unreadable one is logged and left out."""
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
    found = {}
    for node, data in answers.items():
        try:
            found[node] = decoder.decode(data)
        except ValueError:
            log.warning("node query: the answer of %s is not readable", node)
    return found


@dataclass(frozen=True, slots=True)
class OtherNodes:
    """What services need to reach other nodes. ``seconds``: how long an answer may take."""

    registry: RedisRegistry
    node_messages: NodeMessages
    rpc: Rpc
    seconds: float

    def query(
        self, kind: str, query: object, leases: Iterable[Lease] | None = None
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query all live nodes, or those of ``leases``, at once: answers by node, and nodes without one."""
        peers = self.node_messages.peers() if leases is None else list(leases)
        return self.rpc.query_all(peers, kind, encode(query), self.seconds) if peers else ({}, [])
