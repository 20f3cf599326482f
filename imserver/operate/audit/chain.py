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

    The row lists the parts of the act that had a name, such as ``by`` and
    ``user``. ``names`` are the names that are still stored. A part without a
    stored name was erased, because the person was deleted; its value is None.
    """
    entry = row.entry
    commitments: Mapping[str, str] = _decode(entry.names)
    names_by_part = {name.part: name for name in names}

    def value_of(part: str, field: str) -> Any:
        """A field of a name: None if the name was erased, ``""`` if the act
        never had a name of this part."""
        if part not in commitments:
            return ""
        if part in names_by_part:
            return getattr(names_by_part[part], field)
        return None

    facts_text = value_of("facts", "text")
    facts = None
    if facts_text is not None:
        facts = _read_facts(facts_text)
    # Users have a name each, so that each of them can be erased alone. For the
    # reader they are one of the facts.
    users = [
        value_of(part, "member") for part in commitments if part.startswith("users/")
    ]
    if users:
        facts = {**(facts or {}), "users": users}

    maker_app = value_of("by", "app")
    if maker_app is None:
        # The app of the maker was erased with the id. Nearly all makers act in
        # their own app, so the app of the act takes its place.
        maker_app = entry.app
    return ActShown(
        number=row.number,
        time=row.time,
        name=entry.name,
        by=ActMaker(kind=entry.kind, id=value_of("by", "member"), app=maker_app),
        app=entry.app,
        user=value_of("user", "member"),
        address=value_of("address", "text"),
        request=entry.request,
        facts=facts,
    )
