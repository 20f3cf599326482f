"""Streamed messages of back ends: text that is published piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol, Self, TypeVar

from imserver_client.errors import ClientError, NotConnected, RequestRefused
from imserver_client.results import PieceResult, StreamEnd
from imserver_client.session import Backoff

FAILED_TRIES: Final = 8
"""How often a piece is sent if its node does not answer."""
NOT_ACCEPTED: Final = "not_accepted"
"""The code of the refusal if the node does not answer."""
R = TypeVar("R", PieceResult, StreamEnd)
T = TypeVar("T")


class PieceRefused(ClientError):
    """The server has not taken a piece of a streamed message.

    ``status`` is one of:

    - ``"too_long"``: the message is as long as the channel allows; close it
    - ``"closed"``: no piece came for a long time, so the server closed it
    - ``"unknown"``: its node has ended
    """

    code = "piece_refused"
    remedy = "Open another message; docs/guides/channels.md names the limits."

    def __init__(self, status: str) -> None:
        super().__init__(f"the piece is refused: {status}")
        self.status = status


class StreamApi(Protocol):
    """The functions of ``Api`` and of ``Publisher`` for an open streamed
    message."""

    def append_pieces(
        self, app: str, pieces: Sequence[tuple[str, int, str]]
    ) -> tuple[PieceResult, ...]: ...

    def close_stream(
        self, app: str, stream: str, *, incomplete: bool = False
    ) -> StreamEnd: ...


class TextStream:
    """A streamed message of a back end, which is published piece by piece.

    ``stream`` of ``Api`` and ``Publisher`` makes it. ``with`` opens and closes
    it; a block that ends with an exception closes it as incomplete. It is for
    one thread at a time. ``open_stream`` opens it and returns its id.
    """

    def __init__(
        self, api: StreamApi, app: str, open_stream: Callable[[], str]
    ) -> None:
        self.id = ""
        """The id of the message; ``""`` before :meth:`open`. The publication at
        its end has this id, too."""
        self._api = api
        self._app = app
        self._open_stream = open_stream
        self._pieces = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(incomplete=kind is not None)

    def open(self) -> None:
        """Open the message. Raises :class:`RequestRefused` and
        :class:`NotConnected`."""
        self.id = self._open_stream()

    def append(self, text: str) -> None:
        """Append a piece; an empty one is ignored.

        A piece without an answer is sent again, and the server takes it once.
        Raises :class:`PieceRefused`, :class:`RequestRefused` and
        :class:`NotConnected`.
        """
        if not text:
            return
        piece = (self.id, self._pieces + 1, text)

        def append() -> PieceResult:
            return self._api.append_pieces(self._app, [piece])[0]

        result = _until_answered(append)
        if result.status not in ("appended", "repeated"):
            raise PieceRefused(result.status)
        # Counted only now, so that a failed piece can be appended again.
        self._pieces += 1

    def append_all(self, texts: Iterable[str]) -> None:
        """Append each text as it comes. Raises the errors of :meth:`append`."""
        for text in texts:
            self.append(text)

    def close(self, *, incomplete: bool = False) -> StreamEnd:
        """Close the message. ``incomplete``: its text is not finished. You may
        repeat it.

        Raises :class:`RequestRefused` and :class:`NotConnected`.
        """

        def end() -> StreamEnd:
            return self._api.close_stream(self._app, self.id, incomplete=incomplete)

        return _until_answered(end)


class AsyncTextStream:
    """A streamed message for asyncio, with ``async with``.

    ``stream`` is a :class:`TextStream`, whose calls run in threads.
    """

    def __init__(self, stream: TextStream) -> None:
        self.stream = stream
        self._cancelled: asyncio.Future[Any] | None = None
        """A call that was cancelled but continues in its thread."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close(incomplete=kind is not None)

    @property
    def id(self) -> str:
        """The id of the message; ``""`` before it is opened."""
        return self.stream.id

    async def open(self) -> None:
        """Open the message. Raises :class:`RequestRefused` and
        :class:`NotConnected`."""
        await asyncio.to_thread(self.stream.open)

    async def append(self, text: str) -> None:
        """Append a piece; an empty one is ignored.

        If the call before was cancelled, it is finished first, and its error is
        raised here. Raises :class:`PieceRefused`, :class:`RequestRefused` and
        :class:`NotConnected`.
        """
        cancelled = await self._finish_cancelled()
        if cancelled is not None:
            cancelled.result()
        await self._in_thread(partial(self.stream.append, text))

    async def append_all(self, texts: AsyncIterable[str]) -> None:
        """Append each text as it comes, such as texts of a language model."""
        async for text in texts:
            await self.append(text)

    async def close(self, *, incomplete: bool = False) -> StreamEnd:
        """Close the message. ``incomplete``: its text is not finished.

        Raises :class:`RequestRefused` and :class:`NotConnected`.
        """
        await self._finish_cancelled()
        return await self._in_thread(partial(self.stream.close, incomplete=incomplete))

    async def _finish_cancelled(self) -> asyncio.Future[Any] | None:
        """Wait for the end of a call that was cancelled but continues in its
        thread.

        Returns the call, or None without such a call.
        """
        if self._cancelled is not None:
            await asyncio.wait([self._cancelled])
        cancelled = self._cancelled
        self._cancelled = None
        return cancelled

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a call in a thread, and return its result.

        If this is cancelled, the call continues, and is remembered.
        """
        running = asyncio.ensure_future(asyncio.to_thread(call))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._cancelled = running
            raise


def _until_answered(ask: Callable[[], R]) -> R:
    """Repeat a call until the node of the stream answers, and return the
    result.

    Raises :class:`NotConnected`, or :class:`RequestRefused` for another reason.
    """
    backoff = Backoff()
    for _ in range(FAILED_TRIES):
        try:
            result = ask()
            if result.status != "failed":  # the answer of an older server
                return result
        except RequestRefused as refused:
            if refused.code != NOT_ACCEPTED:
                raise
        time.sleep(backoff.pause())
    raise NotConnected(
        "the node of the streamed message, or the history, does not answer"
    )
