"""The contract of a dialect: one codec and the few rules that differ between the servers we re-implement.

Adding a dialect means adding one module with a class that satisfies :class:`Dialect` and naming it in
``protocol/registry.py``. ``tests/protocol/contract.py`` is the suite that every dialect has to pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from imserver.model import Event, Message, Reply, Request


class Dialect(Protocol):
    """A codec plus its session rules. Stateless but for counters: one instance serves all connections.

    ``name`` is the glossary's name of the dialect, ``path`` the WebSocket path it answers on, ``text``
    says whether its frames are text frames. ``any_origin`` is True where browsers of any host may connect.
    ``pinged`` is True where clients have no heartbeat command: they are pinged, and live as long as they show
    signs of life. ``message_bytes`` is the greatest message it takes (0: ``limits.message_bytes``).
    ``personal`` is True where a pushed frame names its receiver: see :meth:`encode_for`.
    """

    name: str
    path: str
    text: bool
    any_origin: bool
    message_bytes: int
    pinged: bool
    personal: bool

    def decode(self, payload: bytes) -> Request:
        """Turn one client frame's payload into a request.

        Raises :class:`imserver.model.BadFrame`, and nothing else, whatever the bytes are.
        """

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """The payload that answers ``request``; None where the dialect answers nothing."""

    def encode_event(self, event: Event) -> bytes | None:
        """The payload that tells a client of ``event``; None where the dialect has no word for it.

        Not called where the dialect is :attr:`personal`.
        """

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """What stands before and behind the receiver's id (a JSON string) in the payload; None: no word.

        Called only where the dialect is :attr:`personal`.
        """


@runtime_checkable
class TellsMessages(Protocol):
    """A dialect with words for what is stored, too."""

    def encode_message(self, message: Message) -> bytes | None:
        """The payload that tells a client of ``message``; None where the dialect has no word for it."""


class TellsEach(Protocol):
    """A :attr:`~Dialect.personal` dialect with words for what is stored, too. The sender's other connections
    are not told, but of what is said in a room."""

    def encode_message_for(self, message: Message) -> tuple[bytes, bytes] | None:
        """What stands before and behind the receiver's id in the payload that tells of ``message``; None: no
        word for it."""


class TellsBatches(TellsMessages, Protocol):
    """A dialect whose frames hold several messages: what follows each other for somebody is one frame."""

    def encode_messages(self, messages: Sequence[Message]) -> bytes | None:
        """The payload that tells a client of ``messages``, in their order; None where the dialect has no word
        for any of them. It is what :meth:`encode_message` gives for each, one behind the other."""
