"""Notifications without a stored message: pushes with ``notify`` to users who
are offline, and tests."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from secrets import token_bytes
from time import time
from typing import Final

from msgspec import Raw, Struct, field

from imserver.notifications.content import (
    TEXT_CHARACTERS,
    TOPIC_BYTES,
    delivery_to,
    in_words,
    language_of,
    ttl_of,
    with_wishes,
)
from imserver.notifications.contract import (
    SECOND_MS,
    Delivery,
    PushEndpoint,
    Shown,
    Wishes,
)
from imserver.notifications.decisions import quiet_until
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.rows import NotificationRows
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.runtime import (
    RateLimitedLog,
    is_long_turn,
    serve_others,
    steady_time,
)
from imserver.plugin.wire import Event, Notify, base64url

log = logging.getLogger(__name__)
_lost: Final = RateLimitedLog(log, "notifications of pushes were not stored: %s")

TEST_TTL_SECONDS: Final = 600
"""How long push services keep a test."""
DATA_BYTES: Final = 1024
"""The longest ``data`` of a push that a notification contains, in bytes. Push
services accept 4096 bytes in all."""
_TEST: Final = "test"


class PushNotifications(Struct, frozen=True):
    """Notifies users of pushes that they missed because they were offline.

    A *push* is an event that a back end sends and the server does not store. It
    leads to a notification if it has ``notify``, and if its user has a device
    with an endpoint.

    ``wake`` is called when there are new deliveries. ``rules``: app → its
    rules. A push without ``notify`` costs one comparison. A push to users
    without endpoints costs one query.
    """

    rows: NotificationRows
    wake: Callable[[], object]
    rules: Callable[[str], AppNotifySettings | None]
    lost: Counter[str] = field(default_factory=Counter)
    """App → users for whom the notification of a push could not be stored."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """Notify users who are offline of pushes. ``pushes``: (user, push).

        Switches greenlets if a push has ``notify``. If the database does not
        answer, the notifications are lost and counted: the push itself was
        successful, so nothing is raised.
        """
        wanted = [
            (user, event, notify)
            for user, event in pushes
            if event.notify and (notify := Notify.of_event(event.notify)) is not None
        ]
        if not wanted:
            return
        rules = self.rules(app)
        if rules is None or not rules.enabled:
            return

        try:
            self._queue(self.deliveries(app, rules, wanted))
        except StorageUnavailable as error:
            self.lost[app] += len(wanted)
            _lost(error)

    def _queue(self, deliveries: Sequence[Delivery]) -> None:
        """Store deliveries, and wake the greenlets that send them.

        Without endpoints there is nothing to store. Switches greenlets. Raises
        StorageUnavailable.
        """
        if deliveries:
            self.rows.add_deliveries(deliveries)
            self.wake()

    def deliveries(
        self,
        app: str,
        rules: AppNotifySettings,
        wanted: Sequence[tuple[str, Event, Notify]],
        audience: int = 0,
    ) -> list[Delivery]:
        """Make the notifications of pushes for their users' devices.

        In quiet hours of a user they wait for the end of these hours.
        ``wanted``: (user, push, its ``notify``). ``audience``: the id of the
        audience that the notifications belong to; 0: no audience. Switches
        greenlets. Raises StorageUnavailable.
        """
        users = list(dict.fromkeys(user for user, _, _ in wanted))
        endpoints = self.rows.endpoints(app, users)
        if not endpoints:
            return []
        wishes = self.rows.wishes(app, list(endpoints))

        now = time()
        deliveries: list[Delivery] = []
        for user, event, notify in wanted:
            user_wishes = wishes.get(user, Wishes())
            preview = rules.preview and user_wishes.preview
            topic = _topic_of(app, notify)
            # On the device, a later push with this tag replaces it.
            tag = notify.tag or event.id or topic
            next_try = _first_try(user_wishes, now)
            for endpoint in endpoints.get(user, ()):
                if not endpoint.enabled:
                    continue
                notice = shown_of_push(
                    event, notify, tag, endpoint.language, preview, now
                )
                if is_long_turn():
                    serve_others()
                deliveries.append(
                    delivery_to(
                        endpoint,
                        notice,
                        topic,
                        ttl=ttl_of(notify),
                        now=now,
                        next_try=next_try,
                        audience=audience,
                    )
                )
        return deliveries


def _first_try(wishes: Wishes, now: float) -> int:
    """Return when a notification may be sent: after the user's quiet hours.

    ``now``: Unix seconds. The result is in milliseconds of :func:`steady_time`;
    0: at once.
    """
    quiet_end = quiet_until(wishes.quiet, int(now * SECOND_MS))
    if not quiet_end:
        return 0
    # Deliveries have times of another clock, which nobody can set.
    return quiet_end + int((steady_time() - now) * SECOND_MS)


def _topic_of(app: str, notify: Notify) -> str:
    """Return the topic of a push, by which a later push replaces it.

    The topic is made from the tag of the push. Without a tag it is unique, so
    that nothing replaces the push.
    """
    if notify.tag:
        named = f"{app}\0 {notify.tag}"
        digest = sha256(named.encode()).digest()[:TOPIC_BYTES]
    else:
        digest = token_bytes(TOPIC_BYTES)
    return base64url.encode(digest)


def shown_of_push(
    event: Event, notify: Notify, tag: str, language: str, preview: bool, now: float
) -> Shown:
    """Return the content of the notification of a push.

    Fields that ``notify`` leaves out are made from the push: the sender is the
    title, the text is the body. ``preview`` False: the texts are hidden.
    ``now``: Unix seconds.
    """
    shown_language = language_of(language)
    text = ""
    data = None
    if not preview:
        text = in_words(shown_language, "hidden")
    else:
        # Only the text of a push can be read by people.
        if event.type == "text":
            text = event.text[:TEXT_CHARACTERS]
        if 0 < len(event.data) <= DATA_BYTES:
            data = Raw(event.data)

    content = Shown(
        kind="push",
        tag=tag,
        title=event.sender or in_words(shown_language, "app"),
        body=text,
        time=int(now * SECOND_MS),
        data=data,
    )
    return with_wishes(content, notify, preview)


def delivery_of_test(endpoint: PushEndpoint, now: float) -> Delivery:
    """Return a test notification, in the language of the endpoint.

    A later test replaces it. ``now``: Unix seconds.
    """
    language = language_of(endpoint.language)
    title = in_words(language, "test")
    text = in_words(language, "test_text")
    shown = Shown(_TEST, _TEST, title, text, time=int(now * SECOND_MS))
    return delivery_to(endpoint, shown, _TEST, TEST_TTL_SECONDS, now)
