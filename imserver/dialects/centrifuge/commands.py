"""The commands that only clients of Centrifugo have."""

from __future__ import annotations

from msgspec import field

from imserver.plugin.wire import Command


class CentrifugeLogin(Command, frozen=True, gc=False):
    """A login in which only the token names the user; ``""``: a connection without a user.

    ``recover``: channels in which the server had subscribed the client → epoch and offset of the last
    publication that it has. ``data`` (JSON; ``b""``: none), ``name`` and ``version`` of the client and
    ``headers`` (which a browser cannot set on a WebSocket) are for the back end. ``channels``: those that a
    client which only receives names, since it cannot subscribe later.
    """

    token: str
    recover: dict[str, tuple[str, int]] = field(default_factory=dict)
    data: bytes = b""
    name: str = ""
    version: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


class RefreshLogin(Command, frozen=True, gc=False):
    """Renew the token of the session."""

    token: str


class RefreshSubscription(Command, frozen=True, gc=False):
    """Renew the token of a subscription."""

    channel: str
    token: str


class AskPresenceStats(Command, frozen=True, gc=False):
    """Request how many subscribers and users a channel has."""

    channel: str


class CallMethod(Command, frozen=True, gc=False):
    """Call a method of the app's back end; in an app without one, a method of this server. ``data``: JSON
    (``b""``: none)."""

    method: str
    data: bytes = b""
