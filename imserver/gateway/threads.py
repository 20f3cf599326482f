"""Work that blocks, such as file access, in native threads beside the loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import gevent

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

T = TypeVar("T")


def synchronise(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk.

    Then the file, or the names, survive a power failure. Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        # A folder can permit this user to make files in it, but not to open it.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Threads:
    """Runs work that blocks in up to ``number`` threads.

    The threads are started with the first work. If ``number`` is 0, there are
    no threads, and callers do the work themselves.
    """

    synchronise = staticmethod(synchronise)

    def __init__(self, number: int) -> None:
        """Begin without threads."""
        self._number = number
        self._pool: ThreadPool | None = None

    def do(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in a thread, and return or raise its result.

        Switches greenlets. A call that has begun finishes, even if its caller
        no longer waits.
        """
        if not self._number:
            return function(*arguments)

        returned = list[T]()
        failed = list[BaseException]()

        def work() -> None:
            """Run the function, and keep its result or its exception."""
            try:
                returned.append(function(*arguments))
            # The loop would print an exception that leaves the thread.
            except BaseException as error:
                failed.append(error)

        if self._pool is None:
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(self._number)
        self._pool.spawn(work).get()

        if failed:
            # The list must not keep the exception. The traceback of the
            # exception refers to this frame, and the frame refers to the list.
            # So the objects would be a reference cycle.
            raise failed.pop()
        return returned[0]

    def close(self, seconds: float = 1.0) -> bool:
        """End the threads.

        Returns False if a thread is blocked. Such a thread ends with the
        process.
        """
        with suppress(TimeoutError), gevent.Timeout(seconds, TimeoutError):
            if self._pool is not None:
                self._pool.kill()
            return True
        return False
