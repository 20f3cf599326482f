"""Work that blocks, such as file access, in native threads beside the loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import gevent

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

T = TypeVar("T")


class Threads:
    """Up to ``number`` threads, which the first work starts. Owner of them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool: ThreadPool | None = None

    def do(self, function: Callable[..., T], *arguments: object) -> T:
        """Run ``function`` in a thread, and return or raise its result. Switches. What has begun finishes,
        also when its caller no longer waits."""
        returned: list[T] = []
        failed: list[BaseException] = []

        def work() -> None:
            # The loop would print an exception that leaves the thread.
            try:
                returned.append(function(*arguments))
            except BaseException as error:
                failed.append(error)

        if self._pool is None:
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(self._number)
        self._pool.spawn(work).get()
        if failed:
            # Nothing else may refer to it: that would be a cycle with all that the caller's frames hold.
            raise failed.pop()
        return returned[0]

    def close(self, seconds: float = 1.0) -> bool:
        """End the threads. False: one of them is blocked, and ends with the process."""
        with suppress(TimeoutError), gevent.Timeout(seconds, TimeoutError):
            if self._pool is not None:
                self._pool.kill()
            return True
        return False
