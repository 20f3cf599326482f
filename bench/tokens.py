"""Session tokens of the generators: with the key of an app they log in as anybody, without accounts."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode

KEY = "a-secret-of-32-bytes-or-more-for-measuring-only"
_LIVE_SECONDS = 86_400


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


_HEAD = _text(b'{"alg":"HS256","typ":"JWT"}')


def session_token(user: int, app: str, key: str = KEY) -> str:
    """Return a token that lets ``user`` into an app whose ``jwt`` has ``key`` (HS256), for a day."""
    claims = {"sub": str(user), "app": app, "exp": int(time.time()) + _LIVE_SECONDS}
    signed = f"{_HEAD}.{_text(json.dumps(claims).encode())}"
    return f"{signed}.{_text(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"
