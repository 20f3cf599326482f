"""Logins with providers: whom they let in, and what nobody can do with the
login of somebody else."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from imserver.gateway.api.v1.table import routes_at
from imserver.gateway.config.settings import AppSettings, TenantSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.transport.http1 import HttpRequest, header_block, row_of
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings
from imserver.people.accounts.parts import accounts_of
from imserver.people.oauth import oauth as logins
from imserver.people.oauth import providers as protocols
from imserver.people.oauth.declared import OAuthOfApp, ProviderSettings
from imserver.people.oauth.oauth import OAuth
from tests.rows import sections
from tests.users import PASSWORD, User

from .node_harness import ADMIN, APPS, RULED, Harness, config
from .providers import CLIENT, GITHUB_USER, SECRET, StandIn

HOME = "https://im.example.com"
FAILURES = 3
NAMES = ("oidc", "github", "wechat", "wechat_official")


@pytest.fixture(scope="module")
def provider() -> Iterator[StandIn]:
    one = StandIn()
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def usual(provider: StandIn) -> None:
    provider.reset()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, provider: StandIn
) -> Iterator[Harness]:
    """201 makes accounts. In 202 only linked accounts log in, and there are no
    passwords."""

    def app(register: bool, *more: Any) -> TenantSettings:
        one: Any = {
            "client_id": CLIENT,
            "client_secret": SECRET,
            "issuer": provider.issuer,
        }
        rows = {
            kind: ProviderSettings(kind, **one, register=register) for kind in NAMES
        }  # type: ignore[arg-type]
        return replace(RULED, api_allow_from=(), of_features=(OAuthOfApp(rows), *more))

    no_passwords = AccountsOfApp(AppAccountSettings(passwords=False))
    apps = {**APPS, "201": app(True), "202": app(False, no_passwords)}
    limits = {"logins_per_address": 0, "failures": FAILURES, "failure_seconds": 86_400}
    of_features = sections(accounts={"registration": True, **limits})
    settings = {
        "apps": apps,
        "app": AppSettings(http_url=HOME),
        "of_features": of_features,
    }
    harness = Harness(config(Path(tmp_path_factory.mktemp("oauth")), **settings))
    yield harness
    harness.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may answer late."""
    for module in (protocols, logins):
        monkeypatch.setattr(module, "SECONDS", 100.0)


class Login:
    """A login of a client, and its browser."""

    def __init__(
        self,
        node: Harness,
        name: str = "oidc",
        app: str = "201",
        token: str = "",
        **more: Any,
    ) -> None:
        self.node = node
        self.app = app
        self.name = name
        status, self.started = self.call("start", {"provider": name, **more}, token)
        assert status == 200, self.started

    def call(self, route: str, body: Any, token: str = "") -> tuple[int, Any]:
        path = f"/api/v1/accounts/oauth/{route}"
        answer: tuple[int, Any] = self.node.call(
            "POST", path, {"app": self.app, **body}, token
        )
        return answer

    def come_back(self, query: dict[str, str], **more: Any) -> Any:
        path = f"/oauth/callback/{quote(self.app)}/{self.name}"
        return self.node.web.get(
            f"{path}?{urlencode({**query, **more})}", headers={"Accept-Language": "en"}
        )

    def answer(self, page: Any, agreed: str = "yes") -> int:
        """The user answers the question of a page."""
        text = unescape(page.text)
        hidden = dict(re.findall(r'name="(code)" value="([^"]+)"', text))
        assert self.started["shown"] in text
        form = {**hidden, "agreed": agreed}
        status: int = self.node.web.post(
            f"/oauth/callback/{self.app}/{self.name}", data=form
        ).status_code
        return status

    def finish(self, code: str = "") -> tuple[int, Any]:
        return self.call("finish", {"login": self.started["login"], "code": code})

    def done(self, provider: StandIn) -> tuple[int, Any]:
        """The answer after the user has agreed everywhere."""
        page = self.come_back(provider.agree(self.started["url"]))
        if page.status_code == 200:
            assert self.answer(page) == 200
        return self.finish()


def show(node: Harness, token: str, app: str = "201") -> Any:
    return node.call("GET", "/api/v1/accounts/show", token=token, query={"app": app})[1]


def account(node: Harness, provider: StandIn, name: str = "oidc", **more: Any) -> Any:
    """The account that a login leads to."""
    status, session = Login(node, name, **more).done(provider)
    assert status == 200, session
    shown = show(node, session["token"])
    assert shown == session["account"]
    return shown


def test_the_first_login_makes_an_account_with_name_and_picture_and_later_ones_find_it(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "first"
    answer = account(node, provider)
    assert (answer["nickname"], answer["avatar"]) == (
        "Ann Lee",
        "https://img.example.com/ann.png",
    )
    assert (answer["phone"], answer["email"], answer["name"]) == ("", "", "")
    provider.user["name"] = "Another Name"
    assert account(node, provider) == answer, "they are taken over once"
    paths = [path for path, _, _ in provider.calls]
    assert (paths.count("/userinfo"), paths.count("/jwks")) <= (1, 1)


def test_githubs_and_wechats_users_are_known_by_their_ids(
    node: Harness, provider: StandIn
) -> None:
    answer = account(node, provider, "github")
    assert (answer["nickname"], answer["avatar"]) == (
        "octocat",
        GITHUB_USER["avatar_url"],
    )
    assert account(node, provider, "github") == answer
    wechat = account(node, provider, "wechat")
    assert (wechat["nickname"], wechat["avatar"]) == (
        "安",
        "https://img.example.com/an/0",
    )
    provider.unionid = "uAnn"
    assert account(node, provider, "wechat") == wechat, "the openid is still known"
    provider.openid = "oBob of the account"
    provider.unionid = "uBob"
    answer = account(node, provider, "wechat_official")
    provider.openid = "oBob of the website"
    assert account(node, provider, "wechat") == answer, (
        "the union id is one user in all clients"
    )
    links = node.node.core.service(OAuth).link_store.of(int(answer["user"]))
    known = [(link.provider, link.subject) for link in links]
    assert known == [("wechat", "uBob"), ("wechat_official", "uBob")]


def test_where_providers_make_no_accounts_only_linked_ones_log_in(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "nobody"
    status, answer = Login(node, app="202").done(provider)
    assert (status, answer["code"]) == (403, "registration_closed")
    assert answer["message"].endswith("the provider makes none (register)")
    token = node.account("202")
    login = Login(node, app="202", token=token, link=True)
    assert login.done(provider) == (200, {"linked": "oidc"})
    status, session = Login(node, app="202").done(provider)
    shown = show(node, token, "202")
    assert (status, session["account"]) == (200, shown)


def test_an_app_lists_its_providers_and_browsers_come_back_to_this_server_only(
    node: Harness,
) -> None:
    listed = node.call("GET", "/api/v1/accounts/oauth/providers", query={"app": "201"})[
        1
    ]["providers"]
    assert [row["provider"] for row in listed] == list(NAMES)
    assert listed[0] == {
        "provider": "oidc",
        "kind": "oidc",
        "title": "oidc",
        "register": True,
    }
    assert node.call("GET", "/api/v1/accounts/oauth/providers")[1] == {"providers": []}
    assert (
        node.call("GET", "/api/v1/accounts/oauth/providers", query={"app": "204"})[0]
        == 403
    )
    for path in (
        "//evil.example",
        "https://evil.example",
        "/\\evil",
        "home",
        "/a#b",
        "/a\n",
    ):
        body = {"app": "201", "provider": "oidc", "return_to": path}
        status, answer = node.call("POST", "/api/v1/accounts/oauth/start", body)
        assert (status, answer["code"]) == (400, "invalid_request"), path


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another client"},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"sub": 7},
        {"at_hash": "AAAA"},
    ],
)
def test_an_id_token_that_was_not_made_for_this_login_is_refused(
    node: Harness, provider: StandIn, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    login = Login(node)
    assert login.come_back(provider.agree(login.started["url"])).status_code == 403
    status, answer = login.finish()
    assert (status, answer["code"]) == (403, "login_refused")
    assert login.finish()[1]["code"] == "unknown_login", "a handle works once"
    provider.reset()
    provider.signing = ec.generate_private_key(ec.SECP256R1())
    assert Login(node).done(provider)[0] == 403, "it is of another key"


@pytest.mark.parametrize(
    ("name", "path", "answer", "outcome"),
    [
        ("oidc", "/token", (400, {"error": "invalid_grant"}), 403),
        ("oidc", "/token", (500, {}), 503),
        ("oidc", "/token", (200, []), 503),
        ("oidc", "/token", (200, {"access_token": "access"}), 403),
        ("oidc", "/userinfo", (200, {"sub": "somebody else", "name": "Eve"}), 403),
        (
            "github",
            "/login/oauth/access_token",
            (200, {"error": "bad_verification_code"}),
            403,
        ),
        ("github", "/api/v3/user", (401, {"message": "Bad credentials"}), 403),
        ("github", "/api/v3/user", (200, {"login": "nobody"}), 403),
        ("github", "/api/v3/user", (502, "later"), 503),
        (
            "wechat",
            "/sns/oauth2/access_token",
            (200, {"errcode": 40163, "errmsg": "code been used"}),
            403,
        ),
        ("wechat", "/sns/oauth2/access_token", (200, {"access_token": "access"}), 403),
        (
            "wechat_official",
            "/sns/userinfo",
            (200, {"openid": "oEve", "nickname": "Eve"}),
            403,
        ),
    ],
)
def test_an_error_of_the_provider_lets_nobody_in(
    node: Harness,
    provider: StandIn,
    name: str,
    path: str,
    answer: tuple[int, Any],
    outcome: int,
) -> None:
    provider.user["sub"] = f"unknown {path}"
    provider.answers[path] = answer
    provider.openid = "oNew"
    login = Login(node, name)
    page = login.come_back(provider.agree(login.started["url"]))
    assert page.status_code == outcome
    assert login.finish()[1]["code"] == "login_refused"


def test_a_browser_that_comes_back_twice_to_another_provider_or_with_an_error_changes_nothing(
    node: Harness, provider: StandIn
) -> None:
    login = Login(node)
    query = provider.agree(login.started["url"])
    assert login.finish() == (200, {"pending": True})
    assert login.come_back({**query, "state": "another"}).status_code == 404
    assert login.come_back(query).status_code == 200
    assert login.come_back(query).status_code == 404
    assert login.finish() == (200, {"pending": True}), "the user was not asked yet"
    other = Login(node)
    other.name = "github"
    assert other.come_back(provider.agree(other.started["url"])).status_code == 403
    refused = Login(node)
    state = provider.agree(refused.started["url"])["state"]
    assert (
        refused.come_back({"state": state, "error": "access_denied"}).status_code == 403
    )
    assert refused.finish()[1]["code"] == "login_refused"
    mixed = Login(node)
    query = provider.agree(mixed.started["url"])
    assert mixed.come_back({**query, "iss": "https://evil.example"}).status_code == 403


def test_the_user_may_refuse_what_they_did_not_start(
    node: Harness, provider: StandIn
) -> None:
    login = Login(node, device="phone <b>")
    page = login.come_back(provider.agree(login.started["url"]))
    assert "phone &lt;b&gt;" in page.text
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert login.answer(page, "no") == 200
    assert login.finish()[1]["code"] == "login_refused"
    assert login.answer(page) == 404, "it was answered"


def test_a_browser_that_returns_while_redis_is_away_may_try_again(
    node: Harness, provider: StandIn
) -> None:
    login = Login(node)
    query = provider.agree(login.started["url"])
    page = login.come_back(query)

    def away() -> float:
        raise StorageUnavailable

    values = node.node.core.temporary_values
    values.clock = away
    late = login.come_back(query)
    assert (late.status_code, "Try again in a while." in late.text) == (503, True)
    assert login.answer(page) == 503
    values.clock = monotonic
    assert login.answer(page) == 200, "the answer still counts"


def test_a_page_finishes_with_the_code_that_only_its_browser_gets(
    node: Harness, provider: StandIn
) -> None:
    """Whoever sends the address of a login of their own to somebody else gets
    nothing."""
    provider.user["sub"] = "victim"
    for stolen in ("", "wrong"):
        login = Login(node, return_to="/home/messages?lang=en")
        page = login.come_back(provider.agree(login.started["url"]))
        assert page.status_code == 303
        assert login.finish(stolen)[1]["code"] == "login_refused"
    login = Login(node, return_to="/home/messages?lang=en")
    address, _, code = login.come_back(
        provider.agree(login.started["url"])
    ).location.partition("#oauth=")
    assert address == f"{HOME}/home/messages?lang=en"
    assert login.finish(code)[1]["account"]["nickname"] == "Ann Lee"
    login = Login(node, return_to="/home/messages")
    state = provider.agree(login.started["url"])["state"]
    assert login.come_back({"state": state, "error": "no"}).location.endswith(
        "/home/messages#oauth=refused"
    )


def test_the_front_answers_the_callback_as_flask_does_to_its_origin(
    node: Harness, provider: StandIn
) -> None:
    login = Login(node)
    query = urlencode(provider.agree(login.started["url"])).encode()
    path = "/oauth/callback/%3201/oidc"
    front = row_of(routes_at(node.node.servers.api, hot=True), "GET", path)
    assert front is not None
    assert (
        row_of(routes_at(node.node.servers.api, everywhere=True, hot=True), "GET", path)
        is None
    )
    request = HttpRequest(
        "GET", path, query, b"", {"accept-language": "en;q=0.9, zh;q=0.1"}, "192.0.2.1"
    )
    first = front(request)
    again = front(request)
    assert (
        first.status,
        login.started["shown"].encode() in first.body,
        again.status,
    ) == (200, True, 404)
    flask = login.come_back({"state": "unknown"})
    assert again.body == flask.data
    lines = header_block(again).decode().splitlines()
    assert {*lines, f"Content-Length: {len(again.body)}"} == {
        f"{k}: {v}" for k, v in flask.headers
    }
    assert "no-store" in str(lines)
    assert "Access-Control" not in str(lines)


def test_logins_are_forgotten(
    node: Harness, provider: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "LOGIN_SECONDS", 0)
    login = Login(node)
    assert login.come_back(provider.agree(login.started["url"])).status_code == 404
    assert login.finish()[1]["code"] == "unknown_login"
    late = Login(node)
    late.app = "202"
    assert late.finish()[1]["code"] == "unknown_login"


def test_too_many_that_wait_for_a_provider_are_refused_at_once(
    node: Harness, provider: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    Login(node, app="202")
    # counts for a provider that was not asked before
    monkeypatch.setattr(logins, "AT_ONCE", 0)
    body = {"app": "202", "provider": "wechat_official"}
    status, answer = node.call("POST", "/api/v1/accounts/oauth/start", body)
    assert (status, answer["code"]) == (503, "provider_unavailable")
    assert Login(node, app="202").started["url"], "others go on"


def test_an_account_links_and_unlinks_but_keeps_a_way_to_log_in(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "cid"
    cid = User.register(node, "201", name="cid")
    links = "accounts/oauth/links"
    mine: dict[str, Any] = {"token": cid.token, "link": True, "password": PASSWORD}
    for _ in "linked", "it is linked":
        assert Login(node, **mine).done(provider) == (200, {"linked": "oidc"})
    assert [(row["provider"], row["title"]) for row in cid.get(links)["links"]] == [
        ("oidc", "oidc")
    ]
    provider.user["sub"] = "another identity"
    assert Login(node, **mine).done(provider)[1]["code"] == "link_taken"
    answer = account(node, provider)
    login = Login(node, **mine, return_to="/")
    code = login.come_back(provider.agree(login.started["url"])).location.partition(
        "#oauth="
    )[2]
    assert login.finish(code)[1]["code"] == "link_taken", (
        f"it belongs to {answer['user']}"
    )

    def unlink(user: User) -> Any:
        return user.ask("POST", "accounts/oauth/unlink", {"provider": "oidc"})[1].get(
            "code", "done"
        )

    assert [unlink(cid), unlink(cid)] == ["done", "unknown_provider"]
    assert (
        unlink(User(node, Login(node).done(provider)[1]["token"], app="201"))
        == "last_login"
    )
    assert (
        len(User(node, ADMIN.key, app="201").get(links, user=answer["user"])["links"])
        == 1
    )


def test_a_stolen_token_adds_no_way_to_log_in(node: Harness) -> None:
    gus = User.register(node, "201", name="gus")
    route = "accounts/oauth/start"
    link = {"provider": "oidc"}
    refused = (401, "wrong_login")
    limited = (429, "too_many_requests")
    for given in ({}, {"password": "wrong horse"}):
        assert gus.refused(route, **link, link=True, **given) == refused
    assert gus.post(route, **link, link=True, password=PASSWORD), (
        "this ends the count of failures"
    )
    for _ in range(FAILURES):
        assert gus.refused(route, **link, link=True, password="wrong horse") == refused
    assert gus.refused(route, **link, link=True, password=PASSWORD) == limited, (
        "failures are limited"
    )
    given = {"password": "battery staple", "old_password": PASSWORD}
    assert gus.refused("accounts/password", **given) == limited, "they count together"


def test_a_link_that_outlives_its_session_or_has_no_token_fails(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "dan"
    token = User.register(node, "201", name="dan").token
    login = Login(node, token=token, link=True, password=PASSWORD)
    user = show(node, token)["user"]
    accounts_of(node.node.core).accounts.log_out("201", user)
    assert login.done(provider)[1]["code"] == "login_refused"
    for bad in ("", token, node.session("201"), ADMIN.key):
        body = {"app": "201", "provider": "oidc", "link": True, "password": PASSWORD}
        status, answer = node.call("POST", "/api/v1/accounts/oauth/start", body, bad)
        assert (status, answer["code"]) == (401, "token_invalid")


def test_a_deleted_account_leaves_its_identity_free(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "eve"
    first = Login(node).done(provider)[1]
    provider.openid = "oEve"
    linked = Login(node, "wechat", token=first["token"], link=True).done(provider)
    assert linked == (200, {"linked": "wechat"}), (
        "an account without a password links without one"
    )
    user = {"user": first["account"]["user"]}
    done = node.call("POST", "/api/v1/accounts/delete", {"app": "201"}, first["token"])
    assert done == (200, user), "it has no password"
    assert account(node, provider)["user"] != user["user"]


def test_two_first_logins_at_once_make_one_account(
    node: Harness, provider: StandIn
) -> None:
    provider.user["sub"] = "fay"
    store = accounts_of(node.node.core).rows
    began = []
    faster = []
    add = store.add_linked

    def overtaken(*given: Any) -> Account:
        """Another login makes the account just before."""
        if not began:
            began.append(given)
            faster.append(account(node, provider))
        return add(*given)

    store.add_linked = overtaken  # type: ignore[assignment, method-assign]
    assert [account(node, provider)] == faster
