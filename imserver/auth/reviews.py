"""The question of the core about a message: may it be sent, and with which content?"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from imserver.auth.tenants import Tenant, Tenants
from imserver.transport.connection import Connection


class ReviewDecision(Struct, frozen=True):
    """The decision about a message. ``replace``: with this ``type`` and ``body``, text or JSON. ``reject``:
    for this ``reason``. ``undecided``: there is no valid answer, and the sender may try again."""

    action: Literal["allow", "replace", "reject", "undecided"]
    type: str = ""
    body: bytes = b""
    reason: str = ""
    is_text: bool = False


ALLOWED: Final = ReviewDecision("allow")
UNDECIDED: Final = ReviewDecision("undecided")

Then = Callable[[ReviewDecision], None]
"""Gets the decision; called once, and must not switch."""


class Reviews(Protocol):
    """Reviews what users send, before it is stored or delivered.

    An app without reviews costs one look-up in :attr:`apps`; only the apps there may be asked about.
    """

    @property
    def apps(self) -> Container[str]:
        """The apps whose messages are reviewed. Never switches."""

    def decide(self, app: str, facts: Mapping[str, Any]) -> ReviewDecision:
        """Ask about a message and wait for the decision. Switches."""

    def review(
        self, app: str, facts: Mapping[str, Any], then: Then, connection: Connection | None = None
    ) -> None:
        """Ask about a message; ``then`` gets the decision, after those of earlier messages of ``connection``.

        Never switches.
        """

    def pass_by(self, then: Then, connection: Connection) -> None:
        """Allow something that is not reviewed, after all earlier messages of ``connection`` have their
        decisions. Never switches."""


class NoReviews:
    """Nobody reviews: messages of apps whose settings name a reviewer stay undecided; others are allowed.

    ``tenants``: the apps; None in commands, which send nothing.
    """

    def __init__(self, tenants: Tenants | None = None) -> None:
        self.apps: set[str] = set()
        if tenants is None:
            return
        for tenant in tenants.all():
            self._learn(tenant)
        tenants.on_change.append(self._learn)
        tenants.on_delete.append(self.apps.discard)

    def _learn(self, tenant: Tenant) -> None:
        change = self.apps.add if tenant.webhook.review_url else self.apps.discard
        change(tenant.name)

    def decide(self, app: str, facts: Mapping[str, Any]) -> ReviewDecision:
        """No decision."""
        return UNDECIDED

    def review(
        self, app: str, facts: Mapping[str, Any], then: Then, connection: Connection | None = None
    ) -> None:
        """No decision."""
        then(UNDECIDED)

    def pass_by(self, then: Then, connection: Connection) -> None:
        """Allow it."""
        then(ALLOWED)
