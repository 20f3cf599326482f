"""The suites: ``all``, every figure we promise beside its bar, and ``smoke``, small forms of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.chat import ChatOptions
from bench.echo import EchoOptions
from bench.fanout import FanoutOptions
from bench.figures import FIGURES
from bench.floor import FloorOptions
from bench.handshake import HandshakeOptions
from bench.idle import IdleOptions
from bench.play import SCENARIOS, Place, Watcher, play
from bench.publish import PublishOptions
from bench.push import PushOptions
from bench.storm import StormOptions

#: Bars in µs hold where a bare send of 154 bytes takes this; elsewhere they are scaled by it.
FLOOR_US = 3.8


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach: at most ``limit`` (or ``at_least``); ``scaled`` by the machine's floor."""

    figure: str
    limit: float
    at_least: bool = False
    scaled: bool = False

    def scaled_limit(self, floor_us: float) -> float:
        """Return the limit on a machine whose bare send takes ``floor_us``."""
        return self.limit * floor_us / FLOOR_US if self.scaled else self.limit

    def met(self, value: float | None, floor_us: float) -> bool:
        """Whether ``value`` reaches the limit on this machine; a figure that is missing does not."""
        if value is None:
            return False
        limit = self.scaled_limit(floor_us)
        return value >= limit if self.at_least else value <= limit


@dataclass(frozen=True)
class Row:
    """One measurement of a suite."""

    title: str
    scenario: str
    options: Any
    bars: tuple[Bar, ...] = ()


def us(limit: float) -> Bar:
    """Return the bar of a CPU time."""
    return Bar("cpu_us", limit, scaled=True)


def per_second(unit: str, limit: float) -> Bar:
    """Return the bar of a rate."""
    return Bar(f"{unit}_per_second", limit, at_least=True)


NO_LOSS = Bar("lost", 0)

ALL: tuple[Row, ...] = (
    Row("bare sends to 500 sockets", "floor", FloorOptions()),
    Row(
        "15,000 idle logged-in connections",
        "idle",
        IdleOptions(),
        (Bar("rss_connection_bytes", 2000), Bar("rss_empty_mb", 45), Bar("idle_cpu_percent", 0.5)),
    ),
    Row(
        "broadcast to 500, flat out",
        "fanout",
        FanoutOptions(),
        (us(1.0), per_second("deliveries", 1_000_000), NO_LOSS),
    ),
    Row(
        "broadcast to 500, one frame a send",
        "fanout",
        FanoutOptions(one_per_send=True),
        (Bar("of_floor_percent", 85, at_least=True), us(4.5), NO_LOSS),
    ),
    Row(
        "broadcast to 500, 20 messages/s",
        "fanout",
        FanoutOptions(rate=20, seconds=10),
        (Bar("p50_ms", 4), Bar("p99_ms", 8), NO_LOSS),
    ),
    Row("ping → pong", "echo", EchoOptions(), (us(10), per_second("round_trips", 80_000))),
    Row("heartbeat", "echo", EchoOptions(heartbeat=True), (us(10), per_second("round_trips", 80_000))),
    Row("push to one user", "push", PushOptions(), (us(30), per_second("requests", 20_000), NO_LOSS)),
    Row(
        "push in bulk, each frame alone",
        "push",
        PushOptions(bulk=1000, clients=1),
        (us(6.6), per_second("targets", 150_000), NO_LOSS),
    ),
    Row(
        "push in bulk, frames sharing a send",
        "push",
        PushOptions(bulk=1000),
        (us(6.6), per_second("targets", 150_000), NO_LOSS),
    ),
    Row(
        "/api/v1/push to one user, with a key",
        "push",
        PushOptions(v1=True, keyed=True),
        (us(30), per_second("requests", 20_000), NO_LOSS),
    ),
    Row(
        "/api/v1/push at 1,000 requests/s",
        "push",
        PushOptions(v1=True, keyed=True, rate=1000),
        (Bar("answer_p99_ms", 5), Bar("p99_ms", 5), NO_LOSS),
    ),
    Row(
        "/api/v1/push in bulk, each frame alone",
        "push",
        PushOptions(v1=True, keyed=True, bulk=1000, clients=1),
        (us(6.6), per_second("targets", 150_000), NO_LOSS),
    ),
    Row(
        "/api/v1/push in bulk, frames sharing a send",
        "push",
        PushOptions(v1=True, keyed=True, bulk=1000),
        (us(6.6), per_second("targets", 150_000), NO_LOSS),
    ),
    Row(
        "publisher connection",
        "publish",
        PublishOptions(keyed=True),
        (us(25), per_second("publishes", 40_000), NO_LOSS),
    ),
    Row(
        "a group of 500, 500 messages/s, stored",
        "chat",
        ChatOptions(),
        (us(0.7), Bar("elapsed_seconds", 41), Bar("ack_p99_ms", 400), Bar("unstored", 0), NO_LOSS),
    ),
    Row(
        "one-to-one, 500 messages/s, stored",
        "chat",
        ChatOptions(single=True, seconds=20),
        (Bar("ack_p99_ms", 10), Bar("unstored", 0), NO_LOSS),
    ),
    Row(
        "one-to-one, 500 senders flat out, stored",
        "chat",
        ChatOptions(single=True, rate=0, seconds=10),
        (per_second("stored", 15_000), Bar("unstored", 0), NO_LOSS),
    ),
    Row(
        "sync of 10,000 missed messages",
        "chat",
        ChatOptions(sync=10_000),
        (Bar("seconds", 1), Bar("missing", 0), Bar("errors", 0), NO_LOSS),
    ),
    Row(
        "sync of 10,000 missed messages, protobuf",
        "chat",
        ChatOptions(sync=10_000, dialect="protobuf"),
        (Bar("seconds", 1), Bar("missing", 0), Bar("errors", 0), NO_LOSS),
    ),
    Row(
        "5,000 log in, each 50 messages behind",
        "chat",
        ChatOptions(members=5000, storm=50),
        (Bar("seconds", 30), Bar("missing", 0), Bar("errors", 0), NO_LOSS),
    ),
    Row("handshake", "handshake", HandshakeOptions(), (us(40), Bar("errors", 0))),
    Row("handshake with login", "handshake", HandshakeOptions(login=True), (us(80), Bar("errors", 0))),
    Row(
        "10,000 drop and come back",
        "storm",
        StormOptions(),
        (Bar("seconds", 5), Bar("missing", 0), Bar("bystanders_lost", 0)),
    ),
)

SMOKE: tuple[Row, ...] = (
    Row("bare sends to 100 sockets", "floor", FloorOptions(receivers=100, seconds=0.3)),
    Row("1,000 idle logged-in connections", "idle", IdleOptions(connections=1000, seconds=1)),
    Row("broadcast to 100, flat out", "fanout", FanoutOptions(receivers=100, seconds=0.5)),
    Row(
        "broadcast to 100, one frame a send",
        "fanout",
        FanoutOptions(receivers=100, seconds=0.5, one_per_send=True),
    ),
    Row("broadcast to 100, 20 messages/s", "fanout", FanoutOptions(receivers=100, rate=20, seconds=1)),
    Row("ping → pong", "echo", EchoOptions(connections=100, seconds=0.5)),
    Row("heartbeat", "echo", EchoOptions(connections=100, seconds=0.5, heartbeat=True)),
    Row("push to one user", "push", PushOptions(users=100, seconds=0.5)),
    Row("push to users in bulk", "push", PushOptions(users=100, bulk=100, seconds=0.5)),
    Row("/api/v1/push to one user", "push", PushOptions(users=100, seconds=0.5, v1=True)),
    Row("/api/v1/push in bulk", "push", PushOptions(users=100, bulk=100, seconds=0.5, v1=True)),
    Row("publisher connection", "publish", PublishOptions(users=100, seconds=0.5)),
    Row("a group of 20, stored", "chat", ChatOptions(members=20, rate=100, seconds=1)),
    Row("one-to-one, stored", "chat", ChatOptions(members=20, single=True, rate=0, seconds=1)),
    Row("sync of 500 missed messages", "chat", ChatOptions(sync=500)),
    Row("100 log in, each 10 messages behind", "chat", ChatOptions(members=100, storm=10)),
    Row("handshake", "handshake", HandshakeOptions(connections=500)),
    Row("handshake with login", "handshake", HandshakeOptions(connections=500, login=True, members=0)),
    Row("1,000 drop and come back", "storm", StormOptions(clients=1000, bystanders=50)),
)


def perform(rows: tuple[Row, ...], place: Place, runs: int, watcher: Watcher) -> list[dict[str, Any]]:
    """Play all ``rows`` and return their reports, each with its ``title``."""
    reports = []
    for number, row in enumerate(rows, 1):
        title = f"{number}/{len(rows)} {row.title}"
        report = play(SCENARIOS[row.scenario], row.options, place, runs, watcher, title)
        reports.append({"title": row.title, **report})
    return reports


def judge(rows: tuple[Row, ...], reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the reports of ``rows`` with their bars."""
    floors = [report["figures"]["send_us_1"] for report in reports if report["scenario"] == "floor"]
    floor_us = floors[0] if floors else FLOOR_US
    return [
        {
            "title": row.title,
            "command": report["command"],
            "figure": bar.figure,
            "label": FIGURES[bar.figure].label,
            "value": report["figures"].get(bar.figure),
            "bar": bar.limit,
            "at_least": bar.at_least,
            "scaled_bar": bar.scaled_limit(floor_us),
            "met": bar.met(report["figures"].get(bar.figure), floor_us),
            "derived": bar.figure.endswith("_per_second") and report["generator"]["bottleneck"],
        }
        for row, report in zip(rows, reports, strict=True)
        for bar in row.bars
    ]
