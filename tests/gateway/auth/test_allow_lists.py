"""Who needs no key because of where they call from."""

from imserver.gateway.auth.authority import AllowLists
from imserver.gateway.auth.tenants import Tenant


def lists(**networks: tuple[str, ...]) -> AllowLists:
    one = AllowLists()
    one.learn(Tenant(name=name, api_allow_from=allowed) for name, allowed in networks.items())
    return one


def test_an_address_is_allowed_in_the_apps_whose_list_has_it() -> None:
    one = lists(a=("10.0.0.0/8", "fd00::/8"), b=("10.1.2.3",), c=())
    assert one.apps_of("10.1.2.3") == {"a", "b"}
    assert one.apps_of("10.1.2.4") == {"a"}
    assert one.apps_of("fd12::1") == {"a"}
    assert one.apps_of("::ffff:10.1.2.3") == {"a", "b"}, "an IPv4 address in IPv6 clothes"
    assert one.apps_of("192.0.2.1") == frozenset()
    assert "b" in one.apps_of("10.1.2.3")
    assert "b" not in one.apps_of("10.1.2.4")
    assert "c" not in one.apps_of("10.1.2.3")
    assert "unknown" not in one.apps_of("10.1.2.3")


def test_an_invalid_address_is_in_no_list() -> None:
    one = lists(a=("0.0.0.0/0", "::/0"))
    for nonsense in ("", "unknown", "10.0.0", "10.0.0.1:80", "a.example"):
        assert one.apps_of(nonsense) == frozenset()
    assert "a" in one.apps_of("203.0.113.9")


def test_a_change_holds_at_once() -> None:
    one = lists(a=("10.0.0.0/8",))
    assert "a" in one.apps_of("10.0.0.1")
    one.changed(Tenant(name="a", api_allow_from=("192.0.2.0/24",)))
    assert "a" not in one.apps_of("10.0.0.1")
    assert "a" in one.apps_of("192.0.2.1")
    one.changed(Tenant(name="b", api_allow_from=("192.0.2.0/24",)))
    assert one.apps_of("192.0.2.1") == {"a", "b"}
    one.changed(Tenant(name="a"))
    assert one.apps_of("192.0.2.1") == {"b"}
    one.learn([Tenant(name="c", api_allow_from=("192.0.2.1",))])
    assert one.apps_of("192.0.2.1") == {"c"}
