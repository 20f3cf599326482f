"""Counting a chat: each push at each receiver, each acknowledgement at its sender, in order and exactly once.

What is pushed to many comes to most of them as the same bytes, so a frame is read once and looked up for
everybody else. A receiver keeps how many messages it got, the last place, and the sum of a hash of each
message's number and place. Its sender learns the place from the acknowledgement, so what all should have got
is known, and whoever has another sum has something else.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from typing import NamedTuple

from bench.connections import Peer, Swarm
from bench.frames import CLOSE
from bench.latency import STAMP_WRAP, Latency
from bench.loop import Json
from bench.protobuf import BINARY, CT_ACK, CT_MESSAGE, UP, PushReader, numbers, outputs
from bench.tally import Receipts

MOST_KNOWN = 1024  # frames that are remembered


class Part(NamedTuple):
    """What a frame of pushes adds to whoever receives it; ``grows``: its places do."""

    messages: int
    total: int
    first: int
    last: int
    stamp_us: int
    grows: bool


class Sender:
    """What one connection has sent and what of it was acknowledged. Owned by its tally."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int]] = deque()
        """Numbers (of the whole run) that are not acknowledged, and when they were sent."""
        self.acked = self.total = 0


class ChatTally:
    """Counts the messages of one run at all connections of a swarm, which it takes over as its ``take``.

    ``shared``: many receivers get the same frames. A peer's ``frames`` are the messages it got, its
    ``digest`` is the last place it saw, in a push or an acknowledgement, its ``checksum`` the sum.
    """

    def __init__(self, swarm: Swarm, tag: str, *, shared: bool) -> None:
        self.swarm = swarm
        self.shared = shared
        self.pushes = PushReader(tag.encode())
        self.latency = Latency()
        self.ack_latency = Latency()
        self.received = self.acked = self.strays = 0
        self.frames = 0
        self.last_ns = time.monotonic_ns()
        self.disordered: set[int] = set()
        self.receivers = list(swarm.peers.values())
        self.senders = {peer.number: Sender() for peer in self.receivers}
        self._known: dict[bytes, Part] = {}
        for peer in self.receivers:
            peer.clear()
        swarm.take = self.take

    def release(self) -> None:
        self.swarm.take = self.swarm.skim

    def take(self, peer: Peer, end: int) -> None:
        swarm, known = self.swarm, self._known
        buffer, view = swarm.buffer, swarm.view
        self.last_ns = time.monotonic_ns()
        at = 0
        while at + 2 <= end:
            size, start = buffer[at + 1], at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(buffer[at + 2 : start], "big")
            elif size == 127:
                start = at + 10
                size = int.from_bytes(buffer[at + 2 : start], "big")
            stop = start + size
            if stop > end:
                break
            frame = bytes(view[at:stop])
            part = known.get(frame)
            if part is not None:
                self._add(peer, part)
            else:
                self._read(peer, frame, start - at)
            at = stop
        peer.rest = bytes(view[at:end]) if at < end else b""

    def _add(self, peer: Peer, part: Part) -> None:
        count, total, first, last, stamp_us, grows = part
        if first <= peer.digest or not grows:
            self.disordered.add(peer.number)
        peer.digest = last
        peer.frames += count
        peer.checksum += total
        self.received += count
        self.frames += 1
        self.latency.add((self.last_ns // 1000 - stamp_us) % STAMP_WRAP)

    def _read(self, peer: Peer, frame: bytes, head_bytes: int) -> None:
        opcode, payload = frame[0] & 0x0F, frame[head_bytes:]
        if opcode >= CLOSE:
            self.swarm.control(peer, opcode, payload)
        elif opcode != BINARY:
            self.strays += 1
        elif (part := self._part(payload)) is not None:
            if self.shared:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[frame] = part
            self._add(peer, part)
        else:
            self._read_mixed(peer, payload)

    def _part(self, payload: bytes) -> Part | None:
        found = self.pushes.read(payload)
        if found is None:
            return None
        places = [place for _number, _stamp, place in found]
        return Part(
            len(found),
            sum(hash((number, place)) for number, _stamp, place in found),
            places[0],
            places[-1],
            found[0][1],
            all(before < behind for before, behind in pairwise(places)),
        )

    def _read_mixed(self, peer: Peer, payload: bytes) -> None:
        """A frame with acknowledgements, or with what does not belong here."""
        try:
            found = outputs(payload)
        except ValueError:
            self.strays += 1
            return
        for kind, _code, data, whole in found:
            if kind == CT_ACK:
                self._acknowledge(peer, numbers(data))
            elif kind == CT_MESSAGE and (part := self._part(whole)) is not None:
                self._add(peer, part)
            else:
                self.strays += 1

    def _acknowledge(self, peer: Peer, fields: dict[int, int]) -> None:
        sender = self.senders[peer.number]
        place = fields.get(0x18, 0)
        if fields.get(0x08) != UP or fields.get(0x10) != sender.acked + 1 or not sender.waiting or not place:
            self.strays += 1
            return
        if place <= peer.digest:
            self.disordered.add(peer.number)
        peer.digest = place
        number, sent_ns = sender.waiting.popleft()
        sender.acked += 1
        self.acked += 1
        sender.total += hash((number, place))
        self.ack_latency.add((self.last_ns - sent_ns) // 1000)

    def verdict(self, partner: dict[int, int] | None = None) -> Receipts:
        """Compare what every receiver got with what was acknowledged.

        Everybody gets what all others sent, or, with ``partner``, what that one sent.
        """
        expected = lost = doubled = 0
        count = sum(sender.acked for sender in self.senders.values())
        total = sum(sender.total for sender in self.senders.values())
        for peer in self.receivers:
            own = self.senders[peer.number]
            wanted, worth_all = count - own.acked, total - own.total
            if partner is not None:
                other = self.senders[partner[peer.number]]
                wanted, worth_all = other.acked, other.total
            changed = peer.frames == wanted and peer.checksum != worth_all  # one for another, at least
            expected += wanted
            lost += max(0, wanted - peer.frames) + changed
            doubled += max(0, peer.frames - wanted) + changed
        return Receipts(expected, self.received, lost, doubled, len(self.disordered))

    def figures(self) -> Json:
        return {
            "received": self.received,
            "acked": self.acked,
            "strays": self.strays,
            "frames": self.frames,
            "latency": self.latency.pack(),
            "ack_latency": self.ack_latency.pack(),
        }
