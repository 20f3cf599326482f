"""The parts of notifications on one node."""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from imserver.config.settings import settings_of
from imserver.core.core import Core, FeatureParts
from imserver.features.notifications.delivery import Deliveries
from imserver.features.notifications.notifier import Notifier
from imserver.features.notifications.pushes import PushNotifications
from imserver.features.notifications.rows import NotificationRows
from imserver.features.notifications.settings import VAPID, NotificationSettings, rules_in
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
    pushes: PushNotifications
    deliveries: Deliveries


def notifications_of(core: Core) -> NotificationParts:
    """The parts of notifications on a node."""
    parts: NotificationParts = core.features["notifications"].service
    return parts


def build(core: Core) -> FeatureParts:
    """Build them, and join them to the core."""
    webhooks = webhooks_of(core)
    feeds = webhooks.feeds
    settings = settings_of(core.config, NotificationSettings)
    rows = NotificationRows(core.store)
    rows.added = feeds.added
    lease = DeliveryLease()
    requests = PublicRequests(settings.allow_loopback)
    webpush = WebPush(requests, settings, core.key_for(VAPID), core.config.app.http_url)
    tokens = ActionTokens(core.key_for("notification tokens"))
    rules = partial(rules_in, core.tenants)

    def wake() -> None:
        deliveries.wake()

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
        wake,
        tokens.make,
    )
    deliveries = Deliveries(rows, webpush, notifier.is_read, lease, feeds.wants, settings.requests_per_host)
    notifier.on_lease.append(deliveries.restart)
    core.receipts.on_read.append(notifier.read)
    pushes = PushNotifications(rows, deliveries.wake, rules)
    webhooks.on_absent.append(pushes.absent)

    def drain() -> None:
        deliveries.stop()
        notifier.stop()

    return FeatureParts(
        NotificationParts(rows, notifier, webpush, tokens, pushes, deliveries),
        run=(notifier.run, deliveries.run),
        drain=drain,
        stop=webpush.close,
    )
