"""Passwords: hashed with argon2id (RFC 9106) in threads, at most two at once.

A hash takes 19 MiB and some 20 ms of a core. The library is imported with the
first password. Hashes of GoChat (the hexadecimal MD5 of the password followed
by a constant salt) are accepted, and replaced at the next login.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.runtime import Threads

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

AT_ONCE: Final = 2
MAX_WAITING: Final = 1000
"""Limit of the waiting passwords: about ten seconds of work for both
threads."""
MAX_PASSWORD_BYTES: Final = 1024
_MEMORY_KIB: Final = 19 * 1024
"""Memory of a hash in KiB. OWASP recommends argon2id with this memory and a
``time_cost`` of 2."""

_md5: Final = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


class Overloaded(ServiceRefused, problem=Problems.BUSY, login="busy"):
    """Too many passwords wait already. Temporary."""


class Passwords:
    """Owner of the threads that compute hashes.

    ``salt`` is the constant salt that GoChat adds to each password.
    """

    def __init__(self, salt: str) -> None:
        """Start without the library, which the first password loads."""
        self._salt = salt
        self._threads = Threads(AT_ONCE)
        self._hasher: PasswordHasher | None = None
        self._dummy_hash = ""
        """A hash that is checked in place of a missing one; ``""``: it is not made
        yet."""
        self.waiting = 0

    def hash(self, password: str) -> str:
        """A new hash. Switches greenlets. Raises Overloaded."""
        return self._run_in_thread(partial(self._library().hash, password))

    def matches(self, hashed: str, password: str) -> bool:
        """Whether a password has this hash.

        ``hashed`` ``""`` means that there is no account or no password, so the
        result is False. A mismatch takes equally long for every hash. Switches
        greenlets. Raises Overloaded.
        """
        hasher = self._library()
        if _md5.fullmatch(hashed):
            salted = (password + self._salt).encode()
            digest = hashlib.md5(salted, usedforsecurity=False).hexdigest()
            if hmac.compare_digest(digest, hashed.lower()):
                return True
            # Makes a mismatch take as long as with a new hash.
            return self._run_in_thread(partial(self._verified, hasher, "", password))
        return self._run_in_thread(partial(self._verified, hasher, hashed, password))

    def is_weak(self, hashed: str) -> bool:
        """Whether a hash is weaker than a hash that is made now."""
        if _md5.fullmatch(hashed):
            return True
        return self._library().check_needs_rehash(hashed)

    def close(self) -> None:
        """Stop the threads. Call nothing afterwards."""
        self._threads.close()

    def _library(self) -> PasswordHasher:
        """The hasher of the library, which is loaded at the first password."""
        if self._hasher is None:
            # Imported in the loop's thread: otherwise two threads might import
            # it at once.
            from argon2 import PasswordHasher

            self._hasher = PasswordHasher(
                time_cost=2, memory_cost=_MEMORY_KIB, parallelism=1
            )
        return self._hasher

    def _verified(self, hasher: PasswordHasher, hashed: str, password: str) -> bool:
        """Whether a password has this hash of argon2id. Runs in a thread.

        If ``hashed`` is ``""``, there is no hash. The check then takes as long
        as with a hash, and its result is False.
        """
        from argon2.exceptions import Argon2Error, InvalidHashError

        if not hashed:
            # The check of this dummy hash takes as long as the check of a real
            # hash.
            self._dummy_hash = self._dummy_hash or hasher.hash("nobody's")
        try:
            is_right = hasher.verify(hashed or self._dummy_hash, password)
            return is_right and bool(hashed)
        except (Argon2Error, InvalidHashError):
            return False

    def _run_in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one of the threads and return its result.

        Switches greenlets. Raises Overloaded.
        """
        if self.waiting >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} passwords wait already")
        self.waiting += 1
        try:
            return self._threads.do(work)
        finally:
            self.waiting -= 1
