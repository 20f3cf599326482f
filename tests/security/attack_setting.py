"""Keys, apps and tokens of the attack suite, and the ways to log in."""

import time
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration import client, protobuf
from tests.integration.action import action_client, login_data
from tests.integration.cmd import login_code
from tests.integration.raw import PING, PONG, Address, Raw, frame, request

ADMIN, OF_205, PUSH_OF_TOKENS = (f"key-{name}-of-the-attacks" for name in ("admin", "two-apps", "push"))
SECRET, OTHER_SECRET = "a" * 40, "b" * 40
PRIVATE = Ed25519PrivateKey.generate()
PUBLIC_PEM = (
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)

TOKENS, OTHER_TOKENS, EDDSA = "301", "302", "303"
"""Apps whose logins need a session token."""
OPEN, BARE, AUTHORISED = "401", "402", "403"
"""Apps: anybody may log in; without a login rule; with a back end that never agrees."""
CONFIG: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": OF_205, "scopes": ["admin"], "apps": ["205", "206", "207"]},
            {"key": PUSH_OF_TOKENS, "scopes": ["push"], "apps": [TOKENS]},
        ]
    },
    "apps": {
        "101": {},
        "205": {},
        "gochat": {},
        TOKENS: {"jwt": [{"key": SECRET}]},
        OTHER_TOKENS: {"jwt": [{"key": OTHER_SECRET}]},
        EDDSA: {"jwt": [{"algorithm": "EdDSA", "key": PUBLIC_PEM}]},
        OPEN: {"open": True},
        BARE: {},
        AUTHORISED: {"webhook": {"authorise_url": "http://127.0.0.1:9/", "secret": "c" * 40}},
        "action:1": {"jwt": [{"key": SECRET}]},
        "system:shop": {"jwt": [{"key": SECRET}]},
    },
    "accounts": {"registration": True},
}
GOOD = 200
REFUSED = {1002, 1003, 1004}
"""Codes with which a cmd login is refused."""


def session_token(app: str, user: str, secret: str = SECRET, seconds: float = 600, **claims: Any) -> str:
    """A token as the back end of an app makes it."""
    row = {"sub": user, "app": app, "exp": time.time() + seconds, **claims}
    return jwt.encode({name: value for name, value in row.items() if value is not None}, secret, "HS256")


def login(address: Address, app: str, user: str, token: str = "") -> int:
    """The code that a login of the cmd dialect is answered with."""
    return login_code(address, user, int(app), serviceToken=token)


def action_login(address: Address, user: str, token: str = "") -> int:
    """The code that a login of the action dialect is answered with; 0: it was closed."""
    with action_client(address) as one:
        try:
            return one.ask_action("login", {**login_data(user), "token": token})[0]
        except (AssertionError, ValueError):
            return 0


def client_enters(address: Address, system: str, **query: str) -> bool:
    """Whether a client of a system is given an id."""
    with client.Listener(address) as one:
        try:
            one.open(system, **query)
        except (AssertionError, ValueError):
            return False
        return True


def protobuf_enters(address: Address, token: str) -> bool:
    """Whether a login of the protobuf dialect is taken: a refused one has no answer."""
    with protobuf.visiting(address) as one:
        one.send_payload(protobuf.login(token))
        one.send(frame(PING, b"over?"))
        return one.frame().opcode != PONG


def stream_opens(address: Address, app: str, user: str, token: str = "") -> bool:
    """Whether an event stream is answered with 200."""
    query = {"app": app, "user": user, **({"token": token} if token else {})}
    with Raw(address) as one:
        one.send(request(f"/api/v1/events?{urlencode(query)}"))
        return one.response(to_head=True).status == GOOD
