"""The servers that the tests here run against: settings, memory; and how many
files a test may open."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import Server

ECHO_PATH = "/echo"
APPS = range(2001, 3001)
"""Apps beside the usual four: each test has one of its own, so none sees
another's notices."""
MULTI = 6001
"""The app in which all connections of a user get what is sent to the user."""
OPEN: dict[str, dict[str, Any]] = {
    **{
        name: {"open": True}
        for name in ("101", "102", "103", "104", "action:1", "action:2")
    },
    "gochat": {},
}
"""The usual apps, open although there are keys."""
SHARED: dict[str, Any] = {
    "apps": {
        **{str(app): {"login_policy": "newest"} for app in (101, 102, 103, 104, *APPS)},
        str(MULTI): {"login_policy": "multi"},
    },
    "debug": {"echo_path": ECHO_PATH},
    "websocket": {"close_seconds": 1},
}
"""The servers that most tests share, one per HTTP server."""

Launch = Callable[..., Server]
"""``launch(http_server, section={…}, …)`` starts a server with settings of its
own for the module."""


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    )


def growth_of(pid: int) -> Callable[[], int]:
    """Ask the answer how many bytes more than now were resident at once since,
    at most.

    The kernel keeps the peak itself: it matters neither when one asks nor what
    has been given back meanwhile.
    """
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what is resident now

    def peak_bytes() -> int:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
        return (
            next(int(row.split()[1]) for row in rows if row.startswith("VmHWM:")) * 1024
        )

    before = peak_bytes()
    return lambda: peak_bytes() - before


def stop(server: Server) -> None:
    """End a server; fail with the first traceback in its log, if there is
    one."""
    server.stop()
    output = f"{server.output}\n{server.log_text}"
    at = output.find("Traceback")
    assert at < 0, (
        f"the log has {output.count('Traceback')} tracebacks: {output[at - 300 : at + 3000]}"
    )


def open_files(wanted: int) -> int:
    """Let this process open so many files; gives how many of them it may,
    beside what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - 500)
