"""The roles of an app: what a user with each of them may do besides what everybody may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Role = Literal["", "moderator", "owner"]
"""``""``: a member."""
Right = Literal["moderate", "people", "operate", "own"]
"""What a route may ask of a user with a role.

======== ===========================================================================================
moderate see reports with their context; hide and delete messages; warn, mute, remove, ban people
people   list and search the people of the app
operate  see connections, refusals, deliveries and the audit log; lift limits; lock people out
own      change the settings and keys of the app, and the roles of its people
======== ===========================================================================================
"""

RIGHTS: Final[Mapping[str, frozenset[Right]]] = {
    "": frozenset(),
    "moderator": frozenset({"moderate", "people"}),
    "owner": frozenset({"moderate", "people", "operate", "own"}),
}
"""Role → the rights of a user who has it, in its own app."""
NO_RIGHTS: Final[frozenset[Right]] = frozenset()


def is_below(role: Role, rights: frozenset[Right]) -> bool:
    """Whether somebody with these rights may act on a user with this role: lock, ban or mute them, and give
    them another role, which has to be below, too.

    So an owner acts on moderators and members, a moderator on members, and nobody on themselves or on their
    equals: API keys and commands do that.
    """
    return RIGHTS[role] < rights
