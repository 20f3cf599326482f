"""Limits of requests, which the settings name."""

from __future__ import annotations

from imserver.auth.tenants import Tenants
from imserver.config.settings import LimitSettings
from imserver.transport.http1 import MAX_PUBLIC_BODY_BYTES


class Limits:
    """The limits of requests of a node, for answering and for the services of routes.

    Owner: :class:`imserver.http.call.Api`, which changes them when the configuration is read again.
    """

    def __init__(self, settings: LimitSettings, tenants: Tenants) -> None:
        self._tenants = tenants
        self.set(settings)

    def set(self, settings: LimitSettings) -> None:
        """Apply the settings."""
        self.batch_targets = settings.batch_targets
        self.body_bytes = settings.body_bytes
        """Longest body that is read of whoever has proved something."""
        self.public_body_bytes = min(MAX_PUBLIC_BODY_BYTES, self.body_bytes)
        """Longest body that is read of anybody."""
        self.push_characters = settings.push_characters
        self.message_bytes = settings.message_bytes
        """Longest message of a user: as over a connection."""
        self._messages_per_second = settings.messages_per_second

    def messages_per_second(self, app: str) -> float:
        """Limit of messages per second on one connection to an app; 0: no limit."""
        tenant = self._tenants.get(app)
        limits = (self._messages_per_second, tenant.messages_per_second if tenant is not None else 0.0)
        return min((each for each in limits if each), default=0.0)
