"""supervisor.conf under the real supervisor: start, start again after a kill, stop drains."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import ROOT, clean_environment, eventually

pytest.importorskip("supervisor")


class Supervised:
    """A copy of supervisor.conf in a folder of its own; its .venv/bin/python is that of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "run" / "imserver.log"
        (folder / "run").mkdir(parents=True)
        shutil.copy(ROOT / "supervisor.conf", folder)
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        self._environment = clean_environment(
            IMSERVER_APP_HTTP_PORT="0",
            IMSERVER_APP_WEBSOCKET_PORT="0",
            IMSERVER_DRAIN_CLOSE_SECONDS="0",
        )
        self._daemon = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-n", "-c", "supervisor.conf"],
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
        line = eventually(lambda: said if state in (said := self.control("status")) else "", 20, state)
        pid = re.search(r"pid (\d+)", line)
        return int(pid[1]) if pid else 0

    def address(self, pid: int) -> tuple[str, int]:
        """Where the server of this pid takes WebSockets."""
        pattern = rf"pid {pid}\n(?:.*\n)*?.* ws://([0-9.]+):(\d+)"
        found = eventually(lambda: re.search(pattern, self.log.read_text(encoding="utf-8")), 20, "the banner")
        return found[1], int(found[2])

    def end(self) -> None:
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(30)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path / "s")
    try:
        yield supervised
    finally:
        supervised.end()


def answers(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


def test_supervisor_starts_restarts_and_drains_the_server(supervised: Supervised) -> None:
    first = supervised.wait_until("RUNNING")
    assert answers(supervised.address(first))

    os.kill(first, signal.SIGKILL)
    eventually(lambda: f"pid {first}" not in supervised.control("status"), 20, "the end of the killed server")
    second = supervised.wait_until("RUNNING")
    assert second not in (0, first)
    assert answers(supervised.address(second))

    assert "imserver: stopped" in supervised.control("stop", "imserver")
    assert supervised.wait_until("STOPPED") == 0
    log = supervised.log.read_text(encoding="utf-8")
    assert log.rstrip().endswith("stopped")
    assert "SIGTERM: draining" in log
    assert "Traceback" not in log
