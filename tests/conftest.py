"""Fixtures for tests that need a running server."""

import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.gateway.cluster.redis_server import RedisServer
from tests.processes import end_all
from tests.stores import (  # noqa: F401
    database_servers,
    empty_url,
    hasty_consumers,
    open_store,
    own_database,
    patient_consumers,
    sqlite_model,
    store,
    url,
    write_at,
)
from tests.support import HTTP_SERVERS, Server
from tests.tools import require

StartServer = Callable[..., Server]

# Hundreds of servers are started: what the first of them compiles is there for
# the others.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

WHY_FULL = {
    "browser": "Chromium takes seconds for each page; make test walks the main journeys",
    "faults": "something dies, stops or stays away; make test has one of each kind",
    "load": "much data, many at once, or a cost that is measured",
    "processes": "several servers start; tests of their parts prove the rules",
    "programs": "programs of others, as npm, PyPI, Debian and older versions of ours have them",
    "sampled": "the same with another engine, HTTP server or format",
    "waits": "a limit, an expiry or a clock takes its seconds",
}
"""What the marker ``full`` has as its reason."""

WAITING = ("tests/browser/", "plugins/")
"""Folders whose tests wait for browsers, programs of others and
installations."""

MEMORY = "/dev/shm"
MEMORY_BYTES = 4 << 30


def _keep_files_in_memory() -> None:
    """Hundreds of databases are made, and nobody pulls a plug: to wait for a
    disk would prove nothing.

    A folder that is named (TMPDIR) is taken; so is the usual one where this
    machine has little memory, or lets no program be run from there.
    """
    if (
        "TMPDIR" in os.environ
        or not os.path.isdir(MEMORY)
        or not os.access(MEMORY, os.W_OK)
    ):
        return
    if (
        shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
        and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    ):
        os.environ["TMPDIR"] = MEMORY
        tempfile.tempdir = None


_keep_files_in_memory()

# The same examples in each run; ``--hypothesis-profile=random`` takes new ones.
# Examples have no time limit.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("repeatable")

# Under nohup or in the background this process ignores some signals, and each
# program would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay to the end: the collector neither looks at them
    while they are made nor later.

    What a test looks for with ``gc.get_objects()`` is found among what was made
    since.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what only ``make test-all`` runs: the WSGI server, and database
    servers under load and faults.

    ``make test`` runs tests on the front server, and those marked
    ``both_servers`` on both. It runs tests of the storage on all engines, and
    those marked ``sqlite_first`` on SQLite.
    """
    call = getattr(item, "callspec", None)
    chosen = (
        {value for value in call.params.values() if isinstance(value, str)}
        if call
        else set()
    )
    if ("wsgi" in chosen and not item.get_closest_marker("both_servers")) or (
        chosen & {"postgresql", "mysql"} and item.get_closest_marker("sqlite_first")
    ):
        item.add_marker(pytest.mark.full("sampled"))
    for marker in item.iter_markers("full"):
        if WHY_FULL.keys().isdisjoint(marker.args):
            raise pytest.UsageError(
                f'{item.nodeid}: full("why"), where why is one of {", ".join(WHY_FULL)}'
            )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no worker begins one of them when all
    others have ended.

    Files of tests that wait are spread over the first two thirds: workers that
    all drive browsers starve each other, and a page then answers too late.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    waiting = list(
        dict.fromkeys(item.path for item in items if item.nodeid.startswith(WAITING))
    )
    others = sorted(
        {item.path: 0 for item in items if item.path not in waiting},
        key=lambda path: path not in slow,
    )
    step = len(others) * 2 / 3 / max(1, len(waiting))
    ranks = {path: float(rank) for rank, path in enumerate(others)}
    ranks |= {path: len(slow) + rank * step for rank, path in enumerate(waiting)}
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are missing (``needs``) before any fixture has
    started something."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            require(name)


def pytest_sessionfinish() -> None:
    """End what tests have left behind."""
    end_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Reports go to another process as UTF-8, whatever a test has logged."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode())
        for name, text in report.sections
    ]
    return report


@contextmanager
def servers(folders: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts servers, and stops them all at the end."""
    started: list[Server] = []
    numbers = itertools.count()

    def start(*arguments: str, **options: Any) -> Server:
        folder = options.pop("folder", None) or folders.mktemp(f"server{next(numbers)}")
        server = Server(folder, *arguments, **options)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.begin_to_stop()
        for server in started:
            server.stop()
    for server in started:
        server.check()


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Iterator[StartServer]:
    """Starts servers: ``start_server(*arguments, config={…},
    http_server="front", environment={…})``.

    All are stopped at the end of the test, which fails if one of them logged a
    traceback. ``tmp_path``, where a test may have put one of them, is named so
    that it is removed behind them.
    """
    with servers(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartServer]:
    """The same for servers that the tests of a module share."""
    with servers(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server with default settings, once for each HTTP server, shared by the
    tests of a module."""
    return start_shared_server(http_server=request.param)


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``constants(module, NAME=value)``: other values of constants, until the
    end of the test."""

    def set_constants(owner: object, **values: object) -> None:
        for name, value in values.items():
            monkeypatch.setattr(owner, name, value)

    return set_constants


@pytest.fixture(scope="module")
def sink() -> Iterator[Any]:
    """A mail server (a ``Sink``)."""
    from tests.security.mail import Sink

    server = Sink()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that do it no harm. Ask for :func:`redis_server`
    to have it empty."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared Redis, empty: the nodes of the test before have left leases
    there."""
    with shared_redis.client() as client:
        client.flushall()
        client.script_flush()
    return shared_redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Its address."""
    return redis_server.url
