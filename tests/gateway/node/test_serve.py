"""Signals: drain, second signal, log rotation, dump, settings reloaded, a lost
terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imserver.plugin.testing import START_SECONDS
from tests.conftest import StartServer
from tests.integration.raw import ask, bearer, request
from tests.processes import end, spawn
from tests.support import clean_environment, eventually


@pytest.mark.full("faults")
def test_a_server_that_fails_ends_with_status_1_and_its_traceback_is_in_the_log_only(
    tmp_path: Path,
) -> None:
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from imserver.gateway.node import node\n"
        "def fail(self): raise ZeroDivisionError('on purpose')\n"
        "node.Node.serve_forever = fail\n"
        "from imserver.cli import main\n"
        "main(['serve', '--http-port', '0', '--ws-port', '0'])"
    )
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", code]
    environment = clean_environment(IMSERVER_APP_LOG_FILE=str(log))
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "imserver: the server failed: on purpose; the log has the traceback\n"
    )
    assert "ZeroDivisionError: on purpose" in log.read_text(encoding="utf-8")


def test_the_log_names_absent_apps_of_keys_and_what_sighup_reads_as_keys(
    start_server: StartServer,
) -> None:
    keys = ("first-key-of-the-test", "another-key-of-the-test")
    first, second = (
        {"key": key, "scopes": ["read"], "apps": ["default", "nope"]} for key in keys
    )
    server = start_server(config={"api": {"keys": [first]}})
    eventually(
        lambda: (
            "api.keys: a key is for the app nope, which does not exist"
            in server.log_text
        )
    )
    assert "the app default, which" not in server.log_text
    server.configure({"api": {"keys": [second]}})
    server.process.send_signal(signal.SIGHUP)
    output = "settings reloaded: apps, keys, origins, limits, log; other changes need a restart"
    eventually(lambda: output in server.log_text)
    listing = request("/api/v1/users?app=default")
    assert [ask(server.http, bearer(listing, key)).status for key in keys] == [401, 200]


SIGNALS_DURING_THE_START = """
from gevent import monkey; monkey.patch_all()
import os, signal
from imserver.cli import main
from imserver.gateway.process import DataDirectory
start = DataDirectory.start
def start_and_be_signalled(self):
    start(self)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
DataDirectory.start = start_and_be_signalled
main()
"""


def test_signals_during_the_start_wait_until_the_server_serves(
    start_server: StartServer,
) -> None:
    server = start_server(command=(sys.executable, "-c", SIGNALS_DURING_THE_START))
    eventually(lambda: "settings reloaded" in server.log_text)
    eventually(
        lambda: (
            "greenlets and loop state" in server.log_text
            and "* Greenlets" in server.log_text
        )
    )
    assert '"active watchers"' in server.log_text
    assert '"managerInfo"' in server.log_text
    assert server.get("/health")[0] == 200


def test_sighup_cannot_open_a_public_server_to_strangers(
    start_server: StartServer,
) -> None:
    keys = {"api": {"keys": [{"key": "first-key-of-the-test", "scopes": ["read"]}]}}
    server = start_server("--host", "0.0.0.0", config=keys)
    server.configure({})
    server.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: (
            "settings are unchanged: server.host 0.0.0.0 is not a loopback"
            in server.log_text
        )
    )
    status, body = server.get("/user/list?appID=101")
    assert (status, json.loads(body)["code"]) == (200, 1003), "nobody may without a key"


@contextmanager
def in_terminal(
    folder: Path, *before: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that runs in the foreground of a new terminal; the process and
    the terminal's other end."""
    master, slave = pty.openpty()
    arguments = ["-m", "imserver", "serve", "--http-port", "0", "--ws-port", "0"]
    process = spawn(
        [*before, sys.executable, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env=clean_environment(IMSERVER_APP_LOG_FILE=str(folder / "server.log")),
        start_new_session=True,
        # makes it the controlling terminal
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(slave)
    log = folder / "server.log"
    try:
        eventually(
            lambda: log.exists() and "started at" in log.read_text(encoding="utf-8"),
            seconds=START_SECONDS,
        )
        yield process, master
    finally:
        end(process)


@pytest.mark.skipif(sys.platform != "linux", reason="how a terminal is lost differs")
@pytest.mark.parametrize("before", [(), ("nohup",)])
def test_a_server_whose_terminal_goes_ends_but_under_nohup(
    tmp_path: Path, before: tuple[str, ...]
) -> None:
    with in_terminal(tmp_path, *before) as (process, master):
        os.close(master)
        if before:
            eventually(
                lambda: (
                    "settings reloaded"
                    in (tmp_path / "server.log").read_text(encoding="utf-8")
                )
            )
            assert process.poll() is None
            process.terminate()
        assert process.wait(100) == 0
    log = (tmp_path / "server.log").read_text(encoding="utf-8")
    assert ("SIGHUP: draining" in log) == (not before)
