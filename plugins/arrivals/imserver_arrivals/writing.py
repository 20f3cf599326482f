"""Parts that the writers of all formats share."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Final
from zipfile import ZipFile

from msgspec import Struct

from .records import MARK, Archive, Change, Emoji, File, Group, Message, Person, Removal
from .spool import Spool
from .text import with_links

_COUNTED_EACH: Final = 1000
"""After each such number of threads, the progress is reported."""
_OWN: Final = 0o600
"""The mode of a file that only its owner may read."""
_MOST_BASE: Final = 56
"""Limit of a name in characters, before a number that makes it unique."""


class Line(Struct, frozen=True, array_like=True):
    """An encoded row of a group or a table, with the key by which it is sorted
    there."""

    group: str
    key: int
    content: bytes


def threads(
    archive: Archive,
    meet: Callable[[Person | Group | Emoji], object],
    done: Callable[[int], object],
) -> Iterator[Iterator[Message | Change]]:
    """Yield the threads of an archive, one after the other.

    A thread is a first message and its replies, or a single change. Before
    them, ``meet`` gets all people, groups and emoji. ``done`` is called with
    the number of threads so far.

    The ids of messages are numbers that grow from message to message.
    Therefore a thread begins with its first message, unless this is missing.
    """
    with closing(Spool(_thread_key)) as spool:
        for record in archive.records():
            if isinstance(record, Message | Change):
                spool.add(record)
            # Nothing is removed from the archive of an app.
            elif not isinstance(record, Removal):
                meet(record)
        for count, (_, thread) in enumerate(groupby(spool.read(), _thread_key), 1):
            yield thread
            if not count % _COUNTED_EACH:
                done(count)


def _thread_key(record: Message | Change) -> int:
    """Return the key by which threads are sorted: the id of the first
    message."""
    if isinstance(record, Message) and record.thread:
        return int(record.thread)
    return int(record.id)


def _group_and_key(line: "Line") -> tuple[str, int]:
    """Return the key by which rows are sorted: the group, then their own
    key."""
    return line.group, line.key


@contextmanager
def spooled(
    records: Iterable[Iterator[Message | Change]],
    lines: Callable[[Iterator[Message | Change]], Iterable[Line]],
) -> Iterator[Spool]:
    """Sort the rows of threads by group and key, and give them until the end of
    ``with``.

    ``lines`` makes the rows of one thread.
    """
    with closing(Spool(_group_and_key, Line)) as spool:
        for thread in records:
            for line in lines(thread):
                spool.add(line)
        yield spool


def write_array(file: IO[bytes], rows: Iterable[bytes]) -> None:
    """Write encoded rows as an array of JSON, one row a line."""
    file.write(b"[")
    for number, row in enumerate(rows):
        if number:
            file.write(b",\n")
        file.write(row)
    file.write(b"]")


def open_private(path: Path) -> IO[bytes]:
    """Open a new file that only this user may read.

    An existing file is deleted, because others may read it, or have it open.
    Raises OSError.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.fdopen(os.open(path, flags, _OWN), "wb")


def put_files(target: ZipFile, archive: Archive, files: Mapping[str, str]) -> None:
    """Write files of an archive. ``files``: name in the new archive → id.

    A file whose bytes are missing is noted.
    """
    for name, id in files.items():
        content = archive.open(id)
        if content is None:
            archive.problems.note("file without its bytes")
            continue
        with content, target.open(name, "w", force_zip64=True) as file:
            copyfileobj(content, file)


def with_name(text: str, file: File) -> str:
    """Return a text with a line below it that names a file which is not
    exported."""
    return "\n".join(filter(None, (text, f"{file.name} {file.address}".strip())))


def without_marks(text: str, name_of: Callable[[str], str]) -> str:
    """Return a text without marks, for a reader who does not know them.

    Marks of links become the original addresses. ``name_of``: id of a person →
    the name that replaces the person's mark.
    """
    text = with_links(text, lambda _: "")
    return MARK.sub(lambda match: name_of(match[2]), text)


def unused_name(
    text: str, otherwise: str, taken: set[str], signs: str = "a-z0-9-"
) -> str:
    """Return a name that is not in ``taken``, and add it there.

    ``Ann Lee`` becomes ``ann-lee``, or ``ann-lee-2`` if that is taken. If
    ``text`` does not give a name that begins with a letter, ``otherwise`` does.
    ``signs``: the characters that the name may have, as in a regular
    expression.
    """
    base = re.sub(f"[^{signs}]+", "-", text.lower()).strip("-._")[:_MOST_BASE]
    if not base[:1].isalpha():
        base = re.sub("[^a-z0-9]+", "-", otherwise.lower())[:_MOST_BASE]
    name = base
    number = 2
    while name in taken:
        name = f"{base}-{number}"
        number += 1
    taken.add(name)
    return name


def login_of(person: Person) -> str:
    """Return the text from which the name of a user is made."""
    return person.login or person.email.partition("@")[0] or person.nickname


def file_name(name: str) -> str:
    """Return a name for a file that leads to no other folder."""
    return re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip(".") or "file"
