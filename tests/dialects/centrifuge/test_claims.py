"""What tokens of connections say beyond their user."""

from typing import Any

import pytest
from msgspec import UNSET, Raw, json

from imserver.dialects.centrifuge.claims import (
    ConnectionClaims,
    ConnectionRequest,
    connection_request,
    decode_connection,
)
from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.tokens import read_bare_token
from tests.gateway.auth.test_tokens import NOW, SHOP, bare


def signed(**claims: Any) -> str:
    return bare(json.encode(claims))


def claims_of(token: str) -> ConnectionClaims:
    """What a verified token says beyond its user and its end."""
    return read_bare_token(token, SHOP, NOW, "shop").read(decode_connection)


def test_a_claim_that_is_null_is_missing() -> None:
    found = claims_of(signed(sub="ann", subs=None, channels=None, info={"name": None}))
    assert found.subscriptions == {}
    assert bytes(found.info) == b'{"name":null}'  # type: ignore[arg-type]


def test_claims_can_be_read_again_from_a_deeper_stack() -> None:
    def is_read(levels: int) -> bool:
        info = b"[" * levels + b"]" * levels
        try:
            return bytes(claims_of(signed(sub="ann", info=Raw(info))).info) == info  # type: ignore[arg-type]
        except BadToken:
            return False

    def read_below(frames: int, document: bytes) -> None:
        if frames:
            read_below(frames - 1, document)
        else:
            json.decode(document)

    deepest = max(filter(is_read, range(200, 2000, 10)))
    read_below(80, b"[" * deepest + b"]" * deepest)


def test_what_a_connection_token_says_beyond_its_user() -> None:
    written = signed(
        sub="ann",
        info={"name": "Ann"},
        channels=["news", "talk"],
        subs={"talk": {"info": 1, "data": {"x": 2}}, "past": {}},
    )
    claims = claims_of(written)
    assert bytes(claims.info) == b'{"name":"Ann"}'  # type: ignore[arg-type]
    assert claims.subscriptions.keys() == {"news", "talk", "past"}
    assert bytes(claims.subscriptions["talk"].data) == b'{"x":2}'  # type: ignore[arg-type]
    assert claims.subscriptions["news"].info is UNSET


@pytest.mark.parametrize(
    "written", ["", "a.b", "a.b.c", "a.b.c.d", "a.é.c", "a." + "e" * 9000 + ".c"]
)
def test_what_is_no_token_requests_nothing(written: str) -> None:
    with pytest.raises(BadToken):
        connection_request(written)


def test_in_an_open_app_a_token_requests_a_name_and_channels() -> None:
    found = connection_request(
        signed(sub="ann", channels=["news"], subs={"talk": {"info": 1}}, info=1)
    )
    assert (found.sub, found.names) == ("ann", {"news", "talk"})
    assert connection_request(signed(sub=None, channels=None)) == ConnectionRequest()
