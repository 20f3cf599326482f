"""OpenID Connect issuers: their keys are fetched, cached and rotated; tokens
need issuer and audience."""

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import gevent
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import OKPAlgorithm
from msgspec.structs import replace

from imserver.gateway.auth.issuers import (
    FETCH_SECONDS,
    MAX_AGE_SECONDS,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    Issuer,
    Issuers,
)
from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.transport.outgoing import Unreachable
from tests.support import Clock

NOW = 1_800_000_000
URL = "https://id.example.org"
ROW = JwtSettings(issuer=URL, audience="shop")
MAIL = JwtSettings(issuer=URL, audience="mail", user_claim="uid")
CLAIMS = {"iss": URL, "aud": "shop", "sub": "ann", "exp": NOW + 60}
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
Reply = tuple[int, bytes] | str


class Web:
    """Documents by URL: what stands behind ``Outgoing.get``. ``gate``: called
    before each answer."""

    def __init__(self, documents: dict[str, Any]) -> None:
        self.documents = documents
        self.fetched: list[str] = []
        self.gate: Callable[[], object] = lambda: gevent.sleep(0)

    def get(self, url: str, seconds: float) -> tuple[int, bytes]:
        self.fetched.append(url)
        self.gate()
        document = self.documents.get(url)
        if document is None:
            raise Unreachable("no route to host")
        return 200, document if isinstance(document, bytes) else json.dumps(
            document
        ).encode()


def jwk(algorithm: str, kid: str, **more: Any) -> dict[str, Any]:
    encoded = jwt.get_algorithm_by_name(algorithm).to_jwk(KEYS[algorithm].public_key())
    return {**json.loads(encoded), "kid": kid, **more}


def web(*keys: dict[str, Any], url: str = URL) -> Web:
    return Web(
        {
            f"{url}/.well-known/openid-configuration": {
                "issuer": url,
                "jwks_uri": f"{url}/keys",
            },
            f"{url}/keys": {"keys": list(keys)},
        }
    )


def signed(algorithm: str = "EdDSA", kid: str = "1", **claims: Any) -> str:
    given = {
        name: value for name, value in {**CLAIMS, **claims}.items() if value is not None
    }
    return jwt.encode(given, KEYS[algorithm], algorithm, {"kid": kid} if kid else {})


def facts_of(claims: Claims | None) -> tuple[str, str, int] | None:
    return claims and (claims.user, claims.app, claims.expires_at)


def claims(site: Web, token: str, *rows: JwtSettings) -> tuple[str, str, int] | None:
    return facts_of(Issuers(site).claims("301", rows or (ROW,), token, NOW))  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_a_token_of_the_issuer_proves_its_user(algorithm: str) -> None:
    site = web(jwk(algorithm, "1"))
    assert claims(site, signed(algorithm)) == ("ann", "301", NOW + 60)
    assert site.fetched == [f"{URL}/.well-known/openid-configuration", f"{URL}/keys"]


@pytest.mark.parametrize("in_token", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("in_key", ["EdDSA", "Ed25519", None])
def test_an_edwards_key_may_use_the_name_of_rfc_9864(
    in_key: str | None, in_token: str
) -> None:
    signer = jwt.PyJWS()
    signer.register_algorithm("Ed25519", OKPAlgorithm())
    token = signer.encode(
        json.dumps(CLAIMS).encode(), KEYS["EdDSA"], in_token, {"kid": "1"}
    )
    assert claims(web(jwk("EdDSA", "1", alg=in_key)), token) == ("ann", "301", NOW + 60)
    with pytest.raises(BadToken):
        claims(web(jwk("ES256", "1")), token)


@pytest.mark.parametrize(
    ("rows", "changed", "user"),
    [
        ([replace(ROW, jwks_url=f"{URL}/keys")], {}, "ann"),
        ([replace(ROW, user_claim="uid")], {"uid": 17}, "17"),
        ([ROW], {"aud": ["mail", "shop"]}, "ann"),
        ([ROW, MAIL], {"uid": "bob"}, "ann"),
        ([MAIL, ROW], {"uid": "bob"}, "ann"),
        ([MAIL, ROW], {"uid": "bob", "aud": "mail"}, "bob"),
    ],
)
def test_the_row_of_the_audience_says_where_the_keys_and_the_user_are(
    rows: list[JwtSettings], changed: dict[str, Any], user: str
) -> None:
    site = web(jwk("EdDSA", "1"))
    assert claims(site, signed(**changed), *rows) == (user, "301", NOW + 60)
    assert len(site.fetched) == (1 if rows[0].jwks_url else 2)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        *(({"aud": audience}, "another audience") for audience in ("mail", None)),
        ({"exp": NOW}, "expired"),
        ({"exp": None}, "missing required field `exp`"),
        ({"nbf": NOW + 90}, "not valid yet"),
        *(({"sub": user}, "names no user") for user in (None, "", True, ["ann"])),
        ({"channel": "news"}, "token of a subscription"),
    ],
)
def test_a_token_that_proves_nothing_is_refused(
    changed: dict[str, Any], cause: str
) -> None:
    with pytest.raises(BadToken, match=cause):
        claims(web(jwk("EdDSA", "1")), signed(**changed))


def test_a_subscription_token_of_the_issuer() -> None:
    row = JwtSettings(issuer=URL, audience="shop", user_claim="uid")
    issuers = Issuers(web(jwk("EdDSA", "1")))  # type: ignore[arg-type]
    found = issuers.channel_claims(
        (row,), signed(uid=17, channel="news", expire_at=0), NOW
    )
    assert (found.sub, found.channel, found.expires_at) == ("17", "news", 0)
    wrong: list[dict[str, Any]] = [{"aud": "mail"}, {"exp": NOW}, {"uid": None}]
    for changed in wrong:
        with pytest.raises(BadToken):
            issuers.channel_claims(
                (row,), signed(**{"uid": "ann", "channel": "news", **changed}), NOW
            )
    assert (
        issuers.channel_claims((row,), signed(iss="https://other.example.org"), NOW)
        is None
    )


def test_only_a_client_of_centrifugo_has_a_session_that_ends_at_another_time() -> None:
    issuers = Issuers(web(jwk("EdDSA", "1")))
    token = signed(expire_at=0)  # type: ignore[arg-type]
    for bare, end in ((False, NOW + 60), (True, 0)):
        assert facts_of(issuers.claims("301", (ROW,), token, NOW, bare)) == (
            "ann",
            "301",
            end,
        )
    own = signed(expire_at="2026-12-01")
    assert facts_of(issuers.claims("301", (ROW,), own, NOW)) == (
        "ann",
        "301",
        NOW + 60,
    ), "a claim of its own"
    with pytest.raises(BadToken, match="wrong types"):
        issuers.claims("301", (ROW,), own, NOW, True)


def test_a_token_of_an_issuer_that_the_app_does_not_name_is_left_to_others() -> None:
    site = web(jwk("EdDSA", "1"))
    assert claims(site, signed(iss="https://other.example.org")) is None
    assert claims(site, signed(iss=None)) is None
    assert claims(site, signed(iss=None, exp=None)) is None
    payload = json.dumps({**CLAIMS, "iss": None, "aud": None}).encode()
    null = jwt.api_jws.encode(payload, "a secret of 32 characters or more", "HS256")
    assert claims(site, null) is None
    assert not site.fetched


def test_a_public_key_is_no_secret_and_another_key_is_none() -> None:
    """The key decides on the algorithm: HS256 with a published key as its
    secret proves nothing."""
    row = jwk("RS256", "1")
    head, payload = (
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "1"}, CLAIMS)
    )
    digest = hmac.digest(json.dumps(row).encode(), head + b"." + payload, "sha256")
    forged = b".".join([head, payload, urlsafe_b64encode(digest).rstrip(b"=")]).decode()
    stranger = jwt.encode(
        CLAIMS, rsa.generate_private_key(65537, 2048), "RS256", {"kid": "1"}
    )
    for wrong in (forged, stranger, jwt.encode(CLAIMS, None, "none", {"kid": "1"})):
        with pytest.raises(BadToken):
            claims(web(row), wrong)


@pytest.mark.parametrize(
    "row",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "1"},
        {"kty": "RSA", "kid": "1"},
        {"kid": "1"},
        *(
            {**jwk("EdDSA", "1"), **wrong}
            for wrong in ({"alg": ["EdDSA"]}, {"alg": {"a": 1}}, {"kid": ["1"]})
        ),
        *({**jwk("EdDSA", "1"), **wrong} for wrong in ({"crv": []}, {"kty": {}})),
        jwk("EdDSA", "1", use="enc"),
        json.loads(
            jwt.get_algorithm_by_name("RS256").to_jwk(
                rsa.generate_private_key(65537, 1024).public_key()
            )
        ),
        {
            **json.loads(jwt.get_algorithm_by_name("EdDSA").to_jwk(KEYS["EdDSA"])),
            "kid": "1",
        },
    ],
)
def test_rows_that_are_no_signing_keys_are_ignored(row: dict[str, Any]) -> None:
    site = web(row, jwk("ES256", "2"))
    with pytest.raises(BadToken, match="no key"):
        claims(site, signed(kid="1"))
    assert claims(site, signed("ES256", "2"))


def test_the_document_of_another_issuer_or_with_keys_that_can_be_forged_is_not_used() -> (
    None
):
    for changed, problem in (
        ({"issuer": "https://other.example.org"}, "another issuer"),
        ({"jwks_uri": "http://id.example.org/keys"}, "https"),
        ({"jwks_uri": "file:///keys"}, "https"),
        ({"jwks_uri": "http://127.0.0.1.example.org/keys"}, "https"),
    ):
        site = web(jwk("EdDSA", "1"))
        site.documents[f"{URL}/.well-known/openid-configuration"] |= changed
        with pytest.raises(IssuerUnavailable, match=problem):
            claims(site, signed())
        assert len(site.fetched) == 1
    site.documents = {
        f"{URL}/keys": b'{"keys":[{"kid":%b%b}]}' % (b"[" * 30_000, b"]" * 30_000)
    }
    with pytest.raises(IssuerUnavailable):
        claims(site, signed(), replace(ROW, jwks_url=f"{URL}/keys"))


def issuer_of(site: Web) -> tuple[Issuer, Clock]:
    clock = Clock()
    return Issuer(URL, "", site, clock), clock  # type: ignore[arg-type]


def test_keys_are_fetched_once_and_who_does_not_answer_delays_the_first_login_only() -> (
    None
):
    site = web(jwk("EdDSA", "1"))
    issuer, _ = issuer_of(site)
    jobs = [gevent.spawn(issuer.keys_for, "1") for _ in range(20)]
    assert all(len(job.get()) == 1 for job in jobs)
    assert len(site.fetched) == 2
    site = Web({})
    issuer, clock = issuer_of(site)

    def pass_time() -> None:
        clock.now += FETCH_SECONDS

    site.gate = pass_time
    for _ in range(3):
        with pytest.raises(IssuerUnavailable, match="no route"):
            issuer.keys_for("1")
    assert len(site.fetched) == 1
    clock.now += RETRY_SECONDS
    site.documents = web(jwk("EdDSA", "1")).documents
    site.gate = lambda: None
    assert issuer.keys_for("1")


AWAY = "away"
NO_KEY = "no key"
FIRST = (0.0, "1", "1", "", 2)
UNKNOWN = ((RETRY_SECONDS, "9"), (0, "9"), (0, "8"), (0, "7"), (RETRY_SECONDS, "9"))


@pytest.mark.parametrize(
    "steps",
    [
        [FIRST, (RETRY_SECONDS, "12", "2", "", 4)],
        [FIRST, (RETRY_SECONDS - 1, "2", "2", NO_KEY, 2), (1, "2", "2", "", 4)],
        # A key is not unknown because the issuer was away.
        [FIRST, (RETRY_SECONDS, "", "2", NO_KEY, 3), (RETRY_SECONDS, "12", "2", "", 5)],
        # One fetch each 10 s, whatever strangers name; later 9 is known to be
        # unknown.
        [FIRST, *((seconds, "1", kid, NO_KEY, 4) for seconds, kid in UNKNOWN)],
        # No login waits for the fetch of what is old.
        [
            FIRST,
            (REFRESH_SECONDS + 1, "2", "1", "", 4),
            (0, "2", "2", "", 4),
            (0, "2", "1", NO_KEY, 4),
        ],
        [
            FIRST,
            (MAX_AGE_SECONDS - 1, "", "1", "", 3),
            (RETRY_SECONDS, "", "1", AWAY, 4),
        ],
    ],
)
def test_when_keys_are_fetched(steps: list[tuple[float, str, str, str, int]]) -> None:
    """Each step: seconds that pass, the keys of the issuer, which one is asked
    for, what is wrong, and the number of fetches so far."""
    rows = {"1": jwk("EdDSA", "1"), "2": jwk("ES256", "2")}
    site = Web({})
    issuer, clock = issuer_of(site)
    for seconds, there, kid, wrong, fetches in steps:
        clock.now += seconds
        site.documents = web(*map(rows.__getitem__, there)).documents if there else {}
        try:
            assert [key.kid for key in issuer.keys_for(kid)] == [kid]
            found = ""
        except BadToken:
            found = NO_KEY
        except IssuerUnavailable:
            found = AWAY
        gevent.sleep(0.01)
        assert (found, len(site.fetched)) == (wrong, fetches)


def test_issuers_are_kept_apart() -> None:
    """One that hangs delays no token of another, and a key of one signs nothing
    for another."""
    other = "https://login.example.net"
    site = web(jwk("EdDSA", "1"))
    hanging = gevent.event.Event()
    site.documents |= web(jwk("ES256", "1"), url=other).documents
    issuers = Issuers(site)  # type: ignore[arg-type]
    rows = (ROW, JwtSettings(issuer=other, audience="shop"))
    site.gate = lambda: hanging.wait() if site.fetched[-1].startswith(other) else None
    waiting = gevent.spawn(issuers.claims, "301", rows, signed("ES256", iss=other), NOW)
    gevent.sleep(0)
    assert issuers.claims("301", rows, signed(), NOW)
    hanging.set()
    assert waiting.get()
    with pytest.raises(BadToken, match="alg value is not allowed"):
        issuers.claims("301", rows, signed("EdDSA", iss=other), NOW)
