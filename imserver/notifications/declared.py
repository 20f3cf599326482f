"""The declarations of the feature: settings, problems and tables."""

import re
from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import about
from imserver.plugin.identity import Rate, Tenants
from imserver.plugin.settings import (
    Amount,
    Config,
    Locations,
    Secret,
    TenantSettings,
    app_settings_of,
    settings_of,
)
from imserver.plugin.storage import Reason, Table
from imserver.plugin.wire import base64url

VAPID: Final = "vapid"
"""The purpose of the derived secret from which the key for push services is
made."""
AN_HOUR: Final = 3600.0
SUBSCRIPTION_REQUESTS: Final = 60
TEST_REQUESTS: Final = 60
SUBSCRIPTIONS: Final = Rate(
    "notify_endpoint",
    "endpoints that users add",
    "user",
    f"{SUBSCRIPTION_REQUESTS} an hour",
)
TESTS: Final = Rate(
    "notify_test", "tests of notifications", "user", f"{TEST_REQUESTS} an hour"
)
P256_BYTES: Final = 32
P256_ORDER: Final = (
    0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
)
"""The order of the curve P-256: its private keys are the numbers below it,
except 0."""


class NotificationSettings(Struct, frozen=True):
    """Section ``notifications``.

    ``vapid_key``: the private key (P-256, base64url of 32 bytes) by which push
    services know this server; ``""``: a key that is derived from the secret of
    the server. ``contact``: a ``mailto:`` or ``https:`` address for their
    operators. ``allow_loopback``: endpoints may be on this machine, also with
    http. For development.
    """

    vapid_key: Secret = ""
    contact: str = ""
    endpoints: Amount = 20
    """Most endpoints of a user; a new one replaces the oldest."""
    requests_per_host: Annotated[int, Meta(ge=1, le=256)] = 16
    """Requests to one push service at a time."""
    allow_loopback: bool = False


class AppNotifySettings(Struct, frozen=True):
    """The rules of an app."""

    enabled: Annotated[bool, about("Whether users can be notified.")] = True
    after_seconds: Annotated[
        float,
        about(
            "The delay in seconds after which a user is notified of an unread message, "
            "offline or online. It does not change `webhook.absent_seconds`, the delay "
            "after which the back end is told that a user is offline.",
            api={"ge": 0, "le": 86400},
        ),
    ] = 10.0
    again_seconds: Annotated[
        float,
        about(
            "The least time between two notifications of the same conversation to a "
            "user.",
            api={"ge": 0, "le": 86400},
        ),
    ] = 60.0
    preview: Annotated[
        bool, about("Whether notifications may show the text of messages.")
    ] = True
    audience_per_second: Annotated[
        int,
        about(
            "The maximum number of notifications per second to large audiences.",
            api={"ge": 1, "le": 100_000},
        ),
    ] = 1000


class NotifyOfApp(Struct, frozen=True):
    """The keys of an app."""

    notify: AppNotifySettings = AppNotifySettings()


def rules_of(tenant: TenantSettings) -> AppNotifySettings:
    """Return the notification rules of an app."""
    return app_settings_of(tenant, NotifyOfApp).notify


def rules_in(tenants: Tenants, app: str) -> AppNotifySettings | None:
    """Return the notification rules of an app, by its name.

    None: there is no such app. Never switches greenlets.
    """
    tenant = tenants.get(app)
    if tenant is None:
        return None
    return rules_of(tenant)


def check(config: Config, locations: Locations) -> Iterator[tuple[str, str]]:
    """Check the settings beyond their types.

    Raises ConfigError for a value that cannot work. Yields (setting, reason)
    for values that work, but that a careful operator would change.
    """
    settings = settings_of(config, NotificationSettings)
    if not re.fullmatch(r"(mailto:[^\s@<>]+@[^\s@<>]+|https://\S+)?", settings.contact):
        raise locations.wrong(
            "notifications.contact", "expected a mailto: or https: address"
        )
    if settings.vapid_key and not _is_private_key(settings.vapid_key):
        raise locations.wrong(
            "notifications.vapid_key",
            "expected a private key of P-256: 32 bytes in base64url",
        )
    if settings.allow_loopback:
        yield (
            "notifications.allow_loopback",
            "users can send requests to this machine; set it to false",
        )


SETTINGS: Final = SettingsRow(
    {"notifications": NotificationSettings, "apps.*": NotifyOfApp}, check=check
)


HTTP_NOTIFICATIONS_OFF: Final = HttpProblem(
    403, "notifications_off", "This app sends no notifications (notify.enabled)."
)
HTTP_UNKNOWN_ENDPOINT: Final = HttpProblem(
    404, "unknown_endpoint", "The user has no such endpoint."
)
HTTP_UNKNOWN_NOTIFICATION: Final = HttpProblem(
    404,
    "unknown_notification",
    "The token is wrong or expired, or its endpoint is gone.",
)
HTTP_UNKNOWN_AUDIENCE: Final = HttpProblem(
    404, "unknown_audience", "The app has no such audience, or it ended long ago."
)

_QUEUE: Final = Reason("it is due, and is gone when it is sent")

TABLES: Final = (
    Table(
        name="notify_app",
        types="app name500*, entry_id big",
        of_user=Reason("how far the log of the app was looked through"),
    ),
    Table(
        name="notify_endpoint",
        types="""id serial out, app name500, member name255 out user, digest name64, url blob, p256dh name100,
            auth name40, device name500 out, language name16 out, enabled small out, login big out,
            created big out""",
        # The address and the keys are left out: with them, anybody could notify
        # the user.
        imported=Reason(
            "the device subscribes again: without its keys nothing can be sent to it"
        ),
    ),
    Table(
        name="notify_person",
        types="""app name500*, member name255* out user, wishes blob out, mail small out,
            mail_due big empty, mailed big out, mailed_id big empty, mailed_marks big empty""",
    ),
    Table(
        name="notify_conversation",
        types="""app name500*, member name255* out user, conversation big* out, level small out,
            muted_until big out""",
    ),
    Table(
        name="notify_due",
        types="""app name500*, member name255* out user, conversation big* out, entry_id big out, due big out,
            notified_id big out, notified_at big out""",
        imported=_QUEUE,
    ),
    Table(
        name="notify_audience",
        types="""id serial, app name500, name name64, kind name16, target blob, content blob, state small,
            last_user name255, users big, queued big, taken big, gone big, refused big, created big,
            ended big""",
        of_user=Reason(
            "names of users go with them, or when it has ended, and the rest a week later"
        ),
    ),
    Table(
        name="notify_delivery",
        types="""id serial, app name500, member name255 user, endpoint int, host name255, kind name16,
            conversation big, entry_id big, topic name32, ttl int, next_try big, attempts int, created big,
            body blob words, audience int=0""",
        of_user=_QUEUE,
        erase_user=("DELETE FROM notify_delivery WHERE app = %s AND member = %s",),
    ),
)
"""In the order of their deletion."""


def _is_private_key(text: str) -> bool:
    """Whether a text is a private key of P-256: 32 bytes in base64url."""
    try:
        content = base64url.decode_any_form(text)
    except ValueError:
        return False
    return len(content) == P256_BYTES and 0 < int.from_bytes(content) < P256_ORDER
