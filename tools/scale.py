"""Ten million users on paper: ``python -m tools.scale`` prints the tables of
docs/scale.md.

``--write`` puts them into the page. Everything is computed from :data:`COSTS`,
which were measured one by one, from :class:`Load` and :class:`Site`. A *node*
is a process on one core, a *machine* has eight cores.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from bench.report import rows_table

END_MARK: Final = "<!-- end -->"
PAGE: Final = Path(__file__).parents[1] / "docs" / "scale.md"

MILLION: Final = "imserver bench million --connections 1000000"
GROWTH: Final = "python -m tools.measure_scale"
ENTRIES: Final = "python -m tests.messenger.messages.measure_entries"
ALONE: Final = (
    "imserver bench chat --single --rate 0 --members 2 --database postgresql://…"
)
IN_CLUSTER: Final = "imserver bench cluster --part push --redis redis+cluster://…"
AT_FULL_SPEED: Final = IN_CLUSTER.replace("push", "forward")


class Cost(NamedTuple):
    """A measured figure: value, unit, meaning, and the command that measured
    it."""

    value: float
    unit: str
    meaning: str
    command: str


COSTS: Final[dict[str, Cost]] = {
    "push": Cost(
        474.5,
        "µs",
        "push to a user of another node, 500/s: both nodes",
        "imserver bench cluster --part push",
    ),
    "cluster": Cost(
        40, "µs", "what a Redis Cluster of three adds to it (busy machine)", IN_CLUSTER
    ),
    "push redis": Cost(
        54.6, "µs", "the same push: Redis", "imserver bench cluster --part redis"
    ),
    "cluster redis": Cost(
        50,
        "µs",
        "what a Redis Cluster of three adds in Redis (busy machine)",
        AT_FULL_SPEED,
    ),
    "login": Cost(216.6, "µs", "handshake and login, 56 nodes", MILLION),
    "login redis": Cost(28.0, "µs", "the same login: Redis", MILLION),
    "logout": Cost(64.9, "µs", "end of a session, 56 nodes", MILLION),
    "heartbeat": Cost(21.78, "µs", "heartbeat, 18,000 connections per node", MILLION),
    "idle": Cost(0.0646, "µs", "a silent connection, each second", MILLION),
    "broadcast": Cost(12.14, "µs", "delivery of a broadcast to everybody", MILLION),
    "delivery": Cost(
        8.45,
        "µs",
        "delivery to one of many, 20 messages/s",
        "imserver bench cluster --part broadcast",
    ),
    "stored": Cost(
        213.9,
        "µs",
        "stored message, 500/s: store and deliver",
        "imserver bench chat --single --seconds 20",
    ),
    "item": Cost(
        12.58,
        "µs",
        "item from node to node, alone in its batch",
        "imserver bench cluster --part rpc",
    ),
    "connection": Cost(1469, "bytes", "connection in a node", MILLION),
    "user": Cost(474, "bytes", "online user in Redis", MILLION),
    "row": Cost(
        118,
        "bytes",
        "stored message in SQLite",
        "imserver bench chat --single --seconds 20",
    ),
    "id": Cost(
        129,
        "bytes",
        "accepted message id in Redis",
        "[0008](decisions/0008-registry.md)",
    ),
    "transaction": Cost(
        1.04,
        "ms",
        "transaction of one row, PostgreSQL: 960/s with the prototype of the log",
        ALONE,
    ),
    "rows": Cost(
        25_570,
        "/s",
        "rows of one writer, SQLite",
        "imserver bench chat --single --rate 0 --seconds 10",
    ),
    "missed": Cost(
        25.19,
        "µs",
        "missed entry at a login, SQLite",
        "imserver bench chat --members 5000 --storm 50",
    ),
    "entry": Cost(
        0.48,
        "µs",
        "stored entry that a node reads and that is for none of its users",
        ENTRIES,
    ),
    "pair": Cost(
        5.4, "ms", "two encrypted connections between two nodes (busy machine)", GROWTH
    ),
    "peer": Cost(194, "KiB", "both ends of them", GROWTH),
    "lease": Cost(546, "bytes", "lease of a node in Redis", GROWTH),
    "lease redis": Cost(
        2.0, "µs", "lease that a node reads: Redis (busy machine)", GROWTH
    ),
    "lease node": Cost(3.6, "µs", "the same: the node (busy machine)", GROWTH),
    "register": Cost(
        22.8, "µs", "session that is registered again: Redis (busy machine)", GROWTH
    ),
    "clean bucket": Cost(
        808, "µs", "bucket of 610 users, cleaned up: Redis (busy machine)", GROWTH
    ),
    "clean user": Cost(
        13.5, "µs", "user who is cleaned up: Redis (busy machine)", GROWTH
    ),
}


def of(name: str) -> float:
    """The value of a cost; of times in seconds."""
    cost = COSTS[name]
    return cost.value * {"µs": 1e-6, "ms": 1e-3, "KiB": 1024}.get(cost.unit, 1)


@dataclass(frozen=True)
class Load:
    """What users and back ends do, per second. All users are in one app."""

    users: int = 10_000_000
    pushes: float = 100_000
    logins: float = 1_000
    """As many users leave."""
    stored: float = 10_000
    """Messages of one user to another."""
    group_messages: float = 100
    """To groups of :attr:`members`, all online."""
    members: int = 10_000
    heartbeat_seconds: float = 30


@dataclass(frozen=True)
class Site:
    """The machines, how far they may be used, and which of the changes are
    made."""

    cores: int = 8
    racks: int = 5
    use: float = 0.5
    """Of each core, also of that of a Redis."""
    redis_bytes: float = 16e9
    """Memory of a Redis process."""
    id_seconds: float = 43_200
    """``api.dedupe_seconds``."""
    """Commands to a Redis Cluster cost a node as much as those to one Redis."""
    routed_entries: bool = False
    """A stored entry goes to the nodes of its receivers only: to two, or to all
    those of a large group."""
    one_writer: bool = False
    """One node stores for all: its transactions have many rows, and nobody else
    waits for the lock."""
    lease_changes: bool = False
    """A node reads the leases that have changed, not all."""


@dataclass(frozen=True)
class Plan:
    """A cluster of ``nodes`` under a load."""

    load: Load
    site: Site
    nodes: int

    # --- the message log ------------------------------------------------------

    @property
    def rows(self) -> float:
        """Rows per second of the log."""
        return self.load.stored + self.load.group_messages

    @property
    def transactions(self) -> float:
        """Transactions per second: the lock of the head lets one in at a
        time."""
        return min(self.rows, 1 / of("transaction"))

    @property
    def wait_seconds(self) -> float:
        """How long a message waits until it is stored: for the turns of the
        others, then for its own."""
        busy = self.rows > self.transactions and not self.site.one_writer
        return of("transaction") * (self.nodes if busy else 2)

    @property
    def entries_sent(self) -> float:
        """Stored entries per second that nodes send to other nodes."""
        others = self.nodes - 1
        if not self.site.routed_entries:
            return self.rows * others
        return self.load.stored + self.load.group_messages * min(
            others, self.load.members
        )

    @property
    def items_sent(self) -> float:
        """Items per second in which they are: one for a transaction and
        receiving node."""
        return min(self.transactions * (self.nodes - 1), self.entries_sent)

    # --- CPU ------------------------------------------------------------------

    @property
    def leases_read(self) -> float:
        """Leases that all nodes read in a second. Each looks once; each changes
        every three seconds."""
        return self.nodes**2 / (3 if self.site.lease_changes else 1)

    def cores(self) -> dict[str, float]:
        """Cores of the nodes, by what they do."""
        load = self.load
        return {
            f"{load.pushes:,.0f} pushes": load.pushes * (of("push") + of("cluster")),
            f"{load.logins:,.0f} logins, as many logouts": load.logins
            * (of("login") + of("logout")),
            f"{load.users / load.heartbeat_seconds:,.0f} heartbeats": load.users
            / load.heartbeat_seconds
            * of("heartbeat"),
            f"{load.users:,} silent connections": load.users * of("idle"),
            f"{load.group_messages * load.members:,.0f} deliveries in groups": load.group_messages
            * load.members
            * of("delivery"),
            f"{load.stored:,.0f} stored messages": (load.stored + load.group_messages)
            * of("stored"),
            "entries for other nodes": self.items_sent * of("item")
            + self.entries_sent * of("entry"),
            "looks at leases": self.leases_read * of("lease node"),
        }

    @property
    def machines(self) -> int:
        return self.nodes // self.site.cores

    # --- Redis ----------------------------------------------------------------

    def redis_cores(self) -> float:
        """Of all masters: with several, fewer commands come together."""
        load = self.load
        pushes = load.pushes * (of("push redis") + of("cluster redis"))
        return pushes + 2 * load.logins * of("login redis") + self.lease_cores()

    def lease_cores(self) -> float:
        """Of one Redis: the leases are in one slot."""
        return self.leases_read * of("lease redis")

    def id_bytes(self) -> float:
        return self.load.pushes * self.site.id_seconds * of("id")

    def redis_bytes(self) -> float:
        return self.load.users * of("user") + self.id_bytes()

    @property
    def shards(self) -> int:
        """Masters of the Redis Cluster: for CPU or memory, whichever needs
        more."""
        by_cpu = self.redis_cores() / self.site.use
        return math.ceil(max(by_cpu, self.redis_bytes() / self.site.redis_bytes))

    # --- after a failure ------------------------------------------------------

    def logins_per_second(self, lost: int) -> float:
        """How many users can come back in a second when ``lost`` nodes are
        gone."""
        spare = self.nodes - lost - sum(self.cores().values())
        redis = self.shards - self.redis_cores()
        return max(min(spare / of("login"), redis / of("login redis")), 0)

    def clean_seconds(self, lost: int) -> float:
        """How long one node cleans up: it pauses as long as it works."""
        buckets = 16_384
        users = self.load.users * lost / self.nodes
        return 2 * (buckets * of("clean bucket") + users * of("clean user"))

    def catch_up_seconds(self, lost: int) -> float:
        """How long the users of ``lost`` nodes need until each has read 50
        missed entries."""
        spare = self.nodes - lost - sum(self.cores().values())
        return self.load.users * lost / self.nodes * 50 * of("missed") / spare

    def register_seconds(self) -> float:
        """How long the registry takes until it knows all users again, with what
        its CPU has left."""
        return self.load.users * of("register") / (self.shards - self.redis_cores())


def planned(load: Load, site: Site) -> Plan:
    """The smallest cluster for a load, in whole machines, the same number in
    each rack."""
    step = site.cores * site.racks
    for nodes in range(step, 100 * step, step):
        plan = Plan(load, site, nodes)
        if sum(plan.cores().values()) <= nodes * site.use:
            return plan
    raise ValueError(
        "no number of nodes is enough: the work for each other grows faster"
    )


DETECTED_SECONDS: Final = 5
"""Until the others know that a node is gone: two seconds of silence, two pings
of a second, and a look."""

CHANGES: Final[list[tuple[str, dict[str, object]]]] = [
    ("as it is", {}),
    ("1. message ids for ten minutes", {"id_seconds": 600}),
    ("2. one writer for each log", {"one_writer": True}),
    ("3. entries only to the nodes of their receivers", {"routed_entries": True}),
    ("4. nodes read changed leases only", {"lease_changes": True}),
]


def sites() -> Iterator[tuple[str, Site]]:
    """The site after each of the changes."""
    site = Site()
    for name, change in CHANGES:
        site = replace(site, **change)  # type: ignore[arg-type]
        yield name, site


# --- tables -------------------------------------------------------------------


def short(value: float, unit: str = "") -> str:
    """Three significant digits, with k, M, G."""
    for size, mark in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            value /= min(size, 1e3) if mark == "k" else size
            if value < 1000:
                return f"{value:.3g}{' ' if unit else ''}{mark}{unit}"
            return f"{value:,.0f} {mark}{unit}"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def costs() -> list[str]:
    rows = [
        (
            cost.meaning,
            short(cost.value, cost.unit),
            cost.command if cost.command[0] == "[" else f"`{cost.command}`",
        )
        for cost in COSTS.values()
    ]
    return rows_table("what|>cost|measured by", rows)


def cpu() -> list[str]:
    first, last = (planned(Load(), site) for site in (Site(), list(sites())[-1][1]))
    rows = [
        (name, f"{before:.1f}", f"{after:.1f}")
        for (name, before), after in zip(
            first.cores().items(), last.cores().values(), strict=True
        )
    ]
    sums = [sum(plan.cores().values()) for plan in (first, last)]
    rows.append(("*all*", f"*{sums[0]:.1f}*", f"*{sums[1]:.1f}*"))
    return rows_table(
        f"in each second|>cores, {first.nodes} nodes, as it is|>cores, {last.nodes} nodes, after all changes",
        rows,
    )


def changes() -> list[str]:
    rows = []
    for name, site in sites():
        plan = planned(Load(), site)
        per_machine = plan.load.users / plan.machines
        rows.append(
            (
                name,
                str(plan.nodes),
                str(plan.machines),
                short(plan.load.users / plan.nodes),
                short(per_machine * (of("connection") + 4096), "B"),
                str(plan.shards),
                short(plan.redis_bytes(), "B"),
                short(plan.entries_sent),
                f"{plan.wait_seconds * 1000:,.0f} ms",
            )
        )
    return rows_table(
        "change, with those above|>nodes|>machines|>connections of a node|>memory of a machine for them"
        "|>Redis masters|>their memory|>entries to other nodes/s|>wait until stored",
        rows,
    )


def mesh() -> list[str]:
    rows = []
    for nodes in (16, 32, 56, 200, 400, 800, 1600):
        plan = Plan(Load(), Site(), nodes)
        rows.append(
            (
                str(nodes),
                f"{nodes * (nodes - 1):,}",
                short((nodes - 1) * of("peer"), "B"),
                f"{(nodes - 1) * of('pair'):.2g} s",
                f"{plan.load.pushes / nodes / (nodes - 1):,.2f}",
                short(plan.leases_read * of("lease"), "B/s"),
                f"{100 * plan.lease_cores():.1f} %",
                short(plan.entries_sent),
            )
        )
    return rows_table(
        ">nodes|>ordered pairs|>memory of a node for them|>CPU of a node to connect|>pushes/s of a pair"
        "|>leases read|>core of one Redis for them|>entries to other nodes/s",
        rows,
    )


def failures() -> list[str]:
    plan = planned(Load(), list(sites())[-1][1])
    rows = []
    of_rack = plan.nodes // plan.site.racks
    for name, lost in (
        ("a node", 1),
        ("a machine", plan.site.cores),
        ("a rack", of_rack),
    ):
        users = plan.load.users * lost / plan.nodes
        rate = plan.logins_per_second(lost)
        use = sum(plan.cores().values()) / (plan.nodes - lost)
        rows.append(
            (
                name,
                short(users),
                short(rate),
                short(DETECTED_SECONDS * plan.load.pushes * lost / plan.nodes),
                f"{users / rate:,.1f} s",
                f"{plan.catch_up_seconds(lost):,.0f} s",
                f"{100 * use:.0f} %",
                f"{plan.clean_seconds(lost):,.0f} s",
            )
        )
    return rows_table(
        "lost|>users|>logins/s that the rest can take|>pushes accepted and lost, at most"
        "|>until all are back, at least|>until they have read 50 missed messages|>use of the rest"
        "|>cleanup by one node",
        rows,
    )


def registry() -> list[str]:
    plan = planned(Load(), list(sites())[-1][1])
    here = 100 / plan.nodes
    rows = [
        (
            "pushes that find their user while Redis is away",
            f"{here:.2f} %: those of the node that is asked",
        ),
        ("sessions that are registered again when it is back", f"{plan.load.users:,}"),
        (f"time for it, {plan.shards} masters", f"{plan.register_seconds():,.0f} s"),
        (
            "the same with one Redis",
            f"{plan.load.users * of('register'):,.0f} s of its CPU, without pushes",
        ),
    ]
    return rows_table("what|figure", rows)


def database() -> list[str]:
    before, after = (planned(Load(), site) for site in (Site(), list(sites())[-1][1]))
    facts: list[tuple[str, Callable[[Plan], str]]] = [
        ("rows/s", lambda plan: short(plan.rows)),
        ("bytes a day", lambda plan: short(plan.rows * 86_400 * of("row"), "B")),
        ("transactions/s", lambda plan: short(plan.transactions)),
        (
            "nodes that wait for the lock of the head",
            lambda plan: "1" if plan.site.one_writer else str(plan.nodes),
        ),
        (
            "connections: `storage.pool_size` 4, and the writer",
            lambda plan: short(plan.nodes * 5),
        ),
        (
            "looks for changed apps and for the end of the log/s",
            lambda plan: short(plan.nodes * 1.5),
        ),
    ]
    return rows_table(
        f"what|>{before.nodes} nodes, as it is|>{after.nodes} nodes, after all changes",
        [(name, fact(before), fact(after)) for name, fact in facts],
    )


def limits() -> list[str]:
    """What is full first, as it is, and the share of the load at which it
    is."""
    load = Load()
    site = Site()
    plan = planned(load, site)
    found = [
        (
            "memory of one Redis: message ids of 12 hours",
            site.redis_bytes / site.id_seconds / of("id"),
            load.pushes,
            "pushes/s",
        ),
        (
            "CPU of one Redis: pushes",
            site.use / of("push redis"),
            load.pushes,
            "pushes/s",
        ),
        (
            "lock of the head: more share transactions and wait",
            1 / of("transaction"),
            plan.rows,
            "rows/s",
        ),
        ("rows that one writer can store", of("rows"), plan.rows, "rows/s"),
        (
            "CPU of one Redis: looks at leases",
            math.sqrt(site.use / of("lease redis")),
            plan.nodes,
            "nodes",
        ),
        (
            "network of one Redis, 1 Gbit/s: looks at leases",
            math.sqrt(125e6 / of("lease")),
            plan.nodes,
            "nodes",
        ),
        ("buckets of presence, 512 users in each", 16_384 * 512, load.users, "users"),
        (
            "five seconds in which a node connects to all others",
            5 / of("pair"),
            plan.nodes,
            "nodes",
        ),
        ("connections of PostgreSQL, 100 by default", 20, plan.nodes, "nodes"),
        (
            "a broadcast within a second",
            plan.nodes / of("broadcast"),
            load.users,
            "users",
        ),
    ]
    found.sort(key=lambda row: row[1] / row[2])
    rows = [
        (
            name,
            f"{short(full)} {of_what}",
            short(wanted),
            f"{100 * full / wanted:,.0f} %",
        )
        for name, full, wanted, of_what in found
    ]
    return rows_table("what is full|>at|>wanted|>at this share", rows)


TABLES: Final = {
    "costs": costs,
    "limits": limits,
    "changes": changes,
    "cpu": cpu,
    "mesh": mesh,
    "database": database,
    "failures": failures,
    "registry": registry,
}


def filled(text: str) -> str:
    """A page with each table between its marks, ``<!-- scale costs -->`` and
    ``<!-- end -->``."""
    sections = {
        f"<!-- scale {name} -->": "\n".join(table()) for name, table in TABLES.items()
    }
    for mark, section in sections.items():
        head, _, rest = text.partition(f"{mark}\n")
        text = f"{head}{mark}\n{section}\n{END_MARK}{rest.partition(END_MARK)[2]}"
    return text


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"\n## {name}\n", *table(), sep="\n")


if __name__ == "__main__":
    main()
