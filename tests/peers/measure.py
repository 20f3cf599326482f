"""Measure this server beside python-socketio and Django Channels, one process each, on this machine.

    python -m tests.peers.measure                # installs the peers into a new environment
    python -m tests.peers.measure path/to/python # where they are installed already

Memory: the growth of the server's resident memory by IDLE connections, after the first WARM ones; what the
kernel holds is not in it. CPU: the server's processor time from the first to the last of ROUNDS messages,
each to MEMBERS connections, divided by the deliveries. Prints a Markdown table with the median of RUNS runs.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from imserver_client import AsyncApi
from tests import processes
from tests.docs.product import free_ports, listens
from tests.support import clean_environment, eventually

PACKAGES = ("python-socketio", "channels", "django", "uvicorn", "uvloop", "httptools", "websockets")
WARM, IDLE, MEMBERS, ROUNDS, RUNS = 100, 2000, 500, 200, 3
TEXT = "x" * 100
APP = "101"

Login = Callable[[ClientConnection, int], Awaitable[None]]


@dataclass(frozen=True)
class Peer:
    """A server to measure: how to start it, where its clients connect, and what they say first."""

    name: str
    command: tuple[str, ...]
    path: str
    login: Login
    publication: str = ""
    """What a client sends to have TEXT sent to all; empty: imserver's back end pushes."""


async def no_login(_: ClientConnection, __: int) -> None:
    """Channels: the consumer takes everybody."""


async def cmd_login(connection: ClientConnection, number: int) -> None:
    """imserver: a login of the cmd dialect."""
    login = {"seq": "1", "cmd": "login", "data": {"userID": f"u{number}", "appID": int(APP)}}
    await connection.send(json.dumps(login))
    while json.loads(await connection.recv())["cmd"] != "login":
        pass


async def socketio_login(connection: ClientConnection, _: int) -> None:
    """python-socketio: the handshake of Engine.IO, then that of Socket.IO."""
    assert str(await connection.recv()).startswith("0")
    await connection.send("40")
    assert str(await connection.recv()).startswith("40")


class Crowd:
    """Connected clients that count the messages with TEXT. Engine.IO's pings are answered."""

    def __init__(self, peer: Peer, port: str, stack: AsyncExitStack) -> None:
        self.received = 0
        self.members: list[ClientConnection] = []
        self._peer = peer
        self._port = port
        self._stack = stack

    async def grow(self, count: int) -> None:
        """Connect more clients, one after the other."""
        for _ in range(count):
            url = f"ws://127.0.0.1:{self._port}{self._peer.path}"
            client = connect(url, compression=None, proxy=None, ping_interval=None, max_queue=None)
            connection = await self._stack.enter_async_context(client)
            await self._peer.login(connection, len(self.members))
            self.members.append(connection)
            task = asyncio.create_task(self._read(connection))
            self._stack.callback(task.cancel)

    async def reach(self, count: int) -> None:
        """Wait until so many messages have come."""
        deadline = time.monotonic() + 60
        while self.received < count:
            assert time.monotonic() < deadline, f"{self._peer.name}: {self.received} of {count} messages"
            await asyncio.sleep(0.001)

    async def _read(self, connection: ClientConnection) -> None:
        async for text in connection:
            if text == "2":
                await connection.send("3")
            elif TEXT in str(text):
                self.received += 1


def memory_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """The processor time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def measure_memory(peer: Peer, port: str, pid: int) -> float:
    """Bytes per idle connection."""
    async with AsyncExitStack() as stack:
        crowd = Crowd(peer, port, stack)
        await crowd.grow(WARM)
        await asyncio.sleep(1)
        before = memory_bytes(pid)
        await crowd.grow(IDLE)
        await asyncio.sleep(1)
        return (memory_bytes(pid) - before) / IDLE


async def measure_cpu(peer: Peer, port: str, pid: int) -> float:
    """Microseconds of processor time per delivered message."""
    async with AsyncExitStack() as stack:
        crowd = Crowd(peer, port, stack)
        await crowd.grow(MEMBERS)
        api = await stack.enter_async_context(AsyncApi(f"http://127.0.0.1:{port}"))
        before = 0.0
        for number in range(-10, ROUNDS):
            if number == 0:
                before, crowd.received = cpu_seconds(pid), 0
            if peer.publication:
                await crowd.members[0].send(peer.publication)
            else:
                await api.push(APP, TEXT, all=True)
            await crowd.reach((number + 1 if number >= 0 else number + 11) * MEMBERS)
        return (cpu_seconds(pid) - before) / ROUNDS / MEMBERS * 1e6


async def run(peer: Peer, measurement: Callable[[Peer, str, int], Awaitable[float]]) -> float:
    """Start a new server, measure, and end it."""
    (port, second) = free_ports(2)
    with tempfile.TemporaryDirectory() as folder:
        environment = clean_environment(IMSERVER_APP_HTTP_PORT=port, IMSERVER_APP_WEBSOCKET_PORT=second)
        command = [word.replace("PORT", port) for word in peer.command]
        with processes.running(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            eventually(lambda: listens(port), 30, peer.name)
            return await measurement(peer, port, process.pid)


def peers(python: str) -> list[Peer]:
    """The servers; ``python`` has the others installed."""

    def uvicorn(module: str) -> tuple[str, ...]:
        words = ("--port", "PORT", "--log-level", "warning", "--ws-per-message-deflate", "false")
        return (python, "-m", "uvicorn", f"tests.peers.{module}:app", *words)

    engine = "/socket.io/?EIO=4&transport=websocket"
    event = f'42["publish","{TEXT}"]'
    return [
        Peer("imserver", (sys.executable, "-m", "imserver", "serve"), "/acc", cmd_login),
        Peer("python-socketio", uvicorn("socketio_app"), engine, socketio_login, event),
        Peer("Django Channels", uvicorn("channels_app"), "/ws", no_login, TEXT),
    ]


def installed(folder: str) -> str:
    """Install the peers into a new environment; its Python."""
    venv.create(folder, with_pip=True)
    python = f"{folder}/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def versions(python: str) -> str:
    """The versions of the peers."""
    command = [python, "-m", "pip", "list", "--format", "freeze"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return ", ".join(line for line in lines if line.partition("==")[0].lower() in PACKAGES)


async def main(python: str) -> None:
    """Measure all peers in turn, RUNS times; print the table."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(RUNS):
        for peer in peers(python):
            figures = (await run(peer, measure_memory), await run(peer, measure_cpu))
            found.setdefault(peer.name, []).append(figures)
    print(versions(python))
    print(f"| server | bytes per idle connection | CPU per delivery to {MEMBERS}, µs |")
    print("| --- | ---: | ---: |")
    for name, runs in found.items():
        memory, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {name} | {memory:,.0f} | {cpu:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(installed(folder)))
