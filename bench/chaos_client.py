"""A client of a chaos run: it reconnects, catches up, and sends each message until it is acknowledged."""

from __future__ import annotations

import errno
import json
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from bench.chaos_checker import Faults, Promises, Reader, Told, read_mark
from bench.frames import CLOSE, PING, PONG, UPGRADE_ACCEPT, client_frame, request_frame, scan, upgrade_request
from bench.loop import READ, WRITE, Loop

SYNC_ENTRIES = 200
"""Entries of a page that clients of the cmd dialect ask for."""
OK, NOT_STORED = 200, 1008
_NOTICE, _HEAD_BYTES = b'","cmd":"e', 64
"""Somebody enters or exits, as the first bytes of a frame say."""


@dataclass(frozen=True)
class Outgoing:
    """A message that is sent until it is acknowledged: to a user, or (``group``) to a group."""

    mark: int
    receiver: int
    group: bool
    text: str

    @property
    def name(self) -> str:
        return f"{self.mark:x}"


@dataclass(frozen=True)
class LoggedIn:
    """The session stands; ``recovered``: what was missed follows; ``anew``: the cursor is unknown."""

    recovered: bool
    anew: bool = False


@dataclass(frozen=True)
class Page:
    """What was missed; ``more``: there is more of it. ``anew``: the server does not know the cursor."""

    entries: list[Told]
    more: bool
    anew: bool = False


@dataclass(frozen=True)
class Stored:
    """The message ``mark`` is acknowledged; without a seq its dialect does not say more than the id."""

    mark: int
    told: Told
    repeated: bool


@dataclass(frozen=True)
class NotStored:
    """The message may be sent again."""

    mark: int


@dataclass(frozen=True)
class Refused:
    """``what`` was refused with ``code``."""

    what: str
    code: int


Heard = LoggedIn | Page | Told | Stored | NotStored | Refused


class Speech(Protocol):
    """One connection's side of a dialect. ``depth``: messages that may wait for their acknowledgement;
    ``in_order``: they are numbered, and the server takes no other than the next."""

    path: str
    depth: int
    in_order: bool

    def login(self, cursor: int) -> bytes:
        """The frame that logs in; the first on a connection."""

    def sync(self, cursor: int) -> bytes:
        """The frame that asks for what was missed."""

    def send(self, message: Outgoing) -> bytes:
        """The frame of a message, the first time and again."""

    def ack(self, cursor: int) -> bytes:
        """The frame that acknowledges what was told; empty where there is none."""

    def hear(self, payload: bytes) -> list[Heard]:
        """What a frame of the server says; raises ValueError if nothing that belongs here."""


class CmdSpeech:
    """The cmd dialect, as user ``account`` of ``app``, with a ``token`` or ``""``; ``acks``: it acknowledges
    what it is told.

    ``resumes`` False: it does not say where it stands as it logs in, and asks for everything by pages.
    """

    path = "/acc"
    depth = 8
    in_order = False

    def __init__(self, app: int, account: int, token: str, acks: bool, resumes: bool = True) -> None:
        self.app = app
        self.account = account
        self.token = token
        self.acks = acks and resumes
        self.resumes = resumes

    def login(self, cursor: int) -> bytes:
        data: dict[str, object] = {"userID": str(self.account), "appID": self.app}
        if self.token:
            data["serviceToken"] = self.token
        if self.resumes:
            data |= {"cursor": cursor, "acks": self.acks}
        return request_frame("login", "l", data)

    def sync(self, cursor: int) -> bytes:
        return request_frame("sync", "s", {"cursor": cursor, "limit": SYNC_ENTRIES})

    def send(self, message: Outgoing) -> bytes:
        where = {"conversation": message.receiver} if message.group else {"to": str(message.receiver)}
        data = {**where, "text": message.text, "clientMsgID": message.name}
        return request_frame("send", str(message.mark), data)

    def ack(self, cursor: int) -> bytes:
        return request_frame("ack", "a", {"id": cursor}) if self.acks else b""

    def hear(self, payload: bytes) -> list[Heard]:
        """Read a frame; notices of who comes and goes are nothing."""
        if _NOTICE in payload[:_HEAD_BYTES]:
            return []
        body = json.loads(payload)
        code, data = body["response"]["code"], body["response"]["data"]
        command = body["cmd"]
        if command == "message":
            return [_told(data)]
        if command == "send":
            return [_sent(int(body["seq"]), code, data)]
        if command in ("login", "sync", "ack") and code != OK:
            return [Refused(command, code)]
        if command == "login":
            return [LoggedIn(bool(data and data["recovered"]))]
        if command == "sync":
            told = [_told(entry) for entry in data["messages"]]
            return [Page(told, data["hasMore"], data.get("beginAnew", False))]
        return []


def _told(entry: dict[str, Any]) -> Told:
    return Told(entry["id"], entry["conversation"], entry["seq"], read_mark(entry.get("text") or ""))


def _sent(mark: int, code: int, data: Any) -> Heard:
    if code == OK:
        told = Told(data["id"], data["conversation"], data["seq"], mark)
        return Stored(mark, told, data["repeated"])
    return NotStored(mark) if code == NOT_STORED else Refused("send", code)


AWAY, DIALLING, UPGRADING, LOGGING_IN, BEHIND, LIVE = range(6)
OPENING_SECONDS = 5.0
"""Longest from the first packet of a connection to the answer to the login."""
PING_SECONDS = 1.5
SILENCE_SECONDS = 4.0
"""A connection of which nothing was heard for so long, though it was pinged, is given up."""
RESEND_SECONDS = 3.0
AGAIN_SECONDS = 0.5
"""When to send again what the database could not take."""
ACK_SECONDS = 1.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
RECEIVE_BYTES = 1 << 18


class Counts:
    """What all clients of a run count together."""

    def __init__(self) -> None:
        self.connections = self.lost_connections = self.failed_openings = 0
        self.resends = self.not_stored = 0
        self.recovered = self.pages = 0


class Client:
    """One user with one connection at a time. Owns its socket, and the messages that are not acknowledged.

    ``doors`` are the nodes (host and port), taken in turn from ``place`` on; ``on_acked(message)`` is told of
    the first acknowledgement of each message.
    """

    def __init__(
        self,
        loop: Loop,
        doors: list[tuple[str, int]],
        place: int,
        speech: Speech,
        reader: Reader,
        promises: Promises,
        counts: Counts,
    ) -> None:
        self.loop = loop
        self.doors = doors
        self.place = place
        self.speech = speech
        self.reader = reader
        self.promises = promises
        self.counts = counts
        self.phase = AWAY
        self.wanted = True
        self.ack_seconds = ACK_SECONDS
        self.waiting: dict[int, tuple[Outgoing, float]] = {}
        """Messages that are not acknowledged, by mark and in their order, and when to send them (again)."""
        self.on_acked: Callable[[Outgoing], None] = lambda message: None
        self._chance = random.Random(place)
        self._sock: socket.socket | None = None
        self._rest = b""
        self._again_at = self._heard_at = self._acked_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._pinged = False
        self._told_acked = 0

    @property
    def faults(self) -> Faults:
        return self.reader.faults

    def send(self, message: Outgoing) -> None:
        """Take a message that is to be sent as soon as can be."""
        self.waiting[message.mark] = (message, 0.0)

    def look(self, now: float) -> None:
        """Do what is due; to be called many times a second."""
        if self.phase == AWAY:
            if self.wanted and now >= self._again_at:
                self._dial(now)
            return
        if self.phase < BEHIND:
            if now > self._heard_at + OPENING_SECONDS:
                self.lose(now)
            return
        if now > self._heard_at + SILENCE_SECONDS:
            self.lose(now)
            return
        if now > self._heard_at + PING_SECONDS and not self._pinged:
            self._pinged = True
            self._write(client_frame(b"?", PING), now)
        if (
            self.phase == LIVE
            and self._told_acked < self.reader.cursor
            and now > self._acked_at + self.ack_seconds
        ):
            self._told_acked, self._acked_at = self.reader.cursor, now
            if frame := self.speech.ack(self._told_acked):
                self._write(frame, now)
        self._send_due(now)

    def _send_due(self, now: float) -> None:
        window = [*islice(self.waiting.items(), self.speech.depth)]
        # Where numbers count, one that is lost takes those behind it along.
        all_again = self.speech.in_order and bool(window) and 0 < window[0][1][1] <= now
        for mark, (message, due) in window:
            late = all_again if self.speech.in_order else 0 < due <= now
            if self.phase >= BEHIND and (late or not due):
                self.counts.resends += due > 0
                self.waiting[mark] = (message, now + RESEND_SECONDS)
                self._write(self.speech.send(message), now)

    def _dial(self, now: float) -> None:
        self.place += 1
        host, port = self.doors[self.place % len(self.doors)]
        sock = self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._rest, self._heard_at, self.phase = b"", now, DIALLING
        self.loop.add(sock.fileno(), WRITE, self)
        if sock.connect_ex((host, port)) not in (0, errno.EINPROGRESS):
            self.lose(now)

    def lose(self, now: float) -> None:
        self.counts.failed_openings += self.phase < BEHIND
        self.drop()
        self._again_at = now + self._pause * self._chance.uniform(0.5, 1.5)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def drop(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self.counts.lost_connections += self.phase >= BEHIND and self.wanted
            self.loop.remove(sock.fileno())
            sock.close()
        self.phase = AWAY

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
        now, sock = time.monotonic(), self._sock
        assert sock is not None
        try:
            if self.phase == DIALLING:
                host, port = self.doors[self.place % len(self.doors)]
                sock.send(upgrade_request(f"{host}:{port}", self.speech.path))
                self.phase = UPGRADING
                self.loop.change(fd, READ)
                return
            data = sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose(now)
            return
        self._heard_at, self._pinged = now, False
        data = self._rest + data
        if self.phase == UPGRADING:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 101") or UPGRADE_ACCEPT not in head:
                self.lose(now)
                return
            self.phase = LOGGING_IN
            self._write(self.speech.login(self.reader.cursor), now)
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
                heard = self.speech.hear(payload)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self.faults.add("unreadable", f"{self.reader.name}: {payload[:200]!r}: {error!r}")
                return
            for each in heard:
                self._heard(each, now)

    def _heard(self, heard: Heard, now: float) -> None:
        if isinstance(heard, Told):
            self.reader.take(heard)
        elif isinstance(heard, Stored):
            self._acked(heard, now)
        elif isinstance(heard, Page):
            self._take_page(heard, now)
        elif isinstance(heard, LoggedIn):
            self._logged_in(heard, now)
        elif isinstance(heard, NotStored):
            self.counts.not_stored += 1
            if heard.mark in self.waiting:
                self.waiting[heard.mark] = (self.waiting[heard.mark][0], now + AGAIN_SECONDS)
        elif isinstance(heard, Refused):
            self._refused(heard, now)

    def _logged_in(self, heard: LoggedIn, now: float) -> None:
        self.phase, self._pause = BEHIND, FIRST_PAUSE_SECONDS
        self._told_acked = self.reader.cursor
        self.counts.connections += 1
        self._check_cursor(heard.anew)
        for mark, (message, due) in self.waiting.items():
            self.waiting[mark] = (message, min(due, now))
        if heard.recovered:
            self.counts.recovered += 1
            self.phase = LIVE
        else:
            self._write(self.speech.sync(self.reader.cursor), now)
        self._send_due(now)

    def _check_cursor(self, anew: bool) -> None:
        if anew and self.reader.cursor:
            self.faults.add(
                "anew", f"{self.reader.name} is told that its cursor {self.reader.cursor} is void"
            )

    def _take_page(self, page: Page, now: float) -> None:
        self.counts.pages += 1
        self._check_cursor(page.anew)
        for told in page.entries:
            self.reader.take(told)
        if page.more:
            last = page.entries[-1].id if page.entries else self.reader.cursor
            self._write(self.speech.sync(last), now)
        else:
            self.phase = LIVE

    def _acked(self, stored: Stored, now: float) -> None:
        message, _ = self.waiting.pop(stored.mark, (None, 0.0))
        self.reader.take(stored.told, answer=True)
        if self.promises.keep(stored.mark, stored.told.id) and message is not None:
            self.on_acked(message)
        self._send_due(now)

    def _refused(self, refused: Refused, now: float) -> None:
        if refused.what == "send":
            self.faults.add("refused", f"{self.reader.name}: a message, with {refused.code}")
        self.lose(now)
