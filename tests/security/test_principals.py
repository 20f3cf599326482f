"""Findings about identity, each with a test that it stays closed."""

import gzip
import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from msgspec.structs import replace

from imserver.gateway.config.settings import ApiSettings, TenantSettings
from imserver.gateway.storage.contract import Changes, KeyRow
from imserver.people.accounts.parts import accounts_of
from tests.rows import ROUTES, sections

from .node_harness import ALL, SECRET, Harness, config, key
from .test_relations import Session

FOREIGN = key("admin", "push", apps=("205", "206", "301"))


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    settings = config(tmp_path, of_features=sections(accounts={"registration": True}))
    one = Harness(
        replace(settings, api=ApiSettings(keys=(*settings.api.keys, FOREIGN)))
    )
    yield one
    one.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Harness]:
    apps = {"101": TenantSettings(), "gochat": TenantSettings()}
    one = Harness(config(tmp_path / "demo", api=ApiSettings(), apps=apps))
    yield one
    one.close()


def route(method: str, path: str) -> Any:
    return next(row for row in ROUTES if (row.method, row.path) == (method, path))


def decide(
    harness: Harness, app: str, user: str = "u1", token: str = "", dialect: str = "cmd"
) -> bool:
    source = SimpleNamespace(peer="192.0.2.1:1", origin="")
    return harness.node.core.logins.check(app, user, token, dialect, source).ok


@pytest.mark.parametrize("app", ["205", "207", "204", "206"])
def test_registration_is_refused_in_an_app_without_accounts(
    harness: Harness, app: str
) -> None:
    registration = {"app": app, "phone": "13800000001", "password": "correct horse"}
    for name, token in (("register", ""), ("register", ALL.key), ("login", "")):
        status, answer = harness.call(
            "POST", f"/api/v1/accounts/{name}", registration, token
        )
        assert (status, answer["code"]) == (403, "not_allowed")


def test_the_token_of_an_account_is_invalid_where_there_are_none_and_without_its_login(
    harness: Harness,
) -> None:
    token = harness.account("205")
    for app in ("205", "207", "201"):
        status, answer = harness.call(
            "GET", "/api/v1/messages/sync", token=token, query={"app": app}
        )
        assert (status, answer["code"]) == (401, "token_invalid"), app
        assert not decide(harness, app, "", token)
    token = harness.account("201")
    found = accounts_of(harness.node.core).tokens.holder(token)
    other = accounts_of(harness.node.core).tokens.make(
        found.account.id, 0, found.expires_at, 0
    )
    status, answer = harness.call(
        "GET", "/api/v1/messages/sync", token=other, query={"app": "201"}
    )
    assert (status, answer["code"]) == (401, "token_invalid")


@pytest.mark.parametrize(
    ("registration", "is_demo", "is_open"),
    [
        (None, True, True),
        (None, False, False),
        (True, False, True),
        (False, True, False),
    ],
)
def test_registration_is_off_once_there_are_keys_unless_it_is_set(
    tmp_path: Path, registration: bool | None, is_demo: bool, is_open: bool
) -> None:
    of_features = sections(accounts={"registration": registration})
    more = {"api": ApiSettings()} if is_demo else {}
    one = Harness(
        config(
            tmp_path, apps={"gochat": TenantSettings()}, of_features=of_features, **more
        )
    )
    rules = one.call("GET", "/api/v1/accounts/rules", query={"app": "gochat"})[1]
    one.close()
    assert rules["registration"] is is_open


def test_demo_mode_has_accounts_of_gochat_alone_and_takes_unregistered_systems(
    demo: Harness, harness: Harness
) -> None:
    registration = {"phone": "13800000001", "password": "correct horse"}
    assert (
        demo.call(
            "POST", "/api/v1/accounts/register", {**registration, "app": "gochat"}
        )[0]
        == 201
    )
    assert (
        demo.call("POST", "/api/v1/accounts/register", {**registration, "app": "101"})[
            0
        ]
        == 403
    )
    assert demo.node.core.logins.takes_unregistered
    assert not harness.node.core.logins.takes_unregistered
    assert not decide(harness, "system:unknown", "", dialect="client")


@pytest.mark.parametrize("target", ["201", "gochat", "203"])
def test_a_key_makes_no_alias_of_an_app_that_it_does_not_reach(
    harness: Harness, target: str
) -> None:
    first = harness.call("POST", "/api/v1/apps/create", {"app": "301"}, FOREIGN.key)
    assert first[0] == 201
    for path, document in (
        ("/api/v1/apps/set", {"app": "301", "settings": {"same_as": target}}),
        ("/api/v1/apps/create", {"app": "206", "settings": {"same_as": target}}),
    ):
        status, answer = harness.call("POST", path, document, FOREIGN.key)
        assert (status, answer["code"]) == (403, "forbidden")
    assert harness.node.core.tenants.resolve("301") == "301"


def test_a_key_follows_its_app_when_that_becomes_an_alias(harness: Harness) -> None:
    assert (
        harness.call("POST", "/api/v1/apps/create", {"app": "301"}, FOREIGN.key)[0]
        == 201
    )
    ban = {"app": "301", "users": ["u"]}
    assert harness.call("POST", "/api/v1/unban", ban, FOREIGN.key)[0] == 200
    alias = {"app": "301", "settings": {"same_as": "205"}}
    assert harness.call("POST", "/api/v1/apps/set", alias, ALL.key)[0] == 200
    keys: Any = harness.node.core.keys
    assert keys.find(FOREIGN.key).apps == {"205", "204"}, "206 is an alias of 204"
    assert (
        harness.call(
            "POST", "/api/v1/apps/set", {"app": "301", "unset": ["same_as"]}, ALL.key
        )[0]
        == 200
    )
    assert keys.find(FOREIGN.key).apps == {"205", "204", "301"}


@pytest.mark.parametrize("second", ["appID", "appId"])
def test_two_apps_on_one_request_are_one(harness: Harness, second: str) -> None:
    """The app that is authorised is the app that is used, wherever it is
    named."""
    shown = {"authorization": f"Bearer {FOREIGN.key}"}
    query: Any = [("appID", "205"), (second, "201")]
    with closing(Session(harness, "201", "secret-user")):
        found = harness.ask(route("GET", "/user/list"), shown, query).body
        assert b"secret-user" not in found, found
        found = harness.ask(route("GET", "/user/list"), shown, query[:1]).body
        assert found.startswith(b'{"code":200'), "the attack is well formed"


def test_the_first_key_closes_apps_for_new_logins_and_ends_no_session(
    demo: Harness,
) -> None:
    assert decide(demo, "101")
    assert demo.node.core.logins.exposure() == []
    digest = hashlib.sha256(b"the first").hexdigest()
    demo.node.learn_keys(Changes(1, keys=(KeyRow("k", digest, ("admin",)),)))
    assert not decide(demo, "101")
    lines = demo.node.core.logins.exposure()
    assert [
        line
        for line in lines
        if line.startswith("app gochat: a login needs an account")
    ]
    (closed,) = [
        line for line in lines if line.startswith("closed, nobody may log in: ")
    ]
    assert " 101" in closed
    assert not [line for line in lines if line.startswith("app 101")]


def test_a_login_goes_to_the_alias_of_a_name_that_was_an_app_before(
    harness: Harness,
) -> None:
    tenants = harness.node.core.tenants
    assert tenants.register("302", open=True)
    assert decide(harness, tenants.resolve("302"))
    tenants.change("302", {"same_as": "201"})
    assert tenants.resolve("302") == "201"
    assert not decide(harness, tenants.resolve("302"))


def test_a_valid_token_is_not_called_invalid_where_it_is_not_accepted(
    harness: Harness,
) -> None:
    session = token_of("u1")
    account = harness.account("201")
    bot = harness.bot("201")
    of_account = "the token of an account"
    of_bot = "the token of a bot"
    for method, path, token, takes, shown in (
        (
            "GET",
            "/api/v1/messages/sync",
            session,
            f"{of_account} or {of_bot}",
            "a session token",
        ),
        ("POST", "/api/v1/messages/stream/open", session, of_bot, "a session token"),
        ("POST", "/api/v1/messages/stream/open", account, of_bot, of_account),
        ("POST", "/api/v1/friends/request", session, of_account, "a session token"),
        ("POST", "/api/v1/friends/request", bot, of_account, of_bot),
    ):
        status, answer = harness.call(method, path, token=token, query={"app": "201"})
        assert (status, answer["code"]) == (403, "not_allowed"), path
        wanted = (
            f"This request takes {takes}, or an API key of scope `admin`, not {shown}"
        )
        assert answer["message"] == wanted
        assert (
            harness.call(method, path, token=token[:-3], query={"app": "201"})[0] == 401
        )


def test_a_stranger_sends_no_gzip(harness: Harness, demo: Harness) -> None:
    body = gzip.compress(b"[" + b"1.5," * 1_000_000 + b"1]")
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    for path, status in (
        ("/api/v1/push", 401),
        ("/api/v1/accounts/login", 415),
        ("/api/v1/accounts/register", 415),
        ("/api/v1/uploads/delete", 415),
    ):
        assert harness.ask(route("POST", path), headers, body=body).status == status, (
            path
        )
    assert (
        demo.ask(route("POST", "/api/v1/accounts/login"), headers, body=body).status
        == 415
    )


def token_of(user: str) -> str:
    return jwt.encode(
        {"sub": user, "app": "201", "exp": time.time() + 60}, SECRET, "HS256"
    )


@pytest.mark.parametrize("user", ["a\0b", "\0", ""])
def test_a_token_names_no_user_that_no_login_could_have(
    harness: Harness, user: str
) -> None:
    assert not decide(harness, "201", "", token_of(user), "sse")
    assert harness.node.core.logins.session_of(token_of(user)) is None


def test_a_session_token_of_a_user_with_too_long_an_id_is_refused_over_http_too(
    harness: Harness,
) -> None:
    logins = harness.node.core.logins
    longest = "u" * harness.node.core.tenants.get("201").user_bytes_of("201")  # type: ignore[union-attr]
    assert logins.takes_user("201", longest)
    found = logins.session_of(token_of(longest))
    assert found is not None
    assert found.user == longest
    assert logins.session_of(token_of(longest + "u")) is None
