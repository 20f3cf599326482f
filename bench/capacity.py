"""How many processes a crowd takes on this machine, and whether the machine can hold it at all."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from bench import proc
from bench.loop import BenchError
from bench.stage import parameter, seconds_parameter

#: Files of a process that are no connections: logs, listeners, Redis, three for each other node.
SPARE_FILES = 2_100
MOST_ONLINE = 2_000_000
BYTES_A_CONNECTION = 12_000  # both ends, kernel included; what is looked for before we begin
BASE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class MillionOptions:
    """Parameters of the scenario."""

    connections: int = parameter(1_000_000, "Users to log in.", least=100, most=MOST_ONLINE)
    processes: int = parameter(
        0, "Server processes; 0: as many as their open files need, at least one a core.", least=0, most=500
    )
    abreast: int = parameter(4, "Generator processes that log in at once.", most=64)
    rate: float = parameter(100.0, "Pushes to random users a second.", most=10_000)
    push_seconds: float = seconds_parameter(20.0, "How long to push to random users")
    broadcasts: int = parameter(3, "Broadcasts to everybody.", most=100)
    calm_seconds: float = seconds_parameter(120.0, "How long to wait before the idle CPU is watched")
    idle_seconds: float = seconds_parameter(60.0, "How long to watch it")

    def server_processes(self) -> int:
        """Return how many server processes there are."""
        return self.processes or max(len(os.sched_getaffinity(0)), -(-self.connections // room()))

    def generator_processes(self) -> int:
        """Return how many generator processes there are."""
        return max(2, -(-self.connections // room()))


def room() -> int:
    """Return how many connections one process has files for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(max(files - SPARE_FILES, 100), 60_000) if files > 0 else 60_000


def check_machine(options: MillionOptions) -> None:
    """Raise BenchError if this machine cannot hold so many connections."""
    files, left = 2 * options.connections + 30_000, proc.files_left()
    if left < files:
        raise BenchError(
            f"{files} open files are needed here, and fs.file-max leaves {left}: raise it (sysctl)"
        )
    wanted = BASE_BYTES + BYTES_A_CONNECTION * options.connections
    if (available := proc.available_bytes()) < wanted:
        raise BenchError(
            f"about {wanted / 1e9:.1f} GB of memory are needed, and {available / 1e9:.1f} GB are free"
        )
