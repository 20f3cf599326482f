"""Signatures of requests to S3 and what speaks its protocol (AWS Signature Version 4)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from msgspec import Struct

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
"""What a request without a body is signed with."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Credentials(Struct, frozen=True):
    """Who signs, and for which region."""

    access_key: str
    secret_key: str
    region: str


def canonical_path(path: str) -> str:
    """A path as it is signed and sent: every byte escaped that is not unreserved, slashes kept."""
    return quote(path, safe="/-_.~")


def signed_headers(
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    sha256: str,
    credentials: Credentials,
    now: datetime | None = None,
) -> dict[str, str]:
    """``headers`` and those that prove who sends them; ``path`` is canonical already, and has no query.

    ``sha256`` is that of the body, in hexadecimal. All headers are signed, with Host, which is not among
    the result: whoever sends the request writes it.
    """
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "x-amz-content-sha256": sha256, "x-amz-date": moment}
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in (*sent.items(), ("host", host)))
    names = ";".join(name for name, _ in lines)
    told = "".join(f"{name}:{value}\n" for name, value in lines)
    request = "\n".join([method, path, "", told, names, sha256])
    scope = f"{moment[:8]}/{credentials.region}/s3/aws4_request"
    to_sign = "\n".join([_ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = hmac.digest(_signing_key(credentials, moment[:8]), to_sign.encode(), "sha256").hex()
    who = f"Credential={credentials.access_key}/{scope}"
    proof = f"{_ALGORITHM} {who},SignedHeaders={names},Signature={signature}"
    return {**sent, "authorization": proof}


def _signing_key(credentials: Credentials, day: str) -> bytes:
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, credentials.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
