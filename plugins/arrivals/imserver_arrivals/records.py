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
    """Return the mark of a person in a text.

    A mark stands for a name, because names here are known only during the
    import.
    """
    return f"\x02@{id}\x03"


def link(message: str, address: str) -> str:
    """Return the mark of a link to a message.

    ``address``: its original address, which stays if the message is not
    imported.
    """
    return f"\x02#{message}|{address}\x03"


class Person(Struct, frozen=True, tag="person"):
    """A person who has written on the other server, or an app."""

    id: str
    nickname: str
    login: str = ""
    """The login name of a person who may claim the account, else ``""``."""
    email: str = ""
    """The mail address of a person who may claim the account, else ``""``."""
    avatar: str = ""
    """The id of a file."""
    why: str = ""
    """The reason why nobody may claim the account, for the report, such as
    ``bot`` or ``deactivated``."""

    @property
    def is_member(self) -> bool:
        """Whether the person may claim the account."""
        return bool(self.login or self.email)


class Member(Struct, frozen=True):
    """A person who is in a group now."""

    person: str
    role: Role = "member"
    read_ms: int = -1
    """The time up to which the person has read all messages; -1 if it is
    unknown."""


class Pin(Struct, frozen=True):
    """A pinned message."""

    message: str
    person: str = ""
    """Who has pinned it; ``""`` if that is unknown."""
    time_ms: int = 0
    group: str = ""
    """Set by the import, because a format lists the pin in its group."""


class Group(Struct, frozen=True, tag="group"):
    """A conversation.

    ``created_ms`` is 0, and ``creator`` is ``""``, if they are unknown.
    """

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
        """The owners and admins of the group there.

        One of the owners becomes the owner here, and the others become admins.
        """
        return [member.person for member in self.members if member.role != "member"]


class Reaction(Struct, frozen=True):
    """One person's reaction to a message."""

    person: str
    emoji: str
    """The character, or ``:name:`` for an emoji of the archive's own."""
    name: str = ""
    """The name on the other server, from which its key is made; ``""``: the key
    is made from the emoji itself."""


class File(Struct, frozen=True):
    """A file of a message."""

    id: str
    name: str
    address: str = ""
    """The address of a file that is elsewhere. It becomes a line of the
    text."""
    why: str = ""
    """The reason why its bytes are not imported, for the report."""


class Message(Struct, frozen=True, tag="message"):
    """A message."""

    id: str
    group: str
    person: str
    time_ms: int
    text: str = ""
    thread: str = ""
    """The id of the message with which its thread begins."""
    reply: str = ""
    """The id of the message that it answers outside of a thread."""
    also: bool = False
    """Whether the conversation shows the reply of the thread, too."""
    is_edited: bool = False
    reactions: Sequence[Reaction] = ()
    files: Sequence[File] = ()


class Change(Struct, frozen=True, tag="change"):
    """A change of a group."""

    id: str
    group: str
    person: str
    time_ms: int
    kind: Literal["join", "member", "leave", "name", "description"]
    """Only the importer uses ``member``, for people who join without an event
    in the archive."""
    people: Sequence[str] = ()
    """The people who join or leave."""
    text: str = ""
    """The new name or description."""
    role: Role = "member"
    """The role of people who join. Only the importer sets it."""


class Removal(Struct, frozen=True, tag="removal"):
    """The removal of a message (``reaction`` None), or of a person's reaction
    to it."""

    group: str
    person: str
    time_ms: int
    message: str
    reaction: Reaction | None = None


class Emoji(Struct, frozen=True, tag="emoji"):
    """An emoji of the archive's own. ``file``: the id of its picture."""

    name: str
    file: str


Record = Person | Group | Message | Change | Removal | Emoji


class Archive(Protocol):
    """An archive of another server, as the importer reads it.

    An adapter is one module with one such class. The constructor raises
    BadArchive for another format. Broken parts are noted in :attr:`problems`,
    and the reading continues. The object keeps people and groups in memory, but
    never all messages. Nothing is extracted, and no name in the archive leads
    out of it.
    """

    name: ClassVar[str]
    """The name of the format, such as ``slack``. Keys and links of accounts
    begin with it."""
    title: ClassVar[str]
    """The product's name, for people: ``Slack``."""
    problems: Problems

    def __init__(self, path: Path) -> None: ...

    def records(self) -> Iterator[Record]:
        """Yield all records. It may be called twice.

        People, emoji and groups come before messages. Otherwise the records
        have any order.
        """
        ...

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file by its id. None if the archive does not have its
        bytes."""
        ...
