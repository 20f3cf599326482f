"""The suites: tables of commands with the bars that their figures have to reach."""

from __future__ import annotations

from dataclasses import dataclass

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


class Row:
    """One measurement of a suite: the words behind ``imserver bench``, and bars."""

    def __init__(self, title: str, command: str, *bars: Bar) -> None:
        self.title = title
        self.command = command
        self.bars = bars


def us(limit: float, figure: str = "cpu_us") -> Bar:
    """Return the bar of a CPU time."""
    return Bar(figure, limit, scaled=True)


def rate(unit: str, limit: float) -> Bar:
    """Return the bar of a rate."""
    return Bar(f"{unit}_per_second", limit, at_least=True)


def most(figure: str, limit: float = 0) -> Bar:
    """Return the bar of a figure that should be small; of a fault, zero."""
    return Bar(figure, limit)


LOST, UNSTORED, MISSING, ERRORS = most("lost"), most("unstored"), most("missing"), most("errors")

ALL: tuple[Row, ...] = (
    Row("bare sends to 500 sockets", "floor"),
    Row(
        "15,000 idle logged-in connections",
        "idle",
        *(most("rss_connection_bytes", 2000), most("rss_empty_mb", 45), most("idle_cpu_percent", 0.5)),
    ),
    Row("broadcast to 500, flat out", "fanout", us(1.0), rate("deliveries", 1_000_000), LOST),
    Row(
        "broadcast to 500, one frame a send",
        "fanout --one-per-send",
        *(Bar("of_floor_percent", 85, at_least=True), us(4.5), LOST),
    ),
    Row(
        "broadcast to 500, 20 messages/s",
        "fanout --seconds 10 --rate 20",
        *(most("p50_ms", 4), most("p99_ms", 8), LOST),
    ),
    Row("ping → pong", "echo", us(10), rate("round_trips", 80_000)),
    Row("heartbeat", "echo --heartbeat", us(10), rate("round_trips", 80_000)),
    Row("push to one user", "push", us(30), rate("requests", 20_000), LOST),
    Row(
        "push in bulk, each frame alone",
        "push --clients 1 --bulk 1000",
        *(us(6.6), rate("targets", 150_000), LOST),
    ),
    Row("push in bulk, frames sharing a send", "push --bulk 1000", us(6.6), rate("targets", 150_000), LOST),
    Row(
        "/api/v1/push to one user, with a key", "push --v1 --keyed", *(us(30), rate("requests", 20_000), LOST)
    ),
    Row(
        "/api/v1/push at 1,000 requests/s",
        "push --rate 1000 --v1 --keyed",
        *(most("answer_p99_ms", 5), most("p99_ms", 5), LOST),
    ),
    Row(
        "/api/v1/push in bulk, each frame alone",
        "push --clients 1 --bulk 1000 --v1 --keyed",
        *(us(6.6), rate("targets", 150_000), LOST),
    ),
    Row(
        "/api/v1/push in bulk, frames sharing a send",
        "push --bulk 1000 --v1 --keyed",
        *(us(6.6), rate("targets", 150_000), LOST),
    ),
    Row("publisher connection", "publish --keyed", us(25), rate("publishes", 40_000), LOST),
    Row(
        "a group of 500, 500 messages/s, stored",
        "chat",
        *(us(0.7), most("elapsed_seconds", 41), most("ack_p99_ms", 400), UNSTORED, LOST),
    ),
    Row(
        "one-to-one, 500 messages/s, stored",
        "chat --seconds 20 --single",
        *(most("ack_p99_ms", 10), UNSTORED, LOST),
    ),
    Row(
        "one-to-one, 500 senders flat out, stored",
        "chat --rate 0 --seconds 10 --single",
        *(rate("stored", 15_000), UNSTORED, LOST),
    ),
    Row("sync of 10,000 missed messages", "chat --sync 10000", *(most("seconds", 1), MISSING, ERRORS, LOST)),
    Row(
        "sync of 10,000 missed messages, protobuf",
        "chat --sync 10000 --dialect protobuf",
        *(most("seconds", 1), MISSING, ERRORS, LOST),
    ),
    Row(
        "5,000 log in, each 50 messages behind",
        "chat --members 5000 --storm 50",
        *(most("seconds", 30), MISSING, ERRORS, LOST),
    ),
    Row("handshake", "handshake", us(40), ERRORS),
    Row("handshake with login", "handshake --login", us(80), ERRORS),
    Row("10,000 drop and come back", "storm", most("seconds", 5), MISSING, most("bystanders_lost")),
)

SMOKE: tuple[Row, ...] = (
    Row("bare sends to 100 sockets", "floor --receivers 100 --seconds 0.3"),
    Row("1,000 idle logged-in connections", "idle --connections 1000 --seconds 1"),
    Row("broadcast to 100, flat out", "fanout --receivers 100 --seconds 0.5"),
    Row("broadcast to 100, one frame a send", "fanout --receivers 100 --seconds 0.5 --one-per-send"),
    Row("broadcast to 100, 20 messages/s", "fanout --receivers 100 --seconds 1 --rate 20"),
    Row("ping → pong", "echo --connections 100 --seconds 0.5"),
    Row("heartbeat", "echo --connections 100 --seconds 0.5 --heartbeat"),
    Row("push to one user", "push --users 100 --seconds 0.5"),
    Row("push to users in bulk", "push --users 100 --seconds 0.5 --bulk 100"),
    Row("/api/v1/push to one user", "push --users 100 --seconds 0.5 --v1"),
    Row("/api/v1/push in bulk", "push --users 100 --seconds 0.5 --bulk 100 --v1"),
    Row("publisher connection", "publish --users 100 --seconds 0.5"),
    Row("a group of 20, stored", "chat --members 20 --rate 100 --seconds 1"),
    Row("one-to-one, stored", "chat --members 20 --rate 0 --seconds 1 --single"),
    Row("sync of 500 missed messages", "chat --sync 500"),
    Row("100 log in, each 10 messages behind", "chat --members 100 --storm 10"),
    Row("handshake", "handshake --connections 500"),
    Row("handshake with login", "handshake --connections 500 --login --members 0"),
    Row("1,000 drop and come back", "storm --clients 1000 --bystanders 50"),
)

CLUSTER: tuple[Row, ...] = (
    Row(
        "what logins, heartbeats and pushes ask of Redis",
        "cluster --part redis",
        *(most("login_round_trips", 1.05), most("login_commands", 3.05)),
        *(most("push_round_trips", 1.05), most("push_commands", 3.05), most("heartbeat_round_trips", 0.01)),
    ),
    Row("pushes to users on another node, paced", "cluster --part push", most("p99_ms", 15), LOST),
    Row("pushes flat out, here and to another node", "cluster --part forward", LOST),
    Row("bulk pushes, here and to another node", "cluster --part bulk", LOST),
    Row(
        "a broadcast on one server and over the nodes",
        "cluster --part broadcast",
        *(most("flat_ratio", 1.3), most("paced_ratio", 1.3), LOST),
    ),
    Row(
        "the RPC alone, encrypted: items of 150 bytes between two processes",
        "cluster --part rpc",
        *(rate("rpc_100", 50_000), us(40, "rpc_1_cpu_us"), us(1, "rpc_100_cpu_us")),
        *(most("p99_ms", 15), LOST),
    ),
    Row(
        "a node is killed, its clients come back to another",
        "cluster --part storm",
        *(most("offline_seconds", 12), MISSING, most("bystanders_lost"), most("ghosts")),
    ),
)

MILLION: tuple[Row, ...] = (
    Row("10,000 users online", "million --connections 10000"),
    Row("100,000 users online", "million --connections 100000"),
    Row(
        "1,000,000 users online",
        "million --connections 1000000",
        *(most("login_seconds", 360), MISSING, most("dropped"), most("pss_full_mb", 3500)),
        *(most("idle_cpu_percent", 10), most("push_p99_ms", 100), most("pushes_lost")),
        *(most("broadcast_worst_seconds", 12), LOST),
    ),
)

ABUSE: tuple[Row, ...] = (
    Row("single requests of a stranger", "abuse", most("hold_ms", 50), most("growth_mb", 20)),
)

SUITES = {"all": ALL, "smoke": SMOKE, "cluster": CLUSTER, "million": MILLION, "abuse": ABUSE}
