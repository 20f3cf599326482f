"""The records of an archive of another server. An adapter yields them, and the
importer stores them.

Ids come from the other server. An id of a person, a group, a message or a file
is unique among its kind in one archive. An id with more than 200 characters, or
with invisible characters, belongs to nobody. Times are Unix milliseconds. Texts
have the form that they have here: `*`, `_`, `~~`, code and links as the
messages page takes them. A text has marks for people and messages
(:func:`mention`, :func:`link`), because their names and addresses here are
known only during the import.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar, Final, Literal, Protocol

from msgspec import Struct

from .problems import Problems

GroupKind = Literal["open", "closed", "several", "direct"]
"""Kind of a group: anybody may join; only invited people; several people
without a name of the group; two people (or one)."""
Role = Literal["member", "admin", "owner"]
EVERYBODY: Final = "*"
"""The id that :func:`mention` takes for all members of a group."""
MARK: Final = re.compile("\x02([@#])([^\x02\x03]*)\x03")
"""A mark: ``@`` and the id of a person; or ``#``, the id of a message, a bar,
and the original address."""


def mention(id: str) -> str:
    """The mark of a person in a text."""
    return f"\x02@{id}\x03"


def link(message: str, address: str) -> str:
    """The mark of a link to a message. ``address``: its original address, which
    stays if the message is not imported."""
    return f"\x02#{message}|{address}\x03"


class Person(Struct, frozen=True, tag="person"):
    """A person who has written on the other server, or an app.

    ``login`` and ``email``: of a person who may claim the account, else ``""``.
    ``avatar``: the id of a file. ``why``: the reason why nobody may claim the
    account, for the report (``bot``, ``deactivated``).
    """

    id: str
    nickname: str
    login: str = ""
    email: str = ""
    avatar: str = ""
    why: str = ""

    @property
    def is_member(self) -> bool:
        """Whether the person may claim the account."""
        return bool(self.login or self.email)


class Member(Struct, frozen=True):
    """A person who is in a group now. ``read_ms``: the time up to which the
    person has read all messages; -1 if it is unknown."""

    person: str
    role: Role = "member"
    read_ms: int = -1


class Pin(Struct, frozen=True):
    """A pinned message. ``person``: who pinned it; ``""`` if unknown.
    ``group``: set by the import, because a format lists the pin in its group.
    """

    message: str
    person: str = ""
    time_ms: int = 0
    group: str = ""


class Group(Struct, frozen=True, tag="group"):
    """A conversation. ``created_ms`` is 0, and ``creator`` is ``""``, if they
    are unknown."""

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
        """The owners and admins of the group there. One of the owners becomes
        the owner here, and the others become admins."""
        return [member.person for member in self.members if member.role != "member"]


class Reaction(Struct, frozen=True):
    """One person's reaction. ``emoji``: the character, or ``:name:`` for an
    emoji of the archive's own."""

    person: str
    emoji: str
    name: str = ""
    """The name on the other server, from which its key is made; ``""``: the key
    is made from the emoji itself."""


class File(Struct, frozen=True):
    """A file of a message. ``address``: of a file that is elsewhere; it becomes
    a line of the text. ``why``: the reason why its bytes are not imported, for
    the report."""

    id: str
    name: str
    address: str = ""
    why: str = ""


class Message(Struct, frozen=True, tag="message"):
    """A message.

    ``thread``: the id of the message with which its thread begins. ``reply``:
    the id of the message that it answers outside of a thread. ``also``: the
    conversation shows the reply of the thread, too.
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
    """A change of a group. ``people``: people who join or leave. ``text``: the
    new name or description. Only the importer uses the kind ``member``, for
    people who join without an event in the archive. Only the importer sets the
    ``role`` of people who join."""

    id: str
    group: str
    person: str
    time_ms: int
    kind: Literal["join", "member", "leave", "name", "description"]
    people: Sequence[str] = ()
    text: str = ""
    role: Role = "member"


class Removal(Struct, frozen=True, tag="removal"):
    """The removal of a message (``reaction`` None), or of a person's reaction
    to it."""

    group: str
    person: str
    time_ms: int
    message: str
    reaction: Reaction | None = None


class Emoji(Struct, frozen=True, tag="emoji"):
    """An emoji of the archive's own. ``file``: its id."""

    name: str
    file: str


Record = Person | Group | Message | Change | Removal | Emoji


class Archive(Protocol):
    """An archive of another server. An adapter is one module of at most 600
    lines with one such class.

    The constructor raises BadArchive for another format. Broken parts are noted
    in :attr:`problems`, and the reading continues. The object keeps people and
    groups in memory, but never all messages. :meth:`records` yields people,
    emoji and groups before messages, otherwise in any order. Nothing is
    extracted, and no name in the archive leads out of it.
    """

    name: ClassVar[str]
    """The name of the format, such as ``slack``. Keys and links of accounts
    begin with it."""
    title: ClassVar[str]
    """The product's name, for people: ``Slack``."""
    problems: Problems

    def __init__(self, path: Path) -> None: ...

    def records(self) -> Iterator[Record]:
        """All records. It may be called twice."""
        ...

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file by its id. None if the archive does not have
        them."""
        ...
