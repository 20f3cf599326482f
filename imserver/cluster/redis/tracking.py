"""Keys whose next change Redis reports to this node (``CLIENT TRACKING``). They need not be read again.

A report comes over the connection of the pipeline, before the replies to all commands that Redis executes
after the change. So a value holds as of a later reply if its key is still unchanged then.
"""

from __future__ import annotations

from typing import Final

CACHING: Final = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"
"""Redis reports the next change of the keys that the command after this one reads."""
ENABLE: Final = (("HELLO", 3), ("CLIENT", "TRACKING", "ON", "OPTIN"))


_MAX_KEYS: Final = 20_000
"""Above it all are forgotten."""


class TrackedKey:
    """One key, until its next change."""

    __slots__ = ("unchanged",)

    def __init__(self) -> None:
        self.unchanged = True


class TrackedKeys:
    """The keys that were read with :data:`CACHING`. The link of the pipeline reports changes. Never switches.

    ``enabled``: Redis reports them. It does not if it is older than 6.0, if it is a Redis Cluster, or if this
    node's user in Redis may not enable it.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._keys: dict[bytes, TrackedKey] = {}

    def key(self, name: bytes) -> TrackedKey:
        """The key ``name``, which the next command reads."""
        if len(self._keys) >= _MAX_KEYS:
            self.forget()
        return self._keys.setdefault(name, TrackedKey())

    def changed(self, report: list[object]) -> None:
        """Redis has sent a message: it names keys that have changed, or says that any may have."""
        names = report[1] if report[0] == b"invalidate" else ()
        if names is None:
            self.forget()
        else:
            for name in names:  # type: ignore[attr-defined]
                if (key := self._keys.pop(name, None)) is not None:
                    key.unchanged = False

    def forget(self) -> None:
        """Any key may have changed: the connection is new, Redis was flushed, or there are too many."""
        keys, self._keys = self._keys, {}
        for key in keys.values():
            key.unchanged = False
