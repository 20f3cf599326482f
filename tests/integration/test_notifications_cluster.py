"""Each user of a cluster is notified once though the node that sends is killed, and Redis is away."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from imserver.plugin.testing import HostAndPort
from tests.notifications.devices import Device
from tests.support import Server, eventually

from .clusters import Nodes, name_of, nodes_of
from .receiver import Receiver
from .test_notifications import posts_of, push_service
from .v1 import good

APP = "101"
AFTER_SECONDS = 3.0
CONFIG = {
    "apps": {APP: {"open": True, "notify": {"after_seconds": AFTER_SECONDS, "again_seconds": 0}}},
    "notifications": {"allow_loopback": True},
}


service = pytest.fixture(push_service)


def subscribe(node: HostAndPort, service: Receiver, user: str, app: str = APP, key: str = "") -> None:
    known = Device().endpoint(f"{service.url}/{user}/201")
    keys = {"p256dh": known.p256dh, "auth": known.auth}
    body = {"app": app, "user": user, "endpoint": known.url, "keys": keys}
    good(node, "notifications/endpoints", body, key=key)


def send(node: HostAndPort, user: str, text: str) -> int:
    body = {"app": APP, "user": "ann", "to": user, "text": text}
    conversation: int = good(node, "messages/send", body)["conversation"]
    return conversation


def notified(service: Receiver, *users: str) -> dict[str, int]:
    """How many notifications these users got, once each has one."""
    eventually(lambda: all(posts_of(service, user) for user in users), what=f"notifications of {users}")
    return dict(Counter(post.path.split("/")[1] for post in service.posts))


def holder(nodes: Nodes) -> Server:
    """The node that sends."""
    file = Path(nodes.folder, "data", "imserver.db")
    names = {name_of(server): server for server in nodes.running}

    def owner() -> str:
        with closing(sqlite3.connect(file)) as connection:
            statement = "SELECT owner FROM event_feed WHERE app = ' notifications'"
            return str((connection.execute(statement).fetchone() or ("",))[0])

    return names[eventually(owner, what="a lease")]


@pytest.mark.full
def test_users_are_notified_once_though_the_node_that_sends_is_killed(
    tmp_path: Path, service: Receiver
) -> None:
    with nodes_of(tmp_path, 2, **CONFIG) as nodes:
        users = [f"u{number}" for number in range(20)]
        for user in users:
            subscribe(nodes.http[0], service, user)
        first = holder(nodes)
        other = next(server for server in nodes.running if server is not first)
        send(other.http, "u0", "before")
        notified(service, "u0")
        conversations = {user: send(other.http, user, "while it is killed") for user in users}
        read = {"app": APP, "user": "u1", "conversation": conversations["u1"], "id": 1 << 40}
        good(other.http, "messages/read", read)
        first.process.kill()
        found = notified(service, *(user for user in users if user not in ("u0", "u1")))
        eventually(lambda: len(posts_of(service, "u0")) == 2, what="the second one of u0")
        assert found.keys() == {*users} - {"u1"}, "u1 has read it"
        assert {count for user, count in found.items() if user != "u0"} == {1}
