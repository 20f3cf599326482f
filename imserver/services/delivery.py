"""Delivery: an event to a user or to all users of an app, wherever they are connected."""

from __future__ import annotations

from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event


class Delivery:
    """Stateless; every call returns before anything is written to a socket."""

    def __init__(self, hub: Hub, fanout: Fanout) -> None:
        self._apps = hub.apps
        self._fanout = fanout

    def to_user(self, app: str, user: str, event: Event) -> int:
        """Tell all addressed sessions of ``user``; returns their number, 0 when the user is not online."""
        known = self._apps.get(app)
        return 0 if known is None else self._fanout.to_user(known, user, event)

    def to_app(self, app: str, event: Event, except_user: str = "") -> int:
        """Tell all users of ``app`` but ``except_user``; returns the number of sessions reached."""
        known = self._apps.get(app)
        return 0 if known is None else self._fanout.to_app(known, event, except_user)
