"""A push service of the tests, and devices that subscribe to it."""

from collections.abc import Iterator

from imserver.plugin.testing import HostAndPort
from tests.notifications.devices import Device

from .receiver import Post, Receiver
from .v1 import good


def push_service() -> Iterator[Receiver]:
    """A push service. It answers with the status in the path:
    ``/<user>/<status>``."""
    with Receiver() as one:
        one.reply = lambda post: (int(post.path.rpartition("/")[2]), b"")
        yield one


def posts_of(service: Receiver, user: str) -> list[Post]:
    return [post for post in service.posts if post.path.startswith(f"/{user}/")]


def subscribe(
    node: HostAndPort, service: Receiver, user: str, app: str, key: str
) -> tuple[Device, int]:
    """A device of a user, and the id of its endpoint, to which a push service
    says that it was created."""
    device = Device()
    known = device.endpoint(f"{service.url}/{user}/201")
    keys = {"p256dh": known.p256dh, "auth": known.auth}
    body = {"app": app, "user": user, "endpoint": known.url, "keys": keys}
    return device, good(node, "notifications/endpoints", body, key=key)["id"]
