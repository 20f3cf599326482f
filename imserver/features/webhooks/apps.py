"""What the settings of apps say about webhooks: who hears events, reviews messages, decides about clients."""

from __future__ import annotations

import logging
from typing import Final, get_args

from imserver.auth.rules import secret_in
from imserver.auth.tenants import Tenant, Tenants
from imserver.auth.tokens import BadKey
from imserver.config.settings import ChannelEvent, Config, TenantSettings, WebhookEvent
from imserver.errors import StartError
from imserver.features.webhooks.back_ends import BackEndHook
from imserver.features.webhooks.requests import AuthoriseHook, Receiver
from imserver.features.webhooks.reviews import ReviewHook
from imserver.features.webhooks.webhooks import Webhooks

log = logging.getLogger(__name__)

EVENTS: Final = frozenset(get_args(WebhookEvent)) - frozenset(get_args(ChannelEvent))
"""Events that a back end receives if its app selects none. Those of channels are too many."""


def secret_of(settings: TenantSettings) -> bytes:
    """The secret that signs requests to the app's URLs; ``b""`` if there are none. Raises BadKey."""
    urls = settings.webhook.urls or settings.back_ends.urls
    return secret_in("webhook", settings.webhook) if urls else b""


def objection(_name: str, settings: TenantSettings) -> str:
    """Why an app cannot have these webhooks; ``""`` if it can. Reads the file of the secret."""
    try:
        secret_of(settings)
    except BadKey as bad:
        return str(bad)
    return ""


def receiver_of(app: str, settings: TenantSettings, secret: bytes) -> Receiver | None:
    """Who hears the events of an app. None: nobody, or there is no secret to sign with."""
    webhook = settings.webhook
    if not ((webhook.url and secret) or (webhook.events and not webhook.url)):
        return None
    return Receiver(app, webhook.url, secret, frozenset(webhook.events) or EVENTS, webhook.absent_seconds)


def review_of(app: str, settings: TenantSettings, secret: bytes) -> ReviewHook | None:
    """Who reviews the messages of an app."""
    webhook = settings.webhook
    if not webhook.review_url:
        return None
    allows_failure = webhook.review_failure == "allow"
    return ReviewHook(app, webhook.review_url, secret, webhook.review_seconds, allows_failure)


class WebhookApps:
    """Passes the settings of all apps to the webhooks. Owner of their secrets. Never switches."""

    def __init__(self, tenants: Tenants, webhooks: Webhooks) -> None:
        self._tenants = tenants
        self._webhooks = webhooks
        self._secrets: dict[str, bytes] = {}
        tenants.on_change.append(self.changed)
        tenants.on_delete.append(self.deleted)

    def prepare(self) -> None:
        """Take all apps at the start. Raises StartError if a secret cannot be used."""
        for tenant in self._tenants.all():
            try:
                self._take(tenant, secret_of(tenant))
            except BadKey as bad:
                raise StartError(f"apps.{tenant.name}.{bad}") from None

    def reload(self, _config: Config) -> None:
        """Take all apps again, with their secrets from files (SIGHUP)."""
        tenants = self._tenants.all()
        for name in self._secrets.keys() - {tenant.name for tenant in tenants}:
            self.deleted(name)
        for tenant in tenants:
            self.changed(tenant)

    def changed(self, tenant: Tenant) -> None:
        """Take a new or changed app. If its secret cannot be used, its earlier one stays."""
        try:
            secret = secret_of(tenant)
        except BadKey as bad:
            log.error("apps.%s.%s", tenant.name, bad)
            secret = self._secrets.get(tenant.name, b"")
        self._take(tenant, secret)

    def deleted(self, app: str) -> None:
        """An app was deleted: its back end is sent nothing more."""
        self._secrets.pop(app, None)
        self._webhooks.reviews.set(app, None)
        self._webhooks.back_ends.set(app, None)
        self._webhooks.set(app, None)

    def _take(self, tenant: Tenant, secret: bytes) -> None:
        app, url = tenant.name, tenant.webhook.authorise_url
        self._secrets[app] = secret
        self._webhooks.reviews.set(app, review_of(app, tenant, secret))
        self._webhooks.back_ends.set(
            app,
            BackEndHook(app, tenant.back_ends, secret) if tenant.back_ends.urls else None,
            AuthoriseHook(app, url, secret) if url else None,
            is_ready=bool(secret),
        )
        self._webhooks.set(app, receiver_of(app, tenant, secret))
