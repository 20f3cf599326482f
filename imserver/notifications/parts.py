"""The parts of notifications on one node."""

from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from msgspec import Struct

from imserver.backends.webhooks import webhooks_of
from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.backends.webhooks.feeds import Feeds
from imserver.notifications.audiences import AudienceRows, Audiences
from imserver.notifications.declared import (
    AN_HOUR,
    SUBSCRIPTION_REQUESTS,
    SUBSCRIPTIONS,
    TEST_REQUESTS,
    TESTS,
    VAPID,
    AppNotifySettings,
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
    """The services of notifications, for routes and other features."""

    core: Core
    messages: MessageServices
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
    """Return the services of notifications on a node."""
    return core.service(NotificationParts)


class _Shared(Struct, frozen=True):
    """The objects that several services of notifications share.

    ``lease``: the node that has it decides about notifications, and sends them.
    ``rules`` returns the rules of an app, or None if there is no such app.
    """

    core: Core
    settings: NotificationSettings
    feeds: Feeds
    messages: MessageServices
    services: DeviceServices
    rows: NotificationRows
    tokens: ActionTokens
    recipients: Recipients
    lease: DeliveryLease
    rules: Callable[[str], AppNotifySettings | None]


def build(core: Core) -> Parts:
    """Build the services of notifications, and connect them with the core.

    The notifier decides who is notified. Deliveries go to push services, mails
    to the mail server. Two greenlets run: the notifier, and the sender of
    deliveries.
    """
    webhooks = webhooks_of(core)
    shared = _make_shared(core, webhooks.feeds)
    webpush = _make_webpush(shared)
    deliveries = _make_deliveries(shared, webpush)
    notifier = _make_notifier(shared, deliveries)
    mails = _make_mails(shared, notifier)
    pushes = PushNotifications(shared.rows, deliveries.wake, shared.rules)
    audiences = _make_audiences(shared, deliveries, pushes)
    # From here on the services call each other, and the core calls them.
    notifier.report_to(got_lease=deliveries.restart)
    notifier.report_to(got_lease=mails.restart, mail_due=mails.note_due)
    notifier.report_to(renewed=audiences.look)
    shared.messages.receipts.report_to(notifier.note_read)
    accounts_of(core).accounts.report_to(shared.rows.remove_endpoints)
    webhooks.report_to(pushes.absent)

    make_buckets = partial(core.buckets.make, seconds=AN_HOUR, shared=core.attempt)
    parts = NotificationParts(
        core=core,
        messages=shared.messages,
        rows=shared.rows,
        notifier=notifier,
        webpush=webpush,
        services=shared.services,
        tokens=shared.tokens,
        pushes=pushes,
        audiences=audiences,
        deliveries=deliveries,
        mails=mails,
        subscriptions=make_buckets(SUBSCRIPTIONS, SUBSCRIPTION_REQUESTS),
        tests=make_buckets(TESTS, TEST_REQUESTS),
    )
    return Parts(
        (parts, _erasure(parts)),
        run=(notifier.work.run, deliveries.run),
        stop=partial(_stop, parts),
    )


def _stop(parts: NotificationParts) -> None:
    """End the services that add deliveries first, and then the sender."""
    parts.audiences.stop()
    parts.deliveries.stop()
    parts.mails.stop()
    parts.notifier.stop()
    parts.webpush.close()
    parts.services.close()


def _make_shared(core: Core, feeds: Feeds) -> _Shared:
    """Build the objects that several services share."""
    services = DeviceServices(core.all_of(PushService))  # type: ignore[type-abstract]
    return _Shared(
        core=core,
        settings=settings_of(core.config, NotificationSettings),
        feeds=feeds,
        messages=core.service(MessageServices),
        services=services,
        rows=NotificationRows(
            core.store, services.host_of, added=feeds.added, known=feeds.events.known
        ),
        tokens=ActionTokens(core.node.keys_for("notification tokens")),
        recipients=Recipients(core.store, core.relations, core.sessions.is_banned),
        lease=DeliveryLease(),
        rules=partial(rules_in, core.tenants),
    )


def _make_webpush(shared: _Shared) -> WebPush:
    """Build the sender of Web Push, with the key of this server."""
    core = shared.core
    settings = shared.settings
    requests = PublicRequests(
        settings.allow_loopback, connections=settings.requests_per_host
    )
    # The second key, if there is one, is that of the earlier server secret.
    key, *older_keys = core.node.keys_for(VAPID)
    return WebPush(requests, settings, key, core.config.address, *older_keys)


def _make_deliveries(shared: _Shared, webpush: WebPush) -> Deliveries:
    """Build the service that sends notifications to devices."""
    return Deliveries(
        rows=shared.rows,
        webpush=webpush,
        services=shared.services,
        is_read=shared.recipients.are_over,
        lease=shared.lease,
        wants=shared.feeds.wants,
        requests_per_host=shared.settings.requests_per_host,
        recent=RecentDeliveries(shared.core),
    )


def _make_notifier(shared: _Shared, deliveries: Deliveries) -> Notifier:
    """Build the service that decides which users a stored message notifies."""
    core = shared.core
    return Notifier(
        store=core.store,
        rows=shared.rows,
        events=shared.feeds.events,
        watch=shared.messages.messaging.follower.watch,
        node=lambda: core.node_name,
        rules_of=shared.rules,
        accounts_of=accounts_of(core).tokens.those_of,
        recipients=shared.recipients,
        lease=shared.lease,
        wake=deliveries.wake,
        make_token=shared.tokens.make,
    )


def _make_mails(shared: _Shared, notifier: Notifier) -> Mails:
    """Build the service that mails about unread messages."""
    core = shared.core
    tokens = shared.tokens
    server = core.config.address
    pages = f"{server}/api/v1/notifications"

    def page_of(app: str) -> str:
        """Only the app of the built-in chat has a page."""
        if app != GOCHAT:
            return ""
        return chat_page_of(core)

    def stop_url(app: str, user: str) -> str:
        """The link by which the user ends the mails."""
        return f"{pages}/unsubscribe?token={tokens.make_mail(app, user)}"

    def answer_url(app: str, user: str, entry: int) -> str:
        """The link by which the user answers the question ``entry``."""
        return f"{pages}/answer?token={tokens.make_ask(app, user, entry)}"

    # ``apps`` is a function, because the notifier learns the apps later.
    return Mails(
        core=core,
        rows=shared.rows,
        smtp=settings_of(core.config, SmtpSettings),
        lease=shared.lease,
        apps=lambda: notifier.apps,
        page_of=page_of,
        stop_url=stop_url,
        answer_url=answer_url,
        site=urlsplit(server).netloc,
        wants=shared.feeds.wants,
    )


def _make_audiences(
    shared: _Shared, deliveries: Deliveries, pushes: PushNotifications
) -> Audiences:
    """Build the service that sends one notification to many users."""
    core = shared.core
    return Audiences(
        store=core.store,
        rows=AudienceRows(core.store),
        pushes=pushes,
        lease=shared.lease,
        node=lambda: core.node_name,
        wake=deliveries.wake,
        still_holds=core.still_holds,
    )


def _erasure(parts: NotificationParts) -> Erasure:
    """Return the functions that erase a user or an app from notifications.

    The rows of the user itself are erased by the tables' declarations.
    """
    recent = parts.deliveries.recent

    def erase_user(app: str, user: str, _name: str) -> None:
        """Erase a user from notifications to others, and from memory."""
        parts.rows.erase_about(app, user)
        parts.audiences.rows.erase_user(app, user)
        recent.forget(app, user)

    return Erasure(frozenset(), erase_user, recent.forget)
