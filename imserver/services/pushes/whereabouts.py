"""Where users are in the cluster, and how each is reached there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from random import getrandbits

import gevent

from imserver.cluster.contract import Place, Registry
from imserver.hub.hub import Hub
from imserver.model import Event
from imserver.services.nodes.courier import Courier, ToUser
from imserver.services.pushes.order import Arrivals, Routes
from imserver.services.pushes.pushing import Delivers, Outcome

_ANYWHERE: tuple[Place, ...] = ()


class Whereabouts:
    """Asks the registry, and sends to the places that it tells. Owner of the routes that pushes took."""

    def __init__(
        self, registry: Registry, courier: Courier, hub: Hub, delivery: Delivers, arrivals: Arrivals
    ) -> None:
        self._registry = registry
        self._courier = courier
        self._hub = hub
        self._delivery = delivery
        self._arrivals = arrivals
        self._routes = Routes()
        self._origin = getrandbits(48)
        self._numbers = count(1)

    def find(self, app: str, users: Sequence[str]) -> list[tuple[Place, ...]] | None:
        """Where the users are, as soon as pushes of a moment ago have followed those who have moved."""
        places = self.look_up(app, users)
        if places is not None and self.wait_for_followers(app, zip(users, places, strict=True)):
            places = self.look_up(app, users)
        return places

    def look_up(self, app: str, users: Sequence[str]) -> list[tuple[Place, ...]] | None:
        """Where the users are; ``""`` is nobody and nowhere."""
        named = [user for user in users if user]
        found = self._registry.find(app, named) if named else []
        if found is None:
            return None
        places = iter(found)
        return [next(places) if user else _ANYWHERE for user in users]

    def wait_for_followers(self, app: str, targets: Iterable[tuple[str, tuple[Place, ...]]]) -> bool:
        """Let pushes of a moment ago follow users who have moved meanwhile, before later ones are sent.

        Whether that took time, in which others may have moved, too.
        """
        seconds = 0.0
        for user, places in targets:
            if len(places) == 1:
                seconds = max(seconds, self._routes.wait_seconds(app, user, places[0].epoch))
        if seconds:
            gevent.sleep(seconds)
        return seconds > 0

    def push(
        self,
        app: str,
        user: str,
        event: Event,
        places: tuple[Place, ...] | None,
        device: str | None = None,
    ) -> Outcome:
        """Deliver to where the user is, or one of their devices; None: the registry does not say.

        Whom it does not know anywhere, though they have a session here, it has forgotten: a flush, a lost
        lease.
        """
        number = next(self._numbers)
        own = self._courier.own_epoch
        epochs = {place.epoch for place in places or () if device is None or place.device == device}
        reached = failed = 0
        here = own in epochs or not places or self._is_unregistered(app, user)
        if here and self._delivery.to_user(app, user, event, device):
            reached += 1
            self._arrivals.reached(app, user, self._origin, number)
        for epoch in epochs - {own}:
            item = ToUser(app, user, event, 0, len(epochs) == 1, self._origin, number, device)
            sent = self._courier.to_life(epoch, item)
            reached += sent
            failed += not sent
        if reached:
            return Outcome.SENT
        return Outcome.FAILED if failed else Outcome.NOT_SENT

    def _is_unregistered(self, app: str, user: str) -> bool:
        """Whether the user has a session here that the registry does not know yet."""
        known = self._hub.apps.get(app)
        if known is None:
            return False
        return any(
            c.session is not None and not self._registry.registered(c.session)
            for c in known.sessions_of(user)
        )
