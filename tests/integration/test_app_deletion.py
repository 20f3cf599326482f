"""The deletion of an app whose sessions, feed and files are on several nodes and in a bucket."""

from pathlib import Path
from typing import Any

import pytest

from imserver.plugin.testing import HostAndPort
from tests.media.uploads.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin, standing_in
from tests.support import eventually

from .clusters import nodes_of
from .cmd import logged_in
from .raw import ask, request
from .receiver import Receiver
from .setting import Launch
from .test_v1_cluster import close_code
from .v1 import call, good, refused

APP = "7105"
LOOK_SECONDS = 0.2


def upload(http: HostAndPort, name: str, app: str = APP) -> Any:
    path = f"/api/v1/uploads?app={app}&user=eve&name={name}"
    answer = ask(http, request(path, method="POST", body=name.encode()))
    assert answer.status == 201
    return answer.json


def store(http: HostAndPort, sender: str, text: str) -> None:
    push = {"app": APP, "user": "bob", "sender": sender, "text": text, "store": True}
    assert good(http, "push", push)["sent"] == 1


@pytest.mark.full
def test_all_nodes_close_the_sessions_and_deliver_nothing_more(tmp_path: Path) -> None:
    """While the receiver of the app hangs, and its next namesake begins anew."""
    hangs = False
    with (
        Receiver() as receiver,
        nodes_of(tmp_path, 2, storage={"look_seconds": LOOK_SECONDS}, uploads={"min_free_bytes": 0}) as nodes,
    ):
        receiver.reply = lambda _: None if hangs else (200, b"")
        settings = {"open": True, "webhook": {**receiver.settings, "events": ["message", "absent"]}}
        good(nodes.http[0], "apps/create", {"app": APP, "settings": settings})
        for http in nodes.http:
            eventually(lambda http=http: call(http, "apps/show", app=APP).status == 200, what="it is known")
        for number, http in enumerate(nodes.http):
            store(http, "ann", f"before {number}")
            upload(http, f"file{number}")
        assert [event["text"] for event in receiver.wait_for(2, "message")] == ["before 0", "before 1"]
        hangs = True
        store(nodes.http[0], "ann", "never delivered")
        with (
            logged_in(nodes.ws[0], "kim", int(APP)) as here,
            logged_in(nodes.ws[1], "eve", int(APP)) as there,
        ):
            deleted = good(nodes.http[1], "apps/delete", {"app": APP, "confirm": APP})
            assert [close_code(one) for one in (here, there)] == [4506, 4506]
        assert (deleted["messages"], deleted["uploads"]) == (3, 2)
        for http in nodes.http:
            assert refused(http, "apps/show", app=APP)[:2] == (404, "unknown_app")
            assert refused(http, "push", {"app": APP, "user": "bob", "text": "x"})[:2] == (404, "unknown_app")
        assert not [file for file in (tmp_path / "data" / "uploads").rglob("*") if file.is_file()]
        hangs = False
        good(nodes.http[1], "apps/create", {"app": APP, "settings": settings})
        eventually(lambda: call(nodes.http[0], "apps/show", app=APP).status == 200, what="it is known")
        old = {event["id"] for event in receiver.events()}
        receiver.forget()
        store(nodes.http[0], "kim", "after")
        (event,) = receiver.wait_for(1, "message", seconds=30)
        assert (event["sender"], event["text"]) == ("kim", "after")
        assert event["id"] not in old, "ids are not given again"
        page = good(nodes.http[0], "events/log", app=APP)
        assert [each["sender"] for each in page["events"] if each["event"] == "message"] == ["kim"]


@pytest.mark.full
def test_files_in_a_bucket_go_with_their_app_even_if_it_fails_at_first(launch: Launch) -> None:
    with standing_in() as bucket:
        bucket_settings = {
            "s3_url": bucket.url,
            "s3_bucket": NAME,
            "s3_region": REGION,
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
        }
        server = launch(
            "front", storage={"look_seconds": LOOK_SECONDS}, uploads={"min_free_bytes": 0, **bucket_settings}
        )
        _delete_with_bucket(server.http, bucket)


def _delete_with_bucket(http: HostAndPort, bucket: Standin) -> None:
    good(http, "apps/create", {"app": APP, "settings": {"open": True}})
    for number in range(3):
        upload(http, f"file{number}")
    store(http, "ann", "hi")
    uploaded = upload(http, "kept", "101")
    assert len(bucket.objects) == 4
    bucket.failures = ["500"] * 6
    status, code, _ = refused(http, "apps/delete", {"app": APP, "confirm": APP})
    assert (status, code) == (503, "media_unavailable")
    assert len(bucket.objects) == 4
    bucket.failures = []
    deleted = good(http, "apps/delete", {"app": APP, "confirm": APP})
    assert (deleted["uploads"], deleted["messages"]) == (3, 1), "called again, it deletes the rest"
    assert list(bucket.objects) == [uploaded["id"]]
