"""What is kept of what a request or command names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

PEOPLE: Final = frozenset({"users", "members", "member", "user", "friend", "bot"})
"""Fields with ids of users. Their values are the ``users`` of an act."""
_VALUES: Final = frozenset(
    {
        *("id", "act", "group", "conversation", "channel", "connection", "connections", "device"),
        *("key", "hook", "provider", "report", "node", "address"),
        *("until", "seconds", "since", "grace_seconds", "expires_at", "uses", "count"),
        *("role", "scopes", "apps", "reason", "state", "level", "kind"),
        *("open", "history", "invite", "rename", "pin", "bots", "guests", "listed", "enabled", "unset"),
    }
)
"""Fields whose values an act has, too."""
_UNNAMED: Final = frozenset({"app", "token", "password", "old_password", "confirm"})
"""Fields that say nothing about a change."""
_SAME: Final = {"client": "connection", "client_id": "connection"}
"""Fields of other APIs → ours."""
_FROM_ANSWER: Final = frozenset({"id", "act", "group", "revoked", "closed", "count"})
MOST_USERS: Final = 1000
"""The most users that one act names."""
_MOST_VALUES: Final = 20
_MOST_CHARACTERS: Final = 200


def facts_of(given: Any, answer: Any = None, user: str = "") -> dict[str, Any]:
    """What is kept of the input of a request or command, and of its answer: ids, numbers, reasons, and the
    names of other fields that were given as ``fields``. ``settings`` are the names of the given ones.

    ``given``: a struct, or parameters by name. ``user``: whom the act names already.
    """
    facts: dict[str, Any] = {}
    users: list[str] = []
    fields: list[str] = []
    for field, value in _given(given):
        name = _SAME.get(field, field)
        if name in PEOPLE:
            users += [value] if isinstance(value, str) else map(str, value)
        elif name in _VALUES:
            facts[name] = _short(value)
        elif name == "settings" and isinstance(value, Struct):
            facts[name] = [each for each, _ in _given(value)]
        elif name not in _UNNAMED:
            fields.append(name)
    facts |= {name: _short(value) for name, value in _given(answer) if name in _FROM_ANSWER}
    if fields:
        facts["fields"] = fields[:_MOST_VALUES]
    if named := [each for each in users if each not in ("", user)]:
        facts["users"] = named[:MOST_USERS]
    return facts


def _given(values: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a struct that differ from their defaults, or the parameters of a request."""
    if isinstance(values, Struct):
        for field in msgspec.structs.fields(type(values)):
            value = getattr(values, field.name)
            if value is not UNSET and value is not None and value != "" and value != field.default:
                yield field.name, value
    elif isinstance(values, Mapping):
        yield from ((name, value) for name, value in values.items() if name in _VALUES)


def _short(value: Any) -> Any:
    """A value that takes little room, as JSON."""
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    if isinstance(value, list | tuple | frozenset):
        return [_short(each) for each in list(value)[:_MOST_VALUES]]
    return value if isinstance(value, int | float | bool) else str(value)[:_MOST_CHARACTERS]


def user_in(answer: Any) -> str:
    """The user whom an answer is about, as that of a login; ``""``: nobody."""
    user = getattr(answer, "user", "")
    if isinstance(user, str) and user:
        return user
    inner = (getattr(answer, name, None) for name in ("account", "session"))
    return next((user_in(each) for each in inner if isinstance(each, Struct)), "")
