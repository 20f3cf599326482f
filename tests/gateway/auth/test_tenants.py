"""Apps as tenants: configured ones, registered ones, and what both may be."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.auth.tenants import (
    SETTINGS_BYTES,
    BadTenant,
    Tenant,
    Tenants,
    TooManyTenants,
    UnknownTenant,
)
from imserver.gateway.config.settings import (
    ChannelSettings,
    Config,
    LimitSettings,
    StorageSettings,
    TenantSettings,
)
from imserver.gateway.config.values import APP_CHARACTERS, valid_name
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.hub.hub import Hub
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_features,
    objection_of,
)
from imserver.gateway.storage.store import Store

Make = Callable[..., "Node"]


class Node:
    """What of a node the tenants reach."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.store = Store(StorageSettings(), str(folder), threaded=False)
        self.hub = Hub({}, set())
        features = load_features(config)
        self.tenants = Tenants(
            config,
            self.store,
            self.hub,
            objection_of(features),
            declarations_of(features),
        )
        self.heard: list[Tenant] = []
        self.tenants.report_to(changed=self.heard.append)
        self.store.start()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Make]:
    """``node(apps=…)``: a node; all of a test have one database."""
    nodes: list[Node] = []

    def make(config: Config | None = None, **apps: TenantSettings) -> Node:
        nodes.append(
            Node(tmp_path, config or (Config(apps=apps) if apps else Config()))
        )
        return nodes[-1]

    yield make
    for one in nodes:
        one.store.close()


def test_the_apps_of_the_originals_are_there(node: Make) -> None:
    tenants = node().tenants
    assert tenants.names() == [
        "101",
        "102",
        "103",
        "104",
        "action:1",
        "action:2",
        "default",
        "gochat",
    ]
    policies = {tenant.name: tenant.policy for tenant in tenants.all()}
    names = ("101", "action:2", "gochat", "default")
    assert [policies[name] for name in names] == ["newest", "newest", "refuse", "multi"]
    assert {
        tenant.name
        for tenant in tenants.all()
        if tenant.user_bytes_of(tenant.name) == 19
    } == {*("101", "102", "103", "104", "action:1", "action:2")}
    assert all(tenant.configured and not tenant.stored for tenant in tenants.all())


def test_apps_whose_channels_of_users_have_a_history_are_known_by_name(
    node: Make,
) -> None:
    rows = {"user": ChannelSettings(history_size=5, history_seconds=60)}
    one = node(a=TenantSettings(channels=rows), b=TenantSettings())
    one.tenants.register(
        "shop", channels={"user": {"history_size": 5, "history_seconds": 60}}
    )
    assert one.tenants.history_apps == {"a", "shop"}
    one.tenants.reload(Config(apps={"b": TenantSettings(channels=rows)}))
    one.tenants.change("shop", {"channels": {}})
    assert one.tenants.history_apps == {"b"}


def test_a_registered_app_is_open_and_known_at_once_and_registered_once(
    node: Make,
) -> None:
    one = node(Config(limits=LimitSettings(registered_apps=2)))
    assert one.tenants.register("system:shop")
    tenant = one.tenants.get("system:shop")
    assert (tenant.stored, tenant.configured, tenant.policy) == (True, False, "multi")
    assert one.hub.apps["system:shop"].policy == "multi"
    assert one.heard == [tenant]
    assert one.tenants.register("b")
    with pytest.raises(TooManyTenants):
        one.tenants.register("c")
    assert [one.tenants.register(name) for name in ("system:shop", "101")] == [
        False,
        False,
    ]


def test_another_node_finds_a_new_app_at_once_and_a_later_one_knows_it(
    node: Make,
) -> None:
    one = node()
    other = node()
    assert other.tenants.find("105") is None
    one.tenants.register("105", max_channels=3, login_policy="single")
    assert other.tenants.get("105") is None
    found = other.tenants.find("105")
    assert found.max_channels == 3
    assert not other.tenants.register("105")
    one.store.close()
    again = node()
    assert again.tenants.get("105") == found
    assert again.tenants.created("105") > 0
    assert again.hub.apps["105"].policy == "single"


def test_where_a_name_is_both_the_configuration_holds_until_it_drops_it(
    node: Make,
) -> None:
    other = node()
    other.tenants.register("own", max_channels=1)
    one = node(own=TenantSettings(max_channels=2))
    tenant = one.tenants.find("own")
    assert (tenant.max_channels, tenant.configured, one.tenants.created("own")) == (
        2,
        True,
        0,
    )
    assert not one.tenants.register("own")
    one.tenants.reload(Config())
    tenant = one.tenants.get("own")
    assert (tenant.max_channels, tenant.configured) == (1, False)
    one.tenants.reload(Config(apps={"own": TenantSettings()}))
    other.store.delete_app("own")
    one.store.refresh()
    one.tenants.reload(Config())
    assert one.tenants.get("own") is None, "it was deleted meanwhile"


BAD_NAMES = (
    "",
    " ",
    "a ",
    " a",
    "a\n",
    "a\x00b",
    "\ud800",
    "x" * (APP_CHARACTERS + 1),
    "界" * 170,
)
GOOD_NAMES = (
    "a",
    "系统",
    "a b",
    "x" * APP_CHARACTERS,
    "system:",
    "😀",
    "../../etc",
    "'; --",
)


def test_a_valid_name_is_stored_unchanged_and_another_refused(node: Make) -> None:
    one = node()
    other = node()
    for name in BAD_NAMES:
        assert not valid_name(name)
        with pytest.raises(BadTenant):
            one.tenants.register(name)
    assert all(
        one.tenants.register(name) and other.tenants.find(name) for name in GOOD_NAMES
    )


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        (
            {"max_channel": 1},
            "unknown key 'max_channel'; the nearest known key is 'max_channels'",
        ),
        ({"max_channels": -1}, "max_channels: expected int >= 0"),
        ({"max_channels": True}, "max_channels: expected int, got True"),
        (
            {"login_policy": "first"},
            "expected one of (empty), multi, newest, refuse, single; got 'first'",
        ),
        (
            {"jwt": [{"algorithm": "none", "key": "x"}]},
            "HS512, RS256, RS384, RS512; got 'none'",
        ),
        ({"jwt": [{"key": "short"}]}, "32 bytes"),
        ({"jwt": [{"key_file": "/etc/passwd"}]}, "only the configuration file"),
        (
            {"api_allow_from": ["somewhere"]},
            "expected networks such as 10.0.0.0/8, got 'somewhere'",
        ),
        ({"same_as": "nobody"}, "same_as: expected another app that is not an alias"),
        ({"same_as": "own"}, "same_as: expected another app that is not an alias"),
        ({"origins": ["x" * SETTINGS_BYTES]}, "bytes of settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    node: Make, fields: dict[str, Any], output: str
) -> None:
    tenants = node().tenants
    with pytest.raises(BadTenant) as caught:
        tenants.register("own", **fields)
    assert output in str(caught.value)
    assert str(caught.value).startswith("app own")
    assert "\n" not in str(caught.value)
    assert tenants.find("own") is None


def test_a_registered_app_is_changed_everywhere_and_field_by_field(node: Make) -> None:
    one = node()
    other = node()
    one.tenants.register("own", max_channels=1, max_connections=2)
    other.store.refresh()
    fields = {"maxChannels": 5, "login_policy": "single", "jwt": [{"key": "k" * 32}]}
    changed = other.tenants.change("own", fields, ["max_connections"])
    assert (changed.max_channels, changed.max_connections) == (5, 0)
    one.store.refresh()
    assert one.heard[-1] == changed
    assert one.tenants.get("own") == changed
    assert one.hub.apps["own"].policy == "single"
    shown, left_out = one.tenants.described("own")
    assert (shown, left_out) == (
        {"max_channels": 5, "login_policy": "single"},
        ["jwt[0].key"],
    )


def test_only_a_registered_app_is_changed_and_only_in_what_it_has(node: Make) -> None:
    tenants = node().tenants
    with pytest.raises(BadTenant, match="is defined in the configuration"):
        tenants.change("101", {"max_channels": 1})
    for act in (
        tenants.described,
        tenants.check_deletable,
        lambda name: tenants.change(name, {"max_channels": 1}),
    ):
        with pytest.raises(UnknownTenant):
            act("own")
    tenants.register("own")
    with pytest.raises(BadTenant, match="unknown key 'colour'"):
        tenants.change("own", {}, ["colour"])


def test_an_app_may_be_another_name_of_one(node: Make) -> None:
    one = node(
        first=TenantSettings(),
        b=TenantSettings(same_as="first"),
        **{"101": TenantSettings()},
    )
    one.tenants.register("own")
    one.tenants.register("c", same_as="own")
    found = {name: one.tenants.resolve(name) for name in ("b", "c", "own", "x")}
    assert found == {"b": "first", "c": "own", "own": "own", "x": "x"}
    assert "c" not in one.hub.apps
    for act, why in (
        (lambda: one.tenants.register("third", same_as="c"), "not an alias"),
        (
            lambda: one.tenants.change("own", {"same_as": "101"}),
            "other apps are aliases of this one",
        ),
        (lambda: one.tenants.check_deletable("own"), "delete its alias 'c' first"),
        (lambda: one.tenants.check_deletable("101"), "remove it there"),
    ):
        with pytest.raises(BadTenant, match=why):
            act()
    one.tenants.reload(
        Config(apps={"first": TenantSettings(), "d": TenantSettings(same_as="first")})
    )
    assert one.tenants.aliases == {"c": "own", "d": "first"}
    one.tenants.change("c", {}, ["same_as"])
    assert one.tenants.resolve("c") == "c"
    one.tenants.change("c", {"same_as": "own"})
    one.store.delete_app("c")
    assert one.tenants.aliases == {"d": "first"}


def test_a_reload_reports_new_apps_and_drops_removed_ones(node: Make) -> None:
    one = node(a=TenantSettings(), b=TenantSettings())
    assert one.tenants.names() == ["a", "b"]
    one.tenants.reload(
        Config(apps={"b": TenantSettings(max_channels=2), "c": TenantSettings()})
    )
    assert sorted(tenant.name for tenant in one.heard) == ["b", "c"]
    assert one.tenants.get("a") is None
    assert "c" in one.hub.apps


def test_settings_that_are_unknown_or_make_no_sense_any_more_hurt_only_their_app(
    node: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = node()
    for name, settings in (
        ("own", {"max_channels": "many"}),
        ("other", {}),
        ("newer", {"max_channels": 1, "colour": "red"}),
    ):
        one.store.add_app(name, settings)
    assert (
        "app own: its settings in the database are invalid and ignored" in caplog.text
    )
    assert one.tenants.get("other") is not None
    newer = one.tenants.get("newer")
    assert newer.max_channels == 1


def test_an_unknown_name_is_a_temporary_error_while_the_database_is_away(
    node: Make, tmp_path: Path
) -> None:
    one = node()
    one.tenants.register("own")
    one.store.close()
    (tmp_path / "imserver.db").write_bytes(b"broken" * 1000)
    with pytest.raises(StorageUnavailable):
        one.tenants.find("unknown")
    assert one.tenants.find("own") is not None
    assert one.tenants.find("no name\n") is None


def test_a_listener_that_fails_stops_no_other(
    node: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = node()

    def fail(tenant: Tenant) -> None:
        if tenant.name == "bad":
            raise ValueError("no")

    one.tenants.report_to(changed=fail)
    one.tenants.report_to(changed=one.heard.append)
    assert one.tenants.register("bad")
    assert one.tenants.register("good")
    assert [tenant.name for tenant in one.heard] == ["bad", "bad", "good", "good"]
    assert "app bad: change could not be applied" in caplog.text
