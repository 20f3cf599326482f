"""supervisor.conf under the real supervisor: start, start again after a kill,
stop drains."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.raw import ask, request
from tests.ports import free_ports
from tests.processes import end, spawn

from .support import ROOT, clean_environment, eventually

CONFIGURATION = (ROOT / "supervisor.conf").read_text(encoding="utf-8")


class Supervised:
    """A copy of supervisor.conf in a folder of its own; its .venv/bin/python is
    that of the tests."""

    def __init__(
        self, folder: Path, text: str = CONFIGURATION, **environment: str
    ) -> None:
        self.folder = folder
        self.log = folder / "run" / "imserver.log"
        (folder / "run").mkdir(parents=True)
        (folder / "supervisor.conf").write_text(text, encoding="utf-8")
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8"
        )
        python.chmod(0o755)
        settings = {
            "IMSERVER_APP_HTTP_PORT": "0",
            "IMSERVER_APP_WEBSOCKET_PORT": "0",
            "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
            "IMSERVER_DRAIN_CLOSE_SECONDS": "0",
            **environment,
        }
        self._environment = clean_environment(**settings)
        self._daemon = spawn(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "supervisor.supervisord",
                "-n",
                "-c",
                "supervisor.conf",
            ],
            cwd=folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
        )

    def control(self, *arguments: str) -> str:
        """What supervisorctl says."""
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "supervisor.supervisorctl",
                "-c",
                "supervisor.conf",
                *arguments,
            ],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def wait_until(self, state: str) -> int:
        """Wait for the server's state; its pid, or 0 when it does not run."""
        line = eventually(
            lambda: output if state in (output := self.control("status")) else "",
            what=state,
        )
        pid = re.search(r"pid (\d+)", line)
        return int(pid[1]) if pid else 0

    def address(self, pid: int) -> tuple[str, int]:
        """Where the server of this pid takes WebSockets."""
        pattern = rf"pid {pid}\n(?:.*\n)*?.* ws://([0-9.]+):(\d+)"
        found = eventually(
            lambda: re.search(pattern, self.log.read_text(encoding="utf-8")),
            what="the banner",
        )
        return found[1], int(found[2])

    def end(self) -> None:
        end(self._daemon, seconds=30)


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """``supervise(text of supervisor.conf, **environment)`` starts a
    supervisor."""
    started: list[Supervised] = []

    def start(*text: str, **environment: str) -> Supervised:
        started.append(Supervised(tmp_path / "s", *text, **environment))
        return started[0]

    yield start
    for one in started:
        one.end()


def answers(address: tuple[str, int]) -> bool:
    return ask(address, request("/health")).status == 200


@pytest.mark.full("programs")
def test_supervisor_starts_restarts_and_drains_the_server(supervise: Supervise) -> None:
    supervised = supervise()
    first = supervised.wait_until("RUNNING")
    assert answers(supervised.address(first))

    os.kill(first, signal.SIGKILL)
    eventually(
        lambda: f"pid {first}" not in supervised.control("status"),
        what="the end of the killed server",
    )
    second = supervised.wait_until("RUNNING")
    assert second not in (0, first)
    assert answers(supervised.address(second))

    assert "imserver: stopped" in supervised.control("stop", "imserver")
    assert supervised.wait_until("STOPPED") == 0
    log = supervised.log.read_text(encoding="utf-8")
    assert log.rstrip().endswith("stopped")
    assert "SIGTERM: draining" in log
    assert "Traceback" not in log


@pytest.mark.full("programs")
def test_supervisor_runs_several_nodes_by_numprocs(
    supervise: Supervise, redis_url: str
) -> None:
    above, _, below = CONFIGURATION.partition("[program:imserver]")
    several = re.sub(
        r"^;(?! )", "", below[below.index(";[program:imserver]") :], flags=re.MULTILINE
    )
    text = above + several.replace("numprocs = 4", "numprocs = 2")
    text = text.replace("redis://127.0.0.1:6379", redis_url)
    prefix = free_ports(13, multiple=1000) // 1000  # ports …001, …002, …011 and …012
    text = text.replace("9%(process_num)02d1", f"{prefix}%(process_num)02d1")
    port = free_ports(1)
    supervised = supervise(text, IMSERVER_APP_WEBSOCKET_PORT=str(port))
    eventually(lambda: supervised.control("status").count("RUNNING") == 2)
    logs = sorted((supervised.folder / "run").glob("imserver_*.log"))
    assert len(logs) == 2
    for log in logs:
        eventually(lambda log=log: f":{port}/acc" in log.read_text(encoding="utf-8"))
    for _ in range(20):
        assert answers(("127.0.0.1", port))
    assert supervised.control("stop", "imserver:*").count("stopped") == 2
    for log in logs:
        output = log.read_text(encoding="utf-8")
        assert output.rstrip().endswith("stopped")
        assert "GET /health" in output
