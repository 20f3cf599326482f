"""Makes the row of an act for the audit log from a request or command and its
answer."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from imserver.operate.audit.chain import AuditRow, Entry, Name, shown
from imserver.plugin.identity import Act

PEOPLE: Final = frozenset({"users", "members", "member", "user", "friend", "bot"})
"""Fields with ids of users. Their values are the ``users`` of an act."""
_VALUES: Final = frozenset(
    {
        # The thing that the act is about.
        "id",
        "act",
        "group",
        "conversation",
        "channel",
        "connection",
        "connections",
        "device",
        "key",
        "hook",
        "provider",
        "report",
        "node",
        "address",
        "handle",
        # How long, and how often.
        "until",
        "seconds",
        "since",
        "grace_seconds",
        "expires_at",
        "uses",
        "count",
        # With which rights, and why.
        "role",
        "scopes",
        "apps",
        "reason",
        "state",
        "level",
        "kind",
        # The options of groups.
        "open",
        "history",
        "invite",
        "rename",
        "pin",
        "bots",
        "write",
        "reply",
        "everybody",
        # Those of others.
        "guests",
        "listed",
        "enabled",
        "unset",
    }
)
"""Fields whose values are part of an act, too."""
_UNNAMED: Final = frozenset({"app", "token", "password", "old_password", "confirm"})
"""Fields that tell nothing about a change."""
_SAME: Final = {"client": "connection", "client_id": "connection"}
"""Field of another API → our field."""
_FROM_ANSWER: Final = frozenset({"id", "act", "group", "revoked", "closed", "count"})
_ABOUT: Final = {
    "messages": "message",
    "message": "message",
    "group": "group",
    "key": "key",
}
"""Fact by which acts are found → the kind of thing that its ids name."""
_OF_ID: Final = {"messages": "message", "keys": "key"}
"""Subject of an act → the kind of thing that the fact ``id`` names."""
MOST_USERS: Final = 1000
"""The most users that one act names."""
_MOST_VALUES: Final = 20
_MOST_CHARACTERS: Final = 200
_NAME_BYTES: Final = 100
_SALT_BYTES: Final = 16
_APP_BYTES: Final = 500
_MEMBER_BYTES: Final = 255
_FACTS_BYTES: Final = 1 << 20
_NOBODY: Final = ("", "")
"""App and id beside a name that belongs to no user."""


def facts_of(given: Any, answer: Any = None, user: str = "") -> dict[str, Any]:
    """The facts about an act that the log stores, made from its input and
    answer.

    These are ids, numbers and reasons. Texts and secrets are left out. Of
    settings and all other fields, only the names are stored, as ``settings``
    and ``fields``. A ban of user 7 with a text of its own may become
    ``{"until": 1790000000, "fields": ["note"], "users": ["7"]}``.

    ``given`` is the input as a struct, or the parameters of a request by name.
    ``user`` is the user whom the act names already, and who is not repeated.
    """
    facts, users, fields = _sorted_input(given)
    # If both have an id, the id of the request is stored: the answer to a
    # recall has the id of the entry of the recall.
    facts = _facts_of_answer(answer) | facts
    if fields:
        facts["fields"] = fields[:_MOST_VALUES]
    other_users = [each for each in users if each not in ("", user)]
    if other_users:
        facts["users"] = other_users[:MOST_USERS]
    return facts


def _sorted_input(given: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """The facts in the input of an act, the users in it, and the names of
    other fields."""
    facts: dict[str, Any] = {}
    users: list[str] = []
    fields: list[str] = []
    for field, value in _given(given):
        name = _SAME.get(field, field)
        if name in PEOPLE:
            users += _users_in(value)
        elif name in _VALUES:
            facts[name] = _short(value)
        elif name == "settings" and isinstance(value, Struct):
            facts[name] = [setting for setting, _ in _given(value)]
        elif name not in _UNNAMED:
            fields.append(name)
    return facts, users, fields


def _facts_of_answer(answer: Any) -> dict[str, Any]:
    """The facts that only the answer has, such as the id of a new thing."""
    return {
        name: _short(value) for name, value in _given(answer) if name in _FROM_ANSWER
    }


def _users_in(value: Any) -> Iterable[str]:
    """The ids of users in a field, which has one or several."""
    if isinstance(value, str):
        return (value,)
    return map(str, value)


def _given(values: Any) -> Iterator[tuple[str, Any]]:
    """The fields that a request has set, as (name, value).

    For a struct, these are the fields that differ from their defaults. For the
    parameters of a request, these are only the values that may be stored.
    """
    if isinstance(values, Struct):
        for field in msgspec.structs.fields(type(values)):
            value = getattr(values, field.name)
            if value is not UNSET and value is not None and value != field.default:
                yield field.name, value
    elif isinstance(values, Mapping):
        yield from ((name, value) for name, value in values.items() if name in _VALUES)


def _short(value: Any) -> Any:
    """A value that JSON can represent, with long texts and lists cut off.

    A value of another type becomes its text.
    """
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    if isinstance(value, list | tuple | frozenset):
        return [_short(each) for each in list(value)[:_MOST_VALUES]]
    if isinstance(value, int | float | bool):
        return value
    return str(value)[:_MOST_CHARACTERS]


def user_in(answer: Any) -> str:
    """The user in an answer, such as the answer to a login.

    It is in the field ``user`` of the answer, or of its ``account`` or
    ``session``. Returns ``""`` if the answer names nobody.
    """
    user = getattr(answer, "user", "")
    if isinstance(user, str) and user:
        return user
    for name in ("account", "session"):
        part = getattr(answer, name, None)
        if isinstance(part, Struct):
            return user_in(part)
    return ""


def entry_of(act: Act) -> tuple[Entry, tuple[Name, ...]]:
    """The row of an act, and the names to store beside it.

    If the act deletes a user (``act.gone``), the names of that user are not
    returned. They have only commitments in the row, as if they were erased.
    """
    names = tuple(_names(act))
    commitments = msgspec.json.encode({name.part: name.commitment for name in names})
    entry = Entry(
        name=_clean(act.name, _NAME_BYTES),
        kind=act.by.kind,
        app=_clean(act.app, _APP_BYTES),
        request=act.request,
        names=commitments,
    )
    # The log must not name the user any more from the first moment on.
    if act.gone:
        user = _clean(act.user or user_in(act.answer), _MEMBER_BYTES)
        names = _names_without(names, entry.app, user)
    return entry, names


def _names_without(names: tuple[Name, ...], app: str, user: str) -> tuple[Name, ...]:
    """The names that do not belong to this user."""
    return tuple(name for name in names if (name.app, name.member) != (app, user))


def _names(act: Act) -> Iterator[Name]:
    """All names of an act, each with a new salt.

    A name may belong to a person, with whom it is erased: to the maker, the
    target, or another user of the act. A name that belongs to no person stays.
    """
    app = _clean(act.app, _APP_BYTES)
    by = _maker_of(act)
    target = _target_of(act, app)
    if by is not None:
        yield _name("by", *by)
    elif act.by.key:
        yield _name("by", app="", member=_clean(act.by.key, _MEMBER_BYTES))
    if target is not None:
        yield _name("user", *target)
    if act.address:
        yield _address_in(act, by, target)

    facts = _facts_in(act)
    # Other users get a name each, so that each of them can be erased alone.
    users = facts.pop("users", ())
    if facts:
        yield _name_of_facts(act, facts, by, target)
    # A thing belongs to no app.
    yield from _numbered("about", "", _things(act.name, facts))
    yield from _numbered("users", app, users)


def _numbered(part: str, app: str, members: Iterable[str]) -> Iterator[Name]:
    """Names of the parts ``about/0``, ``about/1`` and so on of an act."""
    for number, member in enumerate(members):
        yield _name(f"{part}/{number}", app, _clean(member, _MEMBER_BYTES))


_Person = tuple[str, str] | None
"""The app and the id of a person. None means nobody."""


def _address_in(act: Act, by: _Person, target: _Person) -> Name:
    """The address from which an act was done.

    It belongs to the maker of the act.
    """
    person = by
    if person is None and act.by.kind == "nobody":
        # The address of a login belongs to the person who logs in.
        person = target
    return _name("address", *(person or _NOBODY), act.address)


def _name_of_facts(
    act: Act, facts: Mapping[str, Any], by: _Person, target: _Person
) -> Name:
    """The facts of an act as JSON. They belong to the target, or else the
    maker."""
    person = target or by
    if act.gone:
        # The target is being deleted. The reason of the deletion comes from
        # the maker, so it is erased with the maker.
        person = by
    text = _clean(msgspec.json.encode(facts).decode(errors="replace"), _FACTS_BYTES)
    return _name("facts", *(person or _NOBODY), text)


def _maker_of(act: Act) -> _Person:
    """App and id of the person who has done an act, or whose bot has done it.

    None if a key, a node or nobody has done it.
    """
    person = act.by.user or act.by.staff
    if not person:
        return None
    return _clean(act.by.app, _APP_BYTES), _clean(person, _MEMBER_BYTES)


def _target_of(act: Act, app: str) -> _Person:
    """App and id of the user whom the act is about; None if it is about nobody.

    The answer names the user if the request does not, as at a login.
    """
    user = _clean(act.user or user_in(act.answer), _MEMBER_BYTES)
    if not user:
        return None
    return app, user


def _facts_in(act: Act) -> dict[str, Any]:
    """The facts of an act.

    If the route has given no facts, they are made from its input and answer.
    """
    if act.facts is None:
        return facts_of(act.given, act.answer, act.user)
    return dict(act.facts)


def _kinds_of(name: str) -> dict[str, str]:
    """Fact → the kind of thing that it names, in an act with this name."""
    kinds = dict(_ABOUT)
    subject = name.partition(".")[0]
    if subject in _OF_ID:
        kinds["id"] = _OF_ID[subject]
    return kinds


def _things(name: str, facts: Mapping[str, Any]) -> dict[str, None]:
    """The things that an act is about, each once and in order.

    Examples are ``message:7``, ``key:1f2e`` and ``group:12``. They are the keys
    of the result, by which a search finds the act. ``name`` is the name of the
    act, whose first part may say what its ``id`` is: ``keys.revoke`` is about a
    key.
    """
    things: dict[str, None] = {}
    for fact, kind in _kinds_of(name).items():
        ids = facts.get(fact, ())
        if not isinstance(ids, list | tuple):
            ids = (ids,)
        for id in ids:
            if id:
                things[f"{kind}:{id}"] = None
    return things


def _name(part: str, app: str, member: str, text: str = "") -> Name:
    """A name with a new salt."""
    return Name(part, app, member, text, secrets.token_bytes(_SALT_BYTES))


def _clean(text: str, most: int) -> str:
    """A text that every database stores.

    It is without NUL, and has at most ``most`` bytes in UTF-8.
    """
    content = text.replace("\0", "").encode("utf-8", "replace")
    return content[:most].decode("utf-8", "ignore")


def line_of(act: Act) -> bytes:
    """An act as JSON, for a log instead of the database."""
    entry, names = entry_of(act)
    # Outside the chain, an act has neither number nor time nor hashes.
    row = AuditRow(number=0, time=0, entry=entry, previous="", hash="")
    fields = msgspec.to_builtins(shown(row, names))
    del fields["number"], fields["time"]
    return msgspec.json.encode(fields)
