"""A chat client that reconnects, catches up, and sends each message until it is
acknowledged.

A client handles received entries as its SDK would. An entry with a known id is
a repeat and is dropped. A new entry must have a greater id than all before, and
the next ``seq`` of its conversation.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from bench.chat_dialects import (
    Dialect,
    Entry,
    LoggedIn,
    NotStored,
    Outgoing,
    Page,
    ServerEvent,
    Stored,
)
from bench.frames import (
    CLOSE,
    PING,
    PONG,
    UPGRADE_ACCEPT,
    client_frame,
    scan,
    upgrade_request,
)
from bench.generator import Generator
from bench.http_client import ANSWER_SECONDS, fetch
from bench.loop import READ, WRITE, BenchError, Json, Loop

MOST_NOTES = 50
"""Number of faults whose texts are stored; all are counted."""


class Faults:
    """The number of faults by kind, and the texts of the first ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def add(self, kind: str, words: str, count: int = 1) -> None:
        self.counts[kind] += count
        if len(self.notes) < MOST_NOTES:
            self.notes.append(f"{kind}: {words}")


class Reader:
    """The entries of one client, in the order of arrival, without repeats.
    ``name`` is for error texts.

    ``on_new`` is called with each entry that is no repeat: what is wrong with
    it, the checker finds.
    """

    def __init__(
        self, name: str, faults: Faults, on_new: Callable[[Entry], None]
    ) -> None:
        self.name = name
        self.faults = faults
        self.on_new = on_new
        self.ids: dict[int, int] = {}
        """Id → mark."""
        self.cursor = self.repeats = 0

    def take(self, entry: Entry, *, answer: bool = False) -> None:
        """Add one entry; ``answer``: it is the acknowledgement of the client's
        own message, which is no repeat.
        """
        if self.ids.get(entry.id) == entry.mark:
            self.repeats += not answer
            return
        if entry.id <= self.cursor:
            self.faults.add(
                "inversions", f"{self.name}: {entry} came behind id {self.cursor}"
            )
        else:
            self.ids[entry.id], self.cursor = entry.mark, entry.id
        self.on_new(entry)


AWAY, DIALLING, UPGRADING, LOGGING_IN, BEHIND, LIVE = range(6)
OPENING_SECONDS = 5.0
"""Time limit from the first packet of a connection to the answer to the
login."""
PING_SECONDS = 1.5
SILENCE_SECONDS = 4.0
"""A connection without received data for so long, despite pings, is dropped."""
RESEND_SECONDS = 3.0
AGAIN_SECONDS = 0.5
"""Time until a message that the database could not store is sent again."""
ACK_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
RECEIVE_BYTES = 1 << 18
LOOK_SECONDS = 0.02
"""Time between two looks at what each client has to do."""


class Counts:
    def __init__(self) -> None:
        self.connections = self.lost_connections = self.resends = self.not_stored = (
            self.recovered
        ) = 0


class Clients:
    """The clients of one process. Owner of the nodes' addresses, faults and
    counts that they share."""

    clients: Sequence[Client] = ()

    def __init__(self, loop: Loop, addresses: list[list[Any]]) -> None:
        self.loop = loop
        self.addresses = [(host, port) for host, port in addresses]
        self.faults = Faults()
        self.counts = Counts()
        self._looked_at = 0.0

    def all_live(self, clients: Sequence[Client] = ()) -> bool:
        return all(client.phase == LIVE for client in clients or self.clients)

    def turn(self, clients: Iterable[Client], seconds: float) -> float:
        """Let pass at most ``seconds``; return the time."""
        self.loop.turn(seconds)
        now = time.monotonic()
        if now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            for client in clients:
                client.look(now)
        return now

    def until(
        self, clients: Sequence[Client], condition: Callable[[], bool], seconds: float
    ) -> bool:
        """Let the clients work until ``condition()``. Return False if it is not
        met within ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if self.turn(clients, LOOK_SECONDS) > end or self.loop.stopped:
                return False
        return True

    def meet(
        self,
        condition: Callable[[], bool],
        seconds: float = 300.0,
        clients: Sequence[Client] = (),
    ) -> None:
        """Let all, or these, come online, until ``condition()``. Raises
        BenchError."""
        clients = clients or self.clients
        if not self.until(clients, condition, seconds):
            live = sum(client.phase == LIVE for client in clients)
            raise BenchError(
                f"{live} of {len(clients)} clients came online: {self.faults.notes}"
            )


class Client:
    """One user with one connection at a time. Owner of its socket and of its
    unacknowledged messages.

    It uses the nodes in turn, from ``index`` on. ``name`` is for error texts.
    ``on_acked(message, entry)`` is called at the first acknowledgement of each
    message, ``on_new(entry)`` with each entry that is no repeat.
    """

    def __init__(
        self,
        shared: Clients,
        index: int,
        dialect: Dialect,
        name: str,
        on_acked: Callable[[Outgoing, Entry], None] = lambda message, entry: None,
        on_new: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        self.loop = shared.loop
        self.addresses = shared.addresses
        self.index = index
        self.dialect = dialect
        self.faults = shared.faults
        self.reader = Reader(name, shared.faults, on_new)
        self.counts = shared.counts
        self.on_acked = on_acked
        self.phase = AWAY
        self.wanted = True
        self.ack_seconds = ACK_SECONDS
        self.waiting: dict[int, tuple[Outgoing, float]] = {}
        """Messages that are not acknowledged, by mark and in their order, and
        when to send them (again)."""
        self._chance = random.Random(index)
        self._sock: socket.socket | None = None
        self._rest = b""
        self._again_at = self._heard_at = self._acked_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._pinged = False
        self._acknowledged = 0

    def send(self, message: Outgoing) -> None:
        self.waiting[message.mark] = (message, 0.0)

    def look(self, now: float) -> None:
        """Do all work that is due. Call this many times per second."""
        if self.phase == AWAY:
            if self.wanted and now >= self._again_at:
                self._dial(now)
            return
        if now > self._heard_at + (
            OPENING_SECONDS if self.phase < BEHIND else SILENCE_SECONDS
        ):
            self.lose(now)
        if self.phase < BEHIND:
            return
        if now > self._heard_at + PING_SECONDS and not self._pinged:
            self._pinged = True
            self._write(client_frame(b"?", PING), now)
        behind = self.phase == LIVE and self._acknowledged < self.reader.cursor
        if behind and now > self._acked_at + self.ack_seconds:
            self._acknowledged = self.reader.cursor
            self._acked_at = now
            frame = self.dialect.ack(self._acknowledged)
            if frame:
                self._write(frame, now)
        self._send_due(now)

    def _send_due(self, now: float) -> None:
        window = [*islice(self.waiting.items(), self.dialect.depth)]
        if self.dialect.counts_anew and self.phase < LIVE:
            return  # the sync shows which of them are stored
        # If messages are numbered, a lost one makes the following ones fail
        # too.
        all_again = (
            self.dialect.in_order and bool(window) and 0 < window[0][1][1] <= now
        )
        for mark, (message, due) in window:
            if self.dialect.in_order:
                late = all_again
            else:
                late = 0 < due <= now
            if self.phase >= BEHIND and (late or not due):
                self.counts.resends += due > 0
                self.waiting[mark] = (message, now + RESEND_SECONDS)
                self._write(self.dialect.send(message), now)

    def _dial(self, now: float) -> None:
        self.index += 1
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._sock = sock
        self._rest = b""
        self._heard_at = now
        self.phase = DIALLING
        self.loop.add(sock.fileno(), WRITE, self)
        if sock.connect_ex(self._address) not in (0, errno.EINPROGRESS):
            self.lose(now)

    @property
    def _address(self) -> tuple[str, int]:
        return self.addresses[self.index % len(self.addresses)]

    def lose(self, now: float) -> None:
        self.counts.lost_connections += self.phase >= BEHIND and self.wanted
        self.drop()
        self._again_at = now + self._pause * self._chance.uniform(0.5, 1.5)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def drop(self) -> None:
        sock = self._sock
        self._sock = None
        if sock is not None:
            self.loop.remove(sock.fileno())
            sock.close()
        self.phase = AWAY

    def leave(self) -> None:
        self.wanted = False
        self.drop()

    def _write(self, data: bytes, now: float) -> None:
        if self._sock is None:
            return
        try:
            whole = self._sock.send(data) == len(data)
        except OSError:
            whole = False
        if not whole:
            self.lose(now)

    def ready(self, fd: int, mask: int) -> None:
        now = time.monotonic()
        sock = self._sock
        assert sock is not None
        try:
            if self.phase == DIALLING:
                self._upgrade(sock)
                return
            data = sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose(now)
            return
        self._heard_at = now
        self._pinged = False
        self._rest += data
        if self.phase == UPGRADING:
            self._take_upgrade(now)
        if self.phase > UPGRADING:
            self._take_frames(sock, now)

    def _upgrade(self, sock: socket.socket) -> None:
        host, port = self._address
        sock.send(upgrade_request(f"{host}:{port}", self.dialect.path))
        self.phase = UPGRADING
        self.loop.change(sock.fileno(), READ)

    def _take_upgrade(self, now: float) -> None:
        """Log in if the answer to the upgrade is whole and good."""
        head, end, frames = self._rest.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101") or UPGRADE_ACCEPT not in head:
            self.lose(now)
            return
        self.phase = LOGGING_IN
        self._rest = frames
        self._write(self.dialect.login(self.reader.cursor), now)
        if self.dialect.counts_anew:
            # As GoChat's clients do. The server holds what is new for a short
            # time only.
            self._write(self.dialect.sync(self.reader.cursor), now)

    def _take_frames(self, sock: socket.socket, now: float) -> None:
        """Handle all whole frames, unless one of them ends the connection."""
        data = self._rest
        found, used = scan(data, len(data))
        self._rest = data[used:]
        for opcode, start, stop in found:
            if self._sock is not sock:
                return
            self._frame(opcode, data[start:stop], now)

    def _frame(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == PING:
            self._write(client_frame(payload, PONG), now)
        elif opcode == CLOSE:
            self.lose(now)
        elif opcode < CLOSE:
            try:
                events = self.dialect.read(payload)
            except (
                ValueError,
                KeyError,
                TypeError,
                IndexError,
                AttributeError,
            ) as error:
                self.faults.add(
                    "unreadable", f"{self.reader.name}: {payload[:200]!r}: {error!r}"
                )
                return
            for each in events:
                self._handle(each, now)

    def _handle(self, event: ServerEvent, now: float) -> None:
        if isinstance(event, Entry):
            self.reader.take(event)
        elif isinstance(event, Stored):
            message, _ = self.waiting.pop(event.mark, (None, 0.0))
            self.reader.take(event.entry, answer=True)
            if message is not None:
                self.on_acked(message, event.entry)
            self._send_due(now)
        elif isinstance(event, Page):
            self._take_page(event, now)
        elif isinstance(event, LoggedIn):
            self._logged_in(event, now)
        elif isinstance(event, NotStored):
            self.counts.not_stored += 1
            if event.mark in self.waiting:
                self.waiting[event.mark] = (
                    self.waiting[event.mark][0],
                    now + AGAIN_SECONDS,
                )
        else:
            if event.what == "send":
                self.faults.add(
                    "refused", f"{self.reader.name}: a message, with {event.code}"
                )
            self.lose(now)

    def _logged_in(self, event: LoggedIn, now: float) -> None:
        self.phase = BEHIND
        self._pause = FIRST_PAUSE_SECONDS
        self._acknowledged = self.reader.cursor
        self.counts.connections += 1
        self._check_cursor(event.anew)
        for mark, (message, due) in self.waiting.items():
            self.waiting[mark] = (message, min(due, now))
        if event.recovered:
            self.counts.recovered += 1
            self.phase = LIVE
        elif not self.dialect.counts_anew:
            self._write(self.dialect.sync(self.reader.cursor), now)
        self._send_due(now)

    def _check_cursor(self, anew: bool) -> None:
        if anew and self.reader.cursor:
            words = f"{self.reader.name} is told that its cursor {self.reader.cursor} is void"
            self.faults.add("anew", words)

    def _take_page(self, page: Page, now: float) -> None:
        self._check_cursor(page.anew)
        for entry in page.entries:
            if self.dialect.counts_anew and entry.mark in self.waiting:
                self._handle(Stored(entry.mark, entry), now)
            else:
                self.reader.take(entry)
        if page.more:
            if page.entries:
                last = page.entries[-1].id
            else:
                last = self.reader.cursor
            self._write(self.dialect.sync(last), now)
        else:
            self.phase = LIVE
            self._send_due(now)


AT_ONCE = 4
"""Number of registrations at the same time."""


def register(generator: Generator, count: int, seconds: float) -> Json:
    """Task: register ``count`` accounts, and store their ids and tokens;
    ``seconds``: time limit."""
    deadline = time.monotonic() + seconds

    def one(_: int) -> tuple[int, str]:
        form = lambda: {  # noqa: E731
            "phone_number": random.randrange(10**11, 10**12),
            "password": "bench",
        }
        answer = _post(generator, "/register", form, deadline)
        return int(answer["id"]), answer["token"]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        generator.state["accounts"] = list(threads.map(one, range(count)))
    return {}


def create_group(
    generator: Generator, indexes: list[int], seconds: float = ANSWER_SECONDS
) -> int:
    """Make a group of the accounts at ``indexes``; the first is the owner.
    Return its id."""
    (_owner, token), *others = (generator.state["accounts"][index] for index in indexes)
    form = {"name": "bench", "ids": [number for number, _token in others]}
    answer = _post(
        generator,
        "/group/create",
        lambda: form,
        time.monotonic() + seconds,
        token=token,
    )
    return int(answer["id"])


def _post(
    generator: Generator,
    path: str,
    form: Callable[[], Json],
    deadline: float,
    **headers: str,
) -> Json:
    """Make something, and again while the database of a busy machine answers
    too late."""
    while True:
        text = urlencode(form(), doseq=True)
        answer = fetch(generator.target, path, text, seconds=ANSWER_SECONDS, **headers)
        if "id" in answer:
            return answer
        if time.monotonic() > deadline:
            raise BenchError(f"{path}: {answer}")
