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
    """Assumptions about the users of a server."""

    messages: float = 10
    """How many messages a connected user sends an hour."""
    receivers: float = 5
    """How many connected users get each message."""
    pushes: float = 10
    """How many pushes of back ends a connected user gets an hour."""
    online: float = 30
    """The share of all users who are connected, in percent."""
    restart_seconds: float = 300
    """The time in which all connected users are to be back after a restart."""


class Costs(Struct, frozen=True):
    """The measured cost of users, as ``imserver bench capacity`` prints it.

    Memory is in bytes or megabytes. The processor time of one login, heartbeat,
    push, delivered message or stored message is in microseconds.
    ``rss_opened_bytes`` is for a connection without channels, and
    ``rss_connection_bytes`` for one with three. ``stored_per_second`` is 0 if
    nothing was stored. ``kernel_connection_bytes`` is None if it could not be
    measured, because other programs changed the memory of the kernel meanwhile.
    """

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
    """Memory, files and cores for the processes of a node."""

    free_bytes: float
    """The free memory, without the part that is reserved for outboxes of slow
    receivers."""
    connections: int
    """How many connections a process may have."""
    files: str = "this shell"
    """The owner of the limit of open files by which ``connections`` was
    calculated. ``""`` if it comes from the setting
    ``limits.max_connections``."""
    processes: int = 1
    cores: int = 1
    users: int = 0
    """The number of users who are connected now; 0 if the node does not run."""
    users_bytes: float = 0
    """The memory that connected users take now."""
    commit_seconds: float = 0
    """How long a database server takes for a commit; 0 for SQLite."""


class UserLimit(Struct, frozen=True):
    """The number of connected ``users`` that one limit allows.

    ``limit``: its name. ``found``: the figures from which the number follows.
    ``mend``: how to raise it.
    """

    users: int
    limit: str
    found: str
    mend: str


def check(costs: Costs) -> Costs:
    """Return the costs if all figures are possible.

    Raises RuntimeError if a figure is impossible, for example because the
    machine was too busy for the measurement.
    """
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
                f"the measurement failed: {name} is {value:,.1f}. Run the command again when this "
                "machine is less busy"
            )
    return costs


def limits(costs: Costs, user: Behaviour, resources: Resources) -> list[UserLimit]:
    """Return the limits of connected users, the smallest first.

    The first one says how many users the node can serve.
    """
    # After a restart, all users log in at the same time.
    logins_per_second = _working(resources) * _SECOND_US / costs.login_cpu_us
    restart_limit = UserLimit(
        int(user.restart_seconds * logins_per_second),
        "a restart",
        f"{logins_per_second:,.0f} logins a second",
        _more_work(resources),
    )
    rows = [
        _memory_limit(costs, resources),
        _files_limit(resources),
        _processor_limit(costs, user, resources),
        restart_limit,
    ]
    if costs.stored_per_second and user.messages:
        rows.append(_storing_limit(costs, user, resources))
    return sorted(rows, key=lambda row: row.users)


def _working(resources: Resources) -> int:
    """Return how many processes can work at the same time."""
    return min(resources.processes, resources.cores)


def _more_work(resources: Resources) -> str:
    """Say how to let a node do more work."""
    if resources.processes < resources.cores:
        return "server.processes: auto, which needs redis.url"
    return "more cores, or another machine"


def _memory_limit(costs: Costs, resources: Resources) -> UserLimit:
    """Calculate how many users fit into the free memory.

    Each user takes memory of the process and of the kernel. If enough users are
    connected now, their real memory counts, too.
    """
    process_bytes = _bytes_of_user(costs, resources)
    kernel_bytes = costs.kernel_connection_bytes
    of_kernel = "of the kernel"
    if kernel_bytes is None:
        kernel_bytes = TYPICAL_KERNEL_BYTES
        of_kernel += " (a usual value: other programs disturbed the measurement)"
    free = _free_for_users(costs, resources)
    found = f"{free / _GB:,.1f} GB for {process_bytes:,.0f} bytes with three channels"
    found += (
        f" ({costs.rss_opened_bytes:,.0f} without) and {kernel_bytes:,.0f} {of_kernel}"
    )
    more_users = int(free / (process_bytes + kernel_bytes))
    users = resources.users + more_users
    return UserLimit(users, "memory", found, "more memory")


def _bytes_of_user(costs: Costs, resources: Resources) -> float:
    """Return the memory of the process that a user takes, in bytes."""
    measured_bytes = costs.rss_connection_bytes
    if resources.users < ENOUGH_USERS:
        return measured_bytes
    real_bytes = resources.users_bytes / resources.users
    return max(measured_bytes, real_bytes)


def _free_for_users(costs: Costs, resources: Resources) -> float:
    """Return the free bytes of memory, without the bytes of the processes."""
    free = resources.free_bytes
    if not resources.users:
        # The processes do not run yet, so their own memory still counts as
        # free.
        free -= resources.processes * costs.rss_empty_mb * _MB
    return max(free, 0)


def _files_limit(resources: Resources) -> UserLimit:
    """Calculate how many users the limit of files allows.

    Each connection is an open file.
    """
    users = resources.connections * resources.processes
    found = f"{resources.connections:,} for each of {resources.processes}"
    # The operator has set the limit, so the limit of files does not matter.
    if not resources.files:
        name = "limits.max_connections"
        return UserLimit(users, name, found, "a higher limits.max_connections")
    found += f", by the limit of {resources.files}"
    mend = "LimitNOFILE=1048576 in the unit, or ulimit -Hn"
    return UserLimit(users, "open files", found, mend)


def _processor_limit(costs: Costs, user: Behaviour, resources: Resources) -> UserLimit:
    """Calculate how many users the planned share of the cores serves.

    The rest of the cores is for peaks. The result is the time of the cores,
    divided by the time that a user takes in a second.
    """
    second_us = _second_of_user_us(costs, user)
    working = _working(resources)
    return UserLimit(
        int(working * SHARE * _SECOND_US / second_us),
        "processor",
        f"{SHARE:.0%} of {working} for {second_us:.2f} µs a second",
        _more_work(resources),
    )


def _second_of_user_us(costs: Costs, user: Behaviour) -> float:
    """Return the processor time that a connected user takes in a second.

    It is in microseconds.
    """
    message_us = costs.stored_cpu_us or costs.push_cpu_us
    # The cost of a stored message includes the delivery to one receiver.
    message_us += costs.delivery_cpu_us * max(user.receivers - 1, 0)
    # Processor time for an hour of a user, who logs in once in this hour.
    messages_us = user.messages * message_us
    pushes_us = user.pushes * costs.push_cpu_us
    hour_us = messages_us + pushes_us + costs.login_cpu_us
    beats_us = costs.beat_cpu_us / HEARTBEAT_SECONDS
    return hour_us / _HOUR_SECONDS + beats_us


def _storing_limit(costs: Costs, user: Behaviour, resources: Resources) -> UserLimit:
    """Calculate how many users send no more messages than the database stores.

    The rate was measured on this machine with SQLite. For a database server it
    follows from the time of a commit.
    """
    rate = costs.stored_per_second
    takes = ""
    # One commit stores all messages that wait for it.
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
    """Return the bytes of memory that a process may still take.

    The machine and each of the process's control groups limit them.
    ``processes`` and ``groups`` are the folders of the kernel about both. A
    line of the file ``cgroup`` is ``0::/user.slice`` in version 2 of control
    groups, and ``4:memory:/user.slice`` in version 1.
    """
    free = _free_of_machine(processes)
    for line in Path(processes, str(process), "cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ["max", "current", "stat"]
        if controllers:  # version 1
            names = ["limit_in_bytes", "usage_in_bytes", "stat"]
        group = Path(groups, controllers, path.strip("/"))
        # A group is also limited by the groups above it.
        for folder in (group, *group.parents):
            free = min(free, _free_in_group(folder, names))
    return free


def _free_of_machine(processes: Path) -> float:
    """Return the bytes of memory that all programs may still take together.

    ``processes``: the kernel's folder about processes.
    """
    free = 0.0
    for line in Path(processes, "meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable"):
            free = float(line.split()[1]) * _KIB
    return free


def _free_in_group(folder: Path, names: Sequence[str]) -> float:
    """Return the bytes that a control group may still take.

    The result is infinite if it has no limit. ``names``: the endings of the
    files with its limit, its use, and the kinds of its use.
    """
    try:
        limit, used, kinds = (
            folder.joinpath(f"memory.{name}").read_text() for name in names
        )
    except OSError:  # no group, or one of another container
        return inf
    if limit.strip() == "max":
        return inf
    bytes_by_kind = dict(row.split() for row in kinds.splitlines())
    # The kernel takes back the pages of files when memory is needed.
    reclaimable = int(bytes_by_kind.get("inactive_file", 0))
    return int(limit) - int(used) + reclaimable


def files_of_server(process: int) -> tuple[int, str]:
    """Return how many files the server may open, and whose limit it is.

    The limit is that of the running process, or else of the unit of systemd, or
    else of this shell. ``process``: the id of the running process, or 0.
    """
    hard = ""  # stays so if no limit is known
    whose = ""
    if process:
        text = Path(_PROC, str(process), "limits").read_text("ascii")
        whose = f"the process {process}"
        # Max open files            1024                 524288     files
        _, _, soft_and_hard = text.partition("Max open files")
        hard = soft_and_hard.split()[1]
    elif shutil.which("systemctl"):
        whose = "the unit imserver"
        hard = _limit_of_unit()
    if hard.isdecimal():
        return int(hard), whose
    return openable_files(), "this shell"


def _limit_of_unit() -> str:
    """Return the limit of files of the systemd unit, or ``""``."""
    command = ("systemctl", "show", "imserver", "--property=LoadState,LimitNOFILE")
    properties = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout
    # systemctl also answers for a unit that does not exist.
    unit = dict(line.split("=", 1) for line in properties.splitlines())
    if unit.get("LoadState") != "loaded":
        return ""
    return unit["LimitNOFILE"]


def has_redis(config: Config) -> bool:
    """Whether the measured server has a Redis of its own, too.

    The program of Redis must be on this machine.
    """
    return config.clustered and shutil.which("redis-server") is not None


def measure(config: Config, folder: Path, running: bool) -> Costs:
    """Measure the cost of users with a second server.

    Its data are in ``folder`` until it ends. ``running``: the node runs on this
    machine. Then the second server gets one core, at the lowest priority.
    Raises RuntimeError and OSError.
    """
    number = min(_MOST_CONNECTIONS, openable_files() - SPARE_FILES_OF_A_CLUSTER)
    options = _options_of_bench(config, number)

    with TemporaryDirectory(
        prefix="capacity-", dir=folder, ignore_cleanup_errors=True
    ) as temporary:
        file = Path(temporary, "settings.yaml")
        file.write_text(json.dumps(_settings_of_measured(config)), "utf-8")
        program = [sys.executable, "-m", "imserver", "bench", "capacity"]
        command = [*program, *options, "--config", str(file), "--json"]
        with long_work(
            f"measuring logins, pushes and {number:,} connections of a server of its own"
        ):
            answer, problems = _run_bench(command, temporary, running)
    try:
        return check(msgspec.convert(json.loads(answer)["figures"], Costs))
    except (ValueError, KeyError):
        click.echo(problems, nl=False, err=True)
        raise RuntimeError("the measurement failed") from None


def _options_of_bench(config: Config, connections: int) -> list[str]:
    """Return the options of the measurement that the settings decide."""
    options = ["--connections", str(connections)]
    if has_redis(config):
        options.append("--redis")
    if {feature.name for feature in load_features(config)} >= _STORING:
        options.append("--stored")
    return options


def _run_bench(command: list[str], folder: str, running: bool) -> tuple[bytes, bytes]:
    """Run the measurement. Returns its output and its errors.

    ``folder``: for its temporary files. ``running``: the node runs, too.
    """

    def spare_running_node() -> None:
        """Executed in the new process: take little from the node that runs."""
        if running:
            os.nice(_LEAST_PRIORITY)
            last_core = max(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {last_core})

    # A termination of this command raises KeyboardInterrupt here, so that the
    # measurement ends, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The measurement runs in a session of its own. So the interrupt of a
    # terminal reaches only this process, which lets the measurement clean up.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=spare_running_node,
        env={**os.environ, "TMPDIR": folder},
    ) as bench:
        try:
            return bench.communicate()
        except BaseException:
            bench.send_signal(signal.SIGINT)
            bench.communicate(timeout=STOP_SECONDS)
            raise


def _settings_of_measured(config: Config) -> dict[str, Any]:
    """Return the settings of the measured server.

    It has the settings of the node, without limits that would refuse the many
    connections and messages from one address.
    """
    settings: dict[str, Any] = {
        name: msgspec.to_builtins(getattr(config, name)) for name in _SECTIONS
    }
    # 0 means no limit.
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
    """Measure, and print how many users the node of these settings can serve.

    ``user``: how users behave. ``process``: the id of the process of the node
    that runs now, or 0. ``state``: its answer to ``/system/state``; empty if
    there is no answer. ``notes``: sentences that are printed last.
    """
    folder = _folder_of_data(config)
    click.echo(
        f"The command measures a separate server with its own data in {folder}. This "
        "takes a minute, or longer on a busy machine.",
        err=True,
    )
    users = state.get("managerInfo", {}).get("usersLen", 0)
    now_bytes = state.get("memoryBytes", 0)
    try:
        costs = measure(config, folder, running=process > 0)
        users_bytes = max(now_bytes - costs.rss_empty_mb * _MB, 0)
        resources = _resources_of(config, process, users, users_bytes)
    except Exception as error:  # of a driver, too
        fail(error)

    rows = limits(costs, user, resources)
    lines = _lines_about(rows, costs, user, resources)
    if state:
        lines.append(_line_about_present(users, now_bytes, resources))
    sentences = list(notes)
    document = {
        "users": rows[0].users,
        "limits": rows,
        "costs": costs,
        "assumed": user,
        "notes": sentences,
    }
    CommandLine.data(document, "\n".join([*lines, *sentences]))


def _line_about_present(users: int, now_bytes: float, resources: Resources) -> str:
    """Say how many users the running node serves now, and in which memory."""
    bytes_of_each = ""
    if users >= ENOUGH_USERS:
        bytes_of_each = f": {resources.users_bytes / resources.users:,.0f} bytes each"
    return (
        f"At present, the answering node serves {users:,} users in {now_bytes / _MB:,.0f} "
        f"MB{bytes_of_each}."
    )


def _lines_about(
    rows: Sequence[UserLimit], costs: Costs, user: Behaviour, resources: Resources
) -> list[str]:
    """Return the table of the limits, and what they mean, as lines of text.

    ``rows``: the limits, the smallest number first.
    """
    first = rows[0]
    # Only a part of all users is connected at the same time.
    everybody = _rounded(first.users * 100 / user.online)
    logins_cpu_seconds = first.users * costs.login_cpu_us / _SECOND_US
    seconds = logins_cpu_seconds / _working(resources)
    table_of_limits = table(
        "connected users: users, limited by: limit, found",
        rows,
        users="{:,}".format,
    )
    return [
        table_of_limits,
        f"\nThis node can serve about {_rounded(first.users)} connected users. The first "
        f"limit is: {first.limit}.",
        f"To serve more users: {first.mend}.",
        f"If {user.online:g} % of your users are connected at the same time, you have {everybody} users.",
        f"A connected user sends {user.messages:g} messages an hour, which {user.receivers:g} others get,",
        f"gets {user.pushes:g} pushes, logs in once, and sends a heartbeat every {HEARTBEAT_SECONDS} s.",
        f"After a restart, all of them are back after {seconds:.0f} s at the earliest.",
    ]


def _folder_of_data(config: Config) -> Path:
    """Return the folder of the database, or one above it that exists.

    The measured server then writes to the disk of the node.
    """
    address = database_address(config.storage, config.server.data_dir)
    # Only SQLite has its database in a folder of this machine.
    if address.file is not None:
        folder = address.file.absolute().parent
    else:
        folder = Path(config.server.data_dir).absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _resources_of(
    config: Config, process: int, users: int, users_bytes: float
) -> Resources:
    """Return the memory, files and cores for the node of these settings.

    ``process``: the id of the process that runs now, or 0. ``users`` and
    ``users_bytes``: the connected users of one process, and their memory.
    Raises OSError, and the driver's errors.
    """
    planned, _ = plan_processes(config)
    processes = planned.server.processes
    files, whose = files_of_server(process)
    connections = files - SPARE_FILES_OF_A_CLUSTER
    if planned.limits.max_connections:
        connections = planned.limits.max_connections
        whose = ""  # the setting decides, not the limit of open files
    free = free_memory(process or "self")
    seconds = _commit_seconds_of_server(config)
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


def _commit_seconds_of_server(config: Config) -> float:
    """Return the time of a commit of a database server, or 0.0 for SQLite.

    The measurement has found out the commits of SQLite. Raises the driver's
    errors.
    """
    address = database_address(config.storage, config.server.data_dir)
    if address.file:
        return 0.0
    return commit_seconds(address, config.storage, _COMMIT_TRIES)


def _rounded(number: float) -> str:
    """Return a number without meaningless digits: 12,345 becomes 12,000.

    All digits except the first two become 0, because a measurement is not more
    exact.
    """
    unit: int = 10 ** max(len(str(int(number))) - 2, 0)
    return f"{int(number) // unit * unit:,}"
