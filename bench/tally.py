"""Counting pushed messages: every frame of every receiver, with proof that none is missing or doubled.

A message carries its number in the ``msgID`` (a tag of the run, seven digits) and the time it was sent in
its text (ten digits of µs). All frames of a run are equally long, so a read is counted by arithmetic. Each
receiver keeps a digest of its stream, and one of each process, the witness, keeps all numbers: who has the
digest of the witness received exactly what the witness received.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from zlib import crc32

from bench.connections import Peer, Swarm
from bench.frames import CLOSE, FINAL, TEXT, scan
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import Json

NUMBER_DIGITS = 7
TIMED_FRAMES = 8  # of a read with more frames than this only the oldest is timed
TEXT_FRAME = FINAL | TEXT


@dataclass(frozen=True)
class Layout:
    """Where things stand in a frame of this run; learned from the first one."""

    length: int
    head: bytes
    tag_at: int
    number_at: int
    stamp_at: int


@dataclass(frozen=True)
class Receipts:
    """What the receivers of one process did and did not get."""

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
    """Counts the messages of one run at all connections of a swarm, which it takes over as its ``take``.

    With ``every`` each frame's number is added to its receiver's checksum (for messages to single users,
    where no two receivers get the same stream). ``received`` and ``last_ns`` move on with each read.
    """

    def __init__(self, swarm: Swarm, tag: str, *, every: bool = False) -> None:
        self.swarm = swarm
        self.tag = tag.encode()
        self.every = every
        self.latency = Latency()
        self.received = 0
        self.others = 0
        self.last_ns = time.monotonic_ns()
        self.layout: Layout | None = None
        self.witness: Peer | None = None
        self.receivers = list(swarm.peers.values())
        for peer in self.receivers:
            peer.clear()
            if self.witness is None and not every:
                self.witness, peer.numbers = peer, []
        swarm.take = self.take

    def release(self) -> None:
        self.swarm.take = self.swarm.skim

    def take(self, peer: Peer, end: int) -> None:
        layout = self.layout
        if layout is None or not self._equal(layout, end):
            self._scan(peer, end)
            return
        swarm = self.swarm
        if end == layout.length:
            self._take_one(peer, layout)
            return
        count, spare = divmod(end, layout.length)
        whole = end - spare
        peer.rest = bytes(swarm.view[whole:end]) if spare else b""
        self.received += count
        peer.frames += count
        now = time.monotonic_ns()
        self.last_ns = now
        if not self.every:
            peer.digest = crc32(swarm.view[:whole], peer.digest)
        timed = layout.length if count > TIMED_FRAMES and not self.every else whole
        self._read_stamps(layout, timed, now // 1000)
        if self.every or peer.numbers is not None:
            self._read_numbers(peer, layout, whole)

    def _take_one(self, peer: Peer, layout: Layout) -> None:
        """Count a read of exactly one frame: the way of every message that left alone."""
        buffer = self.swarm.buffer
        now = self.last_ns = time.monotonic_ns()
        self.received += 1
        peer.frames += 1
        peer.rest = b""
        at = layout.stamp_at
        self.latency.add((now // 1000 - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)
        if not self.every:
            peer.digest = crc32(self.swarm.view[: layout.length], peer.digest)
            if peer.numbers is None:
                return
        at = layout.number_at
        number = int(buffer[at : at + NUMBER_DIGITS])
        peer.checksum += number
        if peer.numbers is not None:
            peer.numbers.append(number)

    def _equal(self, layout: Layout, end: int) -> bool:
        """Whether the buffer starts with nothing but frames of this run's length."""
        buffer, length = self.swarm.buffer, layout.length
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
        buffer, add = self.swarm.buffer, self.latency.add
        for at in range(layout.stamp_at, stop, layout.length):
            add((now_us - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)

    def _read_numbers(self, peer: Peer, layout: Layout, stop: int) -> None:
        buffer = self.swarm.buffer
        found = [int(buffer[at : at + NUMBER_DIGITS]) for at in range(layout.number_at, stop, layout.length)]
        if peer.numbers is not None:
            peer.numbers += found
        peer.checksum += sum(found)

    def _scan(self, peer: Peer, end: int) -> None:
        """Count frame by frame: the first of a run, and reads with anything else in between."""
        swarm = self.swarm
        found, used = scan(swarm.buffer, end)
        peer.rest = bytes(swarm.view[used:end])
        begin = 0
        for opcode, start, stop in found:
            frame = bytes(swarm.view[begin:stop])
            begin = stop
            at = frame.find(self.tag) + len(self.tag)
            if opcode >= CLOSE:
                swarm.control(peer, opcode, frame[start - stop :] if start < stop else b"")
            elif at < len(self.tag):
                self.others += 1
            else:
                self._count(peer, frame, len(frame) - (stop - start), at)

    def _count(self, peer: Peer, frame: bytes, head_bytes: int, number_at: int) -> None:
        stamp_at = frame.find(b'"msg":"') + 7
        number = int(frame[number_at : number_at + NUMBER_DIGITS])
        self.received += 1
        peer.frames += 1
        peer.checksum += number
        if peer.numbers is not None:
            peer.numbers.append(number)
        peer.digest = crc32(frame, peer.digest)
        self.last_ns = time.monotonic_ns()
        if self.layout is None:
            tag_at = number_at - len(self.tag)
            self.layout = Layout(len(frame), frame[:head_bytes], tag_at, number_at, stamp_at)
        self.latency.add((stamp_us() - int(frame[stamp_at : stamp_at + STAMP_DIGITS])) % STAMP_WRAP)

    def verdict(self, accepted: set[int]) -> Receipts:
        """Compare what every receiver got with the numbers of the ``accepted`` broadcasts."""
        wanted = len(accepted)
        witness = self.witness
        lost = doubled = other_order = received = 0
        seen = set(witness.numbers or ()) if witness else set()
        witness_lost = len(accepted - seen)
        witness_doubled = witness.frames - len(seen & accepted) if witness else 0
        for peer in self.receivers:
            received += peer.frames
            if witness and peer.frames == witness.frames and peer.digest == witness.digest:
                lost += witness_lost
                doubled += witness_doubled
            else:
                lost += max(0, wanted - peer.frames)
                doubled += max(0, peer.frames - wanted)
                other_order += peer.frames == wanted
        return Receipts(wanted * len(self.receivers), received, lost, doubled, other_order)

    def figures(self) -> Json:
        return {
            "received": self.received,
            "others": self.others,
            "frame_bytes": self.layout.length if self.layout else 0,
            "latency": self.latency.pack(),
        }
