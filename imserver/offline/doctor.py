"""``imserver doctor``: checks whether this machine and its neighbours are fit
for a node, and says how to mend them."""

import ctypes
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from errno import EADDRINUSE
from http.client import OK, HTTPConnection, HTTPException
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter, time
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec
from sqlalchemy.exc import DBAPIError

from imserver.gateway.clock import CLOCK_SECONDS
from imserver.gateway.cluster.redis.connection import (
    DirectSocket,
    RedisAddress,
    address_of,
)
from imserver.gateway.cluster.redis.link import ask, connect
from imserver.gateway.cluster.registry import advertised_address
from imserver.gateway.command_rows import DOCTOR, CommandOf
from imserver.gateway.config.declared import marked
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import load_features, offered_rows
from imserver.gateway.offline import host_of, load_settings, opened, settings_options
from imserver.gateway.process import (
    RESTORING,
    SPARE_FILES_OF_A_CLUSTER,
    cores,
    listening_process,
    plan_processes,
)
from imserver.gateway.storage.address import DatabaseAddress, database_address
from imserver.gateway.storage.damage import lost_commits
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.supervisor.slot import LAST_PORT, PORTS_PER_NODE, check_ports
from imserver.gateway.terminal import CommandLine, fail
from imserver.gateway.transport.listener import refuse_taken
from imserver.offline import capacity
from imserver.offline.database import DatabaseState, damage_of, probe
from imserver.plugin.commands import Finding
from imserver.plugin.progress import long_work

WANTED_FILES: Final = 65_536
"""Open files that a node of a usual size needs."""
PROBE_SECONDS: Final = 3.0
"""Time limit of each question to another machine."""
SLOW_SECONDS: Final = 0.005
"""Round trip or fsync above which every login or stored message is noticeably
slow."""
MIN_REDIS: Final = (6, 2)
BYTES_PER_PAGE: Final = 4096
_DAY_SECONDS: Final = 86_400
_SECOND_MS: Final = 1000
_MICROSECOND: Final = 1e-6
_TRIES: Final = 9
_MOST_QUEUE: Final = 65_535
_GIB: Final = 1 << 30
_TIMEX_BYTES: Final = 512
"""Room for the kernel's struct timex, which has 208 bytes on 64-bit Linux."""
_TIME_ERROR: Final = 5
"""The result of adjtimex for a clock that no time service steers
(STA_UNSYNC)."""
_RENEWAL_DAYS: Final = 14
_HTTPS_PORT: Final = 443
_NO_START: Final = "the server does not start"
"""The meaning of many findings."""


Findings = Iterator[Finding]


def finding_of(
    bad: bool, name: str, found: str, meaning: str, mend: str, *, fails: bool = False
) -> Finding:
    """Make the finding of a check, which is a line of the command's output.

    Its level is ``ok`` if nothing is ``bad``. Otherwise it is a warning, or
    with ``fails`` a failure. Only then does it have a meaning and a remedy
    (``mend``).
    """
    if not bad:
        return Finding("ok", name, found)
    if fails:
        return Finding("fail", name, found, meaning, mend)
    return Finding("warn", name, found, meaning, mend)


def findings(config: Config) -> Findings:
    """Run all checks. Each takes at most a few seconds.

    If a check raises, the error becomes a finding with the name of the check's
    function.
    """
    for check in CHECKS:
        try:
            yield from check(config)
        except Exception as error:
            name = check.__name__.strip("_")
            yield Finding("fail", name, f"the check failed: {error}")


def kernel(name: str) -> str:
    """Read a kernel setting, such as ``net.core.somaxconn``.

    The result is ``""`` if this system does not have the setting.
    """
    try:
        return Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _sysctl(name: str, value: object) -> str:
    """Return the command that changes a kernel setting."""
    return f"sysctl -w {name}={value}"


def _files(config: Config) -> Findings:
    """Check the limits of open files: each connection needs one.

    A process has a limit, and so has the machine.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _wanted_files(config)
    is_limited = hard != resource.RLIM_INFINITY
    is_bad = is_limited and hard < wanted
    found = f"{hard} (the server raises its limit of {soft} to that)"
    served = max(hard - SPARE_FILES_OF_A_CLUSTER, 0)
    recommended = wanted - SPARE_FILES_OF_A_CLUSTER
    meaning = (
        f"each connection needs an open file, so this node serves about {served} "
        f"connections; {recommended} are recommended"
    )
    mend = f"LimitNOFILE={wanted} in the unit, or: ulimit -Hn {wanted}"
    yield finding_of(is_bad, "open files", found, meaning, mend)
    yield from _files_of_machine(config, files_of_process=max(hard, wanted))


def _wanted_files(config: Config) -> int:
    """Return how many files a process should be able to open."""
    if config.limits.max_connections:
        # The operator has planned the number of connections.
        return config.limits.max_connections + SPARE_FILES_OF_A_CLUSTER
    return WANTED_FILES


def _files_of_machine(config: Config, files_of_process: int) -> Findings:
    """Check whether the machine may open enough files for all processes.

    ``files_of_process``: how many files each process may open.
    """
    name = "fs.file-max"
    limit_of_machine = kernel(name)
    if not limit_of_machine:
        return
    planned, _ = plan_processes(config)
    need = files_of_process * planned.server.processes
    meaning = f"all processes of the machine share this limit, and this server may open {need} files"
    # Other programs of the machine need files, too.
    mend = _sysctl(name, 4 * need)
    is_bad = int(limit_of_machine) < need
    yield finding_of(is_bad, name, limit_of_machine, meaning, mend)


def _processes(config: Config) -> Findings:
    """Check whether the server has more processes than the machine has cores.

    If it has, they take turns, and do less work together.
    """
    planned, reason = plan_processes(config)
    number = planned.server.processes
    available = cores()
    found = reason.removeprefix("processes: ")
    if not found:  # the settings name the number, so there is no reason
        found = f"{number} on {available} core"
        if available > 1:
            found += "s"
    meaning = (
        "more processes than cores do less work: with 8 processes for each core, a login "
        "takes nearly twice the CPU time"
    )
    files = 2 * WANTED_FILES
    mend = f"LimitNOFILE={files} in the unit, and server.processes: auto"
    yield finding_of(number > available, "processes", found, meaning, mend)


def _listen_queues(config: Config) -> Findings:
    """Check how many new connections the kernel lets wait."""
    backlog = config.server.backlog
    meaning = f"below server.backlog {backlog}: bursts of new connections wait a second"
    for name in ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"):
        value = kernel(name)
        if not value:
            continue
        mend = _sysctl(name, _MOST_QUEUE)
        yield finding_of(int(value) < backlog, name, value, meaning, mend)


def _ports(config: Config) -> Findings:
    """Check whether the ports of the settings exist, differ, and are free.

    A port of the server that runs now is no problem.
    """
    listeners = _listeners(config)
    all_ports: list[int] = []
    for _, _, ports in listeners:
        all_ports += ports
    yield from _conflicts_of_ports(config, highest=max(all_ports))
    for name, host, ports in listeners:
        yield _check_listener(config, name, host, ports)
    existing_ports = [port for port in all_ports if port <= LAST_PORT]
    yield from _outgoing_ports(existing_ports)


def _conflicts_of_ports(config: Config, highest: int) -> Findings:
    """Check whether the ports of the settings differ from each other.

    ``highest``: the highest of these ports.
    """
    try:
        planned, _ = plan_processes(config)
        check_ports(planned)
    except StartError as error:
        # Other findings name the ports that are too high, one by one.
        if highest <= LAST_PORT:
            mend = "change one of the ports"
            yield Finding("fail", "ports", str(error), _NO_START, mend)


def _check_listener(
    config: Config, name: str, host: str, ports: Sequence[int]
) -> Finding:
    """Check whether the nodes can listen on the ports of a setting.

    ``name``: the setting. If ports are taken, the finding names the first one.
    """
    last = ports[-1]
    where = f"{name} {ports[0]}"
    if len(ports) > 1:
        where += f" to {last}"
    # Each further process has the next ports, so the last one may not exist.
    if last > LAST_PORT:
        return _finding_of_high_port(name, where, len(ports))

    for port in ports:
        try:
            _listen_for_a_moment(host, port)
        except OSError as error:
            return _finding_of_taken_port(config, where, host, port, error)
    return Finding("ok", where, "free")


def _finding_of_high_port(name: str, where: str, count: int) -> Finding:
    """Return the finding about a setting whose last port does not exist.

    ``where`` has the setting ``name`` and its ports. ``count``: how many ports
    follow from it.
    """
    found = f"there is no port above {LAST_PORT}"
    meaning = f"each node listens on {PORTS_PER_NODE} ports"
    highest = LAST_PORT + 1 - count
    mend = f"set {name} to {highest} or less"
    return Finding("fail", where, found, meaning, mend)


def _listen_for_a_moment(host: str, port: int) -> None:
    """Listen on a port and close it again. Raises OSError if it is taken."""
    family = socket.AF_INET
    if ":" in host:
        family = socket.AF_INET6
    socket.create_server((host, port), family=family).close()


def _finding_of_taken_port(
    config: Config, where: str, host: str, port: int, error: OSError
) -> Finding:
    """Return the finding about a port on which this process could not listen.

    It is ``ok`` if the server of the data folder listens on it, otherwise a
    warning. ``where`` has the setting and its ports.
    """
    if error.errno == EADDRINUSE:
        # The doctor may be called while the server runs.
        pid = server_at(config.server.data_dir, port)
        if pid:
            found = f"the server of this data folder listens (pid {pid})"
            return Finding("ok", where, found)
    found = error.strerror or str(error)
    meaning = (
        f"a node cannot listen on {host}:{port}, unless it is the node that runs now"
    )
    mend = f"ss -ltnp 'sport = :{port}'"
    return Finding("warn", where, found, meaning, mend)


_RESERVED_PORTS: Final = "net.ipv4.ip_local_reserved_ports"


def _outgoing_ports(server_ports: Sequence[int]) -> Findings:
    """Check whether outgoing connections may take the server's ports.

    Then the server may find its port taken when it starts.
    """
    low, _, high = kernel("net.ipv4.ip_local_port_range").partition("\t")
    if not high:
        return
    reserved = _reserved_ports()
    range_of_kernel = range(int(low), int(high) + 1)
    at_risk = [
        port
        for port in server_ports
        if port in range_of_kernel and port not in reserved
    ]
    found = f"{low}-{high}"
    listed = _comma_separated(at_risk)
    meaning = f"an outgoing connection may take {listed} before the server starts"
    # The command replaces the list of the kernel, so it also names the ports
    # that are reserved already.
    to_reserve = sorted(reserved.union(server_ports))
    mend = _sysctl(_RESERVED_PORTS, _comma_separated(to_reserve))
    yield finding_of(bool(at_risk), "ip_local_port_range", found, meaning, mend)


def _comma_separated(ports: Iterable[int]) -> str:
    """Write ports as the kernel reads them, such as ``8080,9000``."""
    return ",".join(map(str, ports))


def _reserved_ports() -> set[int]:
    """Return the ports that the kernel gives to no outgoing connection.

    It lists them as ``8080,9000-9010``.
    """
    reserved: set[int] = set()
    for part in kernel(_RESERVED_PORTS).split(","):
        if part:
            first, _, last = part.partition("-")
            # A single port has no end.
            ports = range(int(first), int(last or first) + 1)
            reserved.update(ports)
    return reserved


def _unix_sockets(config: Config) -> Findings:
    """Check whether the server can make its Unix sockets, or has done so."""
    is_running = _has_lock(config.server.data_dir)
    for number, row in enumerate(config.server.extra_listen):
        if row.socket:
            name = f"server.extra_listen[{number}]"
            yield _unix_socket(name, row.socket, is_running)


def _has_lock(data_dir: str) -> bool:
    """Whether the lock of the data folder names a process."""
    with suppress(OSError, ValueError):
        return Path(data_dir, "lock").read_text("ascii").strip().isdecimal()
    return False


def _unix_socket(name: str, path: str, is_running: bool) -> Finding:
    """Check whether the server can make a Unix socket, or has done so.

    ``name``: the setting. ``is_running``: the lock of the data folder names a
    process.
    """
    try:
        refuse_taken(path)
    except StartError as error:
        # The file of the socket exists because the server has made it.
        if is_running:
            return Finding("ok", name, f"a server listens on {path}")
        mend = f"ss -lxp src {path}"
        return Finding("warn", name, str(error), _NO_START, mend)
    return _finding_of_socket_folder(name, path)


def _finding_of_socket_folder(name: str, path: str) -> Finding:
    """Check whether this user may make a Unix socket in the folder of its path.

    ``name``: the setting.
    """
    folder = os.path.dirname(path)
    is_bad = not os.access(folder, os.W_OK | os.X_OK)
    meaning = (
        f"this user may not make a socket in {folder}, so the server does not start"
    )
    mend = f"install -d -o USER {folder}, or RuntimeDirectory= in the unit"
    return finding_of(is_bad, name, path, meaning, mend)


def server_at(data_dir: str, port: int) -> int:
    """Return the process id of the server that uses the data folder and a port.

    The process has the lock of the data folder open, and it or a descendant
    listens on the port. The result is 0 if there is no such server, if this
    user may not see it, and on systems other than Linux.
    """
    lock = str(Path(data_dir, "lock").resolve())
    pid = listening_process(port) or 0
    with suppress(OSError):
        # Process 1 is the ancestor of all others.
        while pid > 1:
            files = Path(f"/proc/{pid}/fd").iterdir()
            if any(os.readlink(file) == lock for file in files):
                return pid
            pid = _parent_of(pid)
    return 0


def _parent_of(pid: int) -> int:
    """Return the parent of a process. Raises OSError."""
    written = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    # Such as "42 (my server) S 1 …". The name may have spaces and brackets, so
    # the state and the parent are searched from the end.
    _, parent, *_ = written.rpartition(")")[2].split()
    return int(parent)


def running_server(config: Config) -> Findings:
    """Check the server of these settings, if it runs on this machine.

    The finding says which versions its nodes have, and whether the node of this
    machine is ready. If the server does not run, there is no finding.
    """
    port = config.app.http_port
    if not port:
        return
    pid = server_at(config.server.data_dir, port)
    if not pid:
        return
    host = host_of(config)
    try:
        status, answer = _get(host, port, "/ready", key="")
        version = _version(config, host, port)
    except (OSError, ValueError) as error:
        yield _finding_of_blocked_server(pid, error)
        return
    # The server answers also while it starts or stops.
    state = answer.get("status", f"at status {status}")
    found = f"{version} runs (pid {pid}) and is {state}"
    yield _finding_of_readiness(found, is_ready=status == OK, answer=answer)


def _finding_of_readiness(
    found: str, is_ready: bool, answer: Mapping[str, Any]
) -> Finding:
    """Return the finding about a server that runs. ``answer``: of ``/ready``."""
    reason = answer.get("reason", "")
    meaning = f"/ready says: {reason}"
    mend = "see the finding about this cause, or the log of the server"
    return finding_of(not is_ready, "server", found, meaning, mend)


def _finding_of_blocked_server(pid: int, error: Exception) -> Finding:
    """Return the finding about a server that runs but does not answer."""
    found = f"runs (pid {pid}), and does not answer: {error}"
    meaning = "the event loop of the server is blocked, or the machine is too busy"
    mend = f"kill -USR2 {pid}  # writes the stacks of all greenlets to the log"
    return Finding("fail", "server", found, meaning, mend)


def _state(config: Config, host: str, port: int, query: str) -> dict[str, Any]:
    """Read the state of the running server (``/system/state``).

    It is empty if the server refuses the request, for example without an API
    key that may do everything. ``query`` is a further parameter with its ``&``,
    or ``""``. Raises OSError and ValueError.
    """
    key = os.environ.get("IMSERVER_KEY", "")
    if not key:
        # Only a key that may do everything in all apps reads the whole state.
        keys = (
            row.key for row in config.api.keys if "admin" in row.scopes and not row.apps
        )
        key = next(keys, "")
    status, answer = _get(host, port, f"/system/state?{query}detail=true", key)
    data = answer.get("data")
    if status == OK and isinstance(data, dict):
        return data
    return {}


def _version(config: Config, host: str, port: int) -> str:
    """Return the name of the server with the versions of all its nodes."""
    nodes = _state(config, host, port, "cluster=true&").get("nodes", {})
    versions = {node["version"] for node in nodes.values() if "version" in node}
    if versions:
        return f"imserver {', '.join(sorted(versions))}"
    return "a server (set IMSERVER_KEY to see its version)"


def _get(host: str, port: int, path: str, key: str) -> tuple[int, dict[str, Any]]:
    """Send a GET request to the server. Returns the status and the JSON answer.

    An empty ``key`` sends no credentials. Raises OSError, and ValueError if the
    answer is not HTTP or JSON.
    """
    headers = {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        content = answer.read() or b"{}"
        return answer.status, msgspec.json.decode(content, type=dict[str, Any])
    except HTTPException:  # its text may have bytes that a terminal obeys
        raise ValueError("the answer is not HTTP") from None
    finally:
        connection.close()


def _listeners(config: Config) -> list[tuple[str, str, Sequence[int]]]:
    """Return all TCP listeners of the nodes of this machine.

    Each is (setting, host, ports). Only the listeners for messages of other
    nodes have several ports.
    """
    app = config.app
    host = config.server.host
    listeners: list[tuple[str, str, Sequence[int]]] = [
        ("app.http_port", host, (app.http_port,)),
        ("app.websocket_port", host, (app.websocket_port,)),
        *_extra_listeners(config),
    ]
    if config.clustered and app.rpc_port:
        listeners.append(("app.rpc_port", *_listeners_for_nodes(config)))
    return listeners


def _extra_listeners(config: Config) -> Iterator[tuple[str, str, Sequence[int]]]:
    """Yield (setting, host, port) of the further listeners in the settings."""
    for number, row in enumerate(config.server.extra_listen):
        # A row has a Unix socket or a port.
        if not row.socket:
            name = f"server.extra_listen[{number}]"
            yield name, row.host or config.server.host, (row.port,)


def _listeners_for_nodes(config: Config) -> tuple[str, range]:
    """Return the host and the ports at which nodes listen for each other.

    Each process needs several ports of its own.
    """
    planned, _ = plan_processes(config)
    count = PORTS_PER_NODE * planned.server.processes
    # In demo mode no other machine may connect.
    only_local = config.demo and not config.server.insecure
    host = config.cluster.bind or advertised_address(
        config.cluster.advertise, only_local
    )
    first = config.app.rpc_port
    return host, range(first, first + count)


def _socket_memory(_config: Config) -> Findings:
    """Check how much of the memory the sockets' buffers can fill.

    Each connection has buffers. They grow if its client reads slowly.
    """
    name = "net.ipv4.tcp_mem"
    value = kernel(name)  # low, pressure and highest number of pages
    if not value:
        return
    _, _, most_pages = value.split()
    most = int(most_pages) * BYTES_PER_PAGE
    memory = _memory_of_machine()
    pages = " ".join(value.split("\t"))
    found = f"{pages} pages: at most {_size(most)} of {_size(memory)}"
    meaning = "socket buffers may take more than half of the memory: slow receivers could end the server"
    mend = _sysctl(name, _safe_socket_memory(memory))
    yield finding_of(most > memory // 2, name, found, meaning, mend)


def _memory_of_machine() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _safe_socket_memory(memory: int) -> str:
    """Return a value of ``net.ipv4.tcp_mem`` that allows a third of the memory.

    Linux saves memory of sockets from ``pressure`` on, until their buffers take
    less than ``low``.
    """
    third_in_pages = memory // 3 // BYTES_PER_PAGE
    low = third_in_pages // 2
    pressure = third_in_pages * 3 // 4
    return f"'{low} {pressure} {third_in_pages}'"


def _size(amount: float) -> str:
    """Return a number of bytes in words, such as "1.5 GiB"."""
    return f"{amount / _GIB:.1f} GiB"


def _redis(config: Config) -> Findings:
    """Check whether Redis answers, is new and fast, and has the right time.

    A server of one node needs no Redis, so there is no finding. The time is
    compared with that of this machine.
    """
    if not config.clustered:
        return
    address = address_of(config.redis)
    # A cluster has many addresses, so one round trip says little.
    if address.kind == "cluster":
        yield Finding("ok", "Redis", f"{address.text}: Redis Cluster is not checked")
        return
    try:
        info, round_trips, redis_time = _ask_redis(address)
    except Exception as error:
        yield _finding_of_silent_redis(address, error)
        return

    yield _redis_version(info)
    meaning = "every login waits for one round trip"
    mend = "run Redis nearer to the nodes"
    yield _speed("Redis round trip", median(round_trips), meaning, mend)
    yield _clock("clock and Redis", redis_time - time())


def _finding_of_silent_redis(address: RedisAddress, error: Exception) -> Finding:
    """Return the finding about a Redis that does not answer."""
    found = f"{address.text} does not answer: {error}"
    meaning = "nodes do not find each other, and each node knows only its own logins"
    mend = f"redis-cli -u {address.text} ping"
    return Finding("fail", "Redis", found, meaning, mend)


def _ask_redis(address: RedisAddress) -> tuple[str, list[float], float]:
    """Ask a Redis about itself.

    Returns its answer to INFO, the seconds of some round trips, and its time in
    Unix seconds. Raises the errors of the connection.
    """
    sock = None
    try:
        sock = connect(address, PROBE_SECONDS)
        info = ask(sock, "INFO", "server").decode()
        round_trips = _round_trips(sock)
        seconds, microseconds = ask(sock, "TIME")
    finally:
        if sock is not None:
            sock.close()
    return info, round_trips, int(seconds) + int(microseconds) * _MICROSECOND


def _round_trips(sock: DirectSocket) -> list[float]:
    """Return the seconds of some round trips to a Redis.

    One round trip may be slow by chance.
    """
    round_trips = []
    for _ in range(_TRIES):
        before = perf_counter()
        ask(sock, "PING")
        round_trips.append(perf_counter() - before)
    return round_trips


def _redis_version(info: str) -> Finding:
    """Check whether Redis is new enough.

    ``info`` is its answer to INFO, with lines such as ``redis_version:7.2.4``.
    """
    version = _version_in(info)
    parts = version.split(".")[:2]
    # A version in an unknown form counts as old.
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    is_old = numbers < MIN_REDIS
    needed = ".".join(map(str, MIN_REDIS))
    meaning = f"{needed} or newer is needed"
    mend = "install a newer Redis"
    return finding_of(is_old, "Redis version", version, meaning, mend, fails=True)


def _version_in(info: str) -> str:
    """Return the version in Redis's answer to INFO, or ``unknown``."""
    version = "unknown"
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name == "redis_version":
            version = value
    return version


def _speed(name: str, seconds: float, meaning: str, mend: str) -> Finding:
    """Return the finding about a measured time, which is bad if it is long."""
    milliseconds = seconds * _SECOND_MS
    found = f"{milliseconds:.2f} ms (median of {_TRIES})"
    return finding_of(seconds > SLOW_SECONDS, name, found, meaning, mend)


def _clock(name: str, difference: float) -> Finding:
    """Return the finding about two clocks. ``difference``: in seconds."""
    seconds = abs(difference)
    found = f"{seconds:.2f} s apart"
    meaning = "tokens expire too early or too late, and times of messages differ"
    mend = "timedatectl set-ntp true"
    return finding_of(seconds > CLOCK_SECONDS, name, found, meaning, mend)


def _database(config: Config) -> Findings:
    """Check whether the database answers, is undamaged, and stores durably.

    Features also check their rows in it.
    """
    address = database_address(config.storage, config.server.data_dir)
    if not address.exists:
        found = f"{address.shown} does not exist yet; it is created at first use"
        yield Finding("ok", "database", found)
        return
    if address.file is not None:
        damage = list(_damage(address.file))
        yield from damage
        if any(finding.level == "fail" for finding in damage):
            return  # to read its rows would change it

    findings_in_rows: list[Finding] = []

    def check_rows(sql: PooledStatements) -> None:
        """Let features check their rows, on the connection of the probe."""
        findings_in_rows.extend(_rows_of_features(config, sql))

    try:
        state = probe(address, config.storage, _TRIES, looks=[check_rows])
    except Exception as error:
        yield _finding_of_silent_database(address, error)
        return
    yield from _findings_of_probe(address, state)
    yield from findings_in_rows
    if state.clock_difference is not None:
        yield _clock("clock and database", state.clock_difference)


def _finding_of_silent_database(address: DatabaseAddress, error: Exception) -> Finding:
    """Return the finding about a database that does not answer."""
    # Drivers add lines with advice and links to the reason.
    reason = str(error).splitlines()[0]
    found = f"{address.shown} does not answer: {reason}"
    meaning = "until the database answers, accounts, apps created at run time and stored messages fail"
    mend = "check storage.url, and whether its user may log in from this machine"
    return Finding("fail", "database", found, meaning, mend)


def _findings_of_probe(address: DatabaseAddress, state: DatabaseState) -> Findings:
    """Yield the findings about the speed and the durability of the database.

    ``state``: what the probe has measured.
    """
    yield Finding("ok", "database", f"{state.name} {state.version} at {address.shown}")
    meaning = "every acknowledgement waits for a round trip"
    mend = "run the database nearer to the nodes"
    yield _speed("database round trip", state.round_trip, meaning, mend)
    if state.laxness:
        meaning = (
            "if the machine of the database fails, acknowledged messages may be lost"
        )
        mend = "set this setting back to its default in the database's configuration"
        yield Finding("warn", "durability", state.laxness, meaning, mend)


def _rows_of_features(config: Config, sql: PooledStatements) -> Findings:
    """Let features check their rows in the database.

    Raises DBAPIError if the database does not execute a query. Any other
    exception becomes a finding.
    """
    for feature in load_features(config):
        try:
            for check in feature.checks("rows"):
                yield from check(sql)
        except DBAPIError:
            raise
        # The database has answered with rows that the server did not write.
        except Exception as error:
            name = f"rows of {feature.name}"
            kind = type(error).__name__
            found = f"cannot be read: {kind}: {error}"
            meaning = "this feature may fail"
            mend = "find out which other program writes to the database"
            yield Finding("fail", name, found, meaning, mend)


def _damage(database: Path) -> Findings:
    """Check whether the files of SQLite are undamaged.

    The *write-ahead log* has the last commits, which are not in the file yet.
    """
    mend = (
        "stop the server; run imserver restore with a backup, or, without a backup, with "
        f"a copy of {database.name}"
    )
    commits = 0
    damage: str | None
    try:
        commits = lost_commits(database)
        damage = damage_of(database, PROBE_SECONDS)
    except (sqlite3.Error, OSError) as error:
        commits = 0
        damage = str(error)

    yield _finding_of_lost_commits(database, commits, mend)
    yield _finding_of_pages(database, damage, mend)


def _finding_of_lost_commits(database: Path, commits: int, mend: str) -> Finding:
    """Return the finding about the write-ahead log of SQLite.

    ``commits``: how many of its commits cannot be read.
    """
    name = "write-ahead log"
    found = "no damage"
    if commits:
        found = f"{commits} commits in {database}-wal cannot be read"
    meaning = "acknowledged messages are lost; the server does not start"
    # A copy without the write-ahead log leaves out the damaged commits.
    mend_log = mend + " alone"
    return finding_of(commits > 0, name, found, meaning, mend_log, fails=True)


def _finding_of_pages(database: Path, damage: str | None, mend: str) -> Finding:
    """Return the finding about the pages of SQLite.

    ``damage``: the first damage. It is ``""`` if there is none, and None if
    not all pages could be read.
    """
    name = "pages of SQLite"
    found = "no damage"
    if damage is None:  # not all pages could be read in this time
        found = f"no damage in the part that was read in {PROBE_SECONDS:g} s"
    elif damage:
        found = f"{database}: {damage}"
    meaning = "some rows cannot be read, or are wrong"
    return finding_of(bool(damage), name, found, meaning, mend, fails=True)


def _disk(config: Config) -> Findings:
    """Check whether the data folder can be used, and its disk.

    If the folder does not exist yet, the nearest folder above it is checked.
    """
    wanted_folder = Path(config.server.data_dir).absolute()
    folder = _existing_folder(wanted_folder)
    if not folder.is_dir():
        found = f"{folder} is not a folder"
        mend = "set server.data_dir to another folder"
        yield Finding("fail", "data folder", found, _NO_START, mend)
        return
    yield from _interrupted_restore(folder)
    yield _free_space(config, folder)
    if os.access(folder, os.W_OK):
        yield _fsync_speed(folder)
    else:
        yield _finding_of_unwritable(folder, wanted_folder)


def _interrupted_restore(folder: Path) -> Findings:
    """Check whether a restore into a data folder was interrupted.

    Its file then stays, so that no server starts with half of the data.
    """
    if (folder / RESTORING).exists():
        found = f"a restore into {folder} was interrupted"
        mend = "run imserver restore again"
        yield Finding("fail", "restore", found, _NO_START, mend)


def _existing_folder(wanted: Path) -> Path:
    """Return the path, or the nearest one above it that exists."""
    return next(each for each in (wanted, *wanted.parents) if os.path.exists(each))


def _finding_of_unwritable(folder: Path, wanted_folder: Path) -> Finding:
    """Return the finding about a data folder that this user cannot write.

    ``folder``: the data folder ``wanted_folder``, or the nearest one above it
    that exists.
    """
    user = os.geteuid()
    # The server would make a missing folder, but may not here.
    if folder == wanted_folder:
        found = f"{folder} is not writable by this user"
        mend = f"chown -R {user} {folder}"
    else:
        found = f"{wanted_folder} does not exist"
        mend = f"install -d -m 700 -o {user} {wanted_folder}"
    return Finding("fail", "data folder", found, _NO_START, mend)


def _free_space(config: Config, folder: Path) -> Finding:
    """Check whether the disk of a folder has enough free space.

    Enough is a GiB, or the greatest limit in the settings below which the
    server refuses messages.
    """
    free = shutil.disk_usage(folder).free
    limits = dict(marked(config, "free_bytes"))
    wanted = max([_GIB, *limits.values()])
    found = f"{_size(free)} free for {config.server.data_dir}"
    # Some limits take effect before the disk is full.
    before = "".join(f"{name} applies, then " for name in limits)
    meaning = f"below {_size(wanted)}: {before}messages are refused"
    mend = "enlarge the volume, or set storage.retention_seconds and limits of what users store"
    return finding_of(free < wanted, "disk space", found, meaning, mend)


def _fsync_speed(folder: Path) -> Finding:
    """Measure how long the disk takes to store a write.

    The server answers the sender of a message only after that.
    """
    name = "disk fsync"
    try:
        # A full disk, or a disk without free inodes, refuses the file.
        times = _fsync_times(folder)
    except OSError as error:
        found = f"{folder} does not accept a file: {error.strerror}"
        meaning = "stored messages of SQLite and new files fail"
        mend = f"df -h {folder}; df -i {folder}"
        return Finding("fail", name, found, meaning, mend)
    meaning = "stored messages of SQLite and new files wait for this disk"
    mend = (
        "use a disk with power-loss protection, or put the database on another machine"
    )
    return _speed(name, median(times), meaning, mend)


def _fsync_times(folder: Path) -> list[float]:
    """Return the seconds that each of some writes to the disk took.

    Raises OSError.
    """
    times = []
    with TemporaryFile(dir=folder) as file:
        for _ in range(_TRIES):
            file.write(b"x" * BYTES_PER_PAGE)
            file.flush()
            before = perf_counter()
            os.fsync(file.fileno())
            times.append(perf_counter() - before)
    return times


def findings_of_features(config: Config) -> Findings:
    """Let features check their settings."""
    for feature in load_features(config):
        for check in feature.checks("settings"):
            yield from check(config)


def _synchronised(_config: Config) -> Findings:
    """Ask the kernel whether a time service steers the clock."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return  # only Linux has this function
    is_unsteered = state == _TIME_ERROR
    found = "the clock is synchronised"
    if is_unsteered:
        found = "the clock is not synchronised"
    meaning = "tokens are compared with the clock of the machine that signed them"
    mend = "timedatectl set-ntp true (in a container: on its host)"
    yield finding_of(is_unsteered, "time service", found, meaning, mend)


def _names(config: Config) -> Findings:
    """Check whether DNS knows each host of the settings, and answers fast.

    A host that nobody knows is often a typing error.
    """
    for setting, host in _hosts(config):
        yield _look_up(setting, host)


def _look_up(setting: str, host: str) -> Finding:
    """Ask DNS for a host. ``setting``: the setting that names it."""
    name = f"DNS {host}"
    before = perf_counter()
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        found = error.strerror or str(error)
        meaning = f"{setting} names it"
        mend = f"getent ahosts {host}"
        return Finding("fail", name, found, meaning, mend)
    seconds = perf_counter() - before
    addresses = {str(address[0]) for *_, address in entries}
    return _finding_of_addresses(name, addresses, seconds)


def _finding_of_addresses(name: str, addresses: Set[str], seconds: float) -> Finding:
    """Return the finding about the addresses of a host that DNS knows.

    It is a warning if the answer took more than a second, which happens if one
    of the name servers does not answer.
    """
    listed = ", ".join(sorted(addresses))
    milliseconds = seconds * _SECOND_MS
    found = f"{listed} in {milliseconds:.0f} ms"
    meaning = "each new connection to the host waits for the answer"
    mend = "run a caching resolver on this machine"
    return finding_of(seconds > 1, name, found, meaning, mend)


def _hosts(config: Config) -> list[tuple[str, str]]:
    """Return all hosts that the server calls, or at which clients call it.

    Each is (setting, host). A host occurs once, with the last setting that has
    it.
    """
    hosts = []
    for name, url in _urls_in(config):
        host = urlsplit(url).hostname
        if host:
            hosts.append((name, host))
    hosts += marked(config, "host")
    if config.clustered:
        hosts += [("redis.url", host) for host, _ in address_of(config.redis).hosts]
    # Several settings often have the same host.
    settings_by_host = {host: name for name, host in hosts}
    return [(name, host) for host, name in settings_by_host.items()]


def _urls_in(config: Config) -> list[tuple[str, str]]:
    """Return (setting, URL) of all URLs in the settings, also of apps.

    Settings that are not set have the URL ``""``.
    """
    urls = [*_public_urls(config), ("storage.url", config.storage.url)]
    for name, url in marked(config, "url"):
        # The settings of apps are read below, by their names.
        if not name.startswith("apps."):
            urls.append((name, url))
    for app, settings in config.apps.items():
        urls += _urls_of_app(app, settings)
    return urls


def _urls_of_app(app: str, settings: TenantSettings) -> Iterator[tuple[str, str]]:
    """Yield (setting, URL) of all URLs in the settings of an app."""
    for name, url in marked(settings, "url"):
        yield f"apps.{app}.{name}", url
    for number, row in enumerate(settings.jwt):
        yield f"apps.{app}.jwt[{number}]", row.jwks_url or row.issuer


def _public_urls(config: Config) -> list[tuple[str, str]]:
    """Return (setting, URL) of the addresses by which clients reach the server.

    A setting may be a host without a scheme; its URL begins with ``//``.
    """
    settings = {
        "app.http_url": config.app.http_url,
        "app.websocket_url": config.app.websocket_url,
        "server.public_ws_url": config.server.public_ws_url,
    }
    urls = []
    for name, url in settings.items():
        # urlsplit finds the host only after two slashes.
        if url and "//" not in url:
            url = f"//{url}"
        if url:
            urls.append((name, url))
    return urls


def _certificates(config: Config) -> Findings:
    """Check the certificates of the server's public addresses.

    Clients must trust them, and they must be valid for some time.
    """
    for name, url in _public_urls(config):
        parts = urlsplit(url)
        # Without TLS there is no certificate.
        if parts.scheme in ("https", "wss") and parts.hostname is not None:
            yield _certificate(name, parts.hostname, parts.port or _HTTPS_PORT)


def _certificate(setting: str, host: str, port: int) -> Finding:
    """Check the certificate of a host. ``setting``: the setting that names
    it."""
    where = f"certificate of {host}"
    try:
        expires_at = _expiry(host, port)
    except OSError as error:
        meaning = f"clients of {setting} do not trust the certificate, or cannot reach the host"
        mend = f"openssl s_client -connect {host}:{port}"
        return Finding("fail", where, str(error), meaning, mend)
    return _finding_of_expiry(where, expires_at)


def _finding_of_expiry(where: str, expires_at: float) -> Finding:
    """Return the finding about a trusted certificate that expires.

    Certificates that are renewed automatically are renewed weeks before.
    """
    days = (expires_at - time()) / _DAY_SECONDS
    found = f"valid for {days:.0f} more days"
    meaning = "when it has expired, clients refuse to connect"
    mend = "renew the certificate, and reload the proxy"
    return finding_of(days < _RENEWAL_DAYS, where, found, meaning, mend)


def _expiry(host: str, port: int) -> float:
    """Return the Unix time at which the certificate of a server expires.

    Raises OSError if the server cannot be reached, or if its certificate is not
    trusted.
    """
    context = ssl.create_default_context()
    with (
        socket.create_connection((host, port), PROBE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        certificate = secured.getpeercert()
    if certificate:
        return ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return 0.0  # never: without a certificate the connection has failed


def _second_secret(config: Config) -> Findings:
    """Warn while the server also accepts signatures by a second secret."""
    file = config.server.second_secret_file
    if file:
        meaning = "tokens of users and requests of nodes that this secret has signed are accepted, too"
        mend = "when nobody needs this secret any more, remove server.second_secret_file and restart all nodes"
        yield Finding("warn", "second secret", file, meaning, mend)


CHECKS: Final[tuple[Callable[[Config], Findings], ...]] = (
    _files,
    _second_secret,
    _processes,
    _listen_queues,
    _ports,
    _unix_sockets,
    running_server,
    _socket_memory,
    _disk,
    _synchronised,
    _database,
    findings_of_features,
    _redis,
    _names,
    _certificates,
)


def _caveats_of_capacity(config: Config, is_running: bool) -> Iterator[str]:
    """Yield sentences that are printed below the measured capacity of a node.

    They say why the figures may be wrong, and which other limits a node has.
    ``is_running``: the node runs on this machine, beside the measurement.
    """
    load, _, _ = os.getloadavg()
    if load > 2 * cores():
        yield f"This machine was busy (load {load:.0f} on {cores()} cores), so its figures are too low."
    if is_running:
        yield "The node runs here, so the measurement had only a part of a core, and its figures are too low."
    if config.clustered and not capacity.has_redis(config):
        yield (
            "Measured without Redis, because no redis-server is here. With Redis, a login "
            "takes half as much again."
        )

    yield from _network_limits(config)
    yield "Not measured: bandwidth, a proxy with TLS, the processor of a database server, webhooks, tokens."


def _network_limits(config: Config) -> Iterator[str]:
    """Yield sentences about the kernel's limits of connections."""
    backlog = config.server.backlog
    # The kernel has a limit of its own.
    queue = min(backlog, int(kernel("net.core.somaxconn") or backlog))
    yield (
        f"{queue:,} new connections may wait at the same time (server.backlog). Further "
        "ones try again a second later."
    )
    low, _, high = kernel("net.ipv4.ip_local_port_range").partition("\t")
    if high:
        count = int(high) - int(low) + 1
        yield f"From one address, a proxy can open at most {count:,} connections to a port."


class _Doctor(click.Command):
    """The command ``doctor``. Features add options to it."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options of the command and of features.

        A feature that cannot be loaded adds none.
        """
        rows = (row for row in offered_rows() if not isinstance(row, Exception))
        options = (_option_of(row) for row in rows if _is_option(row))
        return [*super().get_params(ctx), *options]


def _is_option(row: CommandOf) -> bool:
    """Whether the row of a feature is an option of ``imserver doctor``.

    Such an option starts a trial, for example of a mail.
    """
    return row.parent == DOCTOR and row.name.startswith("--")


def _option_of(row: CommandOf) -> click.Option:
    """Return the option of click for a trial of a feature."""
    return click.Option([row.name], metavar=row.metavar, help=row.help)


def _run_trials(
    config: Config, path: str | None, data_dir: str | None, given: Mapping[str, str]
) -> Findings:
    """Run the trials whose options were given.

    A feature offers a trial, such as ``--mail ADDRESS``, as an option of this
    command. ``given``: name of the parameter → its value. ``path`` and
    ``data_dir``: where the settings are.
    """
    rows_by_parameter = _trials_of_features(config)
    for parameter, value in given.items():
        # The option is offered, because the feature is installed, but the
        # settings leave it out.
        if parameter not in rows_by_parameter:
            yield Finding(
                "fail", parameter, "the setting features does not name this feature"
            )
            continue
        try_out = rows_by_parameter[parameter].load()
        with opened(path, data_dir) as (settings, store, tenants):
            yield from try_out(settings, store, tenants, value)


def _trials_of_features(config: Config) -> dict[str | None, CommandOf]:
    """Return name of the parameter → row of the trial, for all features."""
    rows_by_parameter: dict[str | None, CommandOf] = {}
    for feature in load_features(config):
        for row in filter(_is_option, feature.commands):
            rows_by_parameter[_option_of(row).name] = row
    return rows_by_parameter


_NO_LIMIT: Final = 1e6
"""The highest number that an option of ``--capacity`` accepts. Nobody reaches
it."""


def _option_of_capacity(
    name: str, default: float, text: str, most: float = _NO_LIMIT
) -> Callable[[Any], Any]:
    """Make an option that says how users behave, as a number.

    ``most``: the greatest value. With a limit of its own it is a percentage, by
    which the number of all users is calculated. Then 0 is refused, because a
    division by 0 fails.
    """
    kind = click.FloatRange(0, most, min_open=most < _NO_LIMIT)
    return click.option(
        name,
        type=kind,
        default=default,
        show_default=True,
        help=f"With --capacity: {text}",
    )


@click.command(cls=_Doctor)
@settings_options
@CommandLine.prints_data
@click.option(
    "--capacity",
    "counts",
    is_flag=True,
    help="Measure how many users this node can serve.",
)
@_option_of_capacity("--messages", 10, "messages that a connected user sends an hour.")
@_option_of_capacity("--receivers", 5, "connected users who receive each message.")
@_option_of_capacity("--pushes", 10, "pushes that a connected user gets an hour.")
@_option_of_capacity(
    "--online",
    30,
    "the percentage of users who are connected at the same time.",
    most=100,
)
@CommandLine.duration(
    "--within",
    "restart_seconds",
    "With --capacity: the time within which all users must be back after a restart.",
    "5m",
    most=_DAY_SECONDS,
    old="--minutes",
    unit=60,
)
@long_work("checking")
def doctor(path: str | None, data_dir: str | None, counts: bool, **given: Any) -> None:
    """Check this machine, the database, Redis and the public addresses, and say
    how to mend each problem.

    The exit status is 1 if a check failed. Warnings do not change the status.
    """
    try:
        config = load_settings(path, data_dir)
    except StartError as error:
        fail(error)
    behaviour = {name: given.pop(name) for name in capacity.Behaviour.__struct_fields__}
    if counts:
        _show_capacity(config, capacity.Behaviour(**behaviour))
        return
    # All other options start trials of features. Click gives None for an option
    # that is left out.
    given = {name: value for name, value in given.items() if value is not None}
    trials = _run_trials(config, path, data_dir, given)
    failures = show(chain(findings(config), trials))
    if failures:
        sys.exit(1)


def _show_capacity(config: Config, user: capacity.Behaviour) -> None:
    """Print how many users the node can serve.

    ``user``: how users behave.
    """
    port = config.app.http_port
    pid = server_at(config.server.data_dir, port)
    state = {}
    if pid:
        # The figures of the running node only make the result more exact.
        with suppress(OSError, ValueError):
            state = _state(config, host_of(config), port, query="")
    caveats = _caveats_of_capacity(config, is_running=pid > 0)
    capacity.show(config, user, pid, state, caveats)


_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def show(findings: Iterable[Finding]) -> int:
    """Print findings as they come. Returns the number of failures.

    With ``--json``, the findings are printed together as one list.
    """
    if CommandLine.wants_json():
        rows = list(findings)
        CommandLine.data(rows, "")
        return sum(row.level == "fail" for row in rows)
    failures = 0
    for finding in findings:
        if finding.level == "fail":
            failures += 1
        _print(finding)
    return failures


def _print(finding: Finding) -> None:
    """Print a finding, and below it what it means and how to mend it."""
    # The levels have four columns, so that the names are aligned.
    mark = click.style(f"{finding.level:4}", fg=_COLOURS[finding.level])
    click.echo(f"{mark}  {finding.name}: {finding.found}")
    if finding.meaning:
        click.echo(f"      {finding.meaning}")
    if finding.mend:
        click.echo(f"      to mend: {finding.mend}")
