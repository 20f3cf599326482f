"""Webhooks in the settings of apps: receivers of events, of reviews, and of decisions about clients."""

from __future__ import annotations

from typing import Final

from imserver.features.webhooks.back_ends import BackEndHook
from imserver.features.webhooks.declared import secret_of
from imserver.features.webhooks.requests import AuthoriseHook, Receiver
from imserver.features.webhooks.reviews import ReviewHook
from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin.identity import AppSecrets, Tenant, Tenants
from imserver.plugin.settings import TenantSettings

EVENTS: Final = frozenset({"connect", "disconnect", "login", "message", "group", "account", "absent"})
"""Events that a back end receives if its app selects none. Those of channels and notifications are too many.
"""


def receiver_of(app: str, settings: TenantSettings, secret: bytes) -> Receiver | None:
    """The receiver of the events of an app. None: there is none, or no secret to sign with."""
    webhook = settings.webhook
    if not ((webhook.url and secret) or (webhook.events and not webhook.url)):
        return None
    return Receiver(app, webhook.url, secret, frozenset(webhook.events) or EVENTS, webhook.absent_seconds)


def follow_apps(tenants: Tenants, webhooks: Webhooks) -> AppSecrets:
    """Let the webhooks have the settings and secrets of all apps."""

    def take(tenant: Tenant, secret: bytes) -> None:
        app, hook, back_ends = tenant.name, tenant.webhook, tenant.back_ends
        review = ReviewHook(app, hook.review_url, secret, hook.review_seconds, hook.review_failure == "allow")
        decides = BackEndHook(
            app,
            secret,
            back_ends.urls,
            back_ends.seconds,
            back_ends.headers,
            back_ends.emulated_headers,
        )
        authorise = AuthoriseHook(app, hook.authorise_url, secret)
        webhooks.reviews.set(app, review if hook.review_url else None)
        webhooks.back_ends.set(
            app,
            decides if back_ends.urls else None,
            authorise if hook.authorise_url else None,
            is_ready=bool(secret),
        )
        webhooks.set(app, receiver_of(app, tenant, secret))

    def forget(app: str) -> None:
        webhooks.reviews.set(app, None)
        webhooks.back_ends.set(app, None)
        webhooks.set(app, None)

    return AppSecrets(tenants, secret_of, take, forget)
