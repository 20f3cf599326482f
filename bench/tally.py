"""Counting of pushed messages: every frame of every receiver, with proof that none is missing or repeated.

A message contains its number in the ``msgID`` (a tag of the run, seven digits) and its send time in the text
(ten digits of µs). All frames of a run are equally long, so a read is counted by arithmetic. Each receiver
stores a digest of its stream. One receiver of each process, the witness, stores all numbers: a receiver with
the same digest has received exactly the same messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from zlib import crc32

from bench.connections import Connection, ConnectionSet
from bench.frames import CLOSE, FINAL, TEXT, scan
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import Json

NUMBER_DIGITS = 7
TIMED_FRAMES = 8  # in a read with more frames than this, only the oldest is timed
LIVE_TEXT, STORED_TEXT = b'"msg":"', b'"text":"'
TEXT_FRAME = FINAL | TEXT


@dataclass(frozen=True)
class Layout:
    """Positions of the fields in a frame of this run; learned from the first frame."""

    length: int
    head: bytes
    tag_at: int
    number_at: int
    stamp_at: int


@dataclass(frozen=True)
class Receipts:
    """The received and missing messages of the receivers of one process."""

    expected: int
    received: int
    lost: int
    doubled: int
    other_order: int

    def pack(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def merged(cls, parts: Iterable[dict[str, int]]) -> Receipts:
        whole = dict.fromkeys(cls.__dataclass_fields__, 0)
        for part in parts:
            for key, value in part.items():
                whole[key] += value
        return cls(**whole)


class Tally:
    """Counts the messages of one run at all connections of a set, as its ``take``.

    With ``every`` each frame's number is added to its receiver's checksum (for messages to single users,
    where each receiver gets its own stream). ``received`` and ``last_ns`` are updated with each read.
    """

    def __init__(self, connections: ConnectionSet, tag: str, *, every: bool = False) -> None:
        self.connections = connections
        self.tag = tag.encode()
        self.every = every
        self.latency = Latency()
        self.received = 0
        self.others = self.reads = 0
        self.last_ns = time.monotonic_ns()
        self.layout: Layout | None = None
        self.witness: Connection | None = None
        self.receivers = list(connections.by_fd.values())
        for conn in self.receivers:
            conn.clear()
            if self.witness is None and not every:
                self.witness, conn.numbers = conn, []
        connections.take = self.take

    def release(self) -> None:
        self.connections.take = self.connections.skim

    def take(self, conn: Connection, end: int) -> None:
        self.reads += 1
        layout = self.layout
        if layout is None or not self._equal(layout, end):
            self._scan(conn, end)
            return
        connections = self.connections
        if end == layout.length:
            self._take_one(conn, layout)
            return
        count, spare = divmod(end, layout.length)
        whole = end - spare
        conn.rest = bytes(connections.view[whole:end]) if spare else b""
        self.received += count
        conn.frames += count
        now = time.monotonic_ns()
        self.last_ns = now
        if not self.every:
            conn.digest = crc32(connections.view[:whole], conn.digest)
        timed = layout.length if count > TIMED_FRAMES and not self.every else whole
        self._read_stamps(layout, timed, now // 1000)
        if self.every or conn.numbers is not None:
            self._read_numbers(conn, layout, whole)

    def _take_one(self, conn: Connection, layout: Layout) -> None:
        """Count a read of exactly one frame, as messages sent alone arrive."""
        buffer = self.connections.buffer
        now = self.last_ns = time.monotonic_ns()
        self.received += 1
        conn.frames += 1
        conn.rest = b""
        at = layout.stamp_at
        self.latency.add((now // 1000 - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)
        if not self.every:
            conn.digest = crc32(self.connections.view[: layout.length], conn.digest)
            if conn.numbers is None:
                return
        at = layout.number_at
        number = int(buffer[at : at + NUMBER_DIGITS])
        conn.checksum += number
        if conn.numbers is not None:
            conn.numbers.append(number)

    def _equal(self, layout: Layout, end: int) -> bool:
        """Whether the buffer starts with frames of this run's length only."""
        buffer, length = self.connections.buffer, layout.length
        count = end // length
        if not count or not buffer.startswith(layout.head):
            return False
        if count == 1:
            return buffer.startswith(self.tag, layout.tag_at)
        whole = count * length
        return buffer[0:whole:length].count(TEXT_FRAME) == count and buffer.startswith(
            self.tag, whole - length + layout.tag_at
        )

    def _read_stamps(self, layout: Layout, stop: int, now_us: int) -> None:
        buffer, add = self.connections.buffer, self.latency.add
        for at in range(layout.stamp_at, stop, layout.length):
            add((now_us - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)

    def _read_numbers(self, conn: Connection, layout: Layout, stop: int) -> None:
        buffer = self.connections.buffer
        found = [int(buffer[at : at + NUMBER_DIGITS]) for at in range(layout.number_at, stop, layout.length)]
        if conn.numbers is not None:
            conn.numbers += found
        conn.checksum += sum(found)

    def _scan(self, conn: Connection, end: int) -> None:
        """Count frame by frame: the first of a run, and reads that contain other frames."""
        connections = self.connections
        found, used = scan(connections.buffer, end)
        begin = 0
        for opcode, start, stop in found:
            frame, begin = bytes(connections.view[begin:stop]), stop
            payload = frame[len(frame) - (stop - start) :]
            number_at = frame.find(self.tag) + len(self.tag)
            if opcode >= CLOSE:
                connections.control(conn, opcode, payload)
            elif number_at >= len(self.tag):
                self._count(conn, frame, len(frame) - len(payload), number_at)
            else:
                self.others += 1
        conn.rest = bytes(connections.view[used:end])

    def _count(self, conn: Connection, frame: bytes, head_bytes: int, number_at: int) -> None:
        stamp_at = frame.find(LIVE_TEXT) + len(LIVE_TEXT)
        if stamp_at < len(LIVE_TEXT):
            stamp_at = frame.find(STORED_TEXT) + len(STORED_TEXT)
        number = int(frame[number_at : number_at + NUMBER_DIGITS])
        self.received += 1
        conn.frames += 1
        conn.checksum += number
        if conn.numbers is not None:
            conn.numbers.append(number)
        conn.digest = crc32(frame, conn.digest)
        self.last_ns = time.monotonic_ns()
        if self.layout is None:
            tag_at = number_at - len(self.tag)
            self.layout = Layout(len(frame), frame[:head_bytes], tag_at, number_at, stamp_at)
        self.latency.add((stamp_us() - int(frame[stamp_at : stamp_at + STAMP_DIGITS])) % STAMP_WRAP)

    def verdict(self, accepted: set[int]) -> Receipts:
        """Compare the received messages of each receiver with the numbers of the ``accepted`` broadcasts."""
        wanted = len(accepted)
        witness = self.witness
        lost = doubled = other_order = received = 0
        seen = set(witness.numbers or ()) if witness else set()
        witness_lost = len(accepted - seen)
        witness_doubled = witness.frames - len(seen & accepted) if witness else 0
        for conn in self.receivers:
            received += conn.frames
            if witness and conn.frames == witness.frames and conn.digest == witness.digest:
                lost += witness_lost
                doubled += witness_doubled
            else:
                lost += max(0, wanted - conn.frames)
                doubled += max(0, conn.frames - wanted)
                other_order += conn.frames == wanted
        return Receipts(wanted * len(self.receivers), received, lost, doubled, other_order)

    def compare(self, wanted: Sequence[Sequence[int]]) -> Receipts:
        """Compare the received messages of each receiver with what it must have: how many messages, and the
        sum of their numbers (with ``every``).
        """
        lost = wrong = 0
        for conn, (frames, checksum) in zip(self.receivers, wanted, strict=True):
            lost += max(0, frames - conn.frames)
            wrong += max(0, conn.frames - frames)
            wrong += conn.frames == frames and conn.checksum != checksum
        return Receipts(sum(frames for frames, _ in wanted), self.received, lost, wrong, 0)

    def figures(self) -> Json:
        return {
            "received": self.received,
            "reads": self.reads,
            "others": self.others,
            "frame_bytes": self.layout.length if self.layout else 0,
            "latency": self.latency.pack(),
        }
