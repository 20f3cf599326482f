"""A messenger for ordinary code: a session that sends and receives what is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from websockets.sync.client import ClientConnection

from imserver.client import asks
from imserver.client.asks import CARRY_SECONDS, SENDS, Answer, Question
from imserver.client.backoff import Backoff
from imserver.client.entries import (
    BeginAnew,
    ConversationPage,
    Entry,
    Marks,
    Page,
    ReceiptPage,
    Sent,
    Signal,
)
from imserver.client.errors import Closed, NotConnected
from imserver.client.inbox import COME_BACK, Ask, Inbox
from imserver.client.sync import ANSWER_SECONDS, ENDED, Session
from imserver.client.wire import HEARTBEAT_SECONDS, Push, Reply

log = logging.getLogger(__name__)

Told = Push | Entry | Signal | BeginAnew
"""What a messenger hands out."""


class Messenger(Session[Told]):
    """One user's session that loses no message (docs/reference/protocol.md, "Stored messages").

    Arguments as for :class:`~imserver.client.Client`, and ``cursor``: where the user stands on this device,
    0 for everything that is kept, None for what comes from now on. What was missed is fetched after each
    login, acknowledged, and handed out once, in order, as :class:`Entry`. Keep :attr:`cursor` wherever you
    keep the entries, and hand it in at the next start.

    What you send is tried until the server has stored it, over as many connections as that takes; it is
    stored once.
    """

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: str | Callable[[], str] = "",
        *,
        cursor: int | None = 0,
        device: str = "",
        on_state: Callable[[str], None] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(
            url,
            app,
            user,
            token,
            device=device,
            on_state=on_state,
            heartbeat_seconds=heartbeat_seconds,
            backoff=backoff,
        )
        self._inbox = Inbox(cursor)
        self._asked_seq = ""
        self.cursor = cursor
        """The greatest id that :meth:`receive` has handed out, our own messages before it included."""

    # --- receiving ------------------------------------------------------------------------------------------

    def receive(self, timeout_seconds: float | None = None) -> Told | None:
        """What comes next: an :class:`Entry` of the log, a :class:`Signal`, a :class:`Push`, or
        :class:`BeginAnew`; None if nothing came in time. Raises :class:`Closed` when the session is over."""
        told = super().receive(timeout_seconds)
        if isinstance(told, Entry):
            self._reached(told.id)
        elif isinstance(told, BeginAnew):
            self.cursor = 0
        return told

    def _reached(self, place: int) -> None:
        self.cursor = max(self.cursor or 0, place)

    # --- sending --------------------------------------------------------------------------------------------

    def send(
        self,
        to: str = "",
        text: str | None = None,
        *,
        conversation: int = 0,
        data: Any = None,
        type: str = "",
        client_msg_id: str = "",
        reply_to: int = 0,
        mentions: Sequence[str] = (),
        timeout_seconds: float = CARRY_SECONDS,
    ) -> Sent:
        """Send ``text``, or JSON as ``data``, to a user or into a ``conversation``; where it is stored.

        Raises :class:`CommandRefused`, and :class:`NotConnected` when it took too long: it may be stored or
        not, and may be sent again under the same ``client_msg_id`` (one is made unless you give it).
        """
        asked = asks.send(to, text, conversation, data, type, client_msg_id, reply_to, mentions)
        return self._carry(asked, timeout_seconds)

    def edit(self, id: int, text: str | None = None, *, data: Any = None, type: str = "") -> Sent:
        """Say what our message ``id`` says now. Raises as :meth:`send` does."""
        return self._carry(asks.edit(id, text, data, type))

    def recall(self, id: int) -> Sent:
        """Take our message ``id`` back. Raises as :meth:`send` does."""
        return self._carry(asks.recall(id))

    def typing(self, to: str = "", *, conversation: int = 0) -> None:
        """Tell a user, or the members of a conversation, that we are writing; every 3 s or so."""
        asked = asks.typing(to, conversation)
        asked.read(self.request(asked.cmd, asked.data))

    # --- marks ----------------------------------------------------------------------------------------------

    def read(self, conversation: int, id: int) -> None:
        """We have read the conversation up to this entry; those who wrote are told."""
        self._carry(asks.mark("read", conversation, id))

    def received(self, conversation: int, id: int) -> None:
        """This device has got the conversation up to this entry; those who wrote are told."""
        self._carry(asks.mark("received", conversation, id))

    def hide(self, ids: Sequence[int]) -> None:
        """We do not want to see these entries any more, on no device."""
        self._carry(asks.hide(ids))

    def marks(self, version: int = 0) -> Marks:
        """What we have marked since that version."""
        return self._carry(asks.marks(version))

    def receipts(self, conversation: int, after: str = "", limit: int = 50) -> ReceiptPage:
        """How far the others have read and received a conversation, by their ids behind ``after``."""
        return self._carry(asks.receipts(conversation, after, limit))

    # --- looking back ---------------------------------------------------------------------------------------

    def conversations(self, before: int = 0, limit: int = 50) -> ConversationPage:
        """Our conversations, the liveliest first; ``before`` is that of the last one that is known."""
        return self._carry(asks.conversations(before, limit))

    def history(self, conversation: int, before: int = 0, limit: int = 50) -> Page:
        """What was said in a conversation before an entry, or at its end."""
        return self._carry(asks.history(conversation, before, limit))

    def search(self, text: str, conversation: int = 0, before: int = 0, limit: int = 50) -> Page:
        """Messages in which ``text`` is said, in one conversation or in all of ours."""
        return self._carry(asks.search(text, conversation, before, limit))

    # --- how ------------------------------------------------------------------------------------------------

    def _carry(self, asked: Question[Answer], timeout_seconds: float = CARRY_SECONDS) -> Answer:
        """Ask until there is an answer that lasts."""
        deadline = monotonic() + timeout_seconds
        pauses = Backoff(0.1, 2.0)
        while True:
            left = deadline - monotonic()
            try:
                if left <= 0 or not self._online.wait(left):
                    raise NotConnected(f"{asked.cmd}: no answer within {timeout_seconds:g} s")
                if self.state == ENDED:
                    raise self._error or Closed(1000)
                reply = self.request(asked.cmd, asked.data, min(left, ANSWER_SECONDS))
            except NotConnected:
                if self.state == ENDED or monotonic() >= deadline:
                    raise
                if self._closing.is_set():  # the connection may take its time to end
                    raise Closed(1000) from None
            else:
                if asks.lasts(reply) or monotonic() >= deadline:
                    return asked.read(reply)
            self._closing.wait(pauses.pause())

    def _login_fields(self) -> dict[str, Any]:
        return self._inbox.login_fields()

    def _logged_in(self, connection: ClientConnection, reply: Reply) -> None:
        self._catch_up(connection, self._inbox.logged_in(reply.data))

    def _catch_up(self, connection: ClientConnection, ask: Ask | None) -> None:
        self._asked_seq = ""
        if ask is not None:
            self._asked_seq, frame = self._wire.request(*ask)
            connection.send(frame)

    def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        if isinstance(read, Entry):
            if self._inbox.told(read):
                self._put(read)
        elif not isinstance(read, Reply):
            self._put(read)
        elif read.seq == self._asked_seq:
            self._brought(connection, read)
        else:
            if read.ok and read.cmd in SENDS and (mark := self._inbox.stored(read.data["id"])):
                self._put(mark)
            self._answered(read)

    def _brought(self, connection: ClientConnection, reply: Reply) -> None:
        """The answer to what we asked to catch up."""
        if not reply.ok:
            log.info("%s: %d %s", reply.cmd, reply.code, reply.text)
            connection.close(COME_BACK)
            return
        brought, ask = self._inbox.answered(reply.cmd, reply.data)
        for each in brought:
            self._put(each)
        self._catch_up(connection, ask)

    def _see_to(self, connection: ClientConnection, now: float) -> float:
        if (ask := self._inbox.ack(now)) is not None:
            connection.send(self._wire.request(*ask)[1])
        return self._inbox.ack_at()
