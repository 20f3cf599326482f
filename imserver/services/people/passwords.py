"""Passwords: hashed with argon2id (RFC 9106), away from the loop, and at most two at once.

A hash takes 19 MiB and some 20 ms of a core. The library is loaded with the first password.
Hashes of GoChat, the hexadecimal MD5 of the password with a constant salt behind it, are understood, so that
whoever has one can log in once more and get a better one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from imserver.errors import ImserverError

if TYPE_CHECKING:
    from argon2 import PasswordHasher
    from gevent.threadpool import ThreadPool

T = TypeVar("T")

PASSES: Final = 2
MEMORY_KIB: Final = 19 * 1024
LANES: Final = 1
AT_ONCE: Final = 2
MAX_WAITING: Final = 1000
"""So many passwords may wait to be looked at; that is some ten seconds of both threads."""
MAX_PASSWORD_BYTES: Final = 1024

_md5: Final = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


class Overloaded(ImserverError):
    """Too many passwords wait already. Temporary."""


class Passwords:
    """Owner of the threads that hash. ``salt`` is what GoChat put behind each password."""

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._threads: ThreadPool | None = None
        self._hasher: PasswordHasher | None = None
        self._nobodys = ""
        self.waiting = 0

    def hash(self, password: str) -> str:
        """A new hash. Switches. Raises Overloaded."""
        hasher = self._library()
        return self._aside(lambda: hasher.hash(password))

    def matches(self, kept: str, password: str) -> bool:
        """Whether this is the password of a hash. That it is not takes as long for one of GoChat's, and for
        ``""``, nobody's, as for any. Switches.

        Raises Overloaded.
        """
        hasher = self._library()
        if _md5.fullmatch(kept):
            digest = hashlib.md5((password + self._salt).encode(), usedforsecurity=False).hexdigest()
            return hmac.compare_digest(digest, kept.lower()) or self._aside(
                lambda: self._verified(hasher, "", password)
            )
        return self._aside(lambda: self._verified(hasher, kept, password))

    def is_weak(self, kept: str) -> bool:
        """Whether a hash is not as new ones are."""
        return bool(_md5.fullmatch(kept)) or self._library().check_needs_rehash(kept)

    def close(self) -> None:
        """End the threads; nothing may be asked any more."""
        if self._threads is not None:
            self._threads.kill()
            self._threads = None

    def _library(self) -> PasswordHasher:
        if self._hasher is None:
            # Loaded in the loop's thread, not in two at once.
            from argon2 import PasswordHasher

            self._hasher = PasswordHasher(PASSES, MEMORY_KIB, LANES)
        return self._hasher

    def _verified(self, hasher: PasswordHasher, kept: str, password: str) -> bool:
        from argon2.exceptions import Argon2Error, InvalidHashError

        if not kept:
            self._nobodys = self._nobodys or hasher.hash("nobody's")
        try:
            return hasher.verify(kept or self._nobodys, password) and bool(kept)
        except (Argon2Error, InvalidHashError):
            return False

    def _aside(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, done in one of the threads."""
        if self.waiting >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} passwords wait already")
        if self._threads is None:
            from gevent.threadpool import ThreadPool

            self._threads = ThreadPool(AT_ONCE)
        self.waiting += 1
        try:
            return self._threads.apply(work)
        finally:
            self.waiting -= 1
