"""The parts of notifications on one node."""

from functools import partial
from urllib.parse import urlsplit

from msgspec import Struct

from imserver.backends.webhooks import webhooks_of
from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.notifications.audiences import AudienceRows, Audiences
from imserver.notifications.declared import (
    AN_HOUR,
    SUBSCRIPTION_REQUESTS,
    SUBSCRIPTIONS,
    TEST_REQUESTS,
    TESTS,
    VAPID,
    NotificationSettings,
    rules_in,
)
from imserver.notifications.delivery import Deliveries
from imserver.notifications.device_services import DeviceServices
from imserver.notifications.mail import Mails
from imserver.notifications.notifier import Notifier
from imserver.notifications.pushes import PushNotifications
from imserver.notifications.recent import RecentDeliveries
from imserver.notifications.recipients import Recipients
from imserver.notifications.rows import NotificationRows
from imserver.notifications.tokens import ActionTokens
from imserver.notifications.webpush import WebPush
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.parts import accounts_of, chat_page_of
from imserver.plugin import Parts
from imserver.plugin.identity import GOCHAT, Buckets
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import PublicRequests
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Erasure
from imserver.plugin.wire import PushService


class NotificationParts(Struct, frozen=True):
    """The services for routes and other features."""

    core: Core
    rows: NotificationRows
    notifier: Notifier
    webpush: WebPush
    services: DeviceServices
    tokens: ActionTokens
    pushes: PushNotifications
    audiences: Audiences
    deliveries: Deliveries
    mails: Mails
    subscriptions: Buckets
    tests: Buckets


def notifications_of(core: Core) -> NotificationParts:
    """The parts of notifications on a node."""
    return core.service(NotificationParts)


def build(core: Core) -> Parts:
    """Build them, and join them to the core."""
    webhooks = webhooks_of(core)
    feeds = webhooks.feeds
    settings = settings_of(core.config, NotificationSettings)
    services = DeviceServices(core.all_of(PushService))  # type: ignore[type-abstract]
    rows = NotificationRows(core.store, services.host_of)
    rows.added, rows.known = feeds.added, feeds.events.known
    lease = DeliveryLease()
    requests = PublicRequests(
        settings.allow_loopback, connections=settings.requests_per_host
    )
    key, *before = core.node.keys_for(VAPID)
    webpush = WebPush(requests, settings, key, core.config.address, *before)
    tokens = ActionTokens(core.node.keys_for("notification tokens"))
    rules = partial(rules_in, core.tenants)
    recipients = Recipients(core.store, core.relations, core.sessions.is_banned)

    notifier = Notifier(
        store=core.store,
        rows=rows,
        events=feeds.events,
        watch=core.service(MessageServices).messaging.follower.watch,
        node=lambda: core.node_name,
        rules_of=rules,
        accounts_of=accounts_of(core).tokens.those_of,
        recipients=recipients,
        lease=lease,
        wake=lambda hosts: deliveries.wake(hosts),
        make_token=tokens.make,
        mail=lambda app, at: mails.is_due(app, at),
    )
    server = core.config.address
    pages = f"{server}/api/v1/notifications"
    mails = Mails(
        core=core,
        rows=rows,
        smtp=settings_of(core.config, SmtpSettings),
        lease=lease,
        apps=lambda: notifier.apps,
        page_of=lambda app: chat_page_of(core) if app == GOCHAT else "",
        stop_url=lambda app, user: (
            f"{pages}/unsubscribe?token={tokens.make_mail(app, user)}"
        ),
        answer_url=lambda app, user, entry: (
            f"{pages}/answer?token={tokens.make_ask(app, user, entry)}"
        ),
        site=urlsplit(server).netloc,
        wants=feeds.wants,
    )
    deliveries = Deliveries(
        rows=rows,
        webpush=webpush,
        services=services,
        is_read=recipients.are_over,
        lease=lease,
        wants=feeds.wants,
        requests_per_host=settings.requests_per_host,
        recent=RecentDeliveries(core),
    )
    notifier.on_lease += [deliveries.restart, mails.restart]
    core.service(MessageServices).receipts.on_read.append(notifier.read)
    accounts_of(core).accounts.on_logout.append(rows.remove_endpoints)
    pushes = PushNotifications(rows, deliveries.wake, rules)
    webhooks.on_absent.append(pushes.absent)
    audiences = Audiences(
        store=core.store,
        rows=AudienceRows(core.store),
        pushes=pushes,
        lease=lease,
        node=lambda: core.node_name,
        wake=deliveries.wake,
        still_holds=core.still_holds,
    )
    notifier.on_renew.append(audiences.look)

    def erase_user(app: str, user: str, _name: str) -> None:
        rows.erase_about(app, user)
        audiences.rows.erase_user(app, user)
        deliveries.recent.forget(app, user)

    def stop() -> None:
        audiences.stop()
        deliveries.stop()
        mails.stop()
        notifier.stop()
        webpush.close()
        services.close()

    buckets, attempt = core.buckets, core.attempt
    parts = NotificationParts(
        *(
            core,
            rows,
            notifier,
            webpush,
            services,
            tokens,
            pushes,
            audiences,
            deliveries,
            mails,
        ),
        subscriptions=buckets.make(
            SUBSCRIPTIONS, SUBSCRIPTION_REQUESTS, AN_HOUR, attempt
        ),
        tests=buckets.make(TESTS, TEST_REQUESTS, AN_HOUR, attempt),
    )
    return Parts(
        (parts, Erasure(frozenset(), erase_user, deliveries.recent.forget)),
        run=(notifier.work.run, deliveries.run),
        stop=stop,
    )
