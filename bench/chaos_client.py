"""A chat client that reconnects, catches up, and sends each message until it is acknowledged.

A message is named by its *mark*: who sent it and its number there, which stand in its text. A client keeps
what it is told as its SDK would: what has an id that it knows is a repeat and is dropped; what is new must
have a greater id than all before, and the next ``seq`` of its conversation.
"""

from __future__ import annotations

import errno
import json
import random
import socket
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from bench import protobuf
from bench.frames import CLOSE, PING, PONG, UPGRADE_ACCEPT, client_frame, request_frame, scan, upgrade_request
from bench.loop import READ, WRITE, Json, Loop
from bench.protobuf import CT_ACK, CT_LOGIN, CT_MESSAGE, CT_SYNC, field, varint

MARK_BITS = 32
MOST_NOTES = 50
"""Faults of which the words are kept; all are counted."""
SYNC_ENTRIES = 200
"""Entries of a page that clients with a cursor ask for."""
OK, NOT_STORED = 200, 1008
_NOTICE, _HEAD_BYTES = b'","cmd":"e', 64
"""Somebody enters or exits, as the first bytes of a frame say."""
_PUSHED, _LOGGED_IN, _REFUSED, _SIGNAL = 2, 3, 4, 15


class Told(NamedTuple):
    """One entry of the log as a client was told it. ``conversation`` and ``seq``: 0 where its dialect does
    not say them; ``mark``: 0 for what is no message."""

    id: int
    conversation: int
    seq: int
    mark: int


def mark_of(sender: int, number: int) -> int:
    """The name of a message; senders and their numbers count from 1."""
    return sender << MARK_BITS | number


def text_of(mark: int, padding: str = "") -> str:
    return f"{mark >> MARK_BITS}:{mark & (1 << MARK_BITS) - 1}:{padding}"


def read_mark(text: str) -> int:
    """The mark in a text; 0 where there is none."""
    sender, number, *_rest = (*text.split(":", 2), "", "")
    return mark_of(int(sender), int(number)) if sender.isdecimal() and number.isdecimal() else 0


class Faults:
    """What was wrong, by kind, and the words of the first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def add(self, kind: str, words: str, count: int = 1) -> None:
        self.counts[kind] += count
        if len(self.notes) < MOST_NOTES:
            self.notes.append(f"{kind}: {words}")


class Reader:
    """What one client has, in the order in which it was told. ``name`` is for people.

    Kinds of faults: ``holes`` (a seq was left out), ``inversions`` (an id or a seq that is not greater than
    the last, and is not known), ``changed`` (an id that means something else than before).
    """

    def __init__(self, name: str, faults: Faults) -> None:
        self.name = name
        self.faults = faults
        self.ids, self.marks = array("Q"), array("Q")
        self.seqs: dict[int, int] = {}
        """The last seq of each conversation."""
        self.repeats = 0

    @property
    def cursor(self) -> int:
        return self.ids[-1] if self.ids else 0

    def take(self, told: Told, *, answer: bool = False) -> None:
        """Take one entry; ``answer``: it is an acknowledgement of its sender's, which is no repeat."""
        if told.id <= self.cursor:
            place = bisect_left(self.ids, told.id)
            if self.ids[place] != told.id:
                self.faults.add("inversions", f"{self.name}: {told} came behind id {self.cursor}")
            elif self.marks[place] != told.mark:
                self.faults.add("changed", f"{self.name}: {told} was mark {self.marks[place]:#x}")
            else:
                self.repeats += not answer
            return
        self.ids.append(told.id)
        self.marks.append(told.mark)
        if told.seq:
            last = self.seqs.get(told.conversation, 0)
            if told.seq > last + 1:
                words = f"{self.name}: conversation {told.conversation} goes from {last} to {told.seq}"
                self.faults.add("holes", words, told.seq - last - 1)
            elif told.seq <= last:
                self.faults.add("inversions", f"{self.name}: {told} behind seq {last}")
            self.seqs[told.conversation] = max(last, told.seq)

    def messages(self) -> dict[int, int]:
        """The messages, other entries apart: ids and marks."""
        return {id: mark for id, mark in zip(self.ids, self.marks, strict=True) if mark}


class Promises:
    """What was acknowledged: to every mark the id."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.ids: dict[int, int] = {}

    def keep(self, mark: int, id: int) -> bool:
        """Note an acknowledgement; whether it is the first of this message."""
        first = self.ids.get(mark)
        if first is None:
            self.ids[mark] = id
        elif first != id:
            self.faults.add("changed", f"{text_of(mark)} was acknowledged as {first}, then as {id}")
        return first is None


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


class LoggedIn(NamedTuple):
    """The session stands; ``recovered``: what was missed follows; ``anew``: the cursor is unknown."""

    recovered: bool
    anew: bool = False


class Page(NamedTuple):
    """What was missed; ``more``: there is more of it. ``anew``: the server does not know the cursor."""

    entries: list[Told]
    more: bool
    anew: bool = False


class Stored(NamedTuple):
    """The message ``mark`` is acknowledged; without a seq its dialect does not say more than the id."""

    mark: int
    told: Told


class NotStored(NamedTuple):
    """The message may be sent again."""

    mark: int


class Refused(NamedTuple):
    what: str
    code: int


Heard = LoggedIn | Page | Told | Stored | NotStored | Refused


class CmdSpeech:
    """The cmd dialect, as user ``account`` of ``app``, with a ``token`` or ``""``; ``acks``: it acknowledges
    what it is told. ``depth``: messages that may wait for their acknowledgement.

    ``resumes`` False: it does not say where it stands as it logs in, and asks for everything by pages.
    """

    path = "/acc"
    in_order = False

    def __init__(self, app: int, account: int, token: str, acks: bool, resumes: bool = True) -> None:
        self.app = app
        self.account = account
        self.token = token
        self.acks = acks and resumes
        self.resumes = resumes
        self.depth = 8

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
        code, data, command = body["response"]["code"], body["response"]["data"], body["cmd"]
        if command == "message":
            return [_told(data)]
        if command == "send":
            mark = int(body["seq"])
            if code == OK:
                return [Stored(mark, Told(data["id"], data["conversation"], data["seq"], mark))]
            return [NotStored(mark) if code == NOT_STORED else Refused("send", code)]
        if command in ("login", "sync", "ack") and code != OK:
            return [Refused(command, code)]
        if command == "login":
            return [LoggedIn(bool(data and data["recovered"]))]
        if command == "sync":
            told = [_told(entry) for entry in data["messages"]]
            return [Page(told, data["hasMore"], data.get("beginAnew", False))]
        return []


def _told(entry: Json) -> Told:
    return Told(entry["id"], entry["conversation"], entry["seq"], read_mark(entry.get("text") or ""))


class ProtobufSpeech:
    """The protobuf dialect, as the account of ``token``; messages are numbered, and the server takes no other
    than the next. ``resumes`` False: as a client of GoChat, which has no cursor and acknowledges nothing."""

    path = protobuf.PATH
    in_order = True

    def __init__(self, account: int, token: str, resumes: bool = False, acks: bool = False) -> None:
        self.account = account
        self.token = token
        self.resumes = resumes
        self.acks = acks
        self.depth = 4
        self._counted = 0
        self._numbers: dict[int, int] = {}
        """What is under way on this connection: to every mark its number."""
        self._marks: dict[int, int] = {}

    def login(self, cursor: int) -> bytes:
        self._counted = 0
        self._numbers.clear()
        self._marks.clear()
        resume = b"\x18" + varint(cursor) if self.resumes else b""
        acks = b"\x20\x01" if self.acks else b""
        return protobuf.input_frame(CT_LOGIN, field(0x0A, self.token.encode()) + resume + acks)

    def sync(self, cursor: int) -> bytes:
        limit = b"\x10" + varint(SYNC_ENTRIES) if self.resumes else b""
        return protobuf.input_frame(CT_SYNC, b"\x08" + varint(cursor) + limit)

    def send(self, message: Outgoing) -> bytes:
        """Send under the next number of this connection, or again under its own."""
        number = self._numbers.get(message.mark)
        if number is None:
            number = self._counted = self._counted + 1
            self._numbers[message.mark] = number
            self._marks[number] = message.mark
        kind = protobuf.GROUP if message.group else protobuf.SINGLE
        writer = protobuf.Writer(kind, message.receiver, self.account, int(time.time() * 1000))
        return writer.frame(number, message.text.encode(), message.name.encode())

    def ack(self, cursor: int) -> bytes:
        data = b"\x08%c\x18%b" % (_PUSHED, varint(cursor))
        return protobuf.input_frame(CT_ACK, data) if self.acks else b""

    def hear(self, payload: bytes) -> list[Heard]:
        heard: list[Heard] = []
        for kind, code, data, _whole in protobuf.outputs(payload):
            if kind == CT_ACK:
                heard += self._hear_ack(code, protobuf.numbers(data))
            elif code != OK:
                heard.append(Refused(f"request {kind}", code))
            elif kind == CT_MESSAGE:
                heard.append(_message(protobuf.fields(data)[0x0A][0]))
            elif kind == CT_SYNC:
                page = protobuf.fields(data)
                entries = [_message(each) for each in page.get(0x0A, [])]
                heard.append(Page(entries, bool(page.get(0x10)), bool(page.get(0x18))))
            elif kind != _SIGNAL:
                raise ValueError(payload[:100])
        return heard

    def _hear_ack(self, code: int, fields: dict[int, int]) -> list[Heard]:
        kind, number = fields.get(0x08, 0), fields.get(0x10, 0)
        if kind == _LOGGED_IN:
            return [LoggedIn(bool(fields.get(0x20)), bool(fields.get(0x28)))]
        if kind == _REFUSED and code == NOT_STORED and number in self._marks:
            return [NotStored(self._marks[number])]
        if kind == _REFUSED:
            return [Refused("send" if number else "login", code)]
        mark = self._marks.pop(number, 0)
        if not mark:
            return []  # the last one again
        del self._numbers[mark]
        return [Stored(mark, Told(fields.get(0x18, 0), 0, 0, mark))]


def _message(data: Any) -> Told:
    found = protobuf.fields(data)
    (id,), (content,) = found.get(0x30, [0]), found.get(0x2A, [b""])
    return Told(id, 0, 0, 0 if found.get(0x40) else read_mark(content.decode()))


Speech = CmdSpeech | ProtobufSpeech

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
    def __init__(self) -> None:
        self.connections = self.lost_connections = self.failed_openings = 0
        self.resends = self.not_stored = self.recovered = self.pages = 0


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
        on_acked: Callable[[Outgoing], None] = lambda message: None,
    ) -> None:
        self.loop = loop
        self.doors = doors
        self.place = place
        self.speech = speech
        self.reader = reader
        self.promises = promises
        self.counts = counts
        self.on_acked = on_acked
        self.phase = AWAY
        self.wanted = True
        self.ack_seconds = ACK_SECONDS
        self.waiting: dict[int, tuple[Outgoing, float]] = {}
        """Messages that are not acknowledged, by mark and in their order, and when to send them (again)."""
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
        self.waiting[message.mark] = (message, 0.0)

    def look(self, now: float) -> None:
        """Do what is due; to be called many times a second."""
        if self.phase == AWAY:
            if self.wanted and now >= self._again_at:
                self._dial(now)
            return
        if now > self._heard_at + (OPENING_SECONDS if self.phase < BEHIND else SILENCE_SECONDS):
            self.lose(now)
        if self.phase < BEHIND:
            return
        if now > self._heard_at + PING_SECONDS and not self._pinged:
            self._pinged = True
            self._write(client_frame(b"?", PING), now)
        behind = self.phase == LIVE and self._told_acked < self.reader.cursor
        if behind and now > self._acked_at + self.ack_seconds:
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
        sock = self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._rest, self._heard_at, self.phase = b"", now, DIALLING
        self.loop.add(sock.fileno(), WRITE, self)
        if sock.connect_ex(self._door) not in (0, errno.EINPROGRESS):
            self.lose(now)

    @property
    def _door(self) -> tuple[str, int]:
        return self.doors[self.place % len(self.doors)]

    def lose(self, now: float) -> None:
        self.counts.failed_openings += self.phase < BEHIND
        self.counts.lost_connections += self.phase >= BEHIND and self.wanted
        self.drop()
        self._again_at = now + self._pause * self._chance.uniform(0.5, 1.5)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def drop(self) -> None:
        sock, self._sock = self._sock, None
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
        now, sock = time.monotonic(), self._sock
        assert sock is not None
        try:
            if self.phase == DIALLING:
                host, port = self._door
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
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                self.faults.add("unreadable", f"{self.reader.name}: {payload[:200]!r}: {error!r}")
                return
            for each in heard:
                self._heard(each, now)

    def _heard(self, heard: Heard, now: float) -> None:
        if isinstance(heard, Told):
            self.reader.take(heard)
        elif isinstance(heard, Stored):
            message, _ = self.waiting.pop(heard.mark, (None, 0.0))
            self.reader.take(heard.told, answer=True)
            if self.promises.keep(heard.mark, heard.told.id) and message is not None:
                self.on_acked(message)
            self._send_due(now)
        elif isinstance(heard, Page):
            self._take_page(heard, now)
        elif isinstance(heard, LoggedIn):
            self._logged_in(heard, now)
        elif isinstance(heard, NotStored):
            self.counts.not_stored += 1
            if heard.mark in self.waiting:
                self.waiting[heard.mark] = (self.waiting[heard.mark][0], now + AGAIN_SECONDS)
        else:
            if heard.what == "send":
                self.faults.add("refused", f"{self.reader.name}: a message, with {heard.code}")
            self.lose(now)

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
            words = f"{self.reader.name} is told that its cursor {self.reader.cursor} is void"
            self.faults.add("anew", words)

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
