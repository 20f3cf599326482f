"""Devices of applications: endpoints of the push services that other features
bring."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.notifications import metrics
from imserver.notifications.audiences import AudienceRows
from imserver.notifications.contract import Audience, AudienceContent, AudienceTarget
from imserver.plugin.wire import Notify, PushNotice
from tests.notifications import device_services
from tests.notifications.device_services import FakeService
from tests.rows import sections
from tests.security.node_harness import ADMIN, PUSH, Harness, config
from tests.support import until
from tests.users import User

FEATURE = "tests.notifications.device_services:FEATURE"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A node with a feature that brings the push service ``fake``. It sends."""
    folder = Path(tmp_path_factory.mktemp("devices"))
    about = folder / "fakepush-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fakepush\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(
        f"[imserver.features]\nfakepush = {FEATURE}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        harness = Harness(
            config(
                folder / "data",
                features=("all", "fakepush"),
                of_features=sections(notifications={"endpoints": 3}),
            )
        )
        yield harness
        harness.close()
        assert device_services.SERVICE.is_closed


@pytest.fixture
def service() -> FakeService:
    return device_services.SERVICE


def user_of(node: Harness, name: str) -> User:
    return User(node, node.session("201", name), name, "201")


def notices(service: FakeService, token: str) -> list[PushNotice]:
    return [notice for one, notice in service.sent if one == token]


def add(user: User, token: str, **more: Any) -> dict[str, Any]:
    shown: dict[str, Any] = user.post(
        "notifications/endpoints", endpoint=f"fake:{token}", **more
    )
    return shown


def test_a_device_is_registered_and_gets_a_test(
    node: Harness, service: FakeService
) -> None:
    ann = user_of(node, "ann")
    shown = add(ann, "t1", device="Phone")
    assert (shown["host"], shown["device"]) == ("fake/201", "Phone")
    assert ann.post("notifications/test") == {"endpoints": 1}
    (notice,) = until(lambda: notices(service, "t1"))
    assert (notice.kind, notice.tag, notice.topic) == ("test", "test", "test")
    assert notice.title
    assert 500 < notice.ttl <= 600


def test_a_token_that_no_service_takes_is_refused(node: Harness) -> None:
    ann = user_of(node, "ann")
    keys: dict[str, Any] = {"keys": {"p256dh": "B" * 87, "auth": "B" * 22}}
    for url, more in (
        ("fake:x", {}),
        ("other:t1", {}),
        ("fake:t2", keys),
        ("https://push.example.com/1", {}),
    ):
        refused = ann.refused("notifications/endpoints", endpoint=url, **more)
        assert refused == (400, "invalid_request"), url


def test_a_new_token_replaces_that_of_the_same_device(node: Harness) -> None:
    cat, dan = (user_of(node, name) for name in ("cat", "dan"))
    old = add(cat, "t-old")
    others = add(dan, "t-dan")
    assert add(cat, "t-new", replaces="fake:t-old")["id"] == old["id"]
    # Of another user's device nothing goes.
    new = add(cat, "t-second", replaces="fake:t-dan")
    assert [each["id"] for each in dan.get("notifications/endpoints")["endpoints"]] == [
        others["id"]
    ]
    # A token that is known already stays, and the one before goes.
    assert add(cat, "t-new", replaces="fake:t-second")["id"] == old["id"]
    assert [each["id"] for each in cat.get("notifications/endpoints")["endpoints"]] == [
        old["id"]
    ]
    assert new["id"] != old["id"]


def test_a_device_that_was_registered_after_its_end_stays(
    node: Harness, service: FakeService
) -> None:
    jim = user_of(node, "jim")
    service.again.add("t-jim")
    id = add(jim, "t-jim")["id"]
    jim.post("notifications/test")
    until(
        lambda: (
            not node.node.core.store.rows(
                "SELECT 1 FROM notify_delivery WHERE endpoint = %s", (id,)
            )
        )
    )
    assert [each["id"] for each in jim.get("notifications/endpoints")["endpoints"]] == [
        id
    ]


def test_a_back_end_notifies_an_audience_and_follows_it(
    node: Harness, service: FakeService
) -> None:
    back_end = User(node, PUSH.key, app="201")
    for name in ("hal", "ida"):
        add(user_of(node, name), f"t-{name}")
    notify = {"title": "Sale", "text": "Until Friday", "silent": True}
    body = {
        "app": "201",
        "users": ["hal", "ida", "nobody"],
        "notify": notify,
        "data": {"a": 1},
        "key": "k1",
    }
    shown = back_end.post("notifications/audiences", **body)
    assert back_end.post("notifications/audiences", **body)["id"] == shown["id"]

    def state() -> dict[str, Any]:
        (found,) = back_end.get("notifications/audiences", app="201", id=shown["id"])[
            "audiences"
        ]
        return dict(found)

    until(lambda: state()["state"] == "done")
    done = state()
    assert (done["users"], done["devices"], done["taken"], done["dropped"]) == (
        3,
        2,
        2,
        0,
    )
    counts: dict[str, Any] = {
        metric.name: metric.read(node.node.core) for metric in metrics()
    }
    assert counts["imserver_notifications_total"]["201", "audience", "taken"] == 2
    assert counts["imserver_notification_audiences"].keys() <= {"201"}
    (notice,) = notices(service, "t-hal")
    found = notice.title, notice.body, notice.silent, notice.data, notice.tag
    assert found == (
        "Sale",
        "Until Friday",
        True,
        b'{"a":1}',
        f"audience {shown['id']}",
    )
    assert (
        back_end.post("notifications/audiences/cancel", app="201", id=shown["id"])[
            "state"
        ]
        == "done"
    )


def test_what_is_no_audience_is_refused(node: Harness) -> None:
    back_end = User(node, PUSH.key, app="201")
    notify = {"title": "Sale"}
    path = "notifications/audiences"
    for wrong in (
        {},
        {"all": True, "users": ["ann"]},
        {"all": True, "notify": {}},
        {"all": True, "data": "x" * 2000},
    ):
        body = {"app": "201", "notify": notify, **wrong}
        assert back_end.refused(path, **body) == (400, "invalid_request"), wrong
    assert (
        back_end.refused(path, app="201", notify=notify, group=1 << 40)[1]
        == "unknown_conversation"
    )
    assert back_end.refused(f"{path}/cancel", app="201", id=1 << 40) == (
        404,
        "unknown_audience",
    )
    ann = user_of(node, "ann")
    assert ann.refused(path, app="201", notify=notify, all=True)[0] == 401


def test_a_user_who_is_erased_is_in_no_audience_and_no_list_any_more(
    node: Harness, service: FakeService
) -> None:
    admin = User(node, ADMIN.key, app="201")
    core = node.node.core
    lea = user_of(node, "lea")
    add(lea, "t-lea")
    lea.post("notifications/test")
    until(lambda: notices(service, "t-lea"))
    recent = {"app": "201", "user": "lea", "limit": 100}
    until(lambda: admin.get("notifications/recent", **recent)["deliveries"])
    audiences = AudienceRows(core.store)
    target = AudienceTarget(("lea", "mia"))
    content = AudienceContent(Notify("Sale"))
    stored = audiences.add(
        Audience(0, "201", "k2", "users", target, content, created=1), 10
    )
    assert stored is not None
    core.erase_user("201", "lea")
    (left,) = audiences.of("201", stored.id, 1)
    assert "lea" not in left.target.users
    assert admin.get("notifications/recent", **recent)["deliveries"] == []
    everybody = admin.get("notifications/recent", app="201", limit=100)["deliveries"]
    assert "lea" not in {each["user"] for each in everybody}
