"""Devices of users, as push services and their clients see them."""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import http_ece
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imserver.notifications.content import body_of
from imserver.notifications.contract import PushEndpoint, Shown


class Device:
    """The keys of one subscription. It decrypts what it gets by
    ``http_ece``."""

    def __init__(self) -> None:
        self.key = generate_private_key(SECP256R1())
        self.auth = os.urandom(16)

    def endpoint(
        self, url: str, id: int = 1, app: str = "shop", user: str = "ann"
    ) -> PushEndpoint:
        point = self.key.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )
        return PushEndpoint(id, app, user, url, base64url(point), base64url(self.auth))

    def decrypt(self, content: bytes) -> bytes:
        plain: bytes = http_ece.decrypt(
            content, private_key=self.key, auth_secret=self.auth
        )
        return plain

    def shown(self, content: bytes) -> Shown:
        return msgspec.json.decode(self.decrypt(content), type=Shown)


def base64url(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")


def body(**fields: Any) -> bytes:
    """:class:`Shown` as JSON."""
    return body_of(Shown(**{"kind": "message", "tag": "t", **fields}))
