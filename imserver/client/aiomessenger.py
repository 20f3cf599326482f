"""A messenger for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from imserver.client import asks
from imserver.client.aio import AsyncSession, Token
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
from imserver.client.inbox import ACK_SECONDS, COME_BACK, Ask, Inbox
from imserver.client.messenger import Told
from imserver.client.sync import ANSWER_SECONDS, ENDED
from imserver.client.wire import HEARTBEAT_SECONDS, Push, Reply

log = logging.getLogger(__name__)


class AsyncMessenger(AsyncSession[Told]):
    """See :class:`~imserver.client.Messenger`: the same for asyncio, in one task. ``token`` may be a
    coroutine function."""

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: Token = "",
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

    async def receive(self, timeout_seconds: float | None = None) -> Told | None:
        """See :meth:`Messenger.receive`."""
        told = await super().receive(timeout_seconds)
        if isinstance(told, Entry):
            self._reached(told.id)
        elif isinstance(told, BeginAnew):
            self.cursor = 0
        return told

    def _reached(self, place: int) -> None:
        self.cursor = max(self.cursor or 0, place)

    # --- sending --------------------------------------------------------------------------------------------

    async def send(
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
        """See :meth:`Messenger.send`."""
        asked = asks.send(to, text, conversation, data, type, client_msg_id, reply_to, mentions)
        return await self._carry(asked, timeout_seconds)

    async def edit(self, id: int, text: str | None = None, *, data: Any = None, type: str = "") -> Sent:
        """See :meth:`Messenger.edit`."""
        return await self._carry(asks.edit(id, text, data, type))

    async def recall(self, id: int) -> Sent:
        """See :meth:`Messenger.recall`."""
        return await self._carry(asks.recall(id))

    async def typing(self, to: str = "", *, conversation: int = 0) -> None:
        """See :meth:`Messenger.typing`."""
        asked = asks.typing(to, conversation)
        asked.read(await self.request(asked.cmd, asked.data))

    # --- marks ----------------------------------------------------------------------------------------------

    async def read(self, conversation: int, id: int) -> None:
        """See :meth:`Messenger.read`."""
        await self._carry(asks.mark("read", conversation, id))

    async def received(self, conversation: int, id: int) -> None:
        """See :meth:`Messenger.received`."""
        await self._carry(asks.mark("received", conversation, id))

    async def hide(self, ids: Sequence[int]) -> None:
        """See :meth:`Messenger.hide`."""
        await self._carry(asks.hide(ids))

    async def marks(self, version: int = 0) -> Marks:
        """See :meth:`Messenger.marks`."""
        return await self._carry(asks.marks(version))

    async def receipts(self, conversation: int, after: str = "", limit: int = 50) -> ReceiptPage:
        """See :meth:`Messenger.receipts`."""
        return await self._carry(asks.receipts(conversation, after, limit))

    # --- looking back ---------------------------------------------------------------------------------------

    async def conversations(self, before: int = 0, limit: int = 50) -> ConversationPage:
        """See :meth:`Messenger.conversations`."""
        return await self._carry(asks.conversations(before, limit))

    async def history(self, conversation: int, before: int = 0, limit: int = 50) -> Page:
        """See :meth:`Messenger.history`."""
        return await self._carry(asks.history(conversation, before, limit))

    async def search(self, text: str, conversation: int = 0, before: int = 0, limit: int = 50) -> Page:
        """See :meth:`Messenger.search`."""
        return await self._carry(asks.search(text, conversation, before, limit))

    # --- how ------------------------------------------------------------------------------------------------

    async def _carry(self, asked: Question[Answer], timeout_seconds: float = CARRY_SECONDS) -> Answer:
        """Ask until there is an answer that lasts."""
        deadline = monotonic() + timeout_seconds
        pauses = Backoff(0.1, 2.0)
        while True:
            left = deadline - monotonic()
            try:
                await self._wait_online(asked.cmd, left)
                reply = await self.request(asked.cmd, asked.data, min(left, ANSWER_SECONDS))
            except NotConnected:
                if self.state == ENDED or monotonic() >= deadline:
                    raise
            else:
                if asks.lasts(reply) or monotonic() >= deadline:
                    return asked.read(reply)
            await asyncio.sleep(pauses.pause())

    async def _wait_online(self, cmd: str, seconds: float) -> None:
        """Raises :class:`NotConnected`, :class:`Closed` if the session is over."""
        try:
            await asyncio.wait_for(self._online.wait(), max(0.0, seconds))
        except TimeoutError:
            raise NotConnected(f"{cmd}: no answer in time") from None
        if self.state == ENDED:
            raise self._error or Closed(1000)

    def _login_fields(self) -> dict[str, Any]:
        return self._inbox.login_fields()

    async def _logged_in(self, connection: ClientConnection, reply: Reply) -> None:
        await self._catch_up(connection, self._inbox.logged_in(reply.data))

    async def _catch_up(self, connection: ClientConnection, ask: Ask | None) -> None:
        self._asked_seq = ""
        if ask is not None:
            self._asked_seq, frame = self._wire.request(*ask)
            await connection.send(frame)

    async def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        if isinstance(read, Entry):
            if self._inbox.told(read):
                await self._waiting.put(read)
        elif not isinstance(read, Reply):
            await self._waiting.put(read)
        elif read.seq == self._asked_seq:
            await self._brought(connection, read)
        else:
            if read.ok and read.cmd in SENDS and (mark := self._inbox.stored(read.data["id"])):
                await self._waiting.put(mark)
            self._answered(read)

    async def _brought(self, connection: ClientConnection, reply: Reply) -> None:
        """The answer to what we asked to catch up."""
        if not reply.ok:
            log.info("%s: %d %s", reply.cmd, reply.code, reply.text)
            await connection.close(COME_BACK)
            return
        brought, ask = self._inbox.answered(reply.cmd, reply.data)
        for each in brought:
            await self._waiting.put(each)
        await self._catch_up(connection, ask)

    async def _tend(self, connection: ClientConnection) -> None:
        while True:
            now = monotonic()
            if (ask := self._inbox.ack(now)) is not None:
                try:
                    await connection.send(self._wire.request(*ask)[1])
                except ConnectionClosed:
                    return
            await asyncio.sleep(min(ACK_SECONDS, max(0.01, self._inbox.ack_at() - now)))
