"""What a chaos run breaks: nodes with a network between them, their Redis, their database, its disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench import redis
from bench.chaos_database import ENGINES
from bench.crew import SOURCE, Crew, Hand
from bench.loop import BenchError
from bench.peer import Target

CMD_APP: Final = 105
"""Under this number the cmd dialect reaches the accounts of the protobuf dialect."""
STALL_SOURCE: Final = SOURCE / "tests" / "faults" / "slow_fsync.c"
STALL_LIMIT_SECONDS: Final = 600
SLOW_MS: Final = 60
_CONFIG: Final = f"""\
apps:
  gochat: {{login_policy: ""}}
  "{CMD_APP}": {{same_as: gochat}}
"""


class Ground:
    """Owner, through processes of the crew, of all that can be broken. Everything stands when it is made.

    ``database``: ``sqlite``, ``postgresql``, ``mysql``, or a URL, which is never broken; ``stall``: the
    library that lets fsync wait, or its source (empty: the one of a source tree, if there is a compiler).
    """

    def __init__(self, crew: Crew, nodes: int, database: str, folder: Path, stall: str) -> None:
        self.crew = crew
        self.folder = folder
        self.stall_file = folder / "stall"
        self.library = _library(stall, folder)
        preload = {"LD_PRELOAD": str(self.library), "SLOW_FSYNC_FILE": str(self.stall_file)}
        (self.redis,) = crew.hire(1)
        self.redis.ask("redis", path=redis.program(""))
        url: str = crew.gather([self.redis])[0]["url"]
        self.database: Hand | None = None
        if database in ENGINES:
            (self.database,) = crew.hire(1)
            self.database.ask("database", engine=database, environment=preload if self.library else {})
            database = crew.gather([self.database])[0]["url"]
        self.embedded = database == "sqlite"
        self.can_stall = self.library is not None and (self.embedded or self.database is not None)
        (self.network,) = crew.hire(1)
        self.nodes: list[Hand] = []
        self.targets: list[Target] = []
        environment = {"IMSERVER_REDIS_URL": url, "IMSERVER_CLUSTER_BIND": "127.0.0.1"}
        if not self.embedded:
            environment["IMSERVER_STORAGE_URL"] = database
        elif self.library:
            environment |= preload
        config = folder / "config.yaml"
        config.write_text(_CONFIG, encoding="utf-8")
        for number in range(nodes):
            self._add_node(number, environment, config)

    def _add_node(self, number: int, environment: dict[str, str], config: Path) -> None:
        address = f"127.0.1.{number + 1}"
        (hand,) = self.crew.hire(1)
        hand.ask(
            "serve",
            log="file",
            arguments=["--config", str(config)],
            cores=[],
            environment={**environment, "IMSERVER_CLUSTER_ADVERTISE": address},
            data_directory=str(self.folder / "data"),
            directory=str(self.folder / f"node{number + 1}"),
        )
        (own,) = self.crew.gather([hand])
        self.nodes.append(hand)
        self.targets.append(Target("127.0.0.1", own["ws_port"], "/acc", "127.0.0.1", own["http_port"]))
        self.network.ask("network.carry", address=address, ports=[own["rpc_port"], own["rpc_port"] + 1])
        self.crew.gather([self.network])

    def disturb(self, hand: Hand, how: str) -> None:
        """``kill``, ``stop``, ``pause``, ``resume`` what this process keeps, or start it ``again``."""
        hand.ask("disturb", how=how)
        self.crew.gather([hand])

    def disturb_network(self, how: str) -> None:
        """``cut``, ``hold`` or ``heal`` the network between the nodes."""
        self.network.ask("network.disturb", how=how)
        self.crew.gather([self.network])

    def stall(self, milliseconds: int) -> None:
        """Let every fsync wait so long, or as before (0)."""
        if milliseconds:
            fresh = self.stall_file.with_suffix(".new")
            fresh.write_text(str(milliseconds), encoding="ascii")
            fresh.rename(self.stall_file)
        else:
            self.stall_file.unlink(missing_ok=True)

    def tracebacks(self) -> list[str]:
        """The last lines of all tracebacks in the logs of the nodes."""
        found = []
        for log in sorted(self.folder.glob("node*/*.log")):
            inside = False
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Traceback "):
                    inside = True
                elif inside and line and not line[0].isspace():
                    inside = False
                    found.append(f"{log.parent.name}: {line}")
        return found


def _library(stall: str, folder: Path) -> Path | None:
    """The library to preload; None where there is neither one nor the means to make it."""
    source = Path(stall) if stall else STALL_SOURCE
    if not source.exists():
        if stall:
            raise BenchError(f"there is no {source}")
        return None
    if source.suffix != ".c":
        return source.resolve()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "slow_fsync.so"
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{source} does not compile: {done.stderr.decode(errors='replace')[-1000:]}")
    return library
