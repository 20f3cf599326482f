"""A message log in memory, shared by as many writers as a test likes: the contract in plain lines.

A writer is one node's. A test can hold a writer's commits back, take the log away, or lose what is told.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.event import Event as Signal
from gevent.lock import RLock
from msgspec import json
from msgspec.structs import replace

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.statements import CommitGuard, NotStored, Unsure
from imserver.messenger.messages.action_positions import ActionPositions
from imserver.messenger.messages.log.contract import (
    Appended,
    AppendRequest,
    Commit,
    Conversation,
    ConversationKind,
    Draft,
    Entry,
    LogExtent,
    Membership,
    PublicationPage,
    Rejected,
)
from imserver.messenger.messages.log.transaction import WriteTransaction
from imserver.messenger.messages.log.writer import LogListener, LogWriter


class _Row(Membership, frozen=True, kw_only=True):
    app: str


class MemoryStore:
    """In place of :class:`imserver.gateway.storage.store.Store`: a log that is there from the first."""

    id = "0123456789"

    def __init__(self, log: Any) -> None:
        self._log = log
        self.has_database = log is not None

    def answers(self) -> bool:
        return True

    def database_id(self) -> str:
        return self.id

    def part(self, _make: object) -> Any:
        return self._log


class MemoryPositions(ActionPositions):
    """Positions without a store."""

    def __init__(self) -> None:
        nothing: Any = SimpleNamespace(write_or=lambda default, work: None)
        super().__init__(nothing)
        self.known: dict[tuple[str, str, str], int] = {}
        self.away = False

    def stored(self, app: str, user: str, rooms: Collection[str]) -> dict[str, int]:
        gevent.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        known = {room: self.known[app, user, room] for room in rooms if (app, user, room) in self.known}
        return {"": self.known.get((app, user, ""), 0), **known}

    def raise_to(self, rows: Sequence[tuple[str, str, str, int]]) -> None:
        gevent.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        for app, user, room, id in rows:
            key = app, user, room
            self.known[key] = max(id, self.known.get(key, 0))

    def begin(self, app: str, user: str, room: str, id: int, most: int = 0) -> None:
        self.raise_to([(app, user, room, id)])

    def forget(self, app: str, user: str) -> None:
        super().forget(app, user)
        self.known = {key: id for key, id in self.known.items() if key[:2] != (app, user)}


class Shelf:
    """What is stored, for all writers."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}
        self.memberships: list[_Row] = []
        self.uplink_sessions: dict[tuple[str, str], int] = {}
        self.lock = RLock()
        self.groups = 0

    def next_id(self, app: str) -> int:
        return len(self.entries.get(app, ())) + 1


_PATIENT = 1000.0
_HASTY = 0.001
"""Seconds that the writer waits for a transaction."""


class MemoryConnection:
    """Stores the transactions of a writer on the shelf."""

    def __init__(self, log: "MemoryLog") -> None:
        self._log = log
        self._stored: AsyncResult[bool] = AsyncResult()

    def transact(self, transaction: WriteTransaction, guard: CommitGuard, _seconds: float) -> None:
        log = self._log
        if log.late is not None:
            assert guard.take()
        with log.shelf.lock:
            gevent.sleep(0)
            if log.away:
                raise NotStored("away")
            if log.committing is not None:
                log.committing.wait()
            if log.late is not None:
                self._stored = AsyncResult()
                transaction.commits = {
                    app: Commit(app, 0, 0, []) for app in transaction.apps
                }  # to be looked up
                log.late.append(partial(self._find_out, self._stored, transaction))
                raise Unsure("no answer in time")
            self._store(transaction)
        if log.returning is not None:
            log.returning.wait()

    def _store(self, transaction: WriteTransaction) -> None:
        for app, requests in transaction.apps.items():
            first = self._log.shelf.next_id(app)
            for request in requests:
                assert isinstance(request, AppendRequest)
                if request.rejected is None:
                    request.outcome = self._log._append_one(app, request.draft)
            entries = self._log.shelf.entries.get(app, [])[first - 1 :]
            if entries:
                transaction.commits[app] = Commit(app, first, entries[-1].id, entries)
            self._log.appends.append(len(requests))

    def _find_out(self, known: "AsyncResult[bool]", transaction: WriteTransaction, stored: bool) -> None:
        if stored:
            self._store(transaction)
        known.set(stored)

    def ask(self, _look: object, _seconds: float) -> bool:
        return self._stored.get()

    def answered(self, wrote: bool) -> None:
        """Nothing to note."""

    def failed(self, words: str, cause: BaseException | None = None) -> StorageUnavailable:
        return StorageUnavailable(words)


class MemoryLog:
    """One node's way to the shelf."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.shelf = shelf or Shelf()
        self.away = False
        self.reads = 0
        self.heads_reads = 0
        self.appends: list[int] = []
        """How many drafts each transaction had."""
        self.committing: Signal | None = None
        """Clear: commits wait for it."""
        self.returning: Signal | None = None
        """Clear: what was committed is not answered yet."""
        self._late: list[Callable[[bool], None]] | None = None
        self.answering: Signal | None = None
        """Clear: what is read is held back."""
        self.catching_up: Signal | None = None
        """Clear: so is what is read for those who catch up."""
        self.expires = 0
        """Entries up to this id expire while the next one reads them to catch up."""
        self._floor = 0
        self._writer = LogWriter(lambda: MemoryConnection(self), _PATIENT)  # type: ignore[arg-type,return-value]
        # The parts of a log have no name in common but those that mean the same.
        self.writer = self.groups = self.entries = self.conversations = self.marks = self
        self.is_busy = self._writer.is_busy
        self.senders = self._writer.senders
        self.learn = self._writer.learn
        self.check = self._writer.check

    @property
    def late(self) -> list[Callable[[bool], None]] | None:
        """A list: no COMMIT is answered in time. Each of these says later whether it came about."""
        return self._late

    @late.setter
    def late(self, late: list[Callable[[bool], None]] | None) -> None:
        self._late = late
        self._writer.seconds = _PATIENT if late is None else _HASTY

    def listen(self, listener: LogListener) -> None:
        self._writer.listener = listener

    def _check(self) -> None:
        if self.away:
            raise StorageUnavailable("away")

    def _answer(self) -> None:
        if self.answering is not None:
            self.answering.wait()
        gevent.sleep(0)

    # --- writing

    def send(self, request: AppendRequest) -> None:
        self._writer.send(request)

    def begin_uplink(self, app: str, user: str, session: int) -> int:
        self._check()
        with self.shelf.lock:
            gevent.sleep(0)
            self.shelf.uplink_sessions[app, user] = session
            return self.shelf.next_id(app) - 1

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Appended | Rejected]:
        """Put drafts on the shelf; nobody hears of them."""
        return [self._append_one(app, draft) for draft in drafts]

    def _notify(self, app: str, first: int) -> None:
        entries = self.shelf.entries.get(app, [])[first - 1 :]
        if entries:
            assert self._writer.listener is not None
            self._writer.listener.committed(Commit(app, first, entries[-1].id, entries))

    def _append_one(self, app: str, draft: Draft) -> Appended | Rejected:
        log = self.shelf.entries.setdefault(app, [])
        newest = self.shelf.uplink_sessions.get((app, draft.sender))
        if draft.uplink_session and draft.uplink_session != newest:
            return Rejected("superseded")
        for entry in log:
            if draft.client_msg_id and (entry.sender, entry.client_msg_id) == (
                draft.sender,
                draft.client_msg_id,
            ):
                return Appended(entry, True)
        members: tuple[str, ...] = ()
        conversation = draft.conversation
        if draft.room:
            known = [entry.conversation for entry in log if entry.room == draft.room]
            conversation = known[0] if known else self._conversation()
        elif draft.to_user:
            members = tuple(sorted((draft.sender, draft.to_user)))
            known = [entry.conversation for entry in log if entry.members == members]
            conversation = known[0] if known else self._conversation()
            for user in members if not known else ():
                self.shelf.memberships.append(
                    _Row(
                        app=app,
                        user=user,
                        conversation=conversation,
                        joined_id=len(log),
                        kind_of_conversation="user",
                    )
                )
        elif not self._reads(app, draft.sender, conversation, len(log) + 1):
            return Rejected("not_member")
        else:
            members = next((entry.members for entry in log if entry.conversation == conversation), ())
        return Appended(self._put(app, conversation, members, draft))

    def _conversation(self) -> int:
        self.shelf.groups += 1
        return self.shelf.groups

    def _put(self, app: str, conversation: int, members: tuple[str, ...], draft: Draft) -> Entry:
        log = self.shelf.entries.setdefault(app, [])
        entry = Entry(
            id=len(log) + 1,
            conversation=conversation,
            seq=sum(each.conversation == conversation for each in log) + 1,
            sender=draft.sender,
            kind=draft.kind,
            type=draft.type,
            body=draft.body,
            client_msg_id=draft.client_msg_id,
            time_ms=draft.time_ms,
            about=draft.about,
            meta=draft.meta,
            members=members,
            room=draft.room,
        )
        log.append(entry)
        return entry

    def create(self, app: str, owner: str, users: Sequence[str]) -> int:
        with self.shelf.lock:
            conversation = self._conversation()
            self._change(app, conversation, "group", owner, [owner, *users])
        return conversation

    def join(self, app: str, conversation: int, users: Sequence[str]) -> None:
        with self.shelf.lock:
            self._change(app, conversation, "join", users[0], users)

    def leave(self, app: str, conversation: int, users: Sequence[str]) -> None:
        with self.shelf.lock:
            self._change(app, conversation, "leave", users[0], users)

    def _change(self, app: str, conversation: int, kind: Any, by: str, users: Sequence[str]) -> None:
        shelf, first = self.shelf, self.shelf.next_id(app)
        if kind == "leave":
            shelf.memberships = [
                replace(row, left_id=first) if self._is(row, app, users, conversation) else row
                for row in shelf.memberships
            ]
        else:
            shelf.memberships += [
                _Row(app=app, user=user, conversation=conversation, joined_id=first - 1) for user in users
            ]
        meta = json.encode({"users": list(users)})
        self._put(app, conversation, (), Draft(sender=by, kind=kind, meta=meta, conversation=conversation))
        self._notify(app, first)

    @staticmethod
    def _is(row: _Row, app: str, users: Sequence[str], conversation: int) -> bool:
        return (row.app, row.conversation, row.left_id) == (app, conversation, None) and row.user in users

    # --- reading

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        self._check()
        heads = {app: len(self.shelf.entries[app]) for app in apps if self.shelf.entries.get(app)}
        self.heads_reads += 1
        self._answer()
        return heads

    def head(self, app: str) -> int:
        self._check()
        head = len(self.shelf.entries.get(app, ()))
        self._answer()
        return head

    def stored_before(self, app: str, time: int) -> int:
        self._check()
        self._answer()
        return sum(entry.time_ms < 1000 * time for entry in self.shelf.entries.get(app, ()))

    def extent(self, app: str) -> LogExtent:
        return LogExtent(self._floor, len(self.shelf.entries.get(app, ())))

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        self._check()
        self.reads += 1
        entries = self.shelf.entries.get(app, [])[after : after + limit]
        self._answer()
        return entries

    def channel_page(
        self, app: str, channel: str, since: int | None, limit: int, reverse: bool = False
    ) -> PublicationPage:
        self._check()
        entries = self.shelf.entries.get(app, [])
        found = [entry for entry in entries if entry.room == channel]
        last = found[-1].id if found else 0
        if since is not None:
            found = [entry for entry in found if (entry.id < since if reverse else entry.id > since)]
        if reverse:
            found.reverse()
        self._answer()
        return PublicationPage(found[:limit], len(found) > limit, last, LogExtent(0, len(entries)))

    def find(self, app: str, ids: Sequence[int]) -> list[Entry]:
        self._answer()
        self._check()
        return [entry for entry in self.shelf.entries.get(app, []) if entry.id in ids]

    def _reads(self, app: str, user: str, conversation: int, id: int) -> bool:
        return any(
            (row.app, row.user, row.conversation) == (app, user, conversation)
            and row.joined_id < id
            and (row.left_id is None or id <= row.left_id)
            for row in self.shelf.memberships
        )

    def catch_up(
        self, app: str, user: str, after: int, limit: int, after_by_room: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        self._check()
        self._floor = max(self._floor, self.expires)
        found = [
            entry
            for entry in self.shelf.entries.get(app, [])
            if entry.id > max(after, self._floor, after_by_room.get(entry.room, entry.id))
            and (entry.room or self._reads(app, user, entry.conversation, entry.id))
        ]
        if self.catching_up is not None:
            self.catching_up.wait()
        self._answer()
        return found[:limit], len(found) > limit

    def memberships(self, app: str, user: str) -> list[Membership]:
        self._check()
        rows = [row for row in self.shelf.memberships if (row.app, row.user) == (app, user)]
        self._answer()
        return rows

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        self._check()
        rows = [
            row
            for row in self.shelf.memberships
            if (row.app, row.conversation, row.left_id) == (app, conversation, None) and row.user > after
        ]
        return sorted(rows, key=lambda row: row.user)[:limit]

    def member(self, app: str, conversation: int, user: str) -> Membership | None:
        return next(
            (
                row
                for row in self.memberships(app, user)
                if row.conversation == conversation and row.left_id is None
            ),
            None,
        )

    def get(self, app: str, conversation: int) -> Conversation | None:
        self._check()
        first = next((e for e in self.shelf.entries.get(app, []) if e.conversation == conversation), None)
        if first is None:
            return None
        kind: ConversationKind = "user" if first.members else "room" if first.room else "group"
        return Conversation(id=conversation, kind=kind, members=first.members)
