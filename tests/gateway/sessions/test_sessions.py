"""Logging in, being refused, kicked and banned on one node; see also ``test_policies``."""

from time import monotonic

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.auth.rules import ALLOWED
from imserver.gateway.model import Login
from imserver.gateway.sessions import sessions as module
from imserver.gateway.sessions.sessions import MAX_BANS, MAX_KICKS, RecentKicks
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import look, until

NEWEST, MULTI, SINGLE, REFUSE = "101", "102", "103", "104"


# --- who may ------------------------------------------------------------------------------------------------


def test_a_second_login_of_a_connection_is_1009_and_the_first_stays(harness: Harness) -> None:
    connection, _ = harness.login(NEWEST, "ann")
    assert harness.sessions.login(connection, Login(NEWEST, "ann")) == 1009
    assert harness.sessions.login(connection, Login(MULTI, "bob")) == 1009
    assert (connection.app, connection.user) == (NEWEST, "ann")
    assert not harness.hub.is_online(MULTI, "bob")
    assert harness.sessions.login(connection, Login("999", "ann")) == 1003, "the app is looked at first"
    assert (harness.metrics.logins.total, harness.metrics.logins_refused.total) == (1, 3)


def test_a_wrong_token_or_app_is_1003_and_may_be_tried_again_until_the_connection_is_closing(
    harness: Harness,
) -> None:
    harness.allowed = {"secret"}
    connection, _ = harness.connect()
    for login in (Login(NEWEST, "ann", "wrong"), Login("999", "ann", "secret")):
        assert harness.sessions.login(connection, login) == 1003
        assert (connection.is_open, connection.user) == (True, None)
    assert harness.sessions.login(connection, Login(NEWEST, "ann", "secret")) == 200
    closing, _ = harness.connect()
    closing.close(1000)
    assert harness.sessions.login(closing, Login(NEWEST, "bob", "secret")) != 200
    assert not harness.hub.is_online(NEWEST, "bob")
    assert harness.metrics.closes == {1000: 1}


# --- single -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(logins=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "phone", "laptop"])), max_size=12))
def test_under_single_a_user_has_one_session_per_device(logins: list[tuple[int, str]]) -> None:
    with Harness() as harness:
        latest: dict[tuple[str, str], Connection] = {}
        for number, device in logins:
            user = f"u{number}"
            latest[user, device], _ = harness.login(SINGLE, user, device)
        found = {(c.user, c.device): c for c in harness.hub.sessions()}
        assert found == latest
        assert len(list(harness.hub.sessions())) == len(latest)


# --- refuse -------------------------------------------------------------------------------------------------


def test_under_refuse_an_older_connection_that_ends_makes_room_at_once(harness: Harness) -> None:
    old, _ = harness.login(REFUSE, "ann")
    new, _ = harness.connect()
    login = gevent.spawn(harness.sessions.login, new, Login(REFUSE, "ann"))
    look()
    assert not login.ready()
    old.lost()
    until(login.ready)
    assert login.get() == 200


@pytest.mark.usefixtures("hasty")
def test_under_refuse_of_many_that_wait_for_the_same_slot_one_gets_it_but_none_that_goes(
    harness: Harness,
) -> None:
    harness.login(REFUSE, "ann")
    rivals = [harness.connect() for _ in range(10)]
    logins = [gevent.spawn(harness.sessions.login, one, Login(REFUSE, "ann")) for one, _ in rivals]
    look()
    rivals[0][1].hang_up()
    gevent.joinall(logins)
    assert logins[0].get() == 1009
    assert sorted(login.get() for login in logins) == [200] + [1009] * 9
    assert len(harness.hub.apps[REFUSE].sessions_of("ann")) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("own", "device", "ban_seconds"),
    [("phone", None, 0), ("phone", "phone", 0), ("phone/1", "phone", 0), ("phone", None, 60)],
)
def test_a_kick_or_ban_that_comes_while_a_login_waits_holds_for_it(
    harness: Harness, own: str, device: str | None, ban_seconds: int
) -> None:
    harness.login(REFUSE, "ann", own)
    new, client = harness.connect()
    login = gevent.spawn(harness.sessions.login, new, Login(REFUSE, "ann", device=own))
    look()
    harness.sessions.close(REFUSE, ["ann"], "laptop")
    harness.sessions.close(REFUSE, ["bob"], "phone")
    harness.sessions.close(REFUSE, ["ann"], device, ban_seconds)
    assert login.get() == 1003
    assert client.close_code() == (4503 if ban_seconds else 4502)
    assert not harness.hub.is_online(REFUSE, "ann")
    if ban_seconds:
        assert harness.logins.reasons == ["banned"]
    else:
        assert harness.login(REFUSE, "ann", "phone")[0].is_open, "kicked is not banned"


def test_kicks_of_others_do_not_end_a_login_and_are_forgotten() -> None:
    kicks = RecentKicks()
    for number in range(MAX_KICKS + 5):
        kicks.note(REFUSE, f"u{number}")
    found = [kicks.since(0, REFUSE, f"u{number}", "phone") for number in (4, 5, MAX_KICKS + 4, MAX_KICKS + 5)]
    assert found == [False, True, True, False], "long ago, or not at all"
    assert not kicks.since(kicks.count, REFUSE, "u9", "phone")
    assert not kicks.since(kicks.count - 1, REFUSE, "u9", "phone")


# --- kicking and banning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["ann", ""])
def test_a_decision_about_a_deleted_app_does_not_count_in_a_new_one_of_its_name(
    harness: Harness, user: str
) -> None:
    connection, client = harness.connect()
    kicks = harness.sessions.kicks.count
    harness.sessions.close_app(MULTI)
    harness.hub.open(MULTI, "multi")

    def begin(kicks: int) -> int:
        if user:
            return harness.sessions.login(connection, Login(MULTI, user), decision=ALLOWED, kicks=kicks)
        return harness.sessions.begin_without_user(connection, MULTI, ALLOWED, kicks)

    assert begin(kicks) == 1003
    assert client.close_code() == 4506
    assert not harness.hub.is_online(MULTI, "ann")
    assert connection.app is None or not connection.is_open
    connection, _ = harness.connect()
    assert begin(harness.sessions.kicks.count) == 200


def test_a_ban_ends_at_its_time_or_that_of_a_later_one_and_the_oldest_leave_when_they_are_too_many(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_login(user: str) -> bool:
        return harness.sessions.login(harness.connect()[0], Login(NEWEST, user)) == 200

    for user, seconds in (("ann", 600), ("bob", 6000), ("bob", 60)):
        harness.sessions.close(NEWEST, [user], ban_seconds=seconds)
    assert not may_login("ann")
    assert harness.logins.reasons == ["banned"]
    for after, users in ((61, ["bob"]), (601, ["ann", "bob"])):
        monkeypatch.setattr(module, "monotonic", lambda after=after: monotonic() + after)
        assert [user for user in ("ann", "bob") if may_login(user)] == users
    others = [f"u{number}" for number in range(MAX_BANS - 1)]
    for banned in (["ann"], ["bob"], ["ann"], others):
        harness.sessions.close(NEWEST, banned, ban_seconds=600)
    found = [harness.sessions.is_banned(NEWEST, user) for user in ("ann", "bob", others[-1])]
    assert found == [True, False, True], "one that is renewed is the newest"


# --- ending -------------------------------------------------------------------------------------------------
