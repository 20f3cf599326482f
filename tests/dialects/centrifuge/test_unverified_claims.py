"""Claims that nobody verified have no effect, under each login rule; verified
ones have."""

import ast
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import jwt
import pytest

from imserver.backends.webhooks.parts import follow_apps
from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.claims import ConnectionClaims, ConnectionRequest
from imserver.dialects.centrifuge.service import CentrifugeState
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeLogin,
    RefreshLogin,
)
from imserver.gateway.auth import tokens
from imserver.gateway.auth.channel_tokens import ChannelClaims
from imserver.gateway.auth.issuers import Issuers
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.login_tokens import LoginTokens
from imserver.gateway.config.settings import (
    BackEndSettings,
    Config,
    TenantSettings,
    WebhookSettings,
)
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import ClientFacts, Reply
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import GatePolicy, Origins
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.people.accounts import tokens as account_tokens
from tests.backends.login_harness import webhooks_of
from tests.dialects.centrifuge.test_service import CentrifugeHarness
from tests.gateway.auth.test_issuers import KEYS, ROW, jwk, web
from tests.gateway.core.back_end import BackEnd
from tests.gateway.core.login_harness import ASK, JWT, SECRET, Apps
from tests.support import ROOT

APP = "101"
OTHER_APP = "102"
OTHER = f"{SECRET}, but another"
ACCOUNT_KEY = b"the key of account tokens, which is long enough"
Claims = dict[str, Any]
DIALECT = CentrifugeDialect()


def by_secret(claims: Claims) -> str:
    return jwt.encode(claims, SECRET, "HS256")


def by_issuer(claims: Claims) -> str:
    claims = {"iss": ROW.issuer, "aud": ROW.audience, **claims}
    return jwt.encode(claims, KEYS["EdDSA"], "EdDSA", {"kid": "1"})


def by_account_key(claims: Claims) -> str:
    return jwt.encode(claims, ACCOUNT_KEY, "HS256")


class LoginRule(NamedTuple):
    """The settings of an app, how those whom it trusts sign, and the user whose
    session begins with any token (None: none does)."""

    settings: TenantSettings
    sign: Callable[[Claims], str] = by_secret
    user: str | None = None
    demo: bool = False

    @property
    def another_app(self) -> Claims:
        """The claims of a token for another app."""
        return {"aud": OTHER_APP} if self.sign is by_issuer else {"app": OTHER_APP}


CONNECT = BackEndSettings(connect="http://back.end/connect")
RULES = {
    "jwt": LoginRule(TenantSettings(jwt=JWT)),
    "jwt and authorise_url": LoginRule(TenantSettings(jwt=JWT, webhook=ASK)),
    "issuer": LoginRule(TenantSettings(jwt=(ROW,)), by_issuer),
    "issuer and authorise_url": LoginRule(
        TenantSettings(jwt=(ROW,), webhook=ASK), by_issuer
    ),
    "accounts": LoginRule(TenantSettings(account_tokens="required"), by_account_key),
    "accounts and jwt": LoginRule(TenantSettings(account_tokens="accepted", jwt=JWT)),
    "authorise_url": LoginRule(TenantSettings(webhook=ASK), user="boss"),
    "open": LoginRule(TenantSettings(open=True), user="mallory"),
    "demo": LoginRule(TenantSettings(), user="mallory", demo=True),
    "connect back end": LoginRule(
        TenantSettings(back_ends=CONNECT, webhook=WebhookSettings(secret="x"))
    ),
    "none": LoginRule(TenantSettings()),
}
CLOSED = ("connect back end", "none")
"""Apps to which no token logs in."""
VERIFYING = [name for name in RULES if "jwt" in name or "issuer" in name]
CLAIMS: list[tuple[str, Claims]] = [
    ("channels", {"channels": ["$private"]}),
    ("channels", {"channels": ["group:7"]}),
    ("infos", {"subs": {"$private": {"info": {"forged": 1}, "data": {"forged": 1}}}}),
    ("info", {"info": {"forged": 1}}),
    ("meta", {"meta": {"forged": 1}}),
    ("data", {"data": {"forged": 1}}),
    ("ttl", {"expire_at": int(time.time()) + 9000}),
    ("", {"sub": "mallory"}),
]
"""An effect, and the claim that has it if a token is verified (``""``: it names
the user)."""
OF_CHANNELS = ("channels", "infos")


def token(**claims: Any) -> Claims:
    return {"sub": "mallory", "user_id": 7, "exp": int(time.time()) + 60, **claims}


def unsigned(signed: str) -> str:
    """A token without its signature."""
    return signed.rpartition(".")[0] + "."


BAD: dict[str, Callable[[LoginRule, Claims], str]] = {
    "wrong signature": lambda _rule, claims: jwt.encode(claims, OTHER, "HS256"),
    "no signature": lambda rule, claims: unsigned(rule.sign(claims)),
    "alg none": lambda _rule, claims: jwt.encode(claims, "", "none"),
    "expired": lambda rule, claims: rule.sign({**claims, "exp": 1}),
    "wrong signature and expired": lambda _rule, claims: jwt.encode(
        {**claims, "exp": 1}, OTHER, "HS256"
    ),
    "another app": lambda rule, claims: rule.sign({**claims, **rule.another_app}),
    "a subscription": lambda rule, claims: rule.sign({**claims, "channel": "$private"}),
}
NOT_OF_ACCOUNTS = ("another app", "a subscription")
"""Account tokens have no such claims."""
CASES = [
    (name, bad)
    for name in RULES
    for bad in BAD
    if name != "accounts" or bad not in NOT_OF_ACCOUNTS
]


class ClaimsHarness(CentrifugeHarness):
    """The app 101 with one login rule. Its back end admits everybody as
    ``boss``."""

    def __init__(self, rule: LoginRule) -> None:
        back_end = BackEnd(lambda _: (200, b'{"allow":true,"user":"boss"}'))
        webhooks = webhooks_of(back_end)
        apps: Any = Apps(**{APP: rule.settings, OTHER_APP: rule.settings})
        follow_apps(apps, webhooks).configure(Config())
        pages: Any = SimpleNamespace(fits=lambda *_: False)
        accounts: Any = SimpleNamespace(holder=self._holder)
        issuers = Issuers(web(jwk("EdDSA", "1")))  # type: ignore[arg-type]
        proofs = LoginTokens(apps.resolve, pages, accounts, issuers, Secret(b"server"))
        demo = SimpleNamespace(demo=rule.demo)
        origins = Origins(TrustedProxies(()), GatePolicy())
        logins = Logins(
            apps, demo, proofs, webhooks.back_ends, webhooks, set(), Metrics(), origins
        )
        logins.prepare()
        super().__init__(logins)
        self.replies: list[Reply] = []

    @staticmethod
    def _holder(token: str) -> Any:
        found = account_tokens.read(token, (ACCOUNT_KEY,), time.time())
        account = SimpleNamespace(user=str(found.user_id), app=APP, kind="account")
        return SimpleNamespace(account=account, expires_at=int(found.exp), device="")

    def log_in(self, token: str) -> Connection:
        connection, _ = self.connect(dialect=DIALECT)
        connection.dialect_state = CentrifugeState(
            app=APP, facts=ClientFacts("websocket", {})
        )
        self._note(
            self.centrifuge.login(
                connection, CentrifugeLogin(token), self.replies.append
            )
        )
        return connection

    def refresh(self, connection: Connection, token: str) -> None:
        self._note(self.centrifuge.refresh(connection, RefreshLogin(token)))

    def _note(self, reply: Reply | None) -> None:
        if reply is not None:
            self.replies.append(reply)

    def effects(self, connection: Connection) -> dict[str, Any]:
        """What a token has brought into force beyond its user."""
        state = connection.dialect_state
        assert isinstance(state, CentrifugeState)
        assert state.facts is not None
        has = self.channels.members.has
        ends = self.logins.holds_token(connection)
        channels = [name for name in ("$private", "group:7") if has(connection, name)]
        found: dict[str, Any] = {
            "channels": channels,
            "infos": state.channel_infos,
            "ends": ends,
        }
        found |= {"info": state.info, "meta": state.facts.meta}
        reply: Any = self.replies[-1].data if self.replies else None
        for name in ("subs", "expires", "ttl", "data"):
            value = getattr(reply, name, None)
            found[name] = (
                value.keys() - {f"#{connection.user}"}
                if isinstance(value, dict)
                else value
            )
        return {
            name: value
            for name, value in found.items()
            if value and type(value).__name__ != "UnsetType"
        }


@contextmanager
def app_with(name: str) -> Iterator[tuple[LoginRule, ClaimsHarness]]:
    rule = RULES[name]
    with ClaimsHarness(rule) as harness:
        yield rule, harness


# --- logins -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bad"), CASES)
def test_an_unverified_claim_has_no_effect_at_a_login(name: str, bad: str) -> None:
    with app_with(name) as (rule, harness):
        for effect, claim in CLAIMS:
            harness.replies.clear()
            connection = harness.log_in(BAD[bad](rule, token(**claim)))
            assert harness.effects(connection) == {}, claim
            if rule.user is None:
                assert connection.app is None, claim
            elif rule.user == "mallory" and effect in OF_CHANNELS:
                assert not connection.is_open, (
                    "in an open app the client has only its own rights"
                )
            else:
                assert connection.user == rule.user, claim


@pytest.mark.parametrize("name", VERIFYING)
def test_each_verified_claim_has_its_effect(name: str) -> None:
    with app_with(name) as (rule, harness):
        for effect, claim in CLAIMS:
            connection = harness.log_in(rule.sign(token(**{"sub": "ann", **claim})))
            found = harness.effects(connection)
            assert connection.user == claim.get("sub", "ann")
            assert {"expires", "ttl", "ends", effect or "ttl"} <= found.keys(), claim
            assert (found["ttl"] > 60) == (effect == "ttl"), claim


def test_the_token_of_an_account_proves_its_user_and_its_end_only() -> None:
    with app_with("accounts") as (rule, harness):
        for _, claim in CLAIMS:
            connection = harness.log_in(rule.sign(token(**claim)))
            assert connection.user == "7"
            assert harness.effects(connection).keys() == {"expires", "ttl", "ends"}, (
                claim
            )


def test_a_back_end_may_read_tokens_of_any_form() -> None:
    with app_with("authorise_url") as (_, harness):
        assert harness.log_in("s3ss10n").user == "boss"


@pytest.mark.parametrize("name", [*VERIFYING, "accounts"])
def test_only_a_verified_token_is_answered_as_an_expired_one(name: str) -> None:
    with app_with(name) as (rule, harness):
        assert harness.log_in(BAD["expired"](rule, token())).is_open
        assert [reply.code for reply in harness.replies] == [codes.TOKEN_EXPIRED]
        assert not harness.log_in(
            BAD["wrong signature and expired"](rule, token())
        ).is_open
        assert len(harness.replies) == 1


# --- renewals -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad"), [case for case in CASES if case[0] not in CLOSED]
)
def test_an_unverified_claim_has_no_effect_at_a_renewal(name: str, bad: str) -> None:
    with app_with(name) as (rule, harness):
        user = "7" if rule.sign is by_account_key else rule.user or "mallory"
        for effect, claim in CLAIMS:
            connection = harness.log_in(rule.sign(token(sub=user)))
            assert connection.user == user
            before = harness.effects(connection)
            harness.refresh(
                connection, BAD[bad](rule, token(exp=int(time.time()) + 900, **claim))
            )
            after = harness.effects(connection)
            assert after.pop("ttl", 0) <= 60, claim
            assert after.items() <= before.items(), claim
            if rule.user is None or (rule.user == "mallory" and effect in OF_CHANNELS):
                assert not connection.is_open, claim
            else:
                assert connection.is_open, claim


@pytest.mark.parametrize("name", VERIFYING)
def test_a_verified_renewal_has_its_effect(name: str) -> None:
    with app_with(name) as (rule, harness):
        connection = harness.log_in(rule.sign(token()))
        harness.refresh(
            connection, rule.sign(token(exp=int(time.time()) + 900, info=1, meta=2))
        )
        found = harness.effects(connection)
        assert (found["info"], found["meta"], found["ttl"] > 60) == (b"1", b"2", True)


# --- the types ----------------------------------------------------------------


def test_only_the_code_that_verifies_makes_a_verified_payload() -> None:
    """The rest is up to mypy: what reads claims takes a ``VerifiedPayload``."""
    makers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "imserver").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and "VerifiedPayload" in ast.unparse(node)
        if ast.unparse(node.func)
        in ("VerifiedPayload", "cast", "json_web_tokens.VerifiedPayload")
    }
    assert makers == {"imserver/gateway/auth/json_web_tokens.py"}
    assert not issubclass(
        ConnectionRequest, tokens.Claims | ConnectionClaims | ChannelClaims
    )
    for kind in (tokens.Claims, ConnectionClaims, ChannelClaims):
        assert not issubclass(kind, tokens.UnverifiedClaims)
        assert kind.__struct_config__.frozen
