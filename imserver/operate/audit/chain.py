"""The rows of the audit log as data: the hashed part, and the part that may be
erased.

A row has the hash of the row before, so a changed, removed or inserted row
breaks the chain. Names of people are stored beside the row. The row has only a
commitment to a name: its SHA-256 with a random salt. If a name and its salt are
erased, the chain stays valid, and nobody can find the name by trying.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

_decode: Final = msgspec.json.decode


class Name(Struct, frozen=True):
    """A name in an act, or facts that tell something about a person.

    ``part`` is the role of the name in the act: ``by`` (the maker), ``user``
    (the target), ``address`` or ``facts``. Further users and things are
    besides are numbered: ``users/0``, ``about/0``.

    ``app`` and ``member`` identify the person to whom the name belongs. When
    the person is deleted, the name is erased. If ``app`` is empty, ``member``
    is the id of a key, node or system user, a thing such as ``message:7``, or
    empty.

    ``text`` is the address, or the facts as JSON; otherwise empty. ``salt`` are
    random bytes, without which nobody can find the name by its commitment.
    """

    part: str
    app: str
    member: str
    text: str
    salt: bytes

    @property
    def commitment(self) -> str:
        """The hash of this name, which the row of the act contains.

        It proves later what the name was, but it does not tell the name.
        """
        return _digest([self.salt.hex(), self.part, self.app, self.member, self.text])


class Entry(Struct, frozen=True):
    """An act without its position in the chain.

    ``name`` says what was done, such as ``accounts.login``. ``kind`` is the
    kind of principal that has done it, such as ``key`` or ``account``.
    ``request`` is the id of the HTTP request. ``names`` is a JSON object: the
    part of each :class:`Name` of the act → its commitment.
    """

    name: str
    kind: str
    app: str
    request: str
    names: bytes


class AuditRow(Struct, frozen=True):
    """An act in the chain.

    ``time`` is in Unix milliseconds. ``previous`` is the hash of the row before
    it. ``hash`` is the hash of this row as it is stored in the database. If
    somebody has changed the row, it differs from :attr:`expected`.
    """

    number: int
    time: int
    entry: Entry
    previous: str
    hash: str

    @property
    def expected(self) -> str:
        """The hash of the present content of the row.

        It differs from ``hash`` if somebody has changed the row in the
        database.
        """
        return hash_of(self.number, self.time, self.entry, self.previous)

    def hashed(self) -> bytes:
        """The hashed content of the row, and the hash, as JSON.

        It has no names, only their commitments, so it may be given to an
        auditor.
        """
        fields = msgspec.to_builtins(self)
        del fields["entry"]
        fields |= msgspec.structs.asdict(self.entry)
        fields["names"] = self.entry.names.decode()
        return msgspec.json.encode(fields)


def hash_of(number: int, time: int, entry: Entry, previous: str) -> str:
    """The hash of a row with this content, in hexadecimal.

    The hash of the row before it (``previous``) is a part of the content. So
    each hash also protects all rows before its own.
    """
    content = [
        number,
        time,
        entry.name,
        entry.kind,
        entry.app,
        entry.request,
        entry.names.decode(),
        previous,
    ]
    return _digest(content)


def _digest(content: Any) -> str:
    """The SHA-256 of a value as JSON, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


class ActMaker(Struct):
    """The principal of an act. ``id`` is null if it was erased."""

    kind: str
    id: str | None
    app: str


class ActShown(Struct):
    """An act. Erased data are null."""

    number: int
    time: int
    name: str
    by: ActMaker
    app: str
    user: str | None
    address: str | None
    request: str
    facts: dict[str, Any] | None


def _read_facts(text: str) -> dict[str, Any]:
    """The facts that were stored as JSON; ``""`` means no facts."""
    try:
        return _decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:  # somebody else than the server has written it
        return {"unreadable": text}


def shown(row: AuditRow, names: Sequence[Name]) -> ActShown:
    """The act of a row as operators see it.

    ``names`` are the names of the act that are still stored. A name that was
    erased, because the person was deleted, is shown as None.
    """
    entry = row.entry
    values = _NameValues(
        commitments=_decode(entry.names), stored={name.part: name for name in names}
    )
    return ActShown(
        number=row.number,
        time=row.time,
        name=entry.name,
        by=_maker_shown(entry, values),
        app=entry.app,
        user=values.of("user"),
        address=values.of("address", "text"),
        request=entry.request,
        facts=_facts_shown(values),
    )


class _NameValues(Struct, frozen=True):
    """The names of an act by their parts, such as ``by`` and ``user``.

    ``commitments`` has each part for which the act ever had a name. ``stored``
    has the names that were not erased.
    """

    commitments: Mapping[str, str]
    stored: Mapping[str, Name]

    def of(self, part: str, field: str = "member") -> Any:
        """A field of a name.

        None if the name was erased; ``""`` if the act never had such a name.
        """
        if part not in self.commitments:
            return ""
        if part in self.stored:
            return getattr(self.stored[part], field)
        return None


def _maker_shown(entry: Entry, values: _NameValues) -> ActMaker:
    """The maker of an act as operators see them."""
    app = values.of("by", "app")
    if app is None:
        # The app of the maker was erased with the id. Nearly all makers act in
        # their own app, so the app of the act takes its place.
        app = entry.app
    return ActMaker(kind=entry.kind, id=values.of("by"), app=app)


def _facts_shown(values: _NameValues) -> dict[str, Any] | None:
    """The facts of an act, with its other users; None if they were erased."""
    text = values.of("facts", "text")
    facts = None
    if text is not None:
        facts = _read_facts(text)
    # Users have a name each, so that each of them can be erased alone. For the
    # reader they are one of the facts.
    parts = [part for part in values.commitments if part.startswith("users/")]
    users = [values.of(part) for part in parts]
    if users:
        return {**(facts or {}), "users": users}
    return facts
