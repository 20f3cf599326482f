"""Issuers: what they publish may be anything, and while one is away its tokens do no harm."""

from typing import Any
from urllib.parse import quote

import pytest

from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.errors import IssuerUnavailable
from tests.conftest import StartServer
from tests.gateway.auth.test_issuers import NOW, URL, claims, jwk, signed, web
from tests.integration.raw import ask, request
from tests.security.attack_setting import ADMIN
from tests.support import Server

AWAY = "http://127.0.0.1:9"
"""Nobody listens there."""


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    config = {
        "api": {"keys": [{"key": ADMIN, "scopes": ["admin"]}]},
        "apps": {"101": {"open": True}, "301": {"jwt": [{"issuer": AWAY, "audience": "shop"}]}},
    }
    return start_shared_server(config=config)


@pytest.mark.parametrize(
    "changed", [{"alg": ["EdDSA"]}, {"alg": {}}, {"kid": ["1"]}, {"crv": []}, {"kty": {}}]
)
def test_a_key_of_the_wrong_types_hides_no_other(changed: dict[str, Any]) -> None:
    site = web({**jwk("EdDSA", "1"), **changed}, jwk("ES256", "2"))
    assert claims(site, signed("ES256", "2"))


def test_a_document_that_is_too_deep_is_no_document() -> None:
    site = web()
    body = b'{"keys":[{"kid":%b%b}]}' % (b"[" * 30_000, b"]" * 30_000)
    site.get = lambda url, seconds: (200, body)  # type: ignore[method-assign]
    row = JwtSettings(issuer=URL, audience="shop", jwks_url=f"{URL}/keys")
    with pytest.raises(IssuerUnavailable):
        claims(site, signed("ES256", "2"), row)


@pytest.mark.parametrize("scheme", ["http://id.example.org", "file://", "http://127.0.0.1.example.org"])
def test_a_discovery_document_cannot_move_the_keys_to_where_they_can_be_forged(scheme: str) -> None:
    keys = f"{scheme}/keys"
    site = web(jwk("EdDSA", "1"))
    site.documents[f"{URL}/.well-known/openid-configuration"]["jwks_uri"] = keys
    site.documents[keys] = site.documents[f"{URL}/keys"]
    with pytest.raises(IssuerUnavailable, match="https"):
        claims(site, signed())
    assert keys not in site.fetched


def test_a_token_of_an_issuer_that_is_away_is_answered_so_wherever_it_is_shown(server: Server) -> None:
    token = signed(iss=AWAY, exp=NOW + 10**9)
    body = b'{"id":"%b","token":"%b"}' % (b"a" * 32, token.encode())
    headers = [("Content-Type", "application/json")]
    found = ask(server.http, request("/api/v1/uploads/delete", method="POST", body=body, headers=headers))
    assert found.status == 503
    assert b"issuer_unavailable" in found.body
    batch = b'{"commands":[{"uploads/delete":%b}]}' % body
    keyed = [*headers, ("Authorization", f"Bearer {ADMIN}")]
    found = ask(server.http, request("/api/v1/batch", method="POST", body=batch, headers=keyed))
    assert found.status == 200
    page = ask(server.http, request(f"/home/index?appID=301&token={quote(token)}"))
    assert page.status == 503
