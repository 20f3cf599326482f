"""``imserver doctor --capacity``: how many users a node can serve, by their
cost on a server that the command starts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import msgspec
from msgspec import Struct

from imserver.gateway.config.settings import Config
from imserver.gateway.node.feature_list import load_features
from imserver.gateway.process import (
    SPARE_FILES_OF_A_CLUSTER,
    cores,
    openable_files,
    plan_processes,
)
from imserver.gateway.storage.address import database_address
from imserver.gateway.terminal import CommandLine, fail, table
from imserver.offline.database import commit_seconds
from imserver.plugin.progress import long_work

HEARTBEAT_SECONDS: Final = 30
"""How often a connected client sends a heartbeat."""
SHARE: Final = 0.5
"""The planned share of the processor, and of the commits. The rest is for
peaks."""
STOP_SECONDS: Final = 30
"""How long an interrupted measurement may take to end its server."""
COMMITTED_TOGETHER: Final = 100
"""How many messages wait for a commit of a busy node. The measurement has as
many senders."""
ENOUGH_USERS: Final = 1000
"""How many users of a running node are needed to calculate the memory of
each."""
TYPICAL_KERNEL_BYTES: Final = 4000
"""The memory of Linux for a connection, if it could not be measured: a TCP
socket with its inode, its file and its entry in epoll."""
_MB: Final = 1e6
_GB: Final = 1e9
_KIB: Final = 1024
_SECOND_US: Final = 1e6
_SECOND_MS: Final = 1000
_HOUR_SECONDS: Final = 3600
_MOST_CONNECTIONS: Final = 12_000
"""The number of connections to the measured server."""
_COMMIT_TRIES: Final = 25
_LEAST_PRIORITY: Final = 19
_STORING: Final = {"messages", "accounts", "protobuf"}
_SECTIONS: Final = ("limits", "websocket", "hub", "log")
"""Settings of the node that the measured server has, too. They contain no
person, secret or other machine."""
_PROC: Final = Path("/proc")
_GROUPS: Final = Path("/sys/fs/cgroup")


class Behaviour(Struct, frozen=True):
    """Assumptions about connected users. Each sends ``messages`` an hour,
    which so many connected ``receivers`` get, and gets ``pushes`` of back ends.
    ``online``: their share of all users, in percent. ``restart_seconds``: in which they
    come back after a restart."""

    messages: float = 10
    receivers: float = 5
    pushes: float = 10
    online: float = 30
    restart_seconds: float = 300


class Costs(Struct, frozen=True):
    """Figures of ``imserver bench capacity``. ``stored_per_second`` is 0 if
    nothing was stored. ``kernel_connection_bytes`` is None if it was not
    measured, because other programs changed it meanwhile."""

    rss_empty_mb: float
    rss_opened_bytes: float
    rss_connection_bytes: float
    kernel_connection_bytes: float | None
    login_cpu_us: float
    beat_cpu_us: float
    push_cpu_us: float
    delivery_cpu_us: float
    stored_cpu_us: float = 0
    stored_per_second: float = 0


class Resources(Struct, frozen=True):
    """Memory, files and cores for the processes of a node. ``free_bytes``: of memory,
    without what is for slow receivers. ``connections``: of a process, by the
    limit of open files that ``files`` has, or by the setting if it is empty.
    ``users`` are connected now, and take ``users_bytes``. ``commit_seconds``:
    of a database server; 0: the database is SQLite."""

    free_bytes: float
    connections: int
    files: str = "this shell"
    processes: int = 1
    cores: int = 1
    users: int = 0
    users_bytes: float = 0
    commit_seconds: float = 0


class UserLimit(Struct, frozen=True):
    """A limit of the number of connected users. ``limit``: its name. ``found``:
    its reason. ``mend``: how to raise it."""

    users: int
    limit: str
    found: str
    mend: str


def check(costs: Costs) -> Costs:
    """The costs, if they are possible. Raises RuntimeError if a figure is not,
    as on a machine that had no time for the measurement."""
    never_zero = (
        "rss_empty_mb",
        "rss_connection_bytes",
        "login_cpu_us",
        "beat_cpu_us",
        "push_cpu_us",
    )
    for name in never_zero:
        value = getattr(costs, name)
        if not (isfinite(value) and value > 0):
            raise RuntimeError(
                f"the measurement failed: {name} is {value:,.1f}. Run it again while this machine does less"
            )
    return costs


def limits(costs: Costs, user: Behaviour, resources: Resources) -> list[UserLimit]:
    """The limits of the number of connected users, the smallest number first."""
    logins = _working(resources) * _SECOND_US / costs.login_cpu_us
    rows = [
        _memory_limit(costs, resources),
        _files_limit(resources),
        _processor_limit(costs, user, resources),
        UserLimit(
            int(user.restart_seconds * logins),
            "a restart",
            f"{logins:,.0f} logins a second",
            _more_work(resources),
        ),
    ]
    if costs.stored_per_second and user.messages:
        rows.append(_storing_limit(costs, user, resources))
    return sorted(rows, key=lambda row: row.users)


def _working(resources: Resources) -> int:
    """How many processes can work at the same time."""
    return min(resources.processes, resources.cores)


def _more_work(resources: Resources) -> str:
    """How to let a node do more work."""
    if resources.processes < resources.cores:
        return "server.processes: auto, which needs redis.url"
    return "more cores, or another machine"


def _memory_limit(costs: Costs, resources: Resources) -> UserLimit:
    own_bytes = costs.rss_connection_bytes
    if resources.users >= ENOUGH_USERS:
        own_bytes = max(own_bytes, resources.users_bytes / resources.users)
    kernel_bytes = costs.kernel_connection_bytes
    of_kernel = "of the kernel"
    if kernel_bytes is None:
        kernel_bytes = TYPICAL_KERNEL_BYTES
        of_kernel += " (usual: not measured, as other programs changed it)"
    free = resources.free_bytes
    if not resources.users:
        # The processes do not run yet.
        free -= resources.processes * costs.rss_empty_mb * _MB
    free = max(free, 0)
    found = f"{free / _GB:,.1f} GB for {own_bytes:,.0f} bytes with three channels"
    found += (
        f" ({costs.rss_opened_bytes:,.0f} without) and {kernel_bytes:,.0f} {of_kernel}"
    )
    users = int(free / (own_bytes + kernel_bytes)) + resources.users
    return UserLimit(users, "memory", found, "more memory")


def _files_limit(resources: Resources) -> UserLimit:
    users = resources.connections * resources.processes
    found = f"{resources.connections:,} for each of {resources.processes}"
    if not resources.files:
        name = "limits.max_connections"
        return UserLimit(users, name, found, "a higher limits.max_connections")
    found += f", by the limit of {resources.files}"
    mend = "LimitNOFILE=1048576 in the unit, or ulimit -Hn"
    return UserLimit(users, "open files", found, mend)


def _processor_limit(costs: Costs, user: Behaviour, resources: Resources) -> UserLimit:
    sent = costs.stored_cpu_us or costs.push_cpu_us
    sent += costs.delivery_cpu_us * max(user.receivers - 1, 0)
    # In µs of a core for an hour of a user, who logs in once in it.
    hour = user.messages * sent + user.pushes * costs.push_cpu_us + costs.login_cpu_us
    second = hour / _HOUR_SECONDS + costs.beat_cpu_us / HEARTBEAT_SECONDS
    working = _working(resources)
    return UserLimit(
        int(working * SHARE * _SECOND_US / second),
        "processor",
        f"{SHARE:.0%} of {working} for {second:.2f} µs a second",
        _more_work(resources),
    )


def _storing_limit(costs: Costs, user: Behaviour, resources: Resources) -> UserLimit:
    rate = costs.stored_per_second
    takes = ""
    seconds = resources.commit_seconds
    if seconds:
        rate = COMMITTED_TOGETHER / seconds
        takes = f": a commit takes {seconds * _SECOND_MS:.1f} ms"
    return UserLimit(
        int(rate * SHARE * _HOUR_SECONDS / user.messages),
        "stored messages",
        f"{SHARE:.0%} of {rate:,.0f} a second{takes}",
        "a faster disk for the database",
    )


def free_memory(
    process: int | str = "self", processes: Path = _PROC, groups: Path = _GROUPS
) -> float:
    """The bytes that a process may still take, of the machine and of its
    control groups."""
    free = 0.0
    for line in Path(processes, "meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable"):
            free = float(line.split()[1]) * _KIB
    for line in Path(processes, str(process), "cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ["max", "current", "stat"]
        if controllers:  # version 1
            names = ["limit_in_bytes", "usage_in_bytes", "stat"]
        group = Path(groups, controllers, path.strip("/"))
        for folder in (group, *group.parents):
            free = min(free, _free_in_group(folder, names))
    return free


def _free_in_group(folder: Path, names: Sequence[str]) -> float:
    """The bytes that a control group may still take. ``names``: of the files
    with its limit, its use, and the kinds of its use."""
    try:
        limit, used, kinds = (
            folder.joinpath(f"memory.{name}").read_text() for name in names
        )
    except OSError:  # no group, or one of another container
        return inf
    if limit.strip() == "max":
        return inf
    size_of = dict(row.split() for row in kinds.splitlines())
    # The kernel takes back the pages of files when memory is needed.
    return int(limit) - int(used) + int(size_of.get("inactive_file", 0))


def files_of_server(process: int) -> tuple[int, str]:
    """How many files a process of the server may open, and the owner of this
    limit: the running process, or else the unit of systemd, or else this shell.
    """
    hard = ""
    whose = ""
    if process:
        limits = Path(_PROC, str(process), "limits").read_text("ascii")
        whose = f"the process {process}"
        hard = limits.partition("Max open files")[2].split()[1]
    elif shutil.which("systemctl"):
        command = ("systemctl", "show", "imserver", "--property=LoadState,LimitNOFILE")
        properties = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
        unit = dict(line.split("=", 1) for line in properties.splitlines())
        whose = "the unit imserver"
        if unit.get("LoadState") == "loaded":
            hard = unit["LimitNOFILE"]
    if hard.isdecimal():
        return int(hard), whose
    return openable_files(), "this shell"


def has_redis(config: Config) -> bool:
    """Whether the measured server has a Redis of its own, too. The program of
    Redis must be here."""
    return config.clustered and shutil.which("redis-server") is not None


def measure(config: Config, folder: Path, running: bool) -> Costs:
    """Measure the cost of users, with a server of our own, whose data are in ``folder`` until
    it ends. ``running``: the node runs on this machine, so the server gets what
    is left of one core. Raises RuntimeError and OSError."""
    number = min(_MOST_CONNECTIONS, openable_files() - SPARE_FILES_OF_A_CLUSTER)
    words = ["--connections", str(number)]
    if has_redis(config):
        words.append("--redis")
    if {feature.name for feature in load_features(config)} >= _STORING:
        words.append("--stored")

    def bounded() -> None:
        if running:
            os.nice(_LEAST_PRIORITY)
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    with TemporaryDirectory(
        prefix="capacity-", dir=folder, ignore_cleanup_errors=True
    ) as own:
        file = Path(own, "settings.yaml")
        file.write_text(json.dumps(_settings_of_measured(config)), "utf-8")
        program = [sys.executable, "-m", "imserver", "bench", "capacity"]
        command = [*program, *words, "--config", str(file), "--json"]
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # A session of its own: the interrupt of a terminal is only for this
        # process, which lets it clean up.
        with (
            long_work(
                f"measuring logins, pushes and {number:,} connections of a server of its own"
            ),
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=bounded,
                env={**os.environ, "TMPDIR": own},
            ) as bench,
        ):
            try:
                answer, problems = bench.communicate()
            except BaseException:
                bench.send_signal(signal.SIGINT)
                # this command itself reports what is wrong with the settings
                bench.communicate(timeout=STOP_SECONDS)
                raise
    try:
        return check(msgspec.convert(json.loads(answer)["figures"], Costs))
    except (ValueError, KeyError):
        click.echo(problems, nl=False, err=True)
        raise RuntimeError("the measurement failed") from None


def _settings_of_measured(config: Config) -> dict[str, Any]:
    """The settings of the measured server: settings of the node, without any
    that would refuse the measurement."""
    settings: dict[str, Any] = {
        name: msgspec.to_builtins(getattr(config, name)) for name in _SECTIONS
    }
    settings["limits"] |= {
        "max_connections": 0,
        "max_connections_per_address": 0,
        "messages_per_second": 0,
    }
    settings["server"] = {"http": config.server.http}
    if config.features is not None:
        settings["features"] = config.features
    return settings


def show(
    config: Config,
    user: Behaviour,
    process: int,
    state: dict[str, Any],
    notes: Iterator[str],
) -> None:
    """Measure, and print how many users the node of these settings holds.
    ``process``: the one that runs now, or 0; ``state``: its answer to
    ``/system/state``, or nothing. Switches greenlets."""
    address = database_address(config.storage, config.server.data_dir)
    folder = (address.file or Path(config.server.data_dir, "any")).absolute().parent
    folder = next(each for each in (folder, *folder.parents) if each.is_dir())
    click.echo(
        f"A server with data of its own in {folder} is measured: a minute, longer on a busy machine.",
        err=True,
    )
    users = state.get("managerInfo", {}).get("usersLen", 0)
    now_bytes = state.get("memoryBytes", 0)
    try:
        costs = measure(config, folder, process > 0)
        users_bytes = max(now_bytes - costs.rss_empty_mb * _MB, 0)
        resources = _resources_of(config, process, users, users_bytes)
    except Exception as error:  # of a driver, too
        fail(error)

    rows = limits(costs, user, resources)
    first = rows[0]
    everybody = _rounded(first.users * 100 / user.online)
    logins = first.users * costs.login_cpu_us / _SECOND_US
    seconds = logins / _working(resources)
    lines = [
        table(
            "connected users: users, what ends: limit, found", rows, users="{:,}".format
        ),
        f"\nThis node holds about {_rounded(first.users)} connected users. What ends first: {first.limit}.",
        f"To get more: {first.mend}.",
        f"If {user.online:g} % of your users are connected at the same time, you have {everybody} users.",
        f"A connected user sends {user.messages:g} messages an hour, which {user.receivers:g} others get,",
        f"gets {user.pushes:g} pushes, logs in once, and sends a heartbeat every {HEARTBEAT_SECONDS} s.",
        f"After a restart, all of them are back after {seconds:.0f} s at the earliest.",
    ]
    if state:
        bytes_of_each = ""
        if users >= ENOUGH_USERS:
            bytes_of_each = (
                f": {resources.users_bytes / resources.users:,.0f} bytes each"
            )
        lines.append(
            f"Now {users:,} users are on the node that answers, in {now_bytes / _MB:,.0f} MB{bytes_of_each}."
        )
    sentences = list(notes)
    document = {
        "users": first.users,
        "limits": rows,
        "costs": costs,
        "assumed": user,
        "notes": sentences,
    }
    CommandLine.data(document, "\n".join([*lines, *sentences]))


def _resources_of(
    config: Config, process: int, users: int, users_bytes: float
) -> Resources:
    """Memory, files and cores for the node of these settings. ``process``: the one that
    runs now, or 0. ``users``, ``users_bytes``: of one process. Raises OSError,
    and the driver's errors."""
    planned, _ = plan_processes(config)
    processes = planned.server.processes
    files, whose = files_of_server(process)
    connections = files - SPARE_FILES_OF_A_CLUSTER
    if planned.limits.max_connections:
        connections = planned.limits.max_connections
        whose = ""
    free = free_memory(process or "self")
    address = database_address(config.storage, config.server.data_dir)
    seconds = 0.0
    if not address.file:
        seconds = commit_seconds(address, config.storage, _COMMIT_TRIES)
    return Resources(
        free_bytes=free - processes * config.limits.node_outbox_bytes,
        connections=connections,
        files=whose,
        processes=processes,
        cores=cores(),
        users=users * processes,
        users_bytes=users_bytes * processes,
        commit_seconds=seconds,
    )


def _rounded(number: float) -> str:
    """A number without meaningless digits."""
    unit: int = 10 ** max(len(str(int(number))) - 2, 0)
    return f"{int(number) // unit * unit:,}"
