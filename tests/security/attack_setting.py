"""Keys, apps and tokens of the server that the attack suite attacks."""

import time
from typing import Any

import jwt

ADMIN, OF_205, PUSH_OF_TOKENS = (
    f"key-{name}-of-the-attacks" for name in ("admin", "two-apps", "push")
)
SECRET = "a" * 40
TOKENS = "301"
"""An app whose logins need a session token."""
CONFIG: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": OF_205, "scopes": ["admin"], "apps": ["205", "206", "207"]},
            {"key": PUSH_OF_TOKENS, "scopes": ["push"], "apps": [TOKENS]},
        ]
    },
    "apps": {"101": {}, "205": {}, "gochat": {}, TOKENS: {"jwt": [{"key": SECRET}]}},
    "accounts": {"registration": True},
}


def session_token(app: str, user: str) -> str:
    """A token as the back end of an app makes it."""
    return jwt.encode(
        {"sub": user, "app": app, "exp": time.time() + 600}, SECRET, "HS256"
    )
