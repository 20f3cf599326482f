"""Principals: what a request or a login has proved. Needs: what a route asks for. :func:`may` compares."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

Kind = Literal["nobody", "demo", "key", "address", "session", "account", "page"]

NO_APPS: Final[frozenset[str]] = frozenset()
ALL_SCOPES: Final = frozenset({"push", "read", "admin", "any"})
"""Every scope. ``any`` is the scope that every key has."""


class Principal(Struct, frozen=True):
    """Who acts.

    ========= ====================================================================
    nobody    has proved nothing
    demo      anybody, while the server is in demo mode
    key       a back end with an API key: ``scopes``, ``apps``, the key's id ``key``
    address   a back end that needs no key because of its address: ``scopes``, ``apps``
    session   a user with a session token that a back end has signed
    account   a user with the token of an account: ``device`` is the number of that login
    page      a visitor of one of our own pages
    ========= ====================================================================

    ``apps`` are names of apps that stand for themselves (never aliases); None: all apps. The last three have
    exactly one app, and a ``user``.
    """

    kind: Kind
    scopes: frozenset[str] = frozenset()
    apps: frozenset[str] | None = NO_APPS
    user: str = ""
    key: str = ""
    device: int = 0

    def reaches(self, app: str) -> bool:
        """Whether the principal has anything to do with this app (a name that stands for itself)."""
        return self.apps is None or app in self.apps

    @property
    def app(self) -> str:
        """The app of a user."""
        return next(iter(self.apps)) if self.apps else ""


NOBODY: Final = Principal("nobody")
BAD_TOKEN: Final = Principal("nobody")
"""Nobody, who has shown a token that proves nothing."""
DEMO: Final = Principal("demo", ALL_SCOPES, None)


class Need(Struct, frozen=True):
    """What a route needs: a principal with ``scope``, or one of the kinds ``users``.

    ``users`` are the kinds that may act besides back ends, each for its own app. With ``nobody`` among them
    anybody may ask. ``address``: back ends may be known by their address.
    """

    scope: str = ""
    users: frozenset[Kind] = frozenset()
    address: bool = False

    @property
    def reads_accounts(self) -> bool:
        """Whether the token of an account counts. Then it does in demo mode, too."""
        return "account" in self.users


ANYONE: Final = Need(users=frozenset({"nobody"}))
"""No identity at all. It is not even looked for."""
PUSH: Final = Need("push")
READ: Final = Need("read")
ADMIN: Final = Need("admin")
ANY_KEY: Final = Need("any")
PUSH_OR_ADDRESS: Final = Need("push", address=True)
READ_OR_ADDRESS: Final = Need("read", address=True)
PUSH_OR_VISITOR: Final = Need("push", frozenset({"page", "session"}), address=True)
READ_OR_VISITOR: Final = Need("read", frozenset({"page", "session"}), address=True)
VISITOR: Final = Need(users=frozenset({"page"}))
ADMIN_OR_ACCOUNT: Final = Need("admin", frozenset({"account"}))
"""A user with the token of their account, or a back end on a user's behalf."""
ACCOUNT: Final = Need(users=frozenset({"account"}))
ANYONE_OR_ADMIN: Final = Need("admin", frozenset({"nobody"}))
"""Anybody; a back end may more."""
PUSH_OR_USER: Final = Need("push", frozenset({"account", "session"}))
READ_OR_USER: Final = Need("read", frozenset({"account", "session"}))
ANYONE_OR_PUSH: Final = Need("push", frozenset({"nobody", "account", "session"}))
"""Who asks is found out by the body, which names a token."""
ANYONE_OR_READ: Final = Need("read", frozenset({"nobody"}))


def may(principal: Principal, need: Need, app: str | None = None) -> bool:
    """Whether a principal may do what needs this, in ``app`` (a resolved name; None: it is not known yet)."""
    if need.scope not in principal.scopes and principal.kind not in need.users:
        return False
    return app is None or principal.apps is None or app in principal.apps or principal.kind == "nobody"
