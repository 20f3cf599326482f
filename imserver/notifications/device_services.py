"""The push services of a node: Web Push, which is in this feature, and services
of other features."""

from collections.abc import Iterable
from hashlib import sha256
from time import time
from typing import Final

import msgspec

from imserver.notifications.content import HOST_CHARACTERS, host_of
from imserver.notifications.contract import Delivery, Shown
from imserver.plugin.runtime import Service
from imserver.plugin.settings import ConfigError
from imserver.plugin.wire import PushNotice, PushResult, PushService

WEB: Final = ("http", "https")
"""The schemes of endpoints of Web Push and UnifiedPush."""
_ID_CHARACTERS: Final = 24


class NoService(Service):
    """Stands for a push service that this node does not have.

    Another node may have it, so deliveries to it stay in the database.
    """

    name: str

    def objection(self, app: str, token: str) -> str:
        """Say why an endpoint cannot be added: there is no service."""
        return f"this server has no push service {self.name!r}"

    def host(self, app: str, token: str) -> str:
        """Return the queue of deliveries: one for the whole service."""
        return self.name

    def send(self, app: str, token: str, notice: PushNotice) -> PushResult:
        """Ask for a later attempt: the delivery stays stored."""
        return PushResult(
            "later",
            problem=f"no feature of this node has the push service {self.name!r}",
        )

    def close(self) -> None:
        """Do nothing: there are no connections."""


class DeviceServices:
    """The push services of devices that are no browsers, by name.

    Features add such services, for example for the phones of a manufacturer.
    """

    def __init__(self, services: Iterable[PushService] = ()) -> None:
        """Raises ConfigError if two services have the same name."""
        self.by_name: dict[str, PushService] = {}
        for service in services:
            if service.name in self.by_name or service.name in WEB:
                raise ConfigError(f"there is a push service {service.name!r} already")
            self.by_name[service.name] = service

    def find(self, url: str) -> tuple[PushService, str] | None:
        """Return the push service of an endpoint, and its token there.

        ``url``: the name of the service, a colon, and the token. Returns None
        for an endpoint of Web Push, which has an ordinary URL.
        """
        name, _, token = url.partition(":")
        if name in WEB:
            return None
        return self.by_name.get(name) or NoService(name), token

    def close(self) -> None:
        """Close the connections of the services."""
        for service in self.by_name.values():
            service.close()

    def host_of(self, app: str, url: str) -> str:
        """Return the queue of deliveries to an endpoint.

        For Web Push it is the host of the URL, such as ``fcm.googleapis.com``.
        Other services choose the name of their queues.
        """
        device = self.find(url)
        if device is None:
            return host_of(url)
        service, token = device
        return service.host(app, token)[:HOST_CHARACTERS]


def notice_of(delivery: Delivery) -> PushNotice:
    """Return a notification in the form for push services of other features.

    ``delivery``: a row that waits to be sent. Its body is the notification as
    JSON.
    """
    content = msgspec.json.decode(delivery.body, type=Shown)
    data = b""
    if content.data is not None:
        data = msgspec.json.encode(content.data)
    seconds_left = delivery.created + delivery.ttl - int(time())
    return PushNotice(
        id=_notice_id(delivery),
        kind=delivery.kind,
        tag=content.tag,
        topic=delivery.topic,
        title=content.title,
        body=content.body,
        icon=content.icon,
        url=content.url,
        actions=tuple((each.action, each.title, each.url) for each in content.actions),
        conversation=content.conversation,
        entry=content.id,
        count=content.count,
        badge=content.badge,
        time_ms=content.time,
        token=content.token,
        data=data,
        # A notification that only removes another one shows nothing.
        silent=content.silent or delivery.kind == "close",
        time_sensitive=content.time_sensitive,
        ttl=max(0, seconds_left),
    )


def _notice_id(delivery: Delivery) -> str:
    """Return an id that no other notification has.

    The id of the row is not enough: SQLite gives the number of a row again if
    the last row was removed.
    """
    named = b"%d %d %b" % (delivery.id, delivery.created, delivery.body)
    return sha256(named).hexdigest()[:_ID_CHARACTERS]
