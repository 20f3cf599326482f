"""An audience outlives the node that goes through it."""

from collections import Counter
from email.message import Message
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from bench.chaos_loads import PostReceiver
from bench.notify import AUTH, P256DH
from imserver.plugin.testing import NodeProcess, eventually

USERS = 600
KILLED_AT = 300
"""Requests after which the node is killed: some of them are under way then, and their results not stored."""
SETTINGS = {
    "apps": {"shop": {"open": True, "notify": {"audience_per_second": 200}}},
    "notifications": {"allow_loopback": True},
}


@pytest.mark.full
def test_a_node_that_is_killed_leaves_nobody_out_and_notifies_nobody_by_two_notifications(
    tmp_path: Path,
) -> None:
    received: Counter[tuple[str, str]] = Counter()
    nodes: list[NodeProcess] = []
    lock = Lock()

    def take(path: str, headers: Message, _body: bytes) -> int:
        with lock:
            received[path, headers["Topic"]] += 1
            if received.total() == KILLED_AT:
                nodes[0].process.kill()
        return 201

    service = PostReceiver(take)
    with NodeProcess(settings=SETTINGS, folder=tmp_path) as first:
        nodes.append(first)
        for number in range(USERS):
            keys = {"p256dh": P256DH, "auth": AUTH}
            new = {"app": "shop", "user": f"user-{number:03}", "endpoint": f"{service.url}{number}"}
            assert first.post("/api/v1/notifications/endpoints", {**new, "keys": keys}).status == 201
        wanted = {"app": "shop", "all": True, "notify": {"title": "Sale"}}
        id = first.post("/api/v1/notifications/audiences", wanted).json["id"]
        first.process.wait(60)
    assert len(received) < USERS
    with NodeProcess(settings=SETTINGS, folder=tmp_path) as second:
        path = f"/api/v1/notifications/audiences?app=shop&id={id}"

        def ended() -> dict[str, Any] | None:
            (audience,) = second.get(path).json["audiences"]
            return audience if audience["state"] == "done" else None

        audience = eventually(ended)
    service.close()
    assert {path for path, _ in received} == {f"/{number}" for number in range(USERS)}
    assert len(received) == USERS, "each device got one topic: what came again replaced the first"
    assert (audience["users"], audience["devices"], audience["taken"]) == (USERS, USERS, USERS)
