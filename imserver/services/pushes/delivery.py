"""Delivery: an event to a user or to all users of an app, wherever they are connected."""

from __future__ import annotations

from collections.abc import Collection

from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event


class Delivery:
    """Stateless; every call returns before anything is written to a socket."""

    def __init__(self, hub: Hub, fanout: Fanout) -> None:
        self._apps = hub.apps
        self._fanout = fanout

    def to_user(self, app: str, user: str, event: Event, device: str | None = None) -> int:
        """Tell the addressed sessions of ``user``, all or those of one device; returns their number."""
        known = self._apps.get(app)
        if known is None:
            return 0
        if device is not None:
            return self._fanout.to_device(known, user, device, event)
        return self._fanout.to_user(known, user, event)

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: Collection[str] = ()
    ) -> int:
        """Tell all users of ``app`` but these; returns the number of sessions reached."""
        known = self._apps.get(app)
        return 0 if known is None else self._fanout.to_app(known, event, except_user, except_users)
