"""Counting of a chat: each push at each receiver, each acknowledgement at its sender, in order and exactly
once.

A push to many receivers arrives at most of them as the same bytes, so a frame is decoded once and looked up
for the others. A receiver stores the number of its messages, the last position, and the sum of a hash of each
message's number and position. The sender learns the position from the acknowledgement, so the expected sum is
known. A receiver with another sum has received something else.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from typing import NamedTuple

from bench.connections import Connection, ConnectionSet
from bench.frames import CLOSE, scan
from bench.latency import STAMP_WRAP, Latency
from bench.loop import Json
from bench.protobuf import BINARY, CT_ACK, CT_MESSAGE, UP, PushReader, numbers, outputs
from bench.tally import Receipts

MOST_KNOWN = 1024  # frames in the lookup table


class Part(NamedTuple):
    """The changes that a frame of pushes makes at each receiver; ``grows``: its positions increase."""

    messages: int
    total: int
    first: int
    last: int
    stamp_us: int
    grows: bool


class Sender:
    """The sent and acknowledged messages of one connection. Owned by its tally."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int]] = deque()
        """Numbers (of the whole run) that are not acknowledged, and when they were sent."""
        self.acked = self.total = 0


class ChatTally:
    """Counts the messages of one run at all connections of a set, which it takes over as its ``take``.

    ``shared``: many receivers get the same frames. A connection's ``frames`` are the messages it got, its
    ``digest`` is the last position it saw, in a push or an acknowledgement, its ``checksum`` the sum.
    """

    def __init__(self, connections: ConnectionSet, tag: str, *, shared: bool) -> None:
        self.connections = connections
        self.shared = shared
        self.pushes = PushReader(tag.encode())
        self.latency = Latency()
        self.ack_latency = Latency()
        self.received = self.acked = self.unexpected = 0
        self.frames = 0
        self.last_ns = time.monotonic_ns()
        self.disordered: set[int] = set()
        self.receivers = list(connections.by_fd.values())
        self.senders = {conn.number: Sender() for conn in self.receivers}
        self._known: dict[bytes, Part] = {}
        for conn in self.receivers:
            conn.clear()
        connections.take = self.take

    def release(self) -> None:
        self.connections.take = self.connections.skim

    def take(self, conn: Connection, end: int) -> None:
        view, known = self.connections.view, self._known
        self.last_ns = time.monotonic_ns()
        found, used = scan(self.connections.buffer, end)
        conn.rest = bytes(view[used:end])
        begin = 0
        for _opcode, start, stop in found:
            frame = bytes(view[begin:stop])
            part = known.get(frame)
            if part is not None:
                self._add(conn, part)
            else:
                self._read(conn, frame, start - begin)
            begin = stop

    def _add(self, conn: Connection, part: Part) -> None:
        count, total, first, last, stamp_us, grows = part
        if first <= conn.digest or not grows:
            self.disordered.add(conn.number)
        conn.digest = last
        conn.frames += count
        conn.checksum += total
        self.received += count
        self.frames += 1
        self.latency.add((self.last_ns // 1000 - stamp_us) % STAMP_WRAP)

    def _read(self, conn: Connection, frame: bytes, head_bytes: int) -> None:
        opcode, payload = frame[0] & 0x0F, frame[head_bytes:]
        if opcode >= CLOSE:
            self.connections.control(conn, opcode, payload)
        elif opcode != BINARY:
            self.unexpected += 1
        elif (part := self._part(payload)) is not None:
            if self.shared:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[frame] = part
            self._add(conn, part)
        else:
            self._read_mixed(conn, payload)

    def _part(self, payload: bytes) -> Part | None:
        found = self.pushes.read(payload)
        if found is None:
            return None
        positions = [position for _number, _stamp, position in found]
        return Part(
            len(found),
            sum(hash((number, position)) for number, _stamp, position in found),
            positions[0],
            positions[-1],
            found[0][1],
            all(before < behind for before, behind in pairwise(positions)),
        )

    def _read_mixed(self, conn: Connection, payload: bytes) -> None:
        """Decode a frame with acknowledgements or with unexpected content."""
        try:
            found = outputs(payload)
        except ValueError:
            self.unexpected += 1
            return
        for kind, _code, data, whole in found:
            if kind == CT_ACK:
                self._acknowledge(conn, numbers(data))
            elif kind == CT_MESSAGE and (part := self._part(whole)) is not None:
                self._add(conn, part)
            else:
                self.unexpected += 1

    def _acknowledge(self, conn: Connection, fields: dict[int, int]) -> None:
        sender = self.senders[conn.number]
        position = fields.get(0x18, 0)
        if (
            fields.get(0x08) != UP
            or fields.get(0x10) != sender.acked + 1
            or not sender.waiting
            or not position
        ):
            self.unexpected += 1
            return
        if position <= conn.digest:
            self.disordered.add(conn.number)
        conn.digest = position
        number, sent_ns = sender.waiting.popleft()
        sender.acked += 1
        self.acked += 1
        sender.total += hash((number, position))
        self.ack_latency.add((self.last_ns - sent_ns) // 1000)

    def verdict(self, partner: dict[int, int] | None = None) -> Receipts:
        """Compare the received messages of each receiver with the acknowledged ones.

        Each receiver gets the messages of all others, or, with ``partner``, those of that one.
        """
        expected = lost = doubled = 0
        count = sum(sender.acked for sender in self.senders.values())
        total = sum(sender.total for sender in self.senders.values())
        for conn in self.receivers:
            own = self.senders[conn.number]
            wanted, worth_all = count - own.acked, total - own.total
            if partner is not None:
                other = self.senders[partner[conn.number]]
                wanted, worth_all = other.acked, other.total
            changed = (
                conn.frames == wanted and conn.checksum != worth_all
            )  # at least one was exchanged for another
            expected += wanted
            lost += max(0, wanted - conn.frames) + changed
            doubled += max(0, conn.frames - wanted) + changed
        return Receipts(expected, self.received, lost, doubled, len(self.disordered))

    def figures(self) -> Json:
        return {
            "received": self.received,
            "acked": self.acked,
            "unexpected": self.unexpected,
            "frames": self.frames,
            "latency": self.latency.pack(),
            "ack_latency": self.ack_latency.pack(),
        }
