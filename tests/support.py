"""Real server processes for tests, and waiting for conditions with a
deadline."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import gevent
from click.testing import CliRunner
from gevent.event import Event as Flag

from imserver.cli import main
from imserver.gateway.config.settings import LoginPolicy
from imserver.plugin.testing import COMMAND, NodeProcess, eventually, merged
from tests.processes import adopt

ROOT = Path(__file__).resolve().parent.parent
POLICIES = get_args(LoginPolicy)
HTTP_SERVERS = ("front", "wsgi")


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """The same for what happens in this process: greenlets run meanwhile."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, (
            f"not within {seconds} s: {what or condition}"
        )
        gevent.sleep(0.001)
    return value


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def nanoseconds(self) -> int:
        """As ``monotonic_ns`` of the standard library."""
        return round(self.now * 1e9)


class CountingFlag(Flag):
    """A flag of gevent. ``pauses``: for how long it was waited for (None:
    without limit)."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return bool(super().wait(timeout))


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without any setting of imserver, and with the
    source tree importable."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("IMSERVER_")
    }
    return {**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def run_python(code: str, *arguments: str) -> str:
    """What code prints in a process of its own, which ends well."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


class Server(NodeProcess):
    """A node of the tests, with its files under one folder."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        http_server: str = "front",
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.http_server = http_server
        super().__init__(
            *arguments,
            settings=config,
            folder=folder,
            environment={"PYTHONPATH": str(ROOT), **(environment or {})},
            command=command,
        )
        adopt(self.process)

    def configure(self, settings: Mapping[str, Any]) -> None:
        super().configure(merged({"server": {"http": self.http_server}}, settings))

    def log_with_requests(self) -> str:
        """The log with the lines of all requests until now, which are written
        once a second."""
        path = f"/requests-until-{time.monotonic_ns()}"
        self.get(path)
        eventually(lambda: path in self.log_text, what="the line of a request")
        return self.log_text

    @property
    def http_url(self) -> str:
        return f"http://{self.http.host}:{self.http.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.ws.host}:{self.ws.port}/acc"


def with_constants(values: Mapping[str, float]) -> tuple[str, ...]:
    """A command for :class:`Server` in which constants (``module.NAME``) have
    other values.

    For times that no setting has. A module that imports the name from there has
    the new value, too. An absent constant is an error.
    """
    lines = ["from gevent import monkey; monkey.patch_all()"]
    for name, value in values.items():
        module, _, constant = name.rpartition(".")
        lines.append(
            f"import {module}; {module}.{constant}; {module}.{constant} = {value}"
        )
    return (
        sys.executable,
        "-c",
        "\n".join([*lines, "from imserver.cli import main", "main()"]),
    )


PROCESS_COMMANDS = ("serve", "bench", "outbox")


def run_cli(
    *arguments: str,
    seconds: float = 100.0,
    stdin: str = "",
    folder: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run ``imserver …`` in ``folder`` (None: an empty one) to its end, and
    return its output.

    Commands that run or measure a server, and whatever begins with an option,
    get a process of their own. All others run in this one: a process costs 0.15
    s.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as empty:
            return run_cli(
                *arguments,
                seconds=seconds,
                stdin=stdin,
                folder=Path(empty),
                **environment,
            )
    if arguments[0].startswith("-") or arguments[0] in PROCESS_COMMANDS:
        return subprocess.run(
            [sys.executable, "-m", "imserver", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            input=stdin,
            cwd=folder,
            env=clean_environment(**environment),
            check=False,
        )
    others = {name: None for name in os.environ if name.startswith("IMSERVER_")}
    with contextlib.chdir(folder):
        result = CliRunner().invoke(
            main, arguments, input=stdin, env={**others, **environment}
        )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(
        arguments, result.exit_code, result.stdout, result.stderr
    )
