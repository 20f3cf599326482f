"""Counters of one node: plain integers, raised where things happen and read when somebody asks."""

from __future__ import annotations


class Metrics:
    """All counters of a node. Each attribute is a count since the start, but for the ``…_now`` gauges.

    Owner: the node. Whoever does the thing raises its counter; gevent switches only at I/O, so ``+= 1``
    needs no lock.
    """

    __slots__ = (
        "accepted",
        "closes",
        "deliveries",
        "files_exhausted",
        "handshakes",
        "handshakes_refused",
        "http_fast",
        "http_handed_over",
        "http_refused",
        "logins",
        "logins_refused",
        "loop_lag_max_seconds",
        "loop_lag_seconds",
        "messages_in",
        "outbox_bytes_now",
        "pushes",
        "slow_readers",
        "sweeps",
        "swept",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.closes: dict[int, int] = {}
        self.deliveries = 0
        self.files_exhausted = 0
        self.handshakes = 0
        self.handshakes_refused = 0
        self.http_fast = 0
        self.http_handed_over = 0
        self.http_refused = 0
        self.logins = 0
        self.logins_refused = 0
        self.loop_lag_max_seconds = 0.0
        self.loop_lag_seconds = 0.0
        self.messages_in = 0
        self.outbox_bytes_now = 0
        self.pushes = 0
        self.slow_readers = 0
        self.sweeps = 0
        self.swept = 0

    def closed(self, code: int) -> None:
        """Count one connection that ended with close code ``code`` (1006: without a close frame)."""
        self.closes[code] = self.closes.get(code, 0) + 1

    def snapshot(self) -> dict[str, int | float | dict[int, int]]:
        """All counters by name, as they stand now."""
        return {name: getattr(self, name) for name in self.__slots__} | {"closes": dict(self.closes)}
