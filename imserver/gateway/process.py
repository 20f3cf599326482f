"""Resources of a process: data directory, the secret and its derived keys,
limit of open files."""

import errno
import fcntl
import hashlib
import hmac
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from gevent import monkey
from msgspec import Struct

from imserver.gateway.config.settings import Config, LimitSettings, ServerSettings
from imserver.gateway.errors import StartError
from imserver.gateway.threads import synchronise

_log = logging.getLogger(__name__)

SPARE_FILES_OF_A_CLUSTER: Final = 320
"""Open files of a node with Redis and 60 other nodes, without the connections
of clients. Each other node takes three files."""

_SPARE_FILES: Final = 64
"""Open files of a node without Redis, without the connections of clients: for
logs, listeners and requests."""

_FINGERPRINT_CHARACTERS: Final = 32
_PID_BYTES: Final = 20
"""Size of the longest process id in a lock file."""
_SHARED_LOCK_SECONDS: Final = 1.0
"""How long a node waits for another node of its cluster that starts."""
_LOCK_PAUSE_SECONDS: Final = 0.01
_OTHERS: Final = 0o077
"""The permissions of all users except the owner."""
_FOR_OWNER: Final = 0o700
_FILE_FOR_OWNER: Final = 0o600
_FOR_ALL: Final = 0o777
"""The mode of folders above our own folders, restricted by the umask."""
_DRAFT_BYTES: Final = 8
_LISTENS: Final = "0A"
"""The state of a listening socket in ``/proc/net/tcp``."""
_INODE_AFTER_STATE: Final = 5
"""The position of the inode among the fields after the state."""

SECRET_BYTES: Final = 32
RESTORING: Final = "restoring"
"""The name of a file in a data folder in which a restore has begun. No server
starts with such a folder. ``imserver restore`` ends the restore."""
_BLOCKED_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold_signals() -> None:
    """Let the signals that would end this process wait.

    An operator may send a signal as soon as the file ``lock`` has the process
    id. The server does not serve yet then. The signals wait until
    :func:`take_signals` is called.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)


def take_signals() -> None:
    """Take the signals that waited, and all signals from now on.

    The caller has installed their handlers before.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED_SIGNALS)


def raise_file_limit() -> int:
    """Let this process open as many files as the system permits.

    The function raises the soft limit to the hard limit, and returns the new
    soft limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # macOS reports an unlimited hard limit but refuses it
    except (OSError, ValueError):
        hard = soft
    if hard == resource.RLIM_INFINITY:
        return sys.maxsize
    return hard


def openable_files() -> int:
    """Return how many files a process of this server may open.

    :func:`raise_file_limit` has to be called first.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return sys.maxsize
    return hard


def connection_limit(config: Config) -> int:
    """Return how many connections this process may have.

    Raises the limit of open files. Raises StartError if the setting is above
    that limit.
    """
    wanted = config.limits.max_connections
    files = raise_file_limit()
    if wanted > files:
        raise StartError(
            f"limits.max_connections {wanted} is above the {files} files that this "
            "process may open: raise the limit (ulimit -n) or lower the setting"
        )
    if wanted:
        return wanted
    # Each connection is a file, and other things need some.
    spare = _SPARE_FILES
    if config.clustered:
        spare = SPARE_FILES_OF_A_CLUSTER
    return max(files - spare, 1)


def cores(cpu_quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use.

    The number is the size of its CPU set, but at most the quota of its
    container.
    """
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or the quota is "max"
        quota, period = cpu_quota.read_text(encoding="ascii").split()
        number = min(number, -(-int(quota) // int(period)))
    return max(number, 1)


def cannot_listen(host: str, port: int, error: OSError) -> StartError:
    """Make the error about an address that is not available.

    On Linux the error names the process that listens on the port, if this user
    may see that process.
    """
    text = f"cannot listen on {host}:{port}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        pid = listening_process(port)
        if pid:
            text += f", by the process {pid}"
    return StartError(text)


def listening_process(port: int) -> int | None:
    """Return the id of a process that listens on a port.

    The result is None if there is no such process, if this user may not see the
    process, or if the system is not Linux.
    """
    sockets = set[str]()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            text = Path("/proc/net", table).read_text("ascii")
            sockets.update(_listening_sockets(text, port))
    if not sockets:
        return None
    # The files of a process are links, such as "socket:[12345]".
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(file) in sockets:
                return int(file.parts[2])
    return None


def _listening_sockets(table: str, port: int) -> Iterator[str]:
    """List the sockets that listen on a port.

    The names of the sockets are the targets of the links in ``/proc/PID/fd``,
    such as ``socket:[12345]``. ``table`` is the text of ``/proc/net/tcp``.
    """
    for line in table.splitlines()[1:]:
        # A line has the number of the socket, its address and port in
        # hexadecimal digits, the address and port of the peer, the state, and
        # more fields: "0: 0100007F:1F90 00000000:0000 0A …".
        _, address, _, state, *others = line.split()
        if address.endswith(f":{port:04X}") and state == _LISTENS:
            yield f"socket:[{others[_INODE_AFTER_STATE]}]"


def plan_processes(config: Config) -> tuple[Config, str]:
    """Choose the number of processes, if the settings leave it open.

    Returns the settings with the number, and a line that says why. If the
    settings have a number, they are returned as they are, and the line is
    ``""``.

    There is one process for each core. If a core has to serve more connections
    than one process may open files, several processes share a core.
    """
    if config.server.processes:
        return config, ""
    number = cores()
    files = openable_files() - SPARE_FILES_OF_A_CLUSTER
    limits = config.limits
    machine = "1 core"
    why = "this machine has one core"
    if number > 1:
        machine = f"{number} cores"
        why = f"one for each of {machine}"

    # Several processes find each other's users in Redis.
    if not config.clustered:
        if number > 1:
            why = f"{machine}, but more than one process needs redis.url"
        number = 1
    elif limits.max_connections > files > 0:
        wanted = number * limits.max_connections
        number = _divided_up(wanted, files)
        why = _why_more_than_cores(machine, wanted, files + SPARE_FILES_OF_A_CLUSTER)
        # All processes together have as many connections as the settings want.
        connections_each = _divided_up(wanted, number)
        limits = msgspec.structs.replace(limits, max_connections=connections_each)
    planned = _with_processes(config, number, limits)
    return planned, f"processes: {number} ({why})"


def _divided_up(number: int, divisor: int) -> int:
    """Divide, and round the result up."""
    return -(-number // divisor)


def _with_processes(config: Config, number: int, limits: LimitSettings) -> Config:
    """Return the settings for a number of processes, with the limits of each."""
    server = msgspec.structs.replace(config.server, processes=number)
    return msgspec.structs.replace(config, server=server, limits=limits)


def _why_more_than_cores(machine: str, connections: int, files: int) -> str:
    """Say why several processes share a core.

    ``machine`` names the cores. One process may open ``files`` files.
    """
    return (
        f"{machine} for {connections} connections, and one process may open {files} "
        "files; fewer processes are faster: raise the limit (LimitNOFILE=, "
        "ulimit -Hn)"
    )


class Secret(Struct, frozen=True):
    """The server's secret, from which keys are derived.

    ``second`` is a second secret that is accepted while an operator changes the
    secret. ``b""`` means that there is no second secret.
    """

    first: bytes
    second: bytes = b""

    @property
    def accepted(self) -> tuple[bytes, ...]:
        """All accepted secrets: the first one, and the second one if it is
        set."""
        if self.second:
            return (self.first, self.second)
        return (self.first,)

    def keys(self, purpose: str) -> tuple[bytes, ...]:
        """Return the keys for one purpose.

        The first key signs new texts. Each of the keys verifies texts.
        """
        return tuple(derive_key(each, purpose) for each in self.accepted)


def fingerprint_of(secret: bytes) -> str:
    """Return the text by which nodes compare their secrets.

    The text does not reveal the secret.
    """
    key = derive_key(secret, "cluster fingerprint")
    return hashlib.sha256(key).hexdigest()[:_FINGERPRINT_CHARACTERS]


def _owner_of(lock: int) -> str:
    """Read the process id in a file ``lock``, which is open.

    The text is ``unknown`` if the file is empty.
    """
    written = os.pread(lock, _PID_BYTES, 0).decode("ascii", "replace")
    return written.strip() or "unknown"


def _write_owner(lock: int) -> None:
    """Write the id of this process into a file ``lock``, for operators."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


class DataDirectory:
    """The data directory of the server. A lock in it prevents a second server.

    If ``shared`` is set, nodes of one cluster may share the directory, but
    other servers are locked out. The file ``lock`` contains the process id of
    the first owner. After a stop of that owner, the file is empty. After a
    crash, it names a dead process. The next owner that starts alone writes its
    own id.
    """

    def __init__(self, path: str, shared: bool = False) -> None:
        """Begin without the lock, which :meth:`start` takes."""
        self.path = Path(path)
        self._shared = shared
        self._first = False
        """Whether this process is the first owner. The file ``lock`` has the
        id of the first owner."""
        self._lock = -1
        """The descriptor of the file ``lock``. -1 means that this process has
        no lock."""

    def start(self, restores: bool = False) -> None:
        """Create the directory and take its lock. Never switches greenlets.

        ``restores`` says whether the caller is a restore. A restore may
        continue an interrupted restore, but a server must not use the directory
        of an interrupted restore. Raises StartError, for example if another
        server has the lock.
        """
        if not restores and (self.path / RESTORING).exists():
            raise StartError(
                f"a restore into {self.path} was interrupted: run imserver restore "
                "again"
            )

        lock = self._open_lock()
        if self._shared:
            # If this is the first node, its exclusive lock becomes a shared
            # lock, so that other nodes of the cluster can take the lock, too.
            is_ours = _locked(lock, fcntl.LOCK_SH, _SHARED_LOCK_SECONDS)
        else:
            is_ours = self._first
        if not is_ours:
            owner = _owner_of(lock)
            os.close(lock)
            raise self._in_use(owner)
        self._lock = lock

    def _in_use(self, owner: str) -> StartError:
        """Make the error that another server has the lock.

        ``owner`` is the process id of that server.
        """
        problem = f"{self.path} is in use by another server (pid {owner})"
        if self._shared:
            problem += ", which is not a node of a cluster"
        return StartError(f"server.data_dir: {problem}")

    def _open_lock(self) -> int:
        """Create the directory, and open its file ``lock``.

        If nobody has the lock, this process takes it and is the first owner.
        Returns the descriptor of the file. Raises StartError.
        """
        file = self.path / "lock"
        lock = -1
        try:
            make_folder(self.path)
            lock = open_private(file)
            self._first = _locked(lock, fcntl.LOCK_EX)
            if self._first:
                _write_owner(lock)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            raise StartError(
                f"server.data_dir: {error.filename or file} cannot be used: "
                f"{error.strerror}"
            ) from None
        return lock

    def stop(self) -> None:
        """Release the lock, and remove the process id from the file."""
        if self._lock >= 0 and self._first:
            os.ftruncate(self._lock, 0)
        self.abandon()

    def abandon(self) -> None:
        """Close the lock file, and leave the lock to the parent process.

        A forked child calls it.
        """
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def secrets(self, server: ServerSettings) -> Secret:
        """Read the secret of a server, and the second secret if the settings
        name one.

        Raises StartError for the same reasons as :meth:`secret`.
        """
        first = self.secret(server.secret_file)
        if not server.second_secret_file:
            return Secret(first)
        second = _read_secret(Path(server.second_secret_file))
        if second == first:
            return Secret(first)
        return Secret(first, second)

    def secret(self, secret_file: str = "") -> bytes:
        """Read the server's secret, from ``secret_file`` or from this
        directory.

        The first start creates the secret in this directory. Raises StartError
        if the secret cannot be read, or has less than 32 bytes. Also raises
        StartError if the secret is missing while a server runs, because that
        server still has the secret in memory.
        """
        if secret_file:
            path = Path(secret_file)
        else:
            path = self.path / "secret"
        try:
            if not secret_file and not path.exists():
                self._make_secret(path)
        except OSError as error:
            raise StartError(
                f"the secret {path} cannot be read or made: {error.strerror}"
            ) from None
        return _read_secret(path)

    def _make_secret(self, path: Path) -> None:
        """Create the secret of this directory, under its lock.

        Raises StartError and OSError.
        """
        lock = DataDirectory(str(self.path))
        # Without a lock, this process is a command, not a server.
        if self._lock < 0:
            try:
                lock.start()
            except StartError as error:
                raise StartError(
                    f"the secret {path} does not exist, and cannot be made: {error}"
                ) from None
        try:
            _write_secret(path)
        finally:
            lock.stop()


def _read_secret(path: Path) -> bytes:
    """Read the secret in a file.

    A warning is logged if others on this machine can read the file. Raises
    StartError if the file cannot be read, or if the secret is too short.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise StartError(
            f"the secret {path} cannot be read or made: {error.strerror}"
        ) from None
    if len(secret) < SECRET_BYTES:
        raise StartError(
            f"the secret {path} has {len(secret)} bytes; it needs at least "
            f"{SECRET_BYTES}"
        )
    # Others on this machine could sign tokens with the secret.
    if path.stat().st_mode & _OTHERS:
        _log.warning(
            "the secret %s can be read by others than its owner; chmod 600 it", path
        )
    return secret


def make_folder(folder: Path, mode: int = _FOR_OWNER) -> None:
    """Create a folder for its owner only, and the folders above it.

    The folders survive a power failure. Raises OSError.
    """
    if not folder.exists():
        make_folder(folder.parent, _FOR_ALL)
        folder.mkdir(mode, exist_ok=True)
        synchronise(folder.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write the whole content. Raises OSError.

    One write is not enough: a disk that is nearly full accepts a part before it
    refuses the rest.
    """
    while content:
        written = os.write(descriptor, content)
        content = content[written:]


def open_private(path: Path, like: Path | None = None) -> int:
    """Open a file for reading and writing, or create it for its owner only.

    Returns its descriptor. If root creates the file, the server must be able to
    open it. So the file gets the owner of the file ``like``. If ``like`` is
    None, the file gets the owner of the folder. Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_EXCL, _FILE_FOR_OWNER)
    except FileExistsError:
        # The file keeps its owner, because the user of the server could have
        # replaced the file by a link to a file of root.
        return os.open(path, flags, _FILE_FOR_OWNER)
    if os.geteuid() == 0:
        with suppress(OSError):  # root of a container may lack the right
            owner = (like or path.parent).stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner only.

    When this function returns, the content survives a power failure. The name
    of the file survives a power failure after the folder is synchronised.
    Raises OSError.
    """
    descriptor = open_private(path)
    try:
        os.ftruncate(descriptor, 0)
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int, seconds: float = 0.0) -> bool:
    """Try to take a lock on a file, and tell whether this process has it.

    ``kind`` is ``LOCK_SH`` (shared) or ``LOCK_EX`` (exclusive). Nodes that
    share the lock take it exclusively for a moment at their start. So this
    function waits up to ``seconds`` for the lock.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
        # The function that gevent has patched would start an event loop. A
        # supervisor must not have an event loop.
        monkey.get_original("time", "sleep")(_LOCK_PAUSE_SECONDS)


def _write_secret(path: Path) -> None:
    """Make a secret in this file, unless it has one.

    The folder is synchronised, so the secret survives a power failure. Raises
    OSError.
    """
    # The secret is written under another name first, so that nobody reads a
    # partial secret, even after a crash. If several servers start at once in
    # one directory, the secret of the first server stays.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(_DRAFT_BYTES)}")
    write_private(draft, secrets.token_hex(SECRET_BYTES).encode() + b"\n")
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        draft.rename(path)
    draft.unlink(missing_ok=True)
    synchronise(path.parent)


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Derive a key of 32 bytes for one purpose, by HKDF with SHA-256 (RFC
    5869).

    The key reveals nothing about the secret or other keys.
    """
    key = hmac.digest(b"imserver", secret, hashlib.sha256)
    return hmac.digest(key, purpose.encode() + b"\x01", hashlib.sha256)
