"""Keys, page tokens, and the warning of demo mode."""

import hashlib
import logging
import time
from typing import Any

import pytest

from imserver.auth import ANYBODY, NOBODY, PAGE_TOKEN_PREFIX, Auth
from imserver.config import Config
from imserver.settings import ApiSettings, KeySettings, ServerSettings, TenantSettings
from imserver.storage.contract import AppRow, Changes, KeyRow

SECRET = b"0123456789abcdef0123456789abcdef"
KEYED = Config(
    api=ApiSettings(keys=(KeySettings("the key", ("push",)), KeySettings("钥匙", ("read",), ("101",))))
)


@pytest.fixture
def auth() -> Auth:
    return Auth(KEYED, SECRET)


def test_without_any_key_everybody_may_do_everything() -> None:
    assert Auth(Config(), SECRET).caller("") is ANYBODY


def test_a_key_is_known_by_the_bytes_that_were_sent(auth: Auth) -> None:
    assert auth.caller("Bearer the key").scopes == {"push"}
    caller = auth.caller("Bearer " + "钥匙".encode().decode("latin-1"))
    assert (caller.scopes, caller.apps) == ({"read"}, {"101"})
    assert auth.caller("Bearer the keys") is NOBODY


def test_admin_has_all_scopes() -> None:
    auth = Auth(Config(api=ApiSettings(keys=(KeySettings("k", ("admin",)),))), SECRET)
    assert auth.caller("Bearer k").scopes == {"push", "read", "admin"}


def test_no_key_stands_in_memory_as_text(auth: Auth) -> None:
    assert b"the key" not in repr(vars(auth)).encode()


def test_a_page_token_names_its_app_and_user(auth: Auth) -> None:
    caller = auth.caller(f"Bearer {auth.page_token('101', '马远')}")
    assert (caller.scopes, caller.apps, caller.user) == ({"page"}, {"101"}, "马远")


@pytest.mark.parametrize(("app", "user"), [("101", "马远"), ("102", "马远x"), ("102", "黄帝"), ("", "")])
def test_a_page_token_logs_in_nobody_else(auth: Auth, app: str, user: str) -> None:
    token = auth.page_token("102", "马远")
    assert auth.may_login("102", "马远", token)
    assert not auth.may_login(app, user, token)


def test_demo_mode_holds_people_to_their_page_token_too() -> None:
    auth = Auth(Config(), SECRET)
    assert not auth.may_login("101", "黄帝", auth.page_token("101", "马远"))


@pytest.mark.parametrize("token", ["", "anything", "eyJhbGciOi.x.y"])
def test_tokens_that_are_not_ours_are_not_judged(auth: Auth, token: str) -> None:
    assert auth.may_login("101", "马远", token)


def test_a_page_token_that_was_tampered_with_is_worth_nothing(auth: Auth) -> None:
    token = auth.page_token("101", "马远")
    for broken in (
        token[:-1],
        token + "x",
        PAGE_TOKEN_PREFIX,
        PAGE_TOKEN_PREFIX + "a.b.c",
        token.replace(".", ".."),
    ):
        assert not auth.may_login("101", "马远", broken), broken
        assert auth.caller(f"Bearer {broken}") is NOBODY, broken


def test_a_page_token_of_another_secret_is_worth_nothing(auth: Auth) -> None:
    token = Auth(KEYED, b"another secret of thirty-two by.").page_token("101", "马远")
    assert not auth.may_login("101", "马远", token)


def test_nodes_that_share_the_secret_take_each_others_tokens(auth: Auth) -> None:
    assert auth.may_login("101", "马远", Auth(Config(), SECRET).page_token("101", "马远"))


def test_a_page_token_ends_with_its_time(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    token = auth.page_token("101", "马远")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3599)
    assert auth.may_login("101", "马远", token)
    monkeypatch.setattr(time, "time", lambda: now + 3602)
    assert not auth.may_login("101", "马远", token)
    assert auth.caller(f"Bearer {token}") is NOBODY


# --- demo mode ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.1.2.3:8080",
        "[::1]:8080",
        "[::1]",
        "chat.example.org",
    ],
)
def test_requests_for_this_machine_are_no_reason_to_warn(host: str, caplog: pytest.LogCaptureFixture) -> None:
    auth = Auth(Config(server=ServerSettings(host="chat.example.org")), SECRET)
    auth.look_at(host, forwarded=False)
    assert auth.watching
    assert not caplog.records


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        ("chat.example.org", False),
        ("192.168.0.7:8080", False),
        ("[2001:db8::1]:80", False),
        ("localhost", True),
    ],
)
def test_the_first_request_from_elsewhere_is_warned_of_once(
    host: str, forwarded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    auth = Auth(Config(), SECRET)
    auth.look_at(host, forwarded)
    auth.look_at(host, forwarded)
    assert not auth.watching
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "imserver key create" in record.getMessage()


def test_with_keys_there_is_nothing_to_warn_of(auth: Auth, caplog: pytest.LogCaptureFixture) -> None:
    assert not auth.watching
    auth.look_at("chat.example.org", forwarded=True)
    assert not caplog.records


# --- keys that are kept ---------------------------------------------------------------------------------


def kept(key: str, **more: Any) -> KeyRow:
    return KeyRow(f"id of {key}", hashlib.sha256(key.encode()).hexdigest(), **{"scopes": ("push",), **more})


def test_a_kept_key_ends_demo_mode_for_good() -> None:
    auth = Auth(Config(), SECRET)
    ended: list[bool] = []
    auth.on_closed = lambda: ended.append(auth.demo)
    auth.learn(Changes(1, keys=(kept("k", apps=("101",)),)))
    assert ended == [False]
    assert not auth.watching
    assert auth.caller("") is NOBODY
    caller = auth.caller("Bearer k")
    assert (caller.scopes, caller.apps, caller.key) == ({"push"}, {"101"}, "id of k")
    auth.learn(Changes(2, keys=(kept("k", revoked=5),)))
    assert auth.caller("Bearer k") is NOBODY
    auth.reload(Config())
    assert not auth.demo
    assert ended == [False]


def test_only_revoked_keys_are_keys_too() -> None:
    auth = Auth(Config(), SECRET)
    auth.learn(Changes(1, keys=(kept("k", revoked=5),)))
    assert not auth.demo


def test_apps_alone_leave_demo_mode_as_it_is() -> None:
    auth = Auth(Config(), SECRET)
    auth.learn(Changes(1, apps=(AppRow("105", {}),)))
    assert auth.caller("") is ANYBODY


def test_kept_and_configured_keys_hold_side_by_side_and_survive_a_reload(auth: Auth) -> None:
    auth.learn(Changes(1, keys=(kept("k"),)))
    auth.reload(KEYED)
    assert auth.caller("Bearer k").key == "id of k"
    digest = hashlib.sha256(b"the key").hexdigest()
    assert auth.caller("Bearer the key").key == f"config:{digest[:8]}"


def test_a_key_that_is_revoked_but_configured_too_holds_as_configured(auth: Auth) -> None:
    auth.learn(Changes(1, keys=(kept("the key"),)))
    auth.learn(Changes(2, keys=(kept("the key", revoked=5),)))
    assert auth.caller("Bearer the key").key.startswith("config:")


def test_a_key_bound_to_another_name_of_an_app_reaches_that_app() -> None:
    config = Config(
        api=ApiSettings(keys=(KeySettings("k", ("push",), ("106", "none")),)),
        apps={"105": TenantSettings(), "106": TenantSettings(same_as="105")},
    )
    assert Auth(config, SECRET).caller("Bearer k").apps == {"105", "none"}
