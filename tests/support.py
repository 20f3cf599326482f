"""Real server processes for tests, and waiting for conditions with a deadline."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import gevent
from click.testing import CliRunner
from gevent.event import Event as Signal

from imserver.cli import main
from imserver.config.settings import LoginPolicy
from tests.processes import end, ended_on_failure, spawn

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
POLICIES = get_args(LoginPolicy)
HTTP_SERVERS = ("front", "wsgi")
START_SECONDS = 240.0
STOP_SECONDS = 60.0

COMMAND = (sys.executable, "-m", "imserver")

_HTTP = re.compile(r"http://([0-9.]+|\[[0-9a-f:]+\]):(\d+)")
_WS = re.compile(r"ws://([0-9.]+|\[[0-9a-f:]+\]):(\d+)")


def eventually(condition: Callable[[], T | None], seconds: float = 60.0, what: str = "") -> T:
    """Wait until ``condition()`` is true and return its value; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """The same for what happens in this process: greenlets run meanwhile."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
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


class CountingSignal(Signal):
    """A signal of gevent. ``pauses``: for how long it was waited for (None: without limit)."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return bool(super().wait(timeout))


class Address(NamedTuple):
    """Where a listener is; a pair as ``socket.create_connection`` takes it."""

    host: str
    port: int


def _address(found: re.Match[str]) -> Address:
    return Address(found[1].strip("[]"), int(found[2]))


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without any setting of imserver, and with the source tree importable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMSERVER_")}
    return {**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two configurations as one: sections are joined, a setting of ``over`` wins."""
    both: dict[str, Any] = {**base}
    for name, value in over.items():
        section = both.get(name)
        if isinstance(section, Mapping) and isinstance(value, Mapping) and name != "apps":
            both[name] = {**section, **value}
        else:
            both[name] = value
    return both


class Server:
    """A server process of its own, with its files under one folder.

    ``http`` and ``ws`` are the addresses of its ports, ``log`` its log file, ``output`` what it printed.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        http_server: str = "front",
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.http_server = http_server
        self.log = folder / "server.log"
        self.config_file = folder / "config.yaml"
        self._output = folder / "output.txt"
        self._stopping = False
        self._defaults = {
            "app": {"log_file": str(self.log), "http_port": 0, "websocket_port": 0},
            "server": {"data_dir": str(folder / "data"), "http": http_server},
            "drain": {"close_seconds": 0},
            # The first write makes the database, which may take long on a busy machine.
            "storage": {"seconds": 60},
        }
        self.configure(config or {})
        with self._output.open("wb") as output:
            self.process = spawn(
                [*command, "serve", "--config", str(self.config_file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(**(environment or {})),
                cwd=folder,
            )
        with ended_on_failure(self.process):
            self.http, self.ws = self._wait_for_banner()

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration file (JSON is YAML); SIGHUP makes the server read it again."""
        self.config_file.write_text(json.dumps(merged(self._defaults, config)), encoding="utf-8")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    @property
    def log_text(self) -> str:
        """All whole lines: the last may be under way."""
        written = self.log.read_bytes() if self.log.exists() else b""
        return written[: written.rfind(b"\n") + 1].decode()

    def log_with_requests(self) -> str:
        """The log with the lines of all requests until now, which are written once a second."""
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

    def _wait_for_banner(self) -> tuple[Address, Address]:
        def look() -> tuple[Address, Address] | None:
            text = self.output
            http, ws = _HTTP.search(text), _WS.search(text)
            if http and ws and text.endswith("\n"):
                return _address(http), _address(ws)
            assert self.process.poll() is None, (
                f"exit status {self.process.returncode}:\n{text}\n{self.log_text}"
            )
            return None

        return eventually(look, START_SECONDS, "the banner")

    def get(self, path: str) -> tuple[int, bytes]:
        """GET a path of the HTTP port; status and body."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.http_url + path, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process, wait for its end and return the exit status. Harmless when it has ended."""
        self.begin_to_stop(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {STOP_SECONDS} s of {number!r}:\n{self.log_text}") from None
        finally:
            end(self.process, signal.SIGKILL)
            self._stopping = False

    def begin_to_stop(self, number: int = signal.SIGTERM) -> None:
        """The first half of :meth:`stop`: so several servers can end at once."""
        if self.process.poll() is None and not self._stopping:
            self.process.send_signal(number)
        self._stopping = True

    def check(self) -> None:
        """Fail if the server logged a traceback."""
        for text in (self.output, self.log_text):
            assert "Traceback" not in text, text


def with_constants(values: Mapping[str, float]) -> tuple[str, ...]:
    """A command for :class:`Server` in which constants (``module.NAME``) have other values.

    For times that no setting has. A module that imports the name from there has the new value, too. An absent
    constant is an error.
    """
    lines = ["from gevent import monkey; monkey.patch_all()"]
    for name, value in values.items():
        module, _, constant = name.rpartition(".")
        lines.append(f"import {module}; {module}.{constant}; {module}.{constant} = {value}")
    return sys.executable, "-c", "\n".join([*lines, "from imserver.cli import main", "main()"])


PROCESS_COMMANDS = ("serve", "bench", "outbox")


def run_cli(
    *arguments: str, seconds: float = 100.0, stdin: str = "", folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``imserver …`` in ``folder`` (None: an empty one) to its end, and return its output.

    Commands that run or measure a server, and whatever begins with an option, get a process of their own. All
    others run in this one: a process costs 0.15 s.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as empty:
            return run_cli(*arguments, seconds=seconds, stdin=stdin, folder=Path(empty), **environment)
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
        result = CliRunner().invoke(main, arguments, input=stdin, env={**others, **environment})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
