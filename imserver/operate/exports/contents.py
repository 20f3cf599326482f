"""Fills an archive in stages. A new attempt continues where an earlier one has
stopped.

An archive of a user has the user's rows, files and acts, every conversation as
far as the user may read it, and a page to read it. An archive of an app has all
rows, files and acts, and the settings without secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import file_digest
from itertools import chain
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.json import encode

from imserver.operate.exports import offline_page
from imserver.operate.exports.archive import (
    CHECKSUMS,
    ArchiveState,
    ArchiveWriter,
    lines_of,
)
from imserver.operate.exports.rows import Subject
from imserver.plugin.runtime import Service
from imserver.plugin.space import need_space
from imserver.plugin.storage import ArchivedFiles, Row, Store

if TYPE_CHECKING:
    from imserver.plugin.messages import Conversation, Message, MessageLog

T = TypeVar("T")

FORMAT: Final = "imserver archive"
VERSION: Final = 1
"""Version of the format. An import refuses a newer one."""
_PAGE: Final = 200
"""How many conversations, or messages, one query reads."""
_PART_ROWS: Final = 5000
"""Number of rows after which another entry begins."""
_MOST_NAMES: Final = 10_000
"""The most names of accounts that are cached."""
_TURN_BYTES: Final = 1 << 15

Run = Callable[..., Any]
"""A function that runs another one where it may block (in a thread, or here),
and returns its result."""
Proceed = Callable[[ArchiveState], None]
"""A function that is called after each piece of work. It raises an error to
stop the work."""


class Manifest(Struct, kw_only=True):
    """The description of an archive and of its contents.

    ``server`` is the version of the server. ``user`` is ``""`` if the archive
    is of the whole app. ``begun`` and ``ended`` are in Unix seconds. ``tables``
    are the names of tables → number of rows. ``checksums`` is the SHA-256 of
    the entry with the checksums. ``left_out`` are settings that an importer
    must add. ``missing`` is the number of files that were missing or damaged.
    """

    format: str = FORMAT
    version: int = VERSION
    server: str
    app: str
    user: str = ""
    begun: int
    ended: int
    entries: int
    tables: dict[str, int]
    missing: int = 0
    settings: dict[str, Any] = {}
    left_out: list[str] = []
    checksums: str


def _never_stop(state: ArchiveState) -> None:
    """A :data:`Proceed` that does nothing."""


class ArchiveMaker(Service, dict=True):
    """Makes one archive in a ``folder``.

    ``archived`` are the features that have files. ``run`` calls a function that
    may block: in a thread, or here (:data:`Run`). ``release`` is the version of
    the server.
    """

    archived: Iterable[ArchivedFiles]
    store: Store
    subject: Subject
    folder: Path
    run: Run
    release: str

    def __post_init__(self) -> None:
        """Begin without a file. :meth:`make` opens the archive."""
        self.writer = ArchiveWriter(self.folder)
        self._written: set[str] = set()
        """The names of entries that an earlier attempt has written, and of
        written files."""
        self._names: dict[str, str] = {}
        """User → the name of the account; ``""`` without an account. A
        cache."""
        self._files_by_id: dict[str, str] = {}
        self._proceed: Proceed = _never_stop

    def make(self, proceed: Proceed) -> Path:
        """Make the archive, or continue it, and return its path.

        ``proceed`` is called after each piece of work, and may stop it by an
        error. Raises that error, OSError and Unavailable; after an error this
        may be called again. Raises StartError if the files of features alone
        would fill the disk.
        """
        self._proceed = proceed
        writer = self.writer
        # A folder that exists has a part of the archive already.
        if not self.folder.exists():
            self.run(need_space, self.folder.parent, self._size_of_files())
        try:
            self.run(writer.open)
            self._written = self.run(writer.names)
            self._run_stages()
            return self.run(writer.finish, self._manifest())  # type: ignore[no-any-return]
        finally:
            self.run(writer.close)

    def _run_stages(self) -> None:
        """Write all parts of the archive that no earlier attempt has written."""
        stages = [self._write_rows, self._write_files]
        if self.subject.user:
            stages += [self._write_conversations, self._write_page]
        for number, stage in enumerate(stages):
            if number < self.writer.state.stage:
                continue  # An earlier attempt has done it.
            stage()
            self._end_stage(number)

    def _end_stage(self, number: int) -> None:
        """Store that a stage is done, so that no later attempt repeats it."""
        state = self.writer.state
        state.stage = number + 1
        state.position = b""  # the next stage begins at its first row
        at_once = True
        self.run(self.writer.save, at_once)

    def _size_of_files(self) -> int:
        """The size of all files of features in the archive, in bytes."""
        total = 0
        for each in self.archived:
            for _, size, _ in each.read(self.subject.app, self.subject.user):
                total += size
        return total

    def _manifest(self) -> bytes:
        """The manifest as JSON, with the checksum of the checksums."""
        state = self.writer.state
        subject = self.subject
        digest = self.run(sha256_of, self.writer.folder / CHECKSUMS)
        manifest = Manifest(
            server=self.release,
            app=subject.app,
            user=subject.user,
            begun=state.begun,
            ended=int(time()),
            entries=state.entries,
            tables=state.counts,
            missing=state.missing,
            settings=subject.settings,
            left_out=subject.left_out,
            checksums=digest,
        )
        return msgspec.json.format(encode(manifest))

    # --- rows -----------------------------------------------------------------

    def _write_rows(self) -> None:
        """Write the rows of the user or app, as entries such as
        ``rows/account/000001.jsonl``.

        Each entry has rows of one table, about :data:`_PART_ROWS` of them. An
        ended entry survives a crash; the next attempt continues after its last
        row.
        """
        subject = self.subject
        state = self.writer.state
        if subject.user:
            pages = self.store.rows_of_user(subject.app, subject.user, state.position)
        else:
            pages = self.store.rows_of_app(subject.app, state.position)

        table = ""  # of the entry that is being written; "": no entry
        rows = 0
        position = b""
        for page in pages:
            if table and (page.table != table or rows >= _PART_ROWS):
                self._end_part(table, rows, position)
                table = ""
            if not table:
                table = page.table
                rows = 0
                self._begin_part(table)
            self._write_page_of_rows(table, page.columns, page.rows)
            rows = rows + len(page.rows)
            position = page.position
            self._proceed(state)
        if table:
            self._end_part(table, rows, position)

    def _begin_part(self, table: str) -> None:
        """Begin an entry with rows of a table."""
        number = self.writer.state.part + 1
        self.run(self.writer.begin, f"rows/{table}/{number:06}.jsonl")

    def _write_page_of_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Row]
    ) -> None:
        """Write rows of a table into the current entry."""
        self.run(self._write_lines, columns, rows)
        # The page of the archive shows the profile, in a later stage.
        if self.subject.user and table == "account":
            profile = dict(zip(columns, rows[0], strict=True))
            self.writer.state.profile = profile

    def _write_lines(self, columns: Iterable[str], rows: Iterable[Row]) -> None:
        """Write rows into the current entry. Blocks on the disk."""
        for line in lines_of(columns, rows):
            self.writer.write(line)

    def _end_part(self, table: str, rows: int, position: bytes) -> None:
        """End an entry with rows.

        A later attempt continues at ``position``, after the last of these rows.
        """
        state = self.writer.state
        state.part = state.part + 1
        state.position = position
        self._end_entry(rows, table)

    def _end_entry(self, rows: int = 0, table: str = "") -> None:
        """End the current entry, save the archive now and then, and report the
        progress."""
        self.run(self.writer.end, rows, table)
        self.run(self.writer.save)
        self._proceed(self.writer.state)

    def _write_entry(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a complete entry, unless an earlier attempt has written it."""
        if name in self._written:
            return
        self.run(self.writer.begin, name)
        for piece in _joined(pieces):
            self.run(self.writer.write, piece)
            self._proceed(self.writer.state)
        self._end_entry()

    # --- files of features ----------------------------------------------------

    def _write_files(self) -> None:
        """Write the files of features. Missing files are counted."""
        subject = self.subject
        state = self.writer.state
        files = (feature.read(subject.app, subject.user) for feature in self.archived)
        for name, _, pieces in chain.from_iterable(files):
            if name in self._written:
                continue
            # A missing file is noticed at the first piece, before the entry
            # begins.
            try:
                first = next(pieces, b"")
            except FileNotFoundError:
                state.missing += 1
                continue
            self._write_entry(name, chain((first,), pieces))
            if subject.user:  # the pages of a user link to the files
                self._written.add(name)

    # --- what the user reads --------------------------------------------------

    def _write_conversations(self) -> None:
        """Write every conversation of the user, as lines of JSON and as an HTML
        page."""
        for conversation in self._conversations_of_user():
            name = f"conversations/{conversation.id}"
            self._write_entry(f"{name}.jsonl", self._lines(conversation))
            self._write_entry(f"{name}.html", self._page_of(conversation))

    @property
    def _log(self) -> MessageLog:
        """The log of stored messages."""
        from imserver.plugin.messages import MessageLog  # a node may do without

        return self.store.part(MessageLog)

    def _conversations_of_user(self) -> Iterator[Conversation]:
        """All conversations that have or had the user as a member."""
        app = self.subject.app
        reader = self._log.conversations
        memberships = reader.memberships(app, self.subject.user)
        ids = sorted({membership.conversation for membership in memberships})
        # A query takes only so many ids.
        for start in range(0, len(ids), _PAGE):
            yield from reader.find(app, ids[start : start + _PAGE])

    def _entries(
        self, conversation: Conversation
    ) -> Iterator[tuple[Message, dict[str, str]]]:
        """The entries that the user may read and has not hidden, the oldest
        first.

        Each comes with the names of accounts: user → name.
        """
        app = self.subject.app
        user = self.subject.user
        reader = self._log.entries
        last = 0
        has_more = True
        while has_more:
            # ``before=0`` and ``after=last`` read on from the last entry.
            entries, has_more = reader.history(
                app, user, conversation.id, before=0, limit=_PAGE, after=last
            )
            names = self._names_of({each.sender for each in entries})
            for entry in entries:
                last = entry.id
                yield entry, names

    def _lines(self, conversation: Conversation) -> Iterator[bytes]:
        """The entries of a conversation as lines of JSON.

        Each has the name of its sender, if the sender has an account with a
        name.
        """
        for entry, names in self._entries(conversation):
            name = names.get(entry.sender)
            view = encode(entry.view())
            if name:
                # The name stands first in the object.
                view = b'{"name":%b,%b' % (encode(name), view[1:])
            yield view + b"\n"

    def _page_of(self, conversation: Conversation) -> Iterator[bytes]:
        """The entries of a conversation as an HTML page, piece by piece."""
        yield offline_page.conversation_head(self._title(conversation))
        for entry, names in self._entries(conversation):
            yield offline_page.shown(entry, self.subject.user, names, self._own_files())
        yield offline_page.CONVERSATION_END

    def _own_files(self) -> dict[str, str]:
        """Id of a file of the user → its name in the archive.

        An earlier stage has written the files, with names such as
        ``files/7f3a/plan.pdf``.
        """
        if not self._files_by_id:
            names = (name for name in self._written if name.startswith("files/"))
            self._files_by_id = {name.split("/")[1]: name for name in names}
        return self._files_by_id

    def _title(self, conversation: Conversation) -> str:
        """The title of a conversation: the name of a group, or of the other
        person.

        In a conversation of users with themselves, it is the user's own name.
        """
        if conversation.kind != "user":
            return conversation.name or f"#{conversation.id}"
        others = [
            member for member in conversation.members if member != self.subject.user
        ]
        # A conversation of kind "user" has two members. A user
        # who writes to themselves is the only one.
        (peer,) = others or [self.subject.user]
        return self._names_of({peer}).get(peer, peer)

    def _names_of(self, users: set[str]) -> dict[str, str]:
        """User → name of the account.

        The result has all of these users who have an account with a name. It
        may have more users, because it is the whole cache.
        """
        unknown = [user for user in users if user not in self._names]
        if unknown:
            if len(self._names) > _MOST_NAMES:  # the cache is full
                self._names.clear()
                unknown = list(users)
            names = self.store.names_of(self.subject.app, unknown)
            # Users without a name are cached, too, so that they are not read
            # again.
            self._names |= {user: names.get(user, "") for user in unknown}
        return {user: name for user, name in self._names.items() if name}

    # --- the page -------------------------------------------------------------

    def _profile(self) -> dict[str, Any]:
        """The fields of the user's account, with ``app`` and ``user``."""
        return {
            "app": self.subject.app,
            "user": self.subject.user,
            **self.writer.state.profile,
        }

    def _write_page(self) -> None:
        """Write the profile, the list of conversations, and the page with links
        to them."""
        profile = self._profile()
        self._write_entry("profile.json", [msgspec.json.format(encode(profile))])
        self._write_entry("conversations.jsonl", self._list_of_conversations())
        # The titles are read while the page is written.
        titles = (
            (conversation.id, self._title(conversation), conversation.kind)
            for conversation in self._conversations_of_user()
        )
        files = self._own_files().values()
        state = self.writer.state
        page = offline_page.index(
            profile, titles, files, tables=state.counts, begun=state.begun
        )
        self._write_entry("index.html", page)

    def _list_of_conversations(self) -> Iterator[bytes]:
        """The conversations as lines of JSON.

        Each has the spans in which the user was a member: a user may leave a
        group and join it again.
        """
        spans_by_conversation = self._memberships()
        for conversation in self._conversations_of_user():
            line = {
                "id": conversation.id,
                "kind": conversation.kind,
                "name": self._title(conversation),
                "members": conversation.members,
                "created": conversation.created,
                "memberships": spans_by_conversation.get(conversation.id, []),
            }
            yield encode(line) + b"\n"

    def _memberships(self) -> dict[int, list[Any]]:
        """Conversation → the spans in which the user was a member.

        A user who is still a member has the ``left_id`` null.
        """
        spans_by_conversation: dict[int, list[Any]] = {}
        rows = self._log.conversations.memberships(self.subject.app, self.subject.user)
        for row in rows:
            span = {
                "joined_id": row.joined_id,
                "left_id": row.left_id,
                "role": row.role,
            }
            spans_by_conversation.setdefault(row.conversation, []).append(span)
        return spans_by_conversation


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces to larger ones.

    Each piece is written by a call in a thread, which costs more than its
    bytes.
    """
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _TURN_BYTES:
            yield b"".join(waiting)
            waiting = []
            size = 0
    if waiting:
        yield b"".join(waiting)


def sha256_of(path: Path) -> str:
    """The digest of a file. Blocks on the disk."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
