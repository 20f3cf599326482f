"""Scenario ``idle``: what connections cost that do nothing: memory and CPU."""

from __future__ import annotations

from dataclasses import dataclass

from bench.dialects import OPENERS
from bench.loop import BenchError
from bench.stage import (
    MOST_CONNECTIONS,
    Figures,
    Stage,
    choice_parameter,
    parameter,
    seconds_parameter,
)

WARM_UP_CONNECTIONS = 500
CONNECTIONS_A_PROCESS = 5000


@dataclass(frozen=True)
class IdleOptions:
    """Parameters of the scenario."""

    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(10.0, "How long to watch the idle CPU")
    login: bool = parameter(True, "Log in (or only connect).")
    dialect: str = choice_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        """What a server of our own is told by settings."""
        return dict(OPENERS[self.dialect].environment)


def run(stage: Stage, options: IdleOptions) -> Figures:
    """Measure RSS a connection, against the server after 500 connections that came and went, and idle CPU."""
    if options.environment and not stage.folder:
        raise BenchError(f"--dialect {options.dialect} needs a server of our own, which has our key")
    empty = stage.rss_bytes()
    hands = stage.hire(-(-options.connections // CONNECTIONS_A_PROCESS))
    stage.open(
        hands, min(WARM_UP_CONNECTIONS, options.connections), login=options.login, dialect=options.dialect
    )
    stage.ask(hands, "close")
    stage.rest()
    before = stage.rss_bytes()
    stage.open(hands, options.connections, login=options.login, dialect=options.dialect)
    stage.rest()
    after = stage.rss_bytes()
    with stage.measured() as span:
        stage.wait(options.seconds)
    answers = stage.ask(hands, "settle", quiet_seconds=0.1)
    span.note(answers)
    return {
        "rss_empty_mb": empty / 1e6,
        "rss_warm_mb": before / 1e6,
        "rss_full_mb": after / 1e6,
        "rss_connection_bytes": (after - before) / options.connections,
        "idle_cpu_percent": span.server_us / 1e4 / span.seconds,
        "connections": sum(answer["connections"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }
