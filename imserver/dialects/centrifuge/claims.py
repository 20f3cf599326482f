"""The claims of Centrifugo's connection tokens, except the user and the end."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from msgspec import UNSET, Raw, UnsetType, field

from imserver.plugin.identity import UnverifiedClaims
from imserver.plugin.wire import Partial


class SubscriptionClaims(Partial, frozen=True):
    """The claims of a connection token about one channel to which the server
    subscribes the client.

    ``info``: JSON about the client for other clients in the channel. ``data``:
    JSON for the client. ``expire_at``: when the subscription ends (0: never).
    ``b64info`` and ``b64data`` are ``info`` and ``data`` in Base64.
    """

    info: Raw | UnsetType = UNSET
    b64info: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    expire_at: int = 0
    override: Raw | UnsetType = UNSET
    server_tags_filter: Raw | UnsetType = UNSET
    cache_recover: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = (
        "override",
        "server_tags_filter",
        "cache_recover",
    )
    in_base64: ClassVar[tuple[str, ...]] = ("info", "data")


class ConnectionClaims(Partial, frozen=True):
    """The facts about a client, from a verified connection token or a back end.
    The user and the end are not here.

    ``info``: JSON about the client for other clients. ``data``: JSON for the
    client. ``channels``, ``subs``: the channels to which the server subscribes
    the client. ``meta``: JSON about the client for the back end only.
    """

    info: Raw | UnsetType = UNSET
    b64info: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    channels: tuple[str, ...] = ()
    subs: dict[str, SubscriptionClaims] = field(default_factory=dict)
    meta: Raw | UnsetType = UNSET
    caps: Raw | UnsetType = UNSET
    labels: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("caps", "labels")
    in_base64: ClassVar[tuple[str, ...]] = ("info", "data")

    @property
    def subscriptions(self) -> dict[str, SubscriptionClaims]:
        """Channel → the claims of the token about this channel."""
        return {channel: SubscriptionClaims() for channel in self.channels} | self.subs


class ConnectionRequest(UnverifiedClaims, frozen=True):
    """The requests in the connection token of a client of an open app.

    In an open app nobody verifies the token, so it proves nothing. It gives the
    name that the client chooses (``sub``), and channels to which the client
    subscribes by its own right.
    """

    sub: str = ""
    channels: tuple[str, ...] = ()
    subs: Mapping[str, Raw] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names of the requested channels."""
        return frozenset((*self.channels, *self.subs))


decode_connection = msgspec.json.Decoder(ConnectionClaims).decode
"""Decodes the claims of a connection token, except the user and the end."""
_decode_request = msgspec.json.Decoder(ConnectionRequest).decode


def connection_request(token: str) -> ConnectionRequest:
    """Read a connection token for an open app, without verifying it. Raises
    BadToken."""
    return UnverifiedClaims.read(_decode_request, token)
