"""Keys, page tokens, and the warning of demo mode."""

import hashlib
import time
from typing import Any
from unittest.mock import Mock

import pytest

from imserver.gateway.auth.authority import (
    MAX_USES,
    OTHER_USES,
    AllowLists,
    Authority,
    Keys,
    KeyUses,
    refusal,
)
from imserver.gateway.auth.login_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.gateway.auth.principal import ALL_SCOPES, NOBODY, Needs, Principal
from imserver.gateway.auth.questions import AccountLookup
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.config.settings import (
    ApiSettings,
    Config,
    KeySettings,
    TenantSettings,
)
from imserver.gateway.errors import Problems
from imserver.gateway.process import Secret
from imserver.gateway.storage.contract import AppRow, Changes, KeyRow
from tests.support import Clock

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER_SECRET = b"another secret of thirty-two by."
ROWS = (
    KeySettings("the key", ("push",)),
    KeySettings("钥匙", ("read",), ("101",)),
    KeySettings("a", ("admin",)),
)
KEYED = Config(api=ApiSettings(keys=ROWS))


def keys_of(config: Config) -> Keys:
    def resolve(name: str) -> str:
        tenant = config.apps.get(name)
        return (tenant.same_as if tenant is not None else "") or name

    return Keys(config, resolve)


@pytest.fixture
def keys() -> Keys:
    return keys_of(KEYED)


@pytest.fixture
def pages() -> PageTokens:
    return PageTokens(KEYED, Secret(SECRET))


def test_a_key_is_known_by_the_bytes_that_were_sent_and_not_in_memory_as_text(
    keys: Keys,
) -> None:
    assert keys.find("the key").scopes == {"push", "any"}
    assert keys.find("a").scopes == ALL_SCOPES
    assert keys.find("the keys") is None
    known = keys.find("钥匙".encode().decode("latin-1"))
    assert (known.scopes, known.apps) == ({"read", "metrics", "any"}, {"101"})
    assert [known.may(Needs.READ, app) for app in (None, "101", "102")] == [
        True,
        True,
        False,
    ]
    assert not known.may(Needs.PUSH)
    assert not NOBODY.may(Needs.READ)
    assert [
        Principal("session", apps=apps).app for apps in (frozenset({"101"}), None)
    ] == ["101", ""]
    assert b"the key" not in repr(vars(keys)).encode()


def banned(_app: str, _user: str) -> bool:
    raise AssertionError("these keys have no makers")


def test_a_key_ends_at_its_time_and_is_still_known_by_its_name() -> None:
    clock = Clock()
    config = Config(
        api=ApiSettings(keys=(KeySettings("k", ("push",), expires="1970-01-02"),))
    )
    keys = Keys(config, str, clock)
    stored, secret = KeyRow.make(("read",), expires=2000)
    keys.learn(Changes(1, keys=(stored,)))
    assert keys.find(secret).may(Needs.READ)
    clock.now = 2000
    keys.expire(banned)
    assert not keys.find(secret).may(Needs.READ)
    assert keys.find(secret).label == f"key:{stored.id}"
    assert refusal(keys.find(secret), Needs.READ) == (
        Problems.UNAUTHORIZED,
        "The API key has expired",
    )
    assert keys.find("k").may(Needs.PUSH)
    clock.now = 86_400
    keys.expire(banned)
    assert not keys.find("k").may(Needs.PUSH)


def test_a_page_token_logs_in_its_user_to_its_app(pages: PageTokens) -> None:
    token = pages.make("102", "马远")
    others = (("101", "马远"), ("102", "马远x"), ("102", "黄帝"), ("", ""))
    assert [pages.fits(*each, token) for each in (("102", "马远"), *others)] == [
        True
    ] + [False] * 4
    assert all(
        pages.fits(*each, other)
        for each in others
        for other in ("", "anything", "eyJhbGciOi.x.y")
    )


def test_a_page_token_tampered_with_or_of_an_old_secret_is_worth_nothing(
    pages: PageTokens,
) -> None:
    token = pages.make("101", "马远")
    empty = PAGE_TOKEN_PREFIX
    odd = PAGE_TOKEN_PREFIX + "a.b.c"
    for broken in (token[:-1], token + "x", empty, odd, token.replace(".", "..")):
        assert not pages.fits("101", "马远", broken), broken
        assert pages.read(broken) is None, broken
    changing = PageTokens(KEYED, Secret(OTHER_SECRET, SECRET))
    after = PageTokens(KEYED, Secret(OTHER_SECRET))
    assert changing.read(pages.make("101", "ann")) == ("101", "ann")
    assert after.read(changing.make("101", "ann")) == ("101", "ann")
    assert after.read(pages.make("101", "ann")) is None


def test_a_page_token_ends_with_its_time(
    pages: PageTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = pages.make("101", "马远")
    now = time.time()
    for seconds, found in ((3599, ("101", "马远")), (3602, None)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        assert pages.read(token) == found


def key_row(key: str, **more: Any) -> KeyRow:
    return KeyRow(
        f"id of {key}",
        hashlib.sha256(key.encode()).hexdigest(),
        **{"scopes": ("push",), **more},
    )


def test_a_stored_key_ends_demo_mode_for_good() -> None:
    keys = keys_of(Config())
    keys.learn(Changes(1, apps=(AppRow("105", {}),)))
    assert keys.demo
    assert keys.learn(Changes(1, keys=(key_row("k", apps=("101",)),)))
    assert not keys.demo
    known = keys.find("k")
    assert (known.scopes, known.apps, known.key) == (
        {"push", "any"},
        {"101"},
        "id of k",
    )
    assert not keys.learn(Changes(2, keys=(key_row("k", revoked=5),)))
    assert keys.find("k") is None
    keys.reload(Config())
    assert not keys.demo
    only_revoked = keys_of(Config())
    only_revoked.learn(Changes(1, keys=(key_row("k", revoked=5),)))
    assert not only_revoked.demo


def test_stored_and_configured_keys_hold_side_by_side_and_survive_a_reload(
    keys: Keys,
) -> None:
    keys.learn(Changes(1, keys=(key_row("k"), key_row("the key"))))
    keys.reload(KEYED)
    assert not keys.demo
    assert keys.find("k").key == "id of k"
    digest = hashlib.sha256(b"the key").hexdigest()
    for _ in range(2):
        assert keys.find("the key").key == f"config:{digest[:8]}"
        keys.learn(Changes(2, keys=(key_row("the key", revoked=5),)))


def test_a_key_bound_to_another_name_of_an_app_reaches_that_app() -> None:
    config = Config(
        api=ApiSettings(keys=(KeySettings("k", ("push",), ("106", "none")),)),
        apps={"105": TenantSettings(), "106": TenantSettings(same_as="105")},
    )
    assert keys_of(config).find("k").apps == {"105", "none"}


def test_an_address_needs_no_key_in_the_apps_whose_list_has_it() -> None:
    one = AllowLists()
    networks = {
        "a": ("10.0.0.0/8", "fd00::/8"),
        "b": ("10.1.2.3",),
        "c": (),
        "d": ("::/0", "0.0.0.0/0"),
    }
    one.learn(
        Tenant(name=name, api_allow_from=allowed) for name, allowed in networks.items()
    )
    found = {
        "10.1.2.3": "abd",
        "10.1.2.4": "ad",
        "fd12::1": "ad",
        "::ffff:10.1.2.3": "abd",
        "192.0.2.1": "d",
    }
    found |= dict.fromkeys(("", "unknown", "10.0.0", "10.0.0.1:80", "a.example"), "")
    assert {
        address: "".join(sorted(one.apps_of(address))) for address in found
    } == found
    one.learn([Tenant(name="c", api_allow_from=("192.0.2.1",))])
    assert (one.apps_of("192.0.2.1"), one.apps_of("10.1.2.3")) == ({"c"}, frozenset())
    one = AllowLists()
    for app, allowed, apps in (
        ("a", ("10.0.0.0/8",), set()),
        ("a", ("192.0.2.0/24",), {"a"}),
        ("b", ("192.0.2.0/24",), {"a", "b"}),
        ("a", (), {"b"}),
    ):
        one.changed(Tenant(name=app, api_allow_from=allowed))
        assert one.apps_of("192.0.2.1") == apps
        assert ("a" in one.apps_of("10.0.0.1")) == (allowed == ("10.0.0.0/8",))
    one.deleted("b")
    assert one.apps_of("192.0.2.1") == frozenset()


@pytest.mark.parametrize(
    ("headers", "apps", "logged"),
    [
        ({}, {"a", "b"}, False),
        (
            {"origin": "https://shop.example", "sec-fetch-site": "cross-site"},
            {"b"},
            False,
        ),
        *(
            ({"origin": origin}, set(), True)
            for origin in ("https://evil.example", "null")
        ),
        *(
            ({f"sec-fetch-{what}": "x"}, set(), False)
            for what in ("mode", "site", "dest")
        ),
        ({"authorization": "Bearer no key"}, set(), False),
    ],
)
def test_a_page_is_no_back_end_at_any_address(
    headers: dict[str, str], apps: set[str], logged: bool
) -> None:
    allowed = AllowLists()
    allowed.learn(Tenant(name=name, api_allow_from=("10.0.0.0/8",)) for name in "ab")
    logins = Mock(
        resolve=str,
        lists_origin=lambda app, origin: (app, origin) == ("b", "https://shop.example"),
    )
    authority = Authority(keys_of(KEYED), Mock(), logins, AccountLookup(), allowed)
    found = authority.identify(Needs.READ_OR_ADDRESS, headers, "10.0.0.1")
    assert (found.apps or set(), logins.log_page.called) == (apps, logged)
    assert authority.identify(Needs.READ, headers, "10.0.0.1") is NOBODY


def test_uses_of_keys_are_counted_by_row_as_long_as_there_are_few() -> None:
    uses = KeyUses()
    assert (uses.wanted, uses.take(), uses.wanted) == (False, {}, True)
    for number in range(MAX_USES + 2):
        uses.add(("k", "GET /", f"{number}", ""), refused=bool(number % 2))
    uses.add(("k", "GET /", "0", ""), refused=True, number=2)
    uses.add(("k", "GET /", "1" * 256, ""), refused=False)
    found = uses.take()
    assert (found["k", "GET /", "0", ""], found["k", OTHER_USES, "", ""]) == (
        [1, 2],
        [2, 1],
    )
    assert (len(found), uses.take()) == (MAX_USES + 1, {})
    uses.add(("k", "GET /", "1" * 256, ""), refused=False)
    assert uses.take() == {("k", "GET /", "", ""): [1, 0]}
