"""Heads that have come before: a back end sends the same one with each request, so it is read once.

What is kept is what anybody may know: heads of a POST whose lines are all among :data:`KEPT`, to a path
without a query. A key (``Authorization: Bearer …``) is cut out before a head is looked up or kept.
"""

from __future__ import annotations

import re
from typing import Final

from imserver.transport.head import ParsedHead, parse_head

KEPT: Final = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length"),
        *("content-type", "host", "sec-fetch-mode", "user-agent", "x-forwarded-for", "x-forwarded-proto"),
    }
)
"""Names of the lines that a head may have to be kept."""
MAX_HEADS: Final = 256
"""Heads that are kept; with one more they are forgotten, all."""
MAX_BYTES: Final = 1024
"""Longest head that is kept."""
MAX_LINES: Final = 30
"""Most lines in it: with the key's it is far from what any head may have."""

_NAME: Final = b"uthorization: "
_KEY: Final = _NAME + b"Bearer "
_usual_key = re.compile(rb"Bearer [A-Za-z0-9._~+/=-]{1,512}").fullmatch


class KnownHeads:
    """Reads heads. Owner of those it remembers; what it gives is shared, and not to be changed."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, ParsedHead] = {}

    def read(self, data: bytes) -> ParsedHead:
        """Read one whole request head, as :func:`imserver.transport.head.parse_head` does."""
        at = data.find(_KEY)
        if at < 0:
            known = self._heads.get(data)
            if known is None:
                known = parse_head(data)
                self._keep(data, known)
            return known
        end = data.find(b"\r", at)  # a lone one stays in what is looked up, which is no head then
        key = data[at + len(_NAME) : end]
        if data[at - 3 : at] not in (b"\r\nA", b"\r\na") or _usual_key(key) is None:
            return parse_head(data)
        rest = data[: at - 3] + data[end:]
        authorization = key.decode()
        known = self._heads.get(rest)
        if known is not None:
            return known.signed(authorization)
        parsed = parse_head(data)
        if parsed.headers["authorization"] == authorization:  # there is no second one
            self._keep(rest, parsed.signed(""))
        return parsed

    def _keep(self, data: bytes, head: ParsedHead) -> None:
        """Remember a head, if it is one that may be; ``data`` is that head as it came, but for its key."""
        if len(data) > MAX_BYTES or head.method != "POST" or head.query or not head.headers.keys() <= KEPT:
            return
        if data.count(b"\r\n") > MAX_LINES:
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[data] = head
