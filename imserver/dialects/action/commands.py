"""Commands of clients of the action dialect."""

from __future__ import annotations

from imserver.plugin.wire import Command, Login


class ActionLogin(Login, frozen=True, gc=False):
    """A login that names the receiver of its messages: the user ``peer``, or the ``room`` (``""``: none).
    ``acks``: the client acknowledges messages."""

    peer: str = ""
    room: str = ""
    acks: bool = False


class Say(Command, frozen=True, gc=False):
    """Send a message to the receiver named at login. ``type``: type of ``text``. ``id``: made by the
    client."""

    type: str
    text: str
    id: str = ""


class AckNumber(Command, frozen=True, gc=False):
    """Acknowledge the messages up to a number of this connection."""

    number: int
