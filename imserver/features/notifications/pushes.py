"""Notifications of what is not stored: pushes with ``notify`` to users who are offline, and tests."""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from secrets import token_bytes
from time import time
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from imserver.errors import StorageUnavailable
from imserver.features.notifications.contract import Delivery, Kind, PushEndpoint, Shown, Wishes
from imserver.features.notifications.settings import AppNotifySettings
from imserver.logging import RateLimitedLog
from imserver.model import Event
from imserver.notify import Notify, decode_notify

log = logging.getLogger(__name__)
_lost: Final = RateLimitedLog(log, "notifications of pushes were not stored: %s")

PUSH_TTL_SECONDS: Final = 86_400
"""How long push services hold a notification whose push says nothing of it."""
TEST_TTL_SECONDS: Final = 600
TEXT_CHARACTERS: Final = 200
"""Longest text that is made from a message."""
DATA_BYTES: Final = 1024
"""Longest ``data`` of a push that is sent along: push services take 4096 bytes in all."""
_TEST: Final = "test"
_TEST_WORDS: Final = {
    "en": ("Test", "Notifications work on this device."),
    "zh": ("测试", "此设备可以收到通知。"),
}

_encode: Final = msgspec.json.Encoder().encode


class PushNotifications:
    """Hears of pushes to users who are offline, and adds deliveries for those with endpoints.

    ``rows`` and ``wake`` are those of the deliveries; ``rules`` are those of an app. A push without
    ``notify`` costs one comparison, one to users without endpoints one query.
    """

    def __init__(
        self, rows: Any, wake: Callable[[], object], rules: Callable[[str], AppNotifySettings]
    ) -> None:
        self._rows = rows
        self._wake = wake
        self._rules = rules
        self.lost = 0
        """Users for whom the notification of a push could not be stored."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """(user, push) for users who are offline. Switches if a push has ``notify``. Never raises
        StorageUnavailable: the push itself has been carried out."""
        wanted = [
            (user, event, notify)
            for user, event in pushes
            if event.notify and (notify := decode_notify(event.notify)) is not None
        ]
        if not wanted or not self._rules(app).enabled:
            return
        try:
            deliveries = self._deliveries(app, wanted)
            if deliveries:
                self._rows.add_deliveries(deliveries)
                self._wake()
        except StorageUnavailable as error:
            self.lost += len(wanted)
            _lost(error)

    def _deliveries(self, app: str, wanted: Sequence[tuple[str, Event, Notify]]) -> list[Delivery]:
        users = list(dict.fromkeys(user for user, _, _ in wanted))
        endpoints: dict[str, list[PushEndpoint]] = self._rows.endpoints(app, users)
        if not endpoints:
            return []
        wishes: dict[str, Wishes] = self._rows.wishes(app, list(endpoints))
        now = time()
        found: list[Delivery] = []
        for user, event, notify in wanted:
            wished = wishes.get(user, Wishes())
            shown = shown_of(event, notify, wished.preview, now)
            topic = topic_of_tag(app, notify.tag)
            ttl = PUSH_TTL_SECONDS if notify.ttl is msgspec.UNSET else notify.ttl
            found += [
                _delivery(each, "push", topic, ttl, _encode(shown), now)
                for each in endpoints.get(user, ())
                if each.enabled
            ]
        return found


def shown_of(event: Event, notify: Notify, preview: bool, now: float) -> Shown:
    """What the notification of a push shows. Fields that ``notify`` leaves out are made from the push."""
    text = notify.text or (event.text[:TEXT_CHARACTERS] if event.type == "text" else "")
    data = msgspec.Raw(event.data) if event.data and len(event.data) <= DATA_BYTES else None
    return Shown(
        "push",
        notify.tag or event.id or token_bytes(6).hex(),
        notify.title or event.sender,
        text if preview else "",
        notify.icon,
        notify.url,
        notify.actions,
        time=int(now * 1000),
        data=data if preview else None,
    )


def topic_of_tag(app: str, tag: str) -> str:
    """The topic of pushes with a tag, for push services; a new one for each push without."""
    digest = sha256(f"{app}\0{tag}".encode()).digest()[:24] if tag else token_bytes(24)
    return urlsafe_b64encode(digest).decode()


def delivery_of_test(endpoint: PushEndpoint, now: float) -> Delivery:
    """A test, in the language of the endpoint. A later one replaces it. ``now``: Unix seconds."""
    language = "zh" if endpoint.language.lower().startswith("zh") else "en"
    title, text = _TEST_WORDS[language]
    shown = Shown(_TEST, _TEST, title, text, time=int(now * 1000))
    return _delivery(endpoint, _TEST, _TEST, TEST_TTL_SECONDS, _encode(shown), now)


def _delivery(endpoint: PushEndpoint, kind: Kind, topic: str, ttl: int, body: bytes, now: float) -> Delivery:
    host = urlsplit(endpoint.url).hostname or ""
    created, next_try = int(now), int(now * 1000)
    return Delivery(
        0, endpoint.app, endpoint.user, endpoint.id, host, kind, 0, 0, topic, ttl, next_try, 0, created, body
    )
