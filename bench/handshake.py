"""Scenario ``handshake``: what a connection costs to open, with and without a login."""

from __future__ import annotations

from dataclasses import dataclass

from bench.latency import Latency
from bench.stage import MOST_IN_PROCESS, Figures, Stage, parameter


@dataclass(frozen=True)
class HandshakeOptions:
    """Parameters of the scenario."""

    connections: int = parameter(5000, "Connections to open.", most=MOST_IN_PROCESS)
    login: bool = parameter(False, "Log in too.")
    members: int = parameter(
        1100,
        "Users logged in before (an app that is large enough sends no notices of logins).",
        least=0,
        most=MOST_IN_PROCESS,
    )


def run(stage: Stage, options: HandshakeOptions) -> Figures:
    """Measure the CPU of opening connections that stay; closing them is not counted."""
    hands = stage.hire(1)
    if options.login and options.members:
        stage.open(stage.hire(1), options.members)
    stage.open(hands, min(500, options.connections), first=options.members, login=options.login)
    stage.ask(hands, "close")
    stage.rest()
    with stage.measured() as span:
        (answer,) = stage.ask(
            hands, "open", first=options.members, count=options.connections, login=options.login
        )
    span.note([answer])
    return {
        **span.rate("opened", answer["opened"], answer["seconds"], flat_out=True),
        "errors": sum(answer["errors"].values()),
        **Latency.merged([answer["latency"]]).figures(),
    }
