"""Notifications of what is not stored: pushes with ``notify`` to users who are
offline, and tests."""

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
    delivery_to,
    in_words,
    language_of,
    ttl_of,
    with_wishes,
)
from imserver.notifications.contract import Delivery, PushEndpoint, Shown, Wishes
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

DATA_BYTES: Final = 1024
"""Longest ``data`` of a push that is sent along: push services take 4096 bytes
in all."""
_TEST: Final = "test"


class PushNotifications(Struct, frozen=True):
    """Hears of pushes to users who are offline, and adds deliveries for those
    with endpoints.

    ``wake`` says that there are new ones; ``rules`` are those of an app. A push
    without ``notify`` costs one comparison, one to users without endpoints one
    query.
    """

    rows: NotificationRows
    wake: Callable[[], object]
    rules: Callable[[str], AppNotifySettings | None]
    lost: Counter[str] = field(default_factory=Counter)
    """App → users for whom the notification of a push could not be stored."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """(user, push) for users who are offline. Switches if a push has
        ``notify``. Never raises StorageUnavailable: the push itself has been
        carried out."""
        wanted = [
            (user, event, notify)
            for user, event in pushes
            if event.notify and (notify := Notify.of_event(event.notify)) is not None
        ]
        rules = self.rules(app) if wanted else None
        if rules is None or not rules.enabled:
            return
        try:
            deliveries = self.deliveries(app, rules, wanted)
            if deliveries:
                self.rows.add_deliveries(deliveries)
                self.wake()
        except StorageUnavailable as error:
            self.lost[app] += len(wanted)
            _lost(error)

    def deliveries(
        self,
        app: str,
        rules: AppNotifySettings,
        wanted: Sequence[tuple[str, Event, Notify]],
        audience: int = 0,
    ) -> list[Delivery]:
        """The deliveries of (user, push, its ``notify``). Switches. Raises
        StorageUnavailable."""
        endpoints = self.rows.endpoints(
            app, list(dict.fromkeys(user for user, _, _ in wanted))
        )
        if not endpoints:
            return []
        wishes = self.rows.wishes(app, list(endpoints))
        now = time()
        deliveries: list[Delivery] = []
        for user, event, notify in wanted:
            wished = wishes.get(user, Wishes())
            # A push without a tag has a topic of its own.
            if notify.tag:
                digest = sha256(f"{app}\0 {notify.tag}".encode()).digest()[:24]
            else:
                digest = token_bytes(24)
            topic = base64url.encode(digest)
            tag = notify.tag or event.id or topic
            quiet = quiet_until(wished.quiet, int(now * 1000))
            if quiet:
                next_try = quiet + int((steady_time() - now) * 1000)
            else:
                next_try = 0
            for endpoint in endpoints.get(user, ()):
                if endpoint.enabled:
                    preview = rules.preview and wished.preview
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
                            ttl_of(notify),
                            now,
                            next_try=next_try,
                            audience=audience,
                        )
                    )
        return deliveries


def shown_of_push(
    event: Event, notify: Notify, tag: str, language: str, preview: bool, now: float
) -> Shown:
    """The notification of a push. What ``notify`` leaves out is made from it.
    ``preview`` False: no texts."""
    words = language_of(language)
    if event.type == "text":
        text = event.text[:TEXT_CHARACTERS]
    else:
        text = ""
    content = Shown(
        "push",
        tag,
        event.sender or in_words(words, "app"),
        text if preview else in_words(words, "hidden"),
        time=int(now * 1000),
        data=Raw(event.data) if preview and 0 < len(event.data) <= DATA_BYTES else None,
    )
    return with_wishes(content, notify, preview)


def delivery_of_test(endpoint: PushEndpoint, now: float) -> Delivery:
    """A test, in the language of the endpoint. A later one replaces it.
    ``now``: Unix seconds."""
    words = language_of(endpoint.language)
    title = in_words(words, "test")
    text = in_words(words, "test_text")
    return delivery_to(
        endpoint,
        Shown(_TEST, _TEST, title, text, time=int(now * 1000)),
        _TEST,
        600,
        now,
    )
