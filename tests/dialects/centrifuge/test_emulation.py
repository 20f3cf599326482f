"""Commands of streams in requests of their own: their order, their limits, and
nodes that do not answer."""

from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.dialects.centrifuge.streams import (
    MAX_WAITING,
    Emulated,
    EmulatedCommands,
    Emulation,
)
from imserver.dialects.centrifuge.wire import CentrifugeDialect
from imserver.gateway.cluster.nodes import NodeQueries, encode
from imserver.gateway.process import Secret
from imserver.gateway.sessions.connection_ids import ConnectionIds
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.stream import Stream, StreamEncoding
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import tcp_pair, until

LIMIT_BYTES = 100


class Room(Harness):
    """One stream. ``served``: its commands; each waits while :attr:`held` is
    not set."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = NodeQueries()
        self.emulation = self.emulation_with(self.queries)
        self.served: list[bytes] = []
        self.gate = Flag()
        self.gate.set()
        far, self.near = tcp_pair()
        far.setblocking(False)
        encoding = StreamEncoding(
            CentrifugeDialect(streamed=True), self._serve, LIMIT_BYTES, b"", b"\n"
        )
        self.stream = Stream(self.context, far, "192.0.2.1:1", encoding, monotonic())
        self.context.poller.take(self.stream)
        self.session = self.table.secret_of(self.stream)

    def emulation_with(self, queries: NodeQueries, others: Any = None) -> Emulation:
        return Emulation(self.core(queries=queries, others=others))

    def _serve(self, _connection: Connection, payload: bytes, _text: bool) -> None:
        self.gate.wait()
        self.served.append(payload)


@pytest.fixture
def room() -> Iterator[Room]:
    with Room() as room:
        yield room
        room.gate.set()
        room.near.close()


def test_commands_are_served_in_their_order(room: Room) -> None:
    room.gate.clear()
    wanted = [b"%d" % number for number in range(MAX_WAITING)]
    room.stream.pinged_at = 1.0
    for data in wanted:
        assert room.emulation.serve(room.session, data) is Emulated.ACCEPTED
    assert room.stream.pinged_at == 0, "the client lives"
    gevent.sleep(0)
    assert room.served == []
    room.gate.set()
    until(lambda: room.served == wanted)
    assert room.emulation.serve(room.session, b"more") is Emulated.ACCEPTED
    until(lambda: room.served == [*wanted, b"more"])


def test_a_client_with_too_many_waiting_requests_is_closed(room: Room) -> None:
    room.gate.clear()
    for _ in range(MAX_WAITING):
        room.emulation.serve(room.session, b"x")
    gevent.sleep(0)
    room.emulation.serve(room.session, b"x")  # one of them is being served
    assert room.stream.is_open
    room.emulation.serve(room.session, b"x")
    assert not room.stream.is_open
    assert room.emulation.serve(room.session, b"x") is Emulated.UNKNOWN
    room.gate.set()
    gevent.sleep(0)
    assert len(room.served) <= 1, "nothing is served after the end"


def test_long_commands_are_refused(room: Room) -> None:
    assert room.emulation.serve(room.session, b"x" * LIMIT_BYTES) is Emulated.ACCEPTED
    assert (
        room.emulation.serve(room.session, b"x" * (LIMIT_BYTES + 1))
        is Emulated.TOO_LARGE
    )
    until(lambda: len(room.served) == 1)


def test_neither_a_connection_id_nor_a_websocket_has_a_session(room: Room) -> None:
    socket, _ = room.login("101", "ann")
    assert room.emulation.serve(room.table.secret_of(socket), b"x") is Emulated.UNKNOWN
    assert room.emulation.serve(room.table.id_of(room.stream), b"x") is Emulated.UNKNOWN
    assert room.emulation.serve("", b"x") is Emulated.UNKNOWN


def test_commands_of_a_stream_elsewhere_are_sent_to_its_node(room: Room) -> None:
    queries: list[Any] = []
    answers: list[Any] = [Emulated.ACCEPTED, None]

    def query(lease: Any, kind: str, commands: EmulatedCommands, _answer: Any) -> Any:
        queries.append((lease, kind, commands.data))
        return answers.pop(0)

    others: Any = SimpleNamespace(born={7: "lease"}.get, query_behind=query)
    emulation = room.emulation_with(NodeQueries(), others)
    elsewhere = (
        ConnectionIds(Secret(b"s" * 32), 7).with_purpose("emulation sessions").id_of(3)
    )
    assert emulation.serve(elsewhere, b"x") is Emulated.ACCEPTED
    assert emulation.serve(elsewhere, b"y") is Emulated.FAILED, (
        "the node does not answer"
    )
    assert queries == [("lease", "emulate", b"x"), ("lease", "emulate", b"y")]
    dead = (
        ConnectionIds(Secret(b"s" * 32), 8).with_purpose("emulation sessions").id_of(3)
    )
    assert emulation.serve(dead, b"x") is Emulated.UNKNOWN, "no such node lives"
    assert room.emulation.serve(elsewhere, b"x") is Emulated.UNKNOWN, (
        "a lone node has no others"
    )


def test_a_node_answers_for_its_streams(room: Room) -> None:
    query = encode(EmulatedCommands(room.stream.number, b"x"))
    assert room.queries.answer("emulate", query) == encode(Emulated.ACCEPTED)
    until(lambda: room.served == [b"x"])
