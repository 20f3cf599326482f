"""The parts of webhooks on one node, and what the settings of apps make of them."""

from __future__ import annotations

from functools import partial
from typing import Final

from imserver.features.webhooks.back_ends import BackEndHook
from imserver.features.webhooks.declared import secret_of
from imserver.features.webhooks.erasure import erase_user
from imserver.features.webhooks.occupancy import Occupancy
from imserver.features.webhooks.requests import AuthoriseHook, Receiver
from imserver.features.webhooks.reviews import ReviewHook
from imserver.features.webhooks.webhooks import QUERY, Webhooks
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.identity import AppSecrets, Tenant, Tenants
from imserver.plugin.services import Core, Foundation
from imserver.plugin.settings import TenantSettings
from imserver.plugin.storage import Erasure

_LAST_SECONDS: Final = 2.0
"""Time limit for sending the last events."""


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
            app, secret, back_ends.urls, back_ends.seconds, back_ends.headers, back_ends.emulated_headers
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


def webhooks_of(core: Core) -> Webhooks:
    """The webhooks of a node."""
    return core.service(Webhooks)


def answers(base: Foundation) -> Answers:
    """Build what answers the questions of the core, before there are logins."""
    registry = base.cluster.registry
    webhooks = Webhooks(
        base.network.outgoing, base.table.id_of, lambda: registry.lease.node, base.storage.store
    )
    return Answers(reviews=webhooks.reviews, back_ends=webhooks.back_ends, observer=webhooks)


def build(core: Core) -> FeatureParts:
    """Build what uses the services of the core."""
    webhooks = webhooks_of(core)
    core.cluster.queries.add(QUERY, list[str], webhooks.parts_of)
    apps = follow_apps(core.identity.tenants, webhooks)
    registrar = core.channels.registrar
    Occupancy(
        core.channels, core.sessions.table.id_of, webhooks, None if registrar is None else registrar.on_empty
    )
    if "messages" in core.features:
        # Imported here: a node without stored messages saves the memory.
        from imserver.features.webhooks.absences import Absences
        from imserver.plugin.messages import MessageLog, MessageServices

        store, accounts = core.storage.store, core.identity.accounts
        webhooks.feeds.log = store.part(MessageLog)
        Absences(webhooks.feeds, core.sessions, core.cluster.registry.healthy, store, accounts.those_of)
        core.service(MessageServices).observers.append(webhooks)
    return FeatureParts(
        webhooks,
        prepare=apps.prepare,
        reload=apps.reload,
        run=(webhooks.feeds.run, partial(webhooks.run, core.config.storage.expire_seconds)),
        erasure=Erasure(frozenset(), partial(erase_user, core.storage.store), lambda _: None),
        finish=lambda: webhooks.stop(_LAST_SECONDS),
    )
