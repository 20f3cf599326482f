"""Commands of clients of the pusher dialect."""

from __future__ import annotations

from imserver.plugin.wire import Command


class PusherSubscribe(Command, frozen=True, gc=False):
    """Subscribe to a channel of the pusher dialect.

    ``auth``: signature of the back end (``""``: none). ``data``: JSON text about the subscriber, which is
    signed too (``""``: none).
    """

    channel: str
    auth: str = ""
    data: str = ""


class PusherUnsubscribe(Command, frozen=True, gc=False):
    """End a subscription of the pusher dialect."""

    channel: str


class ClientEvent(Command, frozen=True, gc=False):
    """Send an event to the other subscribers of a channel. Its payload is ``data`` (JSON), else ``text``."""

    channel: str
    name: str
    data: bytes = b""
    text: str = ""


class SignIn(Command, frozen=True, gc=False):
    """Make the connection a session of the user in ``user_data`` (JSON text), signed by ``auth``."""

    auth: str
    user_data: str
