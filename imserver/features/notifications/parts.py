"""The parts of notifications on one node."""

from __future__ import annotations

from msgspec import Struct

from imserver.config.settings import settings_of
from imserver.core.core import Core, FeatureParts
from imserver.features.notifications.notifier import Notifier
from imserver.features.notifications.rows import NotificationRows
from imserver.features.notifications.settings import AppNotifySettings, NotificationSettings, rules_of
from imserver.features.notifications.tokens import ActionTokens
from imserver.features.notifications.webpush import WebPush
from imserver.features.webhooks import webhooks_of
from imserver.streams.consumer import DeliveryLease
from imserver.transport.public_requests import PublicRequests


class NotificationParts(Struct, frozen=True):
    """The services for routes and other features."""

    rows: NotificationRows
    notifier: Notifier
    webpush: WebPush
    tokens: ActionTokens


def notifications_of(core: Core) -> NotificationParts:
    """The parts of notifications on a node."""
    parts: NotificationParts = core.features["notifications"].service
    return parts


def build(core: Core) -> FeatureParts:
    """Build them, and join them to the core."""
    feeds = webhooks_of(core).feeds
    settings = settings_of(core.config, NotificationSettings)
    rows = NotificationRows(core.store)
    rows.added = feeds.added
    lease = DeliveryLease()
    requests = PublicRequests(settings.allow_loopback)
    webpush = WebPush(requests, settings, core.key_for("vapid"), core.config.app.http_url)
    tokens = ActionTokens(core.key_for("notification tokens"))

    def rules(app: str) -> AppNotifySettings | None:
        tenant = core.tenants.get(app)
        return None if tenant is None else rules_of(tenant)

    notifier = Notifier(
        core.store,
        rows,
        feeds.events,
        core.messaging.follower,
        lambda: core.registry.lease.node,
        rules,
        core.accounts,
        core.relations,
        lease,
        wake=lambda: None,
    )
    core.receipts.on_read.append(notifier.read)
    return FeatureParts(
        NotificationParts(rows, notifier, webpush, tokens),
        run=(notifier.run,),
        drain=notifier.stop,
        stop=webpush.close,
    )
