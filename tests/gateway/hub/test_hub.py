"""The hub: who is addressed under which policy, against a model that is nothing but lists."""

from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.hub.hub import App, Hub
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import ADDRESSED, CONNECTED
from tests.support import POLICIES


class Session:
    """As much of a connection as the hub touches."""

    def __init__(self) -> None:
        self.app: str | None = None
        self.user: str | None = None
        self.device = ""
        self.state = CONNECTED


def make(policy: str) -> tuple[Hub, App]:
    hub = Hub({"101": policy, "102": "newest"}, set())
    return hub, hub.apps["101"]


def join(hub: Hub, app: App, user: str, device: str = "") -> Connection:
    session: Connection = Session()  # type: ignore[assignment]
    hub.join(app, session, user, device)
    return session


def test_whoever_joined_is_online_in_that_app_and_in_no_other() -> None:
    hub, app = make("newest")
    session = join(hub, app, "ann", "phone")
    assert (session.app, session.user, session.device) == ("101", "ann", "phone")
    assert hub.leave(Session()) is False  # type: ignore[arg-type]
    assert hub.is_online("101", "ann")
    assert not hub.is_online("102", "ann")
    assert not hub.is_online("no such app", "ann")
    assert (hub.user_names("101"), hub.user_names("102"), hub.user_names("x")) == (["ann"], [], [])
    assert list(hub.sessions()) == [session]


@settings(deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    steps=st.lists(st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 3), st.integers(0, 5))),
)
def test_the_hub_agrees_with_a_model_of_lists(policy: str, steps: list[tuple[str, int, int]]) -> None:
    hub, app = make(policy)
    addressed: dict[str, list[Connection]] = {}
    everybody: dict[str, list[Connection]] = {}
    for step, number, which in steps:
        user = f"u{number}"
        if step == "join":
            session = join(hub, app, user)
            everybody.setdefault(user, []).append(session)
            addressed[user] = [session] if policy == "newest" else [*addressed.get(user, []), session]
        elif everybody.get(user):
            session = everybody[user].pop(which % len(everybody[user]))
            before = bool(addressed.get(user))
            addressed[user] = [one for one in addressed.get(user, []) if one is not session]
            assert hub.leave(session) is (before and not addressed[user])
            assert hub.leave(session) is False, "an end counts once"
        online = {name: tuple(sessions) for name, sessions in addressed.items() if sessions}
        assert {name: app.sessions_of(name) for name in hub.user_names("101")} == online
        assert len(hub.user_names("101")) == len(online)
        assert len(list(hub.sessions())) == sum(map(len, online.values()))
        assert app.several == sum(len(sessions) > 1 for sessions in online.values())
        for name, sessions in everybody.items():
            assert all((one.state is ADDRESSED) == (one in app.sessions_of(name)) for one in sessions)


def test_an_unregistered_app_goes_with_its_last_user_unless_it_is_registered_meanwhile() -> None:
    hub, _ = make("newest")
    unregistered = hub.open("system:shop", "multi", is_registered=False)
    assert hub.open("system:shop", "multi", is_registered=False) is unregistered
    assert unregistered not in hub.registered()
    one, two = join(hub, unregistered, "a"), join(hub, unregistered, "b")
    hub.leave(one)
    hub.close_unregistered("system:shop")
    assert hub.apps["system:shop"] is unregistered
    hub.leave(two)
    hub.close_unregistered("system:shop")
    assert "system:shop" not in hub.apps
    hub.close_unregistered("system:shop")
    assert hub.leave(two) is False, "its app is gone"

    registered = hub.open("system:shop", "multi", is_registered=False)
    assert hub.open("system:shop", "multi") is registered
    assert registered in hub.registered()
    hub.close_unregistered("system:shop")
    assert hub.apps["system:shop"] is registered


def test_apps_that_are_configured_are_never_closed() -> None:
    hub, app = make("newest")
    assert hub.open("101", "multi", is_registered=False) is app
    hub.close_unregistered("101")
    assert hub.apps["101"] is app


def test_a_policy_that_changes_holds_for_who_joins_from_then_on() -> None:
    hub, app = make("multi")
    older = [join(hub, app, "ann") for _ in range(2)]
    assert app.several == 1
    hub.set_policy(app.name, "newest")
    assert app.sessions_of("ann") == tuple(older)
    newest = join(hub, app, "ann")
    assert (app.sessions_of("ann"), app.several) == ((newest,), 0)
    assert not any(hub.leave(connection) for connection in older)
    assert hub.leave(newest)
