"""What nodes send to each other, and what Redis gives back."""

from contextlib import suppress
from typing import Any

from imserver.gateway.cluster.nodes import (
    Fence,
    ForgetPending,
    NodeMessages,
    NodeQueries,
    Replaced,
    StateQuery,
    ToApp,
    ToUser,
    encode,
    read,
)
from imserver.gateway.cluster.redis.lease import decode_lease
from imserver.gateway.cluster.redis.presence import marked_offline, record_of
from imserver.gateway.cluster.registry import Session
from imserver.gateway.cluster.rpc.wire import read_answer, read_batch, read_query
from imserver.gateway.model import Event

from .target import Target


def check_rpc(data: bytes) -> None:
    """A part of a message on a port of RPC is read or raises ValueError or
    RecursionError."""
    for reader in (read_batch, read_query, read_answer):
        with suppress(ValueError, RecursionError):
            reader(data)


def check_messages(data: bytes) -> None:
    """A message of another node is handled or counted as unreadable, and means
    the same when sent on."""
    handled: list[Any] = []
    messages = NodeMessages(None)  # type: ignore[arg-type]
    messages.handle(
        dict.fromkeys((ToUser, ToApp, Replaced, ForgetPending), handled.append)
    )
    messages.received(1, [data])
    assert len(handled) + messages.unreadable <= 1
    for each in handled[:]:
        again = encode(each)
        messages.received(1, [again])
        assert encode(handled[-1]) == again, "no round trip"
    queries = NodeQueries()
    queries.add("state", StateQuery, lambda query: query.debug)
    with suppress(ValueError, RecursionError):
        queries.answer("state", data)
    read({"node": data}, list[StateQuery])


def check_records(data: bytes) -> None:
    marked_offline(data, {"10.0.0.1:8010"})
    with suppress(ValueError, RecursionError):
        decode_lease(data)


def _messages() -> list[bytes]:
    event = Event("msg", "ann", "hello", "7", data=b"{}")
    sent = (
        ToUser("1", "ann", event),
        ToApp("1", "", event, ("bob",)),
        Replaced("1", "ann", 7),
        Fence(3),
    )
    return [*map(encode, sent), encode(StateQuery(True, False))]


def _records() -> list[bytes]:
    session = Session("1", "ann", peer="192.0.2.7:51234")
    return [record_of("10.0.0.1:8010", session, logout=False)]


TARGETS = (
    Target("rpc", check_rpc),
    Target("nodes", check_messages, _messages),
    Target("redis", check_records, _records),
)
