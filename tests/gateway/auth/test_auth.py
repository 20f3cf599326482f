"""Keys, page tokens, and the warning of demo mode."""

import hashlib
import time
from typing import Any

import pytest

from imserver.gateway.auth.authority import Keys, refusal
from imserver.gateway.auth.login_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.gateway.auth.principal import ALL_SCOPES, NOBODY, Needs
from imserver.gateway.config.settings import ApiSettings, Config, KeySettings, TenantSettings
from imserver.gateway.errors import Problems
from imserver.gateway.process import Secret
from imserver.gateway.storage.contract import AppRow, Changes, KeyRow
from tests.support import Clock

SECRET = b"0123456789abcdef0123456789abcdef"
KEYED = Config(
    api=ApiSettings(keys=(KeySettings("the key", ("push",)), KeySettings("钥匙", ("read",), ("101",))))
)


def keys_of(config: Config) -> Keys:
    """The keys of these settings, with their aliases."""

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


def test_without_any_key_this_is_demo_mode(keys: Keys) -> None:
    assert keys_of(Config()).demo
    assert not keys.demo


def test_a_key_is_known_by_the_bytes_that_were_sent(keys: Keys) -> None:
    assert keys.find("the key").scopes == {"push", "any"}
    known = keys.find("钥匙".encode().decode("latin-1"))
    assert (known.scopes, known.apps) == ({"read", "any"}, {"101"})
    assert keys.find("the keys") is None


def test_a_page_token_of_the_second_secret_is_read_and_none_is_made_with_it(pages: PageTokens) -> None:
    new = b"another secret of thirty-two by."
    changing, after = PageTokens(KEYED, Secret(new, SECRET)), PageTokens(KEYED, Secret(new))
    assert changing.read(pages.make("101", "ann")) == ("101", "ann")
    assert after.read(changing.make("101", "ann")) == ("101", "ann")
    assert after.read(pages.make("101", "ann")) is None


def banned(_app: str, _user: str) -> bool:
    raise AssertionError("these keys have no makers")


def test_a_key_ends_at_its_time_and_is_still_known_by_its_name() -> None:
    clock = Clock()
    config = Config(api=ApiSettings(keys=(KeySettings("k", ("push",), expires="1970-01-02"),)))
    keys = Keys(config, str, clock)
    stored, secret = KeyRow.make(("read",), expires=2000)
    keys.learn(Changes(1, keys=(stored,)))
    assert keys.find(secret).may(Needs.READ)
    clock.now = 2000
    keys.expire(banned)
    assert not keys.find(secret).may(Needs.READ)
    assert keys.find(secret).label == f"key:{stored.id}"
    assert refusal(keys.find(secret), Needs.READ) == (Problems.UNAUTHORIZED, "The API key has expired")
    assert keys.find("k").may(Needs.PUSH)
    clock.now = 86_400
    keys.expire(banned)
    assert not keys.find("k").may(Needs.PUSH)


def test_admin_has_all_scopes() -> None:
    keys = keys_of(Config(api=ApiSettings(keys=(KeySettings("k", ("admin",)),))))
    assert keys.find("k").scopes == ALL_SCOPES


def test_no_key_is_in_memory_as_text(keys: Keys) -> None:
    assert b"the key" not in repr(vars(keys)).encode()


def test_a_principal_may_what_its_scopes_allow_in_its_apps(keys: Keys) -> None:
    known = keys.find("钥匙".encode().decode("latin-1"))
    assert known.may(Needs.READ)
    assert known.may(Needs.READ, "101")
    assert not known.may(Needs.READ, "102")
    assert not known.may(Needs.PUSH)
    assert not NOBODY.may(Needs.READ)


def test_a_page_token_names_its_app_and_user(pages: PageTokens) -> None:
    assert pages.read(pages.make("101", "马远")) == ("101", "马远")


@pytest.mark.parametrize(("app", "user"), [("101", "马远"), ("102", "马远x"), ("102", "黄帝"), ("", "")])
def test_a_page_token_logs_in_nobody_else(pages: PageTokens, app: str, user: str) -> None:
    token = pages.make("102", "马远")
    assert pages.fits("102", "马远", token)
    assert not pages.fits(app, user, token)


@pytest.mark.parametrize("token", ["", "anything", "eyJhbGciOi.x.y"])
def test_other_tokens_are_ignored(pages: PageTokens, token: str) -> None:
    assert pages.fits("101", "马远", token)


def test_a_page_token_that_was_tampered_with_is_worth_nothing(pages: PageTokens) -> None:
    token = pages.make("101", "马远")
    for broken in (
        token[:-1],
        token + "x",
        PAGE_TOKEN_PREFIX,
        PAGE_TOKEN_PREFIX + "a.b.c",
        token.replace(".", ".."),
    ):
        assert not pages.fits("101", "马远", broken), broken
        assert pages.read(broken) is None, broken


def test_a_page_token_of_another_secret_is_worth_nothing(pages: PageTokens) -> None:
    token = PageTokens(KEYED, Secret(b"another secret of thirty-two by.")).make("101", "马远")
    assert not pages.fits("101", "马远", token)


def test_nodes_that_share_the_secret_take_each_others_tokens(pages: PageTokens) -> None:
    assert pages.fits("101", "马远", PageTokens(Config(), Secret(SECRET)).make("101", "马远"))


def test_a_page_token_ends_with_its_time(pages: PageTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = pages.make("101", "马远")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3599)
    assert pages.fits("101", "马远", token)
    monkeypatch.setattr(time, "time", lambda: now + 3602)
    assert not pages.fits("101", "马远", token)
    assert pages.read(token) is None


# --- keys that are kept ---------------------------------------------------------------------------------


def key_row(key: str, **more: Any) -> KeyRow:
    return KeyRow(f"id of {key}", hashlib.sha256(key.encode()).hexdigest(), **{"scopes": ("push",), **more})


def test_a_stored_key_ends_demo_mode_for_good() -> None:
    keys = keys_of(Config())
    assert keys.learn(Changes(1, keys=(key_row("k", apps=("101",)),)))
    assert not keys.demo
    known = keys.find("k")
    assert (known.scopes, known.apps, known.key) == ({"push", "any"}, {"101"}, "id of k")
    assert not keys.learn(Changes(2, keys=(key_row("k", revoked=5),)))
    assert keys.find("k") is None
    keys.reload(Config())
    assert not keys.demo


def test_only_revoked_keys_are_keys_too() -> None:
    keys = keys_of(Config())
    keys.learn(Changes(1, keys=(key_row("k", revoked=5),)))
    assert not keys.demo


def test_apps_alone_leave_demo_mode_as_it_is() -> None:
    keys = keys_of(Config())
    keys.learn(Changes(1, apps=(AppRow("105", {}),)))
    assert keys.demo


def test_stored_and_configured_keys_hold_side_by_side_and_survive_a_reload(keys: Keys) -> None:
    keys.learn(Changes(1, keys=(key_row("k"),)))
    keys.reload(KEYED)
    assert keys.find("k").key == "id of k"
    digest = hashlib.sha256(b"the key").hexdigest()
    assert keys.find("the key").key == f"config:{digest[:8]}"


def test_a_key_that_is_revoked_but_configured_too_holds_as_configured(keys: Keys) -> None:
    keys.learn(Changes(1, keys=(key_row("the key"),)))
    keys.learn(Changes(2, keys=(key_row("the key", revoked=5),)))
    assert keys.find("the key").key.startswith("config:")


def test_a_key_bound_to_another_name_of_an_app_reaches_that_app() -> None:
    config = Config(
        api=ApiSettings(keys=(KeySettings("k", ("push",), ("106", "none")),)),
        apps={"105": TenantSettings(), "106": TenantSettings(same_as="105")},
    )
    assert keys_of(config).find("k").apps == {"105", "none"}
