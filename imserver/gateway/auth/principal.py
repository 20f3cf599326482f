"""Principals (what a request or login has proved), needs (what a route
requires), and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from imserver.gateway.errors import ImserverError

Role = Literal["", "moderator", "owner"]
"""The role of an account in its app. ``""`` means a member without a special
role."""
Right = Literal["moderate", "people", "operate", "own"]
"""A right that a role gives. Routes require it of users who act by their role.

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

Kind = Literal[
    "nobody",
    "demo",
    "key",
    "address",
    "signature",
    "session",
    "account",
    "guest",
    "bot",
    "page",
    "staff",
    "command",
    "node",
]

SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "push": frozenset({"push", "any"}),
    "read": frozenset({"read", "metrics", "any"}),
    "metrics": frozenset({"metrics"}),
    "admin": frozenset({"push", "read", "metrics", "admin", "any"}),
}
"""Scope of a key → the scopes of routes that it satisfies. ``any`` is the scope
of routes that accept any key, for requests about an app."""
ALL_SCOPES: Final = SCOPES["admin"]


class Principal(Struct, frozen=True):
    """The maker of a request or login.

    ========= ====================================================================
    nobody    has proved nothing
    demo      anybody, while the server is in demo mode
    key       a back end with an API key: ``scopes``, ``apps``, the key's id ``key``
    address   a back end that needs no key because of its address: ``scopes``, ``apps``
    signature a back end that has signed its request: ``apps``, the name of its secret as ``key``
    session   a user with a session token that a back end has signed
    account   a user with the token of an account: ``device`` is the number of that login
    guest     a guest with the token of their account: ``device`` as above
    bot       a bot with its token
    page      a visitor of one of our own pages
    staff     an account that acts by its role: ``rights``, ``apps``, its user id as ``staff``; no ``user``
    command   a command of ``imserver`` that changes the database: the name of its system user as ``key``
    node      a node by itself: its id as ``key``
    ========= ====================================================================

    ``apps`` has names of apps, without aliases; None means all apps. Users
    (``session`` to ``page``) have exactly one app and a ``user``. ``rights``
    says what ``staff`` may do in its only app. ``lacks`` says, in words, what
    an ``account`` needs before it may act by its role.
    """

    kind: Kind
    scopes: frozenset[str] = frozenset()
    apps: frozenset[str] | None = frozenset()
    user: str = ""
    key: str = ""
    device: int = 0
    staff: str = ""
    rights: frozenset[Right] = NO_RIGHTS
    lacks: str = ""
    label: str = ""
    """The name of the principal for the log and the audit log: its kind, and
    the id of its key, user, account or node.

    The id of a user has the app before it, as in ``account:chat/17``. The label
    is made only once for all requests with one key.
    """

    def __post_init__(self) -> None:
        """Make the label, such as ``key:1f0e8a2c`` or ``account:chat/17``."""
        user = self.user or self.staff
        if user:
            label = f"{self.kind}:{self.app}/{user}"
        elif self.key:
            label = f"{self.kind}:{self.key}"
        else:
            label = self.kind
        # The struct is frozen, so only this function can set the field.
        force_setattr(self, "label", label)

    def may(self, need: Need, app: str | None = None) -> bool:
        """Whether the principal satisfies ``need``, the requirement of a route,
        in an app.

        ``app`` must not be an alias. None means that the app is not known yet,
        so only the scope or the kind of the principal is checked.
        """
        # The kind of the principal is checked first, then its app. A route for
        # anybody needs no app.
        if need.scope not in self.scopes and (
            self.kind not in need.users
            or (self.kind == "staff" and need.right not in self.rights)
        ):
            return False
        return (
            app is None
            or self.apps is None
            or app in self.apps
            or self.kind == "nobody"
        )

    def reaches(self, app: str) -> bool:
        """Whether the principal belongs to this app. ``app`` must not be an
        alias."""
        return self.apps is None or app in self.apps

    def may_act_on(self, role: Role) -> bool:
        """Whether the principal may lock, ban or mute users with this role, and
        give them another one.

        A back end acts on all users. An account that acts by its role acts on
        lower roles: an owner on moderators and members, a moderator on members.
        No account may act on itself or on accounts with the same role. API keys
        and commands may.
        """
        return self.kind != "staff" or RIGHTS[role] < self.rights

    @property
    def app(self) -> str:
        """The only app of a user, or of an account that acts by its role."""
        return next(iter(self.apps)) if self.apps else ""


NOBODY: Final = Principal("nobody")
BAD_TOKEN: Final = Principal("nobody")
"""A principal with an invalid token."""
DEMO: Final = Principal("demo", ALL_SCOPES, apps=None)


class Need(Struct, frozen=True):
    """The requirement of a route: a principal with ``scope``, or one of the
    kinds in ``users``.

    - ``users``: the kinds of users that may act, each in its own app;
      ``nobody`` admits everybody.
    - ``address``: whether a back end may be identified by its address alone.
    - ``right``: accounts whose role has this right may act as a back end of
      their app. Then ``users`` has ``staff``. ``""`` means that no role is
      accepted.
    """

    scope: str = ""
    users: frozenset[Kind] = frozenset()
    address: bool = False
    right: Right | Literal[""] = ""


class BadSignature(ImserverError):
    """A request without a valid signature. The text says why, without
    secrets."""


class Needs:
    """The requirements of routes."""

    ANYONE: Final = Need(users=frozenset({"nobody"}))
    """No identity. The credentials are not read."""
    SIGNED: Final = Need(users=frozenset({"signature"}))
    """A back end that has signed its request. ``signer`` in the row of the
    route verifies the signature."""
    PUSH: Final = Need("push")
    """A back end whose key may push."""
    READ: Final = Need("read")
    """A back end whose key may read."""
    METRICS: Final = Need("metrics")
    """A monitoring system: figures about the server, nothing of anybody."""
    METRICS_OR_ADDRESS: Final = Need("metrics", address=True)
    """``METRICS``, or a back end at an address that needs no key."""
    ADMIN: Final = Need("admin")
    """A back end whose key may change everything of an app."""
    ANY_KEY: Final = Need("any")
    """A back end with any key."""
    PUSH_OR_ADDRESS: Final = Need("push", address=True)
    """``PUSH``, or a back end at an address that needs no key."""
    READ_OR_ADDRESS: Final = Need("read", address=True)
    """``READ``, or a back end at an address that needs no key."""
    PUSH_OR_SESSION: Final = Need("push", frozenset({"session"}), address=True)
    """``PUSH_OR_ADDRESS``, or a user with a session token."""
    READ_OR_SESSION: Final = Need("read", frozenset({"session"}), address=True)
    """``READ_OR_ADDRESS``, or a user with a session token."""
    PUSH_OR_VISITOR: Final = Need("push", frozenset({"page", "session"}), address=True)
    """``PUSH_OR_SESSION``, or a visitor of one of our pages."""
    READ_OR_VISITOR: Final = Need("read", frozenset({"page", "session"}), address=True)
    """``READ_OR_SESSION``, or a visitor of one of our pages."""
    VISITOR: Final = Need(users=frozenset({"page"}))
    """A visitor of one of our pages."""
    ADMIN_OR_ACCOUNT: Final = Need("admin", frozenset({"account"}))
    """A person with an account token, but no guest, or a back end for a
    user."""
    ADMIN_OR_FINDER: Final = Need("admin", frozenset({"account", "bot"}))
    """A person or a bot, but no guest, or a back end for either."""
    ADMIN_OR_PERSON: Final = Need("admin", frozenset({"account", "guest"}))
    """A person with an account token, guests too, or a back end for a user."""
    ADMIN_OR_MEMBER: Final = Need("admin", frozenset({"account", "guest", "bot"}))
    """A person or a bot, or a back end for either."""
    ADMIN_OR_BOT: Final = Need("admin", frozenset({"bot"}))
    """A bot with its token, or a back end for a bot."""
    ACCOUNT: Final = Need(users=frozenset({"account"}))
    """A person with an account token, but no guest. No back end acts for
    them."""
    ANYONE_OR_ADMIN: Final = Need("admin", frozenset({"nobody"}))
    """Anybody. A back end may do more."""
    ANYONE_OR_ACCOUNT: Final = Need(users=frozenset({"nobody", "account"}))
    """Anybody. A user with an account token may do more."""
    ADMIN_OR_USER: Final = Need(
        "admin", frozenset({"account", "guest", "bot", "session"})
    )
    """A user with any token of their own, or a back end for them."""
    PUSH_OR_USER: Final = Need(
        "push", frozenset({"account", "guest", "bot", "session"})
    )
    """A user with any token of their own, or a back end whose key may push."""
    READ_OR_USER: Final = Need(
        "read", frozenset({"account", "guest", "bot", "session"})
    )
    """A user with any token of their own, or a back end whose key may read."""
    ANYONE_OR_PUSH: Final = Need(
        "push", frozenset({"nobody", "account", "guest", "bot", "session"})
    )
    """Anybody: the token in the body identifies the principal. A back end whose
    key may push does more."""
    ANYONE_OR_READ: Final = Need("read", frozenset({"nobody"}))
    """Anybody. A back end whose key may read gets more."""
    MODERATE: Final = Need("admin", frozenset({"staff"}), right="moderate")
    """A back end, or an account that may moderate."""
    PEOPLE: Final = Need("admin", frozenset({"staff"}), right="people")
    """A back end, or an account that may list accounts."""
    READ_OR_OPERATE: Final = Need("read", frozenset({"staff"}), right="operate")
    """A back end whose key may read, or an account that operates its app."""
    OPERATE: Final = Need("admin", frozenset({"staff"}), right="operate")
    """A back end, or an account that operates its app."""
    OWN: Final = Need("admin", frozenset({"staff"}), right="own")
    """A back end, or an account that owns its app."""
