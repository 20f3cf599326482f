"""Tokens, signed and not, and other texts that name something: cursors,
channels, identifiers."""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt
import msgspec

from imserver.dialects.centrifuge.claims import connection_request, decode_connection
from imserver.gateway.auth import tokens
from imserver.gateway.auth.channel_tokens import read_channel_token
from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.login_tokens import PageTokens
from imserver.gateway.auth.tokens import (
    UnverifiedClaims,
    app_named_by,
    load_keys,
    read_bare_token,
)
from imserver.gateway.channels.members import (
    ChannelRefused,
    check_name,
    group_in,
    is_limited_to,
    needs_token,
    read_cursor,
)
from imserver.gateway.config.settings import Config, JwtSettings
from imserver.gateway.http.form import NumberedRooms, app_number
from imserver.gateway.process import Secret
from imserver.gateway.sessions.connection_ids import ConnectionIds
from imserver.messenger.log.names import clean_name, is_name
from imserver.notifications.tokens import (
    ActionToken,
    ActionTokens,
    BadActionToken,
    MailToken,
)
from imserver.people.accounts import tokens as account_tokens
from imserver.people.accounts.identifiers import BadField, candidates, split

from .target import Target

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000
KEYS = load_keys((JwtSettings("HS256", KEY),), Secret(b"server"), "shop")
ISSUER = JwtSettings("HS256", KEY, issuer="https://id.example", audience="shop")
SECRET = Secret(b"s" * 32)
PAGES = PageTokens(Config(), SECRET)
IDS = ConnectionIds(SECRET, 77)
ACTIONS = ActionTokens((b"k" * 32,), lambda: NOW)
_HEADERS = (
    b'{"alg":"HS256","typ":"JWT"}',
    b'{"alg":"HS256","kid":"a"}',
    b'{"alg":"none"}',
)


_decode_any = msgspec.json.Decoder().decode


def _text(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")


def _signed(head: bytes, payload: bytes) -> str:
    signed = _text(head) + b"." + _text(payload)
    return (signed + b"." + _text(hmac.digest(KEY.encode(), signed, "sha256"))).decode()


def _try(read: Callable[..., Any], *args: Any) -> None:
    with suppress(BadToken):
        read(*args)


def check_token(token: str) -> None:
    """A token is read, or refused with BadToken, by each reader of tokens."""
    _try(tokens.read_token, token, KEYS, NOW)
    _try(read_bare_token, token, KEYS, NOW, "shop")
    _try(lambda: read_bare_token(token, KEYS, NOW, "shop").read(decode_connection))
    _try(read_channel_token, token, KEYS, NOW)
    _try(tokens.unverified, token)
    _try(connection_request, token)
    _try(UnverifiedClaims.read, _decode_any, token)
    _try(tokens.header_and_claims, token, KEYS)
    _try(tokens.read_issued, token, KEYS, ISSUER, NOW, "shop", True)
    _try(tokens.read_issued, token, KEYS, ISSUER, NOW, "shop", False)
    _try(account_tokens.read, token, [KEY.encode()], NOW)
    assert isinstance(app_named_by(token), str)


def check_signed(data: bytes) -> None:
    """The same for claims that somebody has signed; the first byte chooses the
    header."""
    check_token(_signed(_HEADERS[data[0] % 3 if data else 0], data[1:]))


def check_unsigned(data: bytes) -> None:
    """The same for any text, and for tokens of pages, connections and
    notifications."""
    text = data.decode("utf-8", "replace")
    for token in (text, data.decode("latin-1"), f"page.{text}"):
        check_token(token)
        PAGES.read(token)
        IDS.read(token)
        for kind in (ActionToken, MailToken):
            with suppress(BadActionToken):
                ACTIONS.read(kind, token)


def check_names(data: bytes) -> None:
    """Names and cursors are read or refused as documented."""
    text = data.decode("utf-8", "replace")
    read_cursor(text)
    with suppress(ChannelRefused):
        check_name(text)
    needs_token(text)
    is_limited_to(text, "1")
    assert group_in(text) >= 0
    app_number(text)
    NumberedRooms.id_of(text)
    cleaned = clean_name(text)
    assert clean_name(cleaned) == cleaned, "what was cleaned is not clean"
    is_name(text, 0, 64)
    with suppress(BadField):
        kind, name = split(text)
        assert (kind, name) == split(name), "another form of what is stored"
    candidates(text)


def _signed_seeds() -> list[bytes]:
    claims: list[dict[str, Any]] = [
        {"sub": "ann", "app": "shop", "exp": NOW + 60, "nbf": 1},
        {
            "sub": "ann",
            "channel": "news",
            "info": {"a": 1},
            "b64info": "e30=",
            "expire_at": NOW + 9,
        },
        {
            "sub": "ann",
            "exp": NOW + 60,
            "info": None,
            "subs": {"news": {"info": {}}},
            "channels": ["a"],
        },
        {"iss": "https://id.example", "aud": ["shop"], "sub": 7, "exp": NOW + 1.5},
        {"user_id": 9, "version": 1, "exp": NOW + 60, "device": 3},
    ]
    return [b"\0" + msgspec.json.encode(each) for each in claims]


def _unsigned_seeds() -> list[bytes]:
    return [
        jwt.encode(
            {"sub": "ann", "app": "shop", "exp": NOW + 60}, KEY, "HS256"
        ).encode(),
        PAGES.make("shop", "ann").encode(),
        IDS.id_of(5).encode(),
        ACTIONS.make("shop", "ann", 1, 2, 3).encode(),
        ACTIONS.make_mail("shop", "ann").encode(),
    ]


TARGETS = (
    Target("signed", check_signed, _signed_seeds),
    Target("unsigned", check_unsigned, _unsigned_seeds),
    Target("names", check_names),
)
