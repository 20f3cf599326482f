"""The HTTP API for asyncio: calls of :class:`~imserver.client.Api`, each in a thread of the loop's pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from imserver.client.api import TIMEOUT_SECONDS, TRIES, Api

P = ParamSpec("P")
T = TypeVar("T")


def _threaded(
    method: Callable[Concatenate[Api, P], T],
) -> Callable[Concatenate[AsyncApi, P], Coroutine[Any, Any, T]]:
    async def run(self: AsyncApi, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self.api, *args, **kwargs)

    run.__name__, run.__doc__ = method.__name__, method.__doc__
    return run


class AsyncApi:
    """See :class:`~imserver.client.api.Api`. ``api`` is the one behind it.

    For many pushes a second use :class:`~imserver.client.AsyncPublisher`, which needs no threads.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
    ) -> None:
        self.api = Api(url, key, timeout_seconds=timeout_seconds, tries=tries)

    async def close(self) -> None:
        """End the connections."""
        self.api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def all_users(self, app: str) -> AsyncIterator[str]:
        """All users who are online, page after page."""
        page = await self.users(app)
        while True:
            for user in page.users:
                yield user
            if not page.next:
                return
            page = await self.users(app, page.next)

    call = _threaded(Api.call)
    push = _threaded(Api.push)
    publish = _threaded(Api.publish)
    batch = _threaded(Api.batch)
    presence = _threaded(Api.presence)
    presences = _threaded(Api.presences)
    users = _threaded(Api.users)
    counts = _threaded(Api.counts)
    join = _threaded(Api.join)
    leave = _threaded(Api.leave)
    rooms = _threaded(Api.rooms)
    members = _threaded(Api.members)
    disconnect = _threaded(Api.disconnect)
    ban = _threaded(Api.ban)
    unban = _threaded(Api.unban)
    apps = _threaded(Api.apps)
    create_app = _threaded(Api.create_app)
    set_app = _threaded(Api.set_app)
