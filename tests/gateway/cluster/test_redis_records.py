"""The records that operators read, in the spellings of both originals."""

import json

import pytest

from imserver.gateway.cluster.redis.presence import marked_offline, record_key, record_of
from imserver.gateway.cluster.registry import Session

NODE = "10.0.0.1:9001"


@pytest.mark.parametrize(
    ("app", "key", "app_key", "user_key", "value"),
    [
        ("101", b"acc:user:online:101_ann", "appID", "userID", 101),
        ("action:1", b"user:online:1_ann", "appId", "userId", 1),
        ("action:vip", b"user:online:vip_ann", "appId", "userId", "vip"),
        ("system:shop", b"acc:user:online:system:shop_ann", "appID", "userID", "system:shop"),
        ("a_50%", b"acc:user:online:a%5F50%25_ann", "appID", "userID", "a_50%"),
    ],
)
def test_a_record_is_where_its_original_has_it(
    app: str, key: bytes, app_key: str, user_key: str, value: int | str
) -> None:
    assert record_key(app, b"ann") == key
    record = json.loads(record_of(NODE, Session(app, "ann", peer="1.2.3.4:5", login_time=7), False))
    assert (record[app_key], record[user_key], record["loginTime"]) == (value, "ann", 7)
    assert len(record) == 12


@pytest.mark.parametrize("kind", ["", "action:"])
def test_no_two_users_share_a_record(kind: str) -> None:
    pairs = [("a", "b_c_d"), ("a_b", "c_d"), ("a_b_c", "d"), ("a%5Fb", "c_d"), ("a%255Fb", "c_d")]
    assert len({record_key(kind + app, user.encode()) for app, user in pairs}) == len(pairs)


def test_the_record_of_a_logout_has_the_time_of_the_last_heartbeat() -> None:
    session = Session("101", "ann", login_time=7, heartbeat_time=8)
    record = json.loads(record_of(NODE, session, True))
    assert (record["loginTime"], record["heartbeatTime"]) == (7, 8)
    assert record["logOutTime"] > 8


@pytest.mark.parametrize("app", ["101", "action:1"])
def test_the_record_of_a_user_of_a_dead_node_is_marked_and_stays_what_it_was(app: str) -> None:
    before = record_of(NODE, Session(app, "马远", "phone"), False)
    after = marked_offline(before, [NODE])
    assert after is not None
    changed = {**json.loads(before), "isLogoff": True, "logOutTime": json.loads(after)["logOutTime"]}
    assert list(json.loads(after).items()) == list(changed.items())
    assert marked_offline(after, [NODE]) is None
    assert marked_offline(before, ["10.0.0.2:9001"]) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"appId":1}'])
def test_what_is_no_record_is_left_alone(data: bytes) -> None:
    assert marked_offline(data, [NODE]) is None


@pytest.mark.parametrize("app", ["101", "action:1"])
def test_a_name_that_is_no_utf_8_is_replaced(app: str) -> None:
    record = json.loads(record_of(NODE, Session(app, "\ud800"), False))
    assert "?" in record.values()
