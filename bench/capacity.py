"""What a connected user costs one server: the figures behind ``imserver doctor
--capacity``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import chat
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures
from bench.generator import close_connections
from bench.proc import memory, slab_bytes
from bench.push import Sending, measure_warm
from bench.session_scenarios import beat, subscribe, warm_up

#: An app with more users sends no notices of logins. Several processes, so that they do not limit the server.
WITHOUT_NOTICES = 1100
RECEIVERS = 500
SENDERS = 100
LEAST_KERNEL_BYTES = 500
MOST_KERNEL_BYTES = 30_000
"""What the kernel takes for a connection lies between these. The figure is a
difference of all that the kernel of this machine has, so what other programs
open or close meanwhile is in it, too."""


@dataclass(frozen=True)
class CapacityOptions:
    connections: int = parameter(12_000, "Connections.", least=20, most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(1.5, "How long to send each kind of load")
    redis: bool = parameter(False, "The server has a Redis.")
    stored: bool = parameter(False, "Also store messages.")
    keyed: ClassVar[bool] = True

    @property
    def environment(self) -> dict[str, str]:
        more = {
            "IMSERVER_ACCOUNTS_REGISTRATION": "true",
            "IMSERVER_APPS": "{101: {open: true}, gochat: {}}",
        }
        return more if self.stored else {}


def kernel_bytes_of_one(before: int, after: int, connections: int) -> float | None:
    """What the kernel takes for a connection, by all its memory for structures
    before and after; None: other programs have changed it too much."""
    bytes_of_one = (after - before) / 2 / connections  # both ends are here
    if LEAST_KERNEL_BYTES <= bytes_of_one <= MOST_KERNEL_BYTES:
        return bytes_of_one
    return None


def capacity(context: RunContext, options: CapacityOptions) -> Figures:
    """Measure logins, heartbeats, channels, pushes and stored messages one
    after the other, each flat out."""
    worker, other = context.start_workers(2)
    empty = memory(context.pids).rss_bytes
    how = {"dialect": "cmd"}
    before = warm_up(
        context,
        [worker],
        options.connections,
        work=lambda: context.ask([worker], subscribe, **how),
    )
    kernel = slab_bytes()
    first = min(WITHOUT_NOTICES, options.connections // 2)
    context.open([worker], first)
    with context.measured() as logins:
        context.open([other], options.connections - first, first=first)
    context.rest()
    opened = memory(context.pids).rss_bytes
    kernel_of_one = kernel_bytes_of_one(kernel, slab_bytes(), options.connections)
    with context.measured() as beats:
        beaten = context.ask([worker, other], beat, seconds=options.seconds)
    context.ask([worker, other], subscribe, **how)
    context.rest()
    subscribed = memory(context.pids).rss_bytes
    context.ask([worker, other], close_connections)

    context.open([worker], RECEIVERS)
    pushes = measure_warm(context, worker, Sending("v1", 16), options.seconds)
    shared = measure_warm(
        context, worker, Sending("v1", 1, bulk=RECEIVERS), options.seconds
    )
    context.ask([worker], close_connections)
    figures: Figures = {
        "rss_empty_mb": empty / 1e6,
        "rss_opened_bytes": (opened - before) / options.connections,
        "rss_connection_bytes": (subscribed - before) / options.connections,
        "kernel_connection_bytes": kernel_of_one,
        "login_cpu_us": logins.cost(options.connections - first)["cpu_us"],
        "beat_cpu_us": beats.cost(sum(answer["answered"] for answer in beaten))[
            "cpu_us"
        ],
        "push_cpu_us": pushes["cpu_us"],
        "delivery_cpu_us": shared["cpu_us"],
        "pushes_per_second": pushes["requests_per_second"],
        "lost": (pushes["lost"] or 0) + (shared["lost"] or 0),
        "beats_unanswered": sum(answer["unanswered"] for answer in beaten),
    }
    if options.stored:
        stored = chat.run(
            context, chat.ChatOptions(SENDERS, 0, options.seconds, single=True)
        )
        figures |= {
            name: stored[name]
            for name in ("stored_per_second", "unacknowledged", "unstored")
        }
        # Of each message, its receipt and its delivery are counted.
        figures["stored_cpu_us"] = 2 * (stored["cpu_us"] or 0)
    return figures
