"""The records of an archive of another server: each adapter yields them, and
the importer stores them.

Ids are those of the other server; an id of a person, a group, a message or a
file is unique among its kind in one archive. An id with more than 200
characters, or with signs that cannot be seen, is nobody's. Times are Unix
milliseconds. Texts are ours: `*`, `_`, `~~`, code and links as the messages
page takes them. People and messages that a text names stand in it as marks
(:func:`mention`, :func:`link`), because their names and addresses here are
known at the import only.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar, Final, Literal, Protocol

from msgspec import Struct

from .problems import Problems

GroupKind = Literal["open", "closed", "several", "direct"]
"""Anybody may join; invited ones only; a conversation of several people without
a name; of two (or one)."""
Role = Literal["member", "admin", "owner"]
EVERYBODY: Final = "*"
"""The id that :func:`mention` takes for all members of a group."""
MARK: Final = re.compile("\x02([@#])([^\x02\x03]*)\x03")
"""A mark: ``@`` and the id of a person, or ``#``, the id of a message, a bar
and the address that it had."""


def mention(id: str) -> str:
    """The mark of a person in a text."""
    return f"\x02@{id}\x03"


def link(message: str, address: str) -> str:
    """The mark of a link to a message. ``address``: its address there, which
    stays where it does not come."""
    return f"\x02#{message}|{address}\x03"


class Person(Struct, frozen=True, tag="person"):
    """Somebody who has written there, or an app.

    ``login`` and ``email``: of whom may claim the account, else ``""``.
    ``avatar``: the id of a file. ``why``: why nobody may claim the account, for
    the report (``bot``, ``deactivated``).
    """

    id: str
    nickname: str
    login: str = ""
    email: str = ""
    avatar: str = ""
    why: str = ""

    @property
    def is_member(self) -> bool:
        """Whether somebody may claim the account."""
        return bool(self.login or self.email)


class Member(Struct, frozen=True):
    """A person who is in a group now. ``read_ms``: the person has read all
    messages up to this time; -1: it is not known."""

    person: str
    role: Role = "member"
    read_ms: int = -1


class Pin(Struct, frozen=True):
    """A pinned message. ``person``: who has pinned it; ``""``: it is not
    known. ``group``: said by the import; a format lists the pin in its
    group."""

    message: str
    person: str = ""
    time_ms: int = 0
    group: str = ""


class Group(Struct, frozen=True, tag="group"):
    """A conversation. ``created_ms`` 0: not known. ``creator`` ``""``: not
    known."""

    id: str
    kind: GroupKind
    name: str = ""
    description: str = ""
    creator: str = ""
    created_ms: int = 0
    members: Sequence[Member] = ()
    pins: Sequence[Pin] = ()
    is_archived: bool = False
    avatar: str = ""

    @property
    def admins(self) -> list[str]:
        """The owners and admins there. The owner of our group is one of their
        owners, and the others become admins."""
        return [member.person for member in self.members if member.role != "member"]


class Reaction(Struct, frozen=True):
    """One person's reaction. ``emoji``: the character, or ``:name:`` of an own
    emoji of the archive."""

    person: str
    emoji: str
    name: str = ""
    """The name there, of which its key is made; ``""``: the emoji itself."""


class File(Struct, frozen=True):
    """A file of a message. ``address``: of one that is elsewhere, and becomes a
    line of the text. ``why``: why its bytes do not come, for the report."""

    id: str
    name: str
    address: str = ""
    why: str = ""


class Message(Struct, frozen=True, tag="message"):
    """A message.

    ``thread``: the id of the message with which its thread begins; ``reply``:
    of the one that it answers outside of a thread. ``also``: the conversation
    shows the reply of the thread, too.
    """

    id: str
    group: str
    person: str
    time_ms: int
    text: str = ""
    thread: str = ""
    reply: str = ""
    also: bool = False
    is_edited: bool = False
    reactions: Sequence[Reaction] = ()
    files: Sequence[File] = ()


class Change(Struct, frozen=True, tag="change"):
    """A change of a group. ``people``: who joins or leaves. ``text``: the new
    name or description. Only the importer uses the kind ``member``, for those
    who join without having been there before, and sets the ``role`` of those
    who join."""

    id: str
    group: str
    person: str
    time_ms: int
    kind: Literal["join", "member", "leave", "name", "description"]
    people: Sequence[str] = ()
    text: str = ""
    role: Role = "member"


class Removal(Struct, frozen=True, tag="removal"):
    """Somebody takes back a message (``reaction`` None), or a person their
    reaction to it."""

    group: str
    person: str
    time_ms: int
    message: str
    reaction: Reaction | None = None


class Emoji(Struct, frozen=True, tag="emoji"):
    """An own emoji of the archive. ``file``: its id."""

    name: str
    file: str


Record = Person | Group | Message | Change | Removal | Emoji


class Archive(Protocol):
    """An archive of another server. An adapter is one module with one such
    class, of at most 600 lines.

    It refuses what is none of its format with BadArchive when it is made, notes what is broken in
    :attr:`problems` and goes on. It holds people and groups, but never all messages: :meth:`records` streams,
    in any order but people, emoji and groups before messages. Nothing is extracted; no name in it leads
    out of it.
    """

    name: ClassVar[str]
    """The format, with which keys and links of accounts begin: ``slack``."""
    title: ClassVar[str]
    """The product's name, for people: ``Slack``."""
    problems: Problems

    def __init__(self, path: Path) -> None: ...

    def records(self) -> Iterator[Record]:
        """All records. It may be called twice."""
        ...

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file by its id; None: the archive does not have
        them."""
        ...
