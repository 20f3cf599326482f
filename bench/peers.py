"""``imserver bench peers``: other servers beside this one, rebuilt from public packages, with the same
generators.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import peer_losses
from bench.connections import Target
from bench.context import Cores, RunContext
from bench.figures import Figures
from bench.http_client import JSON, request_head
from bench.loop import BenchError, Json
from bench.proc import children, machine
from bench.push import WINDOW_BESIDE_PEERS, Sending, measure, measure_warm
from bench.report import ProgressBar, rows_table
from bench.servers import NodeProcess, RedisProcess, ServerProcess, found_program, free_ports
from bench.session_scenarios import HandshakeOptions, IdleOptions, handshake, idle
from bench.workers import WorkerPool

PROGRAMS: Final = Path(__file__).with_name("peer_servers")
CONNECTIONS, LOGINS, RECEIVERS, USERS = 2000, 1000, 500, 1000
FLAT_SECONDS, PACED_SECONDS, WARM_UP_SECONDS = 1.0, 3.0, 0.3
RATE: Final = 20.0
#: Unpacks Debian packages into the folder. Of two versions of one Go package only one is taken.
UNPACK: Final = """
names=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \\
  --no-enhances "$@" | grep -E '^(golang|libnginx-mod)' | grep -v protobuf-1-3 | sort -u)
test -n "$names" && apt-get download $names && for file in *.deb; do dpkg -x "$file" .; done
"""
GO_PACKAGES: Final = (
    "golang-go",
    "golang-github-centrifugal-centrifuge-dev",
    "golang-github-centrifugal-protocol-dev",
    "golang-github-fzambia-eagle-dev",
    "golang-github-igm-sockjs-go-dev",
    "golang-github-mna-redisc-dev",
)
GO_BUILD: Final = """
export GOROOT=$PWD/$(ls -d usr/lib/go-*) GOPATH=$PWD/usr/share/gocode GO111MODULE=off GOCACHE=$PWD/cache
"$GOROOT/bin/go" build -o server "$1"
"""
NCHAN_REDIS: Final = """
    nchan_redis_url %s;
    nchan_use_redis on;
    nchan_message_buffer_length 100000;
    nchan_message_timeout 1h;
"""
FILES: Final = 'ulimit -n "$(ulimit -Hn)"; exec "$@"'


def _once(folder: Path, *commands: Sequence[str]) -> None:
    """Run ``commands`` in ``folder``, unless they have succeeded there before; raises BenchError."""
    if (done := folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise BenchError(f"`{command[0]}`: {(ran.stderr or ran.stdout).strip()[-500:]}")
    done.touch()


def _pip(folder: Path, *packages: str) -> str:
    python = str(folder / "bin" / "python")
    _once(folder, [sys.executable, "-m", "venv", "."], [python, "-m", "pip", "install", "-q", *packages])
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format", "freeze"], text=True)
    return dict(line.partition("==")[::2] for line in listed.lower().splitlines())[packages[0]]


def _npm(folder: Path) -> str:
    _once(folder, ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".", "socket.io"])
    package = folder / "node_modules" / "socket.io" / "package.json"
    return subprocess.check_output(["node", "-p", f"require('{package}').version"], text=True).strip()


def _version(folder: Path, package: str) -> str:
    """Return the version of a Debian package in the folder."""
    (file, *_) = folder.glob(f"{package}_*.deb")
    return file.name.split("_")[1].replace("%3a", ":")


def _nchan(folder: Path) -> str:
    found_program("nginx")
    _once(folder, ["sh", "-ec", UNPACK, "sh", "libnginx-mod-nchan"])
    return _version(folder, "libnginx-mod-nchan")


def _centrifuge(folder: Path) -> str:
    build = ["sh", "-ec", GO_BUILD, "sh", str(PROGRAMS / "main.go")]
    _once(folder, ["sh", "-ec", UNPACK, "sh", *GO_PACKAGES], build)
    return _version(folder, "golang-github-centrifugal-centrifuge-dev")


@dataclass(frozen=True)
class Peer:
    """Another server. ``build`` makes it in a folder and returns its version; ``command`` gets that folder, a
    port, and the URL of a Redis or "" (with one it is to lose nothing). ``dialect``: key of OPENERS.
    """

    name: str
    dialect: str
    build: Callable[[Path], str]
    command: Callable[[Path, int, str], list[str]]


def _uvicorn(module: str) -> Callable[[Path, int, str], list[str]]:
    def command(folder: Path, port: int, _redis: str) -> list[str]:
        words = [str(folder / "bin" / "python"), "-m", "uvicorn", "--app-dir", str(PROGRAMS), f"{module}:app"]
        return [*words, "--port", str(port), "--log-level", "warning", "--no-access-log", *KEEP_ALIVE]

    return command


def _node(folder: Path, port: int, redis: str) -> list[str]:
    return ["node", str(PROGRAMS / "server.js"), str(folder), str(port), *(["recovery"] if redis else [])]


def _go(folder: Path, port: int, redis: str) -> list[str]:
    return [str(folder / "server"), str(port), *([redis] if redis else [])]


def _nginx(folder: Path, port: int, redis: str) -> list[str]:
    own = folder / f"run-{port}"
    own.mkdir(exist_ok=True)
    text = (PROGRAMS / "nginx.conf").read_text()
    values = {"FOLDER": str(own), "ROOT": str(folder), "PORT": str(port)}
    values["REDIS"] = NCHAN_REDIS % redis if redis else ""
    for name, value in values.items():
        text = text.replace(name, value)
    (own / "nginx.conf").write_text(text)
    return [found_program("nginx"), "-p", str(own), "-e", "stderr", "-c", str(own / "nginx.conf")]


#: A back end's connection may wait longer than 5 s for its turn.
KEEP_ALIVE: Final = ("--timeout-keep-alive", "75")
UVICORN: Final = ("uvicorn[standard]",)
PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("nchan", "path", _nchan, _nginx),
        Peer("centrifuge", "centrifuge-v1", _centrifuge, _go),
        Peer("socket.io", "socket.io", _npm, _node),
        Peer(
            "python-socketio",
            "socket.io",
            lambda folder: _pip(folder, "python-socketio", *UVICORN),
            _uvicorn("socketio_app"),
        ),
        Peer("channels", "path", lambda folder: _pip(folder, "channels", *UVICORN), _uvicorn("channels_app")),
    )
}
OWN: Final = "imserver"
#: Those that are measured by default.
USUAL: Final = ("nchan", "centrifuge", "socket.io")
MARK, LOSSES_MARK = "<!-- peers -->", "<!-- peers losses -->"


class PeerProcess(ServerProcess):
    """A running peer."""

    def __init__(self, peer: Peer, home: Path, redis: str = "", cores: Sequence[int] = ()) -> None:
        super().__init__({})
        self.peer, self.home, self.redis, self.bound = peer, home, redis, cores
        (self.port,) = free_ports(1)
        self.target = Target("127.0.0.1", self.port, "/", "127.0.0.1", self.port)

    @property
    def pids(self) -> tuple[int, ...]:
        return self.process.pid, *children(self.process.pid)

    def command(self) -> list[str]:
        """Return the command, bound to its cores from the first moment: Go counts them at the start."""
        bound = ["taskset", "-c", ",".join(map(str, self.bound))] if self.bound else []
        words = self.peer.command(self.home, self.port, self.redis)
        return [*bound, "sh", "-c", FILES, "sh", *words]

    def control(self, how: str) -> None:
        """See :class:`ServerProcess`; ``kill`` also kills the workers of nginx."""
        workers = children(self.process.pid) if how == "kill" else ()
        super().control(how)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def ready(self) -> bool:
        """Whether it takes a message; nginx listens before its worker exists."""
        head = request_head(self.target, "/push/ready", JSON, 2, "Connection: close")
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
            sock.sendall(head + b"{}")
            return sock.recv(64).startswith(b"HTTP/1.1 2")


def _memory(context: RunContext, dialect: str) -> Figures:
    found = idle(context, IdleOptions(connections=CONNECTIONS, seconds=1.0, dialect=dialect))
    return {"memory_bytes": found["rss_connection_bytes"], "lost": found["dropped"]}


def _login(context: RunContext, dialect: str) -> Figures:
    found = handshake(context, HandshakeOptions(connections=LOGINS, login=True, dialect=dialect))
    return {"login_us": found["cpu_us"], "lost": found["errors"]}


def _broadcast(context: RunContext, dialect: str) -> Figures:
    workers = context.start_workers(1)
    context.open(workers, RECEIVERS, dialect=dialect)
    kind = "all" if dialect == "cmd" else "peer-all"
    sending = Sending(kind, 8, 8, window=WINDOW_BESIDE_PEERS)
    flat = measure_warm(context, workers, sending, FLAT_SECONDS, WARM_UP_SECONDS)
    paced = measure(context, workers, Sending(kind, 8, rate=RATE), PACED_SECONDS)
    return {
        "flat_us": flat["cpu_us"],
        "joined": flat["messages_a_read"],
        "paced_us": paced["cpu_us"],
        "paced_joined": paced["messages_a_read"],
        "p50_ms": paced["p50_ms"],
        "p99_ms": paced["p99_ms"],
        "lost": sum(found[name] or 0 for found in (flat, paced) for name in ("lost", "dropped", "refused")),
    }


def _push(context: RunContext, dialect: str) -> Figures:
    workers = context.start_workers(1)
    context.open(workers, USERS, dialect=dialect)
    sending = Sending("users" if dialect == "cmd" else "peer", 16)
    found = measure_warm(context, workers, sending, FLAT_SECONDS, WARM_UP_SECONDS)
    return {"push_us": found["cpu_us"], "lost": found["lost"]}


PARTS: Final = (_memory, _login, _broadcast, _push)


def _server(name: str, home: Path, redis: str = "", cores: Sequence[int] = ()) -> NodeProcess | PeerProcess:
    """Return a server; with ``redis``, the URL of a Redis, one that is to lose nothing."""
    if name != OWN:
        return PeerProcess(PEERS[name], home, redis, cores)
    return NodeProcess(environment=peer_losses.SETTINGS if redis else {}, cores=cores)


def _measured(name: str, home: Path, cores: Cores, watcher: ProgressBar) -> Figures:
    """Measure one server once, with fresh processes for each part."""
    figures: Figures = {"lost": 0}
    for part in PARTS:
        pool = WorkerPool()
        try:
            watcher.begin(f"{name}: {part.__name__[1:]}")
            own = pool.start(_server(name, home, "", cores.server))
            context = RunContext(own.target, own.pids, pool, cores, show_phase=watcher.begin)
            found = part(context, "cmd" if name == OWN else PEERS[name].dialect)
            if missing := [figure for figure, value in found.items() if not value and figure != "lost"]:
                raise BenchError(f"{name}: {', '.join(missing)} could not be measured")
            lost = (figures["lost"] or 0) + (found["lost"] or 0)
            figures |= {**found, "lost": lost}
        finally:
            pool.end()
    return figures


def compare(
    names: Sequence[str],
    cache: Path,
    runs: int,
    losses: bool,
    watcher: ProgressBar,
    histories: Path | None = None,
) -> Json:
    """Build the peers ``names``; measure this server and each of them in alternation, ``runs`` times.

    Returns two rows per peer, and what each server loses if ``losses``. A peer that cannot be built or
    measured here has no row; ``missing`` has the reason. ``histories``: the folder for what followers saw.
    """
    cores, rows, versions, missing = Cores.divided(), list[Json](), {OWN: "this tree"}, dict[str, str]()
    for name in names:
        pairs: list[tuple[Figures, Figures]] = []
        try:
            watcher.begin(f"building {name}")
            version = PEERS[name].build(cache / name)
            for number in range(runs):
                both = {}
                for each in (OWN, name) if number % 2 == 0 else (name, OWN):
                    both[each] = _measured(each, cache / each, cores, watcher)
                pairs.append((both[OWN], both[name]))
        except (BenchError, OSError, subprocess.CalledProcessError) as error:
            missing[name] = str(error)
            continue
        versions[name] = version
        if not runs:
            continue
        for each, found in zip((OWN, name), zip(*pairs, strict=True), strict=True):
            ranges = {figure: _range([run[figure] or 0 for run in found]) for figure in found[0]}
            rows.append({"peer": name, "server": each, "version": versions[each], **ranges})
    lossy = [name for name in versions if name in peer_losses.WIRES] if losses else []
    found_losses = []
    for name in lossy:
        watcher.begin(f"{name}: losses")
        found_losses.append({"server": name, **losses_of(name, cache / name, histories)})
    return {
        "suite": "peers",
        "machine": machine(),
        "runs": runs,
        "rows": rows,
        "losses": found_losses,
        "missing": missing,
    }


def _range(values: Sequence[float]) -> list[float]:
    """Return the median, the least and the greatest of ``values``."""
    return [statistics.median(values), min(values), max(values)]


def losses_of(name: str, home: Path, histories: Path | None = None) -> Json:
    if histories is not None:
        histories.mkdir(parents=True, exist_ok=True)
    pool = WorkerPool()
    try:
        own = pool.start(_server(name, home, pool.start(RedisProcess()).url))
        return peer_losses.measure(RunContext(own.target, (), pool), own, name, histories)
    finally:
        pool.end()


COLUMNS = "server|version|>bytes per idle connection|>login, µs|>delivery flat out, µs|>messages a read"
COLUMNS += "|>delivery at 20/s, µs|>messages a read|>p50, ms|>p99, ms|>push, µs|>lost"
LOSS_COLUMNS = "server|fault|>acknowledged|>deliveries due|>missing|>of these announced|>repeated"
NUMBERS: Final = (
    *("memory_bytes", "login_us", "flat_us", "joined", "paced_us"),
    *("paced_joined", "p50_ms", "p99_ms", "push_us", "lost"),
)


def _shown(values: Sequence[float]) -> str:
    """Return a median with its range, if the runs differ."""
    texts = [f"{value:,.{0 if value >= 100 or not value else 1 if value >= 10 else 2}f}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]}–{texts[2]})"


def tables(found: Json) -> str:
    """Return the machine, the date and the table of the pairs as Markdown."""
    rows = [
        [row["server"], row["version"], *(_shown(row[name]) for name in NUMBERS)] for row in found["rows"]
    ]
    facts = found["machine"]
    words = f"{facts['cores']} cores, {facts['processor'] or facts['architecture']}, {facts['kernel']}"
    lines = [f"{words}, Python {facts['python']}, {time.strftime('%Y-%m-%d')}, pairs: {found['runs']}.", ""]
    lines += rows_table(COLUMNS, rows, padded=True)
    return "\n".join(
        [*lines, *(f"\n{name} is not measured: {why}" for name, why in found["missing"].items())]
    )


def losses_table(found: Json) -> str:
    """Return the date and the table of the losses as Markdown."""
    losses = [
        [row["server"], fault, *(f"{value:,}" for value in row[fault].values())]
        for row in found["losses"]
        for fault in ("kill", "cut")
    ]
    return "\n".join([f"{time.strftime('%Y-%m-%d')}.", "", *rows_table(LOSS_COLUMNS, losses, padded=True)])
