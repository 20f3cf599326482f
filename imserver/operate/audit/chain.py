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

    ``part``: its role in the act: ``by``, ``user``, ``address`` or ``facts``,
    or ``users/`` or ``about/`` with a number, such as ``users/0``. ``app`` and
    ``member``: the person to whom the row belongs. When the person is deleted,
    the row is erased. If ``app`` is empty, ``member`` is the id of a key, node
    or system user, a thing such as ``message:7``, or empty. ``text``: the
    address, or the facts as JSON; otherwise empty. ``salt``: random bytes,
    without which nobody can find the name by its commitment.
    """

    part: str
    app: str
    member: str
    text: str
    salt: bytes

    @property
    def commitment(self) -> str:
        """The hash of this name that the row of the act has."""
        return _digest([self.salt.hex(), self.part, self.app, self.member, self.text])


class Entry(Struct, frozen=True):
    """An act without its position in the chain. ``name``: what was done, such as
    ``accounts.login``. ``kind``: the kind of principal that has done it.
    ``request``: the id of the request. ``names``: part → commitment of each
    :class:`Name`, as JSON."""

    name: str
    kind: str
    app: str
    request: str
    names: bytes


class AuditRow(Struct, frozen=True):
    """An act in the chain. ``time``: Unix milliseconds. ``previous``: the hash
    of the row before it. ``hash``: the hash of this row, which was stored with
    it."""

    number: int
    time: int
    entry: Entry
    previous: str
    hash: str

    @property
    def expected(self) -> str:
        """The hash of the present content. It differs from ``hash`` if somebody
        has changed the row."""
        return hash_of(self.number, self.time, self.entry, self.previous)

    def hashed(self) -> bytes:
        """The hashed content of the row, and the hash, as JSON."""
        fields = msgspec.to_builtins(self)
        del fields["entry"]
        fields |= msgspec.structs.asdict(self.entry)
        fields["names"] = self.entry.names.decode()
        return msgspec.json.encode(fields)


def hash_of(number: int, time: int, entry: Entry, previous: str) -> str:
    """The hash of a row with this content. ``previous``: the hash of the row
    before it, so that each hash also protects all rows before."""
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
    try:
        return _decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:  # somebody else than the server has written it
        return {"unreadable": text}


def shown(row: AuditRow, names: Sequence[Name]) -> ActShown:
    """The act of a row, with the names that were not erased. Erased values are
    None."""
    entry = row.entry
    commitments: Mapping[str, str] = _decode(entry.names)
    names_by_part = {each.part: each for each in names}

    def field_of(part: str, field: str = "member") -> Any:
        """A field of a name. None if the name was erased; ``""`` if the act has
        no such name."""
        if part not in commitments:
            return ""
        if part in names_by_part:
            return getattr(names_by_part[part], field)
        return None

    written = field_of("facts", "text")
    if written is None:
        facts = None
    else:
        facts = _read_facts(written)
    users = [field_of(part) for part in commitments if part.startswith("users/")]
    if users:
        facts = {**(facts or {}), "users": users}

    maker = names_by_part.get("by")
    if maker is not None:
        maker_app = maker.app
    elif "by" in commitments:
        # The app of the maker was erased with the id. The app of the act takes
        # its place.
        maker_app = entry.app
    else:
        maker_app = ""
    return ActShown(
        number=row.number,
        time=row.time,
        name=entry.name,
        by=ActMaker(entry.kind, field_of("by"), maker_app),
        app=entry.app,
        user=field_of("user"),
        address=field_of("address", "text"),
        request=entry.request,
        facts=facts,
    )
