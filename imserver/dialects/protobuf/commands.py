"""Commands of clients of the protobuf dialect."""

from __future__ import annotations

from imserver.plugin.wire import Command


class ChatLogin(Command, frozen=True, gc=False):
    """A login in which only the token names the user.

    ``cursor``: the client uses stored messages and has everything up to this id (-1: not given). ``acks``:
    the client acknowledges messages.
    """

    token: str
    device: str = ""
    cursor: int = -1
    acks: bool = False


class ChatMessage(Command, frozen=True, gc=False):
    """A message to an account or a group, to be stored. ``number`` counts the messages of one connection. The
    other fields are unchecked input of the client."""

    number: int
    session_type: int
    receiver: int
    sender: int
    type: int
    content: bytes
    sent_ms: int
    client_msg_id: str = ""
    kind: int = 0
    about: int = 0
    meta: bytes = b""


class ChatSync(Command, frozen=True, gc=False):
    """Request the messages after the id ``after``, at most ``limit`` (0: the default number)."""

    after: int
    limit: int = 0
