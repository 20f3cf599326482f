"""``python -m tools.count_instructions [CASE …]``: count what one ping, push or
message costs a server.

The figure is the number of instructions that the server's process executes in
user space. Load on the machine changes it little; it makes times useless.
Valgrind counts, so a case takes half a minute.

``--against COMMIT`` also counts the tree of a commit, with the same interpreter
and packages, and prints the ratios. ``--check`` takes the commit of
``tools/instructions.json``, and fails if a ratio is more than 2 % above the one
recorded there: ``make night`` does so. ``--record`` writes that file anew.

Ratios, since another build of the interpreter or of a package changes all
figures, and those of both trees.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RECORDED: Final = Path(__file__).with_name("instructions.json")
"""The commit to count against, and the ratio of each case: ``{"commit": …,
"ratios": {case: …}}``."""

MOST_GROWTH: Final = 1.02
"""Above this times the recorded ratio, ``--check`` fails."""
BURSTS: Final = 60
"""Bursts of each case that are counted, each time: 6,000 pings, 960 pushes.
Fewer pings would drown in what an idle server does meanwhile."""
TIMES: Final = 3
"""The median of so many counts is the figure. They differ by 1 %; with many
times as much load as processors by up to 5 %, since the server does more
meanwhile of what it does each second."""
WARM_BURSTS: Final = 40
"""Bursts before that: the interpreter adapts its bytecode, and caches fill."""
IDLE_SECONDS: Final = 4.0
"""How long the server is counted without load, for what it does each second in
any case."""
START_SECONDS: Final = 300
"""Within this time a server listens, also under valgrind on a busy machine."""
ANSWER_SECONDS: Final = 120
CONNECTION_SECONDS: Final = 3600
"""How long a connection may wait between two requests."""
DATABASE_SECONDS: Final = 60
"""How long a transaction may take: under valgrind the first ones take long."""
STOP_SECONDS: Final = 60
SETTLE_SECONDS: Final = 1.5
"""For what a server does after its start and after the first load."""

PINGERS: Final = 100
"""Connections that ping together."""
SENDERS: Final = 16
"""Connections of back ends, and of the users whom they reach."""
NEW_CLIENTS: Final = 10
"""Clients that log in together."""

APP: Final = "101"
CHANNEL: Final = "news"


class CountError(Exception):
    """Nothing was counted. The text says why."""


# --- clients ------------------------------------------------------------------


class Client:
    """A connection to the server that blocks: enough of HTTP and WebSocket for
    short messages."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self._buffer = bytearray()

    def close(self) -> None:
        self._socket.close()

    def _read_more(self) -> None:
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise CountError(f"the server does not answer: {error}") from None
        if not data:
            raise CountError("the server has closed a connection")
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read_more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    # --- HTTP -----------------------------------------------------------------

    def post(self, path: str, content_type: str, body: str, key: str = "") -> None:
        """Send a request. The answer is read later."""
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
        ]
        if key:
            lines.append(f"Authorization: Bearer {key}")
        self._socket.sendall("\r\n".join([*lines, "", body]).encode())

    def _read_head(self) -> str:
        while b"\r\n\r\n" not in self._buffer:
            self._read_more()
        end = self._buffer.index(b"\r\n\r\n") + 4
        return self._take(end).decode("latin-1")

    def read_success(self) -> dict[str, Any]:
        """The document of the answer to :meth:`post`. Raises CountError if it
        is a refusal."""
        head = self._read_head()
        length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
        if length:
            body = self._take(int(length[1]))
        else:
            body = b""
        if not head.startswith("HTTP/1.1 200"):
            raise CountError(
                f"the server refuses a request: {head.splitlines()[0]} {body!r}"
            )
        document: dict[str, Any] = json.loads(body)
        return document

    # --- WebSocket ------------------------------------------------------------

    def ask_for_upgrade(self, port: int) -> None:
        """Send the handshake of a WebSocket, as a page of this server would."""
        lines = (
            "GET /acc HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_upgrade(self) -> None:
        """Read the answer to the handshake."""
        head = self._read_head()
        if not head.startswith("HTTP/1.1 101"):
            raise CountError(f"the server refuses a WebSocket: {head.splitlines()[0]}")

    def command(self, name: str, **data: Any) -> None:
        """Send a command of the cmd dialect."""
        self._socket.sendall(
            masked_frame(json.dumps({"seq": "1", "cmd": name, "data": data}).encode())
        )

    def read_frame(self) -> dict[str, Any]:
        """The next frame of the cmd dialect."""
        length = self._take(2)[1]
        if length == 126:
            length = int.from_bytes(self._take(2), "big")
        frame: dict[str, Any] = json.loads(self._take(length))
        return frame

    def read_reply(self, name: str) -> None:
        """Read frames until the reply to a command, which must be a success."""
        frame = self.read_frame()
        while frame["cmd"] != name:
            frame = self.read_frame()
        if frame["response"]["code"] != 200:
            raise CountError(f"the server refuses {name}: {frame}")

    def forget_frames(self) -> None:
        """Read what has come, and forget it."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        self._socket.settimeout(ANSWER_SECONDS)
        self._buffer.clear()


def masked_frame(payload: bytes) -> bytes:
    """A text frame of a client with fewer than 65,536 bytes."""
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    else:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + mask + masked


# --- the server ---------------------------------------------------------------


class CountedServer:
    """A server of a tree under valgrind, with settings and data in a folder of
    its own."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._folder = folder
        self.clients: list[Client] = []
        self.key = secrets.token_hex(16)
        self.http_port, self.websocket_port, rpc_port = free_ports(3)
        settings = {
            "app": {
                "http_port": self.http_port,
                "websocket_port": self.websocket_port,
                "rpc_port": rpc_port,
            },
            "server": {"data_dir": str(folder / "data")},
            "storage": {"seconds": DATABASE_SECONDS},
            "api": {
                "keys": [{"key": self.key, "scopes": ["admin"]}],
                "requests_per_second": 0,
            },
            "limits": {
                "messages_per_second": 0,
                "handshake_seconds": CONNECTION_SECONDS,
                "keepalive_seconds": CONNECTION_SECONDS,
            },
            "apps": {
                APP: {
                    "open": True,
                    "api_allow_from": ["127.0.0.1"],
                    "channels": {CHANNEL: {"subscribe": "anybody"}},
                }
            },
        }
        config = folder / "imserver.yaml"
        config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("IMSERVER_")
        }
        environment |= {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
        self._dumps = folder / "callgrind.out"
        valgrind = ("valgrind", "--tool=callgrind", "-q", "--instr-atstart=no")
        server = (
            sys.executable,
            "-P",
            "-m",
            "imserver",
            "serve",
            "--config",
            str(config),
        )
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                (*valgrind, f"--callgrind-out-file={self._dumps}", *server),
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        """Wait until the server listens. Raises CountError with its log if it
        does not."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                Client(self.websocket_port).close()
            except ConnectionRefusedError:
                time.sleep(0.2)
            else:
                time.sleep(SETTLE_SECONDS)
                return
        raise CountError(
            "the server does not start:\n" + (self._folder / "log").read_text()
        )

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Let the process stand still, so that all that is sent meanwhile has
        arrived when it goes on.

        Otherwise it would depend on the load of the machine how much comes
        together: ten pings that arrive together cost less than ten pings one by
        one.
        """
        status = Path(f"/proc/{self._process.pid}/stat")
        self._process.send_signal(signal.SIGSTOP)
        try:
            while status.read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.0005)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def control(self, *words: str) -> None:
        """Tell callgrind what to do."""
        command = ("vgdb", f"--pid={self._process.pid}", *words)
        subprocess.run(command, check=True, capture_output=True, timeout=ANSWER_SECONDS)

    def take_count(self) -> int:
        """The instructions since the last count."""
        before = set(self._dumps.parent.glob("callgrind.out.*"))
        self.control("dump")
        dumps = set(self._dumps.parent.glob("callgrind.out.*")) - before
        return sum(
            total_of(dump.read_text(encoding="utf-8", errors="replace"))
            for dump in dumps
        )

    def leave(self) -> None:
        """Close the connections of a case."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        time.sleep(SETTLE_SECONDS)

    def connect(self, count: int, cursor: int | None = None) -> list[Client]:
        """Log clients in, as users ``u0``, ``u1`` … ``cursor``: they use stored
        messages."""
        clients = [Client(self.websocket_port) for _ in range(count)]
        more = {} if cursor is None else {"cursor": cursor}
        for number, client in enumerate(clients):
            client.ask_for_upgrade(self.websocket_port)
            client.read_upgrade()
            client.command("login", userID=f"u{number}", appID=int(APP), **more)
            client.read_reply("login")
        self.clients += clients
        return clients

    def back_ends(self) -> list[Client]:
        """Connections of a back end."""
        clients = [Client(self.http_port) for _ in range(SENDERS)]
        self.clients += clients
        return clients


def free_ports(count: int) -> list[int]:
    """Ports of the system's choice on which nobody listens."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


def total_of(dump: str) -> int:
    """The number of instructions in a file of callgrind. Raises CountError if
    it has none."""
    found = re.search(r"(?m)^(?:totals|summary): (\d+)", dump)
    if found is None:
        raise CountError("valgrind has written no total")
    return int(found[1])


# --- cases --------------------------------------------------------------------

Step = tuple[Callable[[], None], Callable[[], None]]
"""Sends something, while the server stands still; and reads the answers."""


@dataclass(frozen=True)
class Burst:
    """Units that come together, in steps."""

    units: int
    steps: Sequence[Step]


def ping(server: CountedServer) -> Burst:
    """A ping of a client, and its pong."""
    clients = server.connect(PINGERS)

    def send() -> None:
        for client in clients:
            client.command("ping")

    def receive() -> None:
        for client in clients:
            client.read_reply("ping")

    return Burst(len(clients), [(send, receive)])


def login(server: CountedServer) -> Burst:
    """A client that connects, logs in and goes."""
    clients: list[Client] = []

    def connect() -> None:
        for _ in range(NEW_CLIENTS):
            client = Client(server.websocket_port)
            client.ask_for_upgrade(server.websocket_port)
            clients.append(client)

    def upgrade() -> None:
        for client in clients:
            client.read_upgrade()

    def log_in() -> None:
        for number, client in enumerate(clients):
            client.command("login", userID=f"u{number}", appID=int(APP))

    def receive() -> None:
        for client in clients:
            client.read_reply("login")

    def leave() -> None:
        for client in clients:
            client.close()
        clients.clear()

    return Burst(
        NEW_CLIENTS, [(connect, upgrade), (log_in, receive), (leave, lambda: None)]
    )


def _requests(
    server: CountedServer,
    receivers: list[Client],
    send: Callable[[Client, int], None],
    frames: int = 1,
) -> Burst:
    """Requests of back ends. ``send`` sends the one with this number. A
    receiver gets ``frames`` of all."""
    back_ends = server.back_ends()

    def send_all() -> None:
        for number, client in enumerate(back_ends):
            send(client, number)

    def receive() -> None:
        for client in back_ends:
            client.read_success()
        for client in receivers:
            for _ in range(frames):
                client.read_frame()

    return Burst(len(back_ends), [(send_all, receive)])


def push(server: CountedServer) -> Burst:
    """A push to one user, in the form of the original server."""
    receivers = server.connect(SENDERS)

    def send(client: Client, number: int) -> None:
        body = f"appID={APP}&userID=u{number}&message=hello+{number:010d}"
        client.post("/user/sendMessage", "application/x-www-form-urlencoded", body)

    return _requests(server, receivers, send)


def push_v1(server: CountedServer) -> Burst:
    """A push to one user by ``/api/v1/push``, with an API key."""
    receivers = server.connect(SENDERS)

    def send(client: Client, number: int) -> None:
        body = {"app": APP, "users": [f"u{number}"], "data": f"hello {number:010d}"}
        client.post("/api/v1/push", "application/json", json.dumps(body), server.key)

    return _requests(server, receivers, send)


def publication(server: CountedServer) -> Burst:
    """A publication to the 16 subscribers of a channel."""
    receivers = server.connect(SENDERS)
    for client in receivers:
        client.command("subscribe", channel=CHANNEL)
        client.read_reply("subscribe")

    def send(client: Client, number: int) -> None:
        body = {"app": APP, "channel": CHANNEL, "data": f"hello {number:010d}"}
        client.post(
            "/api/v1/channels/publish", "application/json", json.dumps(body), server.key
        )

    return _requests(server, receivers, send, SENDERS)


def stored_message(server: CountedServer) -> Burst:
    """A push to one user that is stored, and delivered."""
    receivers = server.connect(SENDERS, cursor=0)

    def send(client: Client, number: int) -> None:
        body = {
            "app": APP,
            "users": [f"u{number}"],
            "text": f"hello {number:010d}",
            "store": True,
        }
        client.post("/api/v1/push", "application/json", json.dumps(body), server.key)

    return _requests(server, receivers, send)


CASES: Final[Mapping[str, Callable[[CountedServer], Burst]]] = {
    "ping": ping,
    "login": login,
    "push": push,
    "push-v1": push_v1,
    "publication": publication,
    "stored-message": stored_message,
}
"""Name → a function that connects the clients of the case."""


# --- counting -----------------------------------------------------------------


def run_bursts(server: CountedServer, burst: Burst, count: int) -> None:
    """Let so many bursts come, one after the other."""
    for _ in range(count):
        for send, receive in burst.steps:
            with server.halted():
                send()
            receive()


def count_cases(tree: Path, names: Sequence[str], bursts: int) -> dict[str, float]:
    """Case → the instructions of one unit, of one server."""
    with tempfile.TemporaryDirectory(prefix="imserver-count-") as folder:
        server = CountedServer(tree, Path(folder))
        try:
            server.wait_until_ready()
            return {name: _count_case(server, name, bursts) for name in names}
        finally:
            server.stop()


def _count_case(server: CountedServer, name: str, bursts: int) -> float:
    burst = CASES[name](server)
    server.control("instrumentation", "off")
    run_bursts(server, burst, WARM_BURSTS)
    time.sleep(SETTLE_SECONDS)

    server.control("instrumentation", "on")
    run_bursts(server, burst, 1)
    server.control("zero")
    counts = [_count_once(server, burst, bursts) for _ in range(TIMES)]
    server.leave()
    return median(counts)


def _count_once(server: CountedServer, burst: Burst, bursts: int) -> float:
    """The instructions of one unit, without what an idle server does in the
    same time: on a busy machine the units take longer, and the server does more
    of that."""
    began = time.monotonic()
    run_bursts(server, burst, bursts)
    busy = server.take_count()
    busy_seconds = time.monotonic() - began

    began = time.monotonic()
    time.sleep(IDLE_SECONDS)
    idle = server.take_count()
    idle_seconds = time.monotonic() - began
    return (busy - idle * busy_seconds / idle_seconds) / (bursts * burst.units)


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit. A folder that is named is taken as
    it is."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    archive = subprocess.run(
        ("git", "-C", str(ROOT), "archive", commit), capture_output=True
    )
    if archive.returncode:
        raise CountError(
            f"there is no tree of {commit}: {archive.stderr.decode().strip()}"
        )
    with tempfile.TemporaryDirectory(prefix="imserver-tree-") as folder:
        subprocess.run(("tar", "-x", "-C", folder), input=archive.stdout, check=True)
        yield Path(folder)


# --- what was recorded --------------------------------------------------------


def grown(ratios: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """The cases whose ratio is more than 2 % above the recorded one. A case
    that is not recorded is none."""
    return [
        name
        for name, ratio in ratios.items()
        if ratio > recorded.get(name, ratio) * MOST_GROWTH
    ]


def table_of(
    here: Mapping[str, float], base: Mapping[str, float], recorded: Mapping[str, float]
) -> str:
    """The figures as a table for people."""
    lines = [f"{'case':15}{'here':>10}{'base':>10}{'ratio':>8}{'recorded':>10}"]
    for name, count in here.items():
        line = f"{name:15}{count:10,.0f}"
        if name in base:
            line += f"{base[name]:10,.0f}{count / base[name]:8.3f}"
        if name in recorded:
            line += f"{recorded[name]:10.3f}"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.count_instructions",
        description="Instructions of one unit of each case.",
    )
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help=f"of {', '.join(CASES)}; none: all of them",
    )
    parser.add_argument(
        "--bursts",
        type=int,
        default=BURSTS,
        help=f"a count has so many, by default {BURSTS}",
    )
    parser.add_argument(
        "--against",
        default="",
        metavar="COMMIT",
        help="a commit, or the folder of a tree",
    )
    parser.add_argument(
        "--check", action="store_true", help="fail if a recorded ratio has grown"
    )
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    options = parser.parse_args(arguments)
    names = options.cases or list(CASES)
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        parser.error(f"there is no case {', '.join(unknown)}")
    if options.check and options.against:
        parser.error(f"--check is against the commit of {RECORDED.name}")

    if not shutil.which("valgrind"):
        print(
            "Skipped: instructions are not counted, since valgrind is not installed (package valgrind)"
        )
        return 0
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    commit = options.against
    if not commit and (options.check or options.record):
        commit = recorded["commit"]

    base: dict[str, float] = {}
    try:
        if commit:
            with tree_of(commit) as tree:
                base = count_cases(tree, names, options.bursts)
        here = count_cases(ROOT, names, options.bursts)
    except CountError as error:
        print(f"Nothing was counted: {error}", file=sys.stderr)
        return 2

    ratios = {name: here[name] / base[name] for name in base}
    print(table_of(here, base, recorded["ratios"] if options.check else {}))
    if options.record:
        if commit == recorded["commit"]:
            rounded = recorded["ratios"]
        else:
            rounded = {}
        rounded |= {name: round(ratio, 3) for name, ratio in ratios.items()}
        RECORDED.write_text(
            json.dumps({"commit": commit, "ratios": rounded}, indent=2) + "\n",
            encoding="utf-8",
        )
    if options.check:
        too_large = grown(ratios, recorded["ratios"])
    else:
        too_large = []
    for name in too_large:
        print(
            f"{name} costs more than 2 % above what {RECORDED.name} records",
            file=sys.stderr,
        )
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
