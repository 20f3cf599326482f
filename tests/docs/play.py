"""Plays what the documents show: shell sessions with their output, and
transcripts of WebSocket frames."""

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from imserver.gateway.config.settings import DEFAULT_APP
from tests.docs.markdown import Block, blocks, filled_in
from tests.integration.cmd import CmdClient, cmd_client, users
from tests.integration.raw import CLOSE, PING, PONG, TEXT, Frame, close, frame, text
from tests.processes import spawn
from tests.support import Server, eventually
from tests.tools import require

PRESENT = ("ann", "bob")
"""Who is connected when a session of the documents is played that says so; of
several nodes, ann to the first and bob to the second."""
APP = 101
PORTS = (("127.0.0.1:8080", "127.0.0.1:8089"), ("127.0.0.1:8081", "127.0.0.1:8090"))
"""What the documents call the HTTP and WebSocket addresses of the first node,
and of the second."""

_NUMBERED = re.compile(r'"seq":"\d{10,}"')
_TIME = re.compile(r'"time":\d{13}')
_CONNECT = "send-a-push.md#connect-ann-and-bob"


class Shell:
    """Runs the commands of one block, which know ``variables``. The addresses
    in PORTS are the servers'."""

    def __init__(self, folder: Path, *servers: Server, **variables: str) -> None:
        require("curl")
        (folder / ".curlrc").write_text(
            'silent\nshow-error\nmax-time = 60\nnoproxy = "*"\n', "utf-8"
        )
        environment = {**os.environ, "CURL_HOME": str(folder), **variables}
        self._where: Any = {"text": True, "env": environment, "cwd": folder}
        self._servers = servers
        self._assigned: list[str] = []

    def run(self, command: str) -> str:
        """What the command prints. An assignment holds for the commands that
        follow."""
        if re.match(r"[A-Z_]+=", command):
            self._assigned.append(command)
        script = self._script(command)
        done = subprocess.run(
            script, capture_output=True, timeout=120, check=False, **self._where
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self, command: str) -> "subprocess.Popen[str]":
        """A command that runs until it is killed, or 60 seconds."""
        return spawn(
            self._script(f"exec {command}"), stdout=subprocess.PIPE, **self._where
        )

    def _script(self, command: str) -> list[str]:
        return [
            "bash",
            "-c",
            at_server("\n".join([*self._assigned, command]), *self._servers),
        ]


def at_server(words: str, *servers: Server) -> str:
    """The addresses of the documents made those of a server, or of several."""
    for (http, ws), server in zip(PORTS, servers, strict=False):
        for written, address in ((http, server.http), (ws, server.ws)):
            words = words.replace(written, f"{address.host}:{address.port}")
    return words


def play_session(
    block: Block, folder: Path, *servers: Server, **variables: str
) -> None:
    """Run each ``$ command`` of a block; it must print what the document says,
    where … is anything."""
    shell = Shell(folder, *servers, **variables)
    with ExitStack() as terminals:
        for command, output in exchanges(filled_in(block.text)):
            wanted = at_server(output, *servers)
            if command.startswith("curl -N ") and "|" not in command:
                terminals.enter_context(listening(block, shell, command, wanted))
            else:
                _compare(block, command, shell.run(command), wanted)


@contextmanager
def listening(block: Block, shell: Shell, command: str, wanted: str) -> Iterator[None]:
    """A time in which a command of a block, an event stream, runs in a terminal
    of its own.

    It begins with the first event. Before its end the command must have printed
    what the document says.
    """
    with shell.start(command) as process:
        output = ""
        assert process.stdout
        try:
            while "event: ready" not in output:
                output += _some_output(block, process, output)
            yield
            while not matches(_PING.sub("", output).strip(), wanted):
                output += _some_output(block, process, output)
        finally:
            process.kill()


_PING = re.compile(r"^:\n\n?", re.MULTILINE)
"""A comment in an event stream. One may come at any time."""


def _some_output(block: Block, process: "subprocess.Popen[str]", output: str) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert line, f"{block}: the stream ended; it printed\n{output}"
    return line


def exchanges(session: str) -> list[tuple[str, str]]:
    """The commands of a shell session with what each prints."""
    return [
        (command, output.strip())
        for command, _, output in (
            part.partition("\n") for part in session.removeprefix("$ ").split("\n$ ")
        )
    ]


def _compare(block: Block, cause: str, found: str, wanted: str) -> None:
    assert matches(found, wanted), f"{block}: {cause}\nsays  {wanted}\nfound {found}"


def matches(found: str, wanted: str) -> bool:
    """Whether it is what the document says, where … is anything."""
    pattern = ".*?".join(re.escape(part) for part in wanted.split("…"))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


def lines_of(block: Block) -> Iterator[tuple[str, str, str]]:
    """Who, → or ←, and the words of each line of a transcript; of a command:
    itself, $, and its output."""
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            yield line[2:], "$", next(lines)
        else:
            found = re.fullmatch(r"(\w+) ([→←]) (.*)", line)
            assert found, f"{block}: {line}"
            yield found[1], found[2], found[3]


def play_frames(block: Block, folder: Path, *servers: Server) -> None:
    """Play a transcript: ``ann → …`` is sent by ann, ``ann ← …`` is the next
    that she gets, ``$ …`` runs.

    Each name is a connection of its own. At the end nobody may have got more
    than what is shown, but for notices that other nodes may tell late.
    """
    shell = Shell(folder, *servers)
    speakers: dict[str, Reader] = {}
    with ExitStack() as stack:
        for name, way, words in lines_of(block):
            if way == "$":
                _compare(block, name, shell.run(name), words)
                continue
            if name not in speakers:
                late = late_notices(speakers) if len(servers) > 1 else set()
                cmd_client = stack.enter_context(
                    CmdClient(node_of(name, servers).ws)
                ).upgrade()
                speakers[name] = Reader(cmd_client, late)
            if way == "→":
                _send(speakers[name], words)
            else:
                _expect(block, speakers[name], words)
        for reader in speakers.values():
            reader.quiet()
    nobody(*servers)


def node_of(name: str, servers: Sequence[Server]) -> Server:
    """The node to which somebody is connected."""
    return servers[PRESENT.index(name) % len(servers) if name in PRESENT else 0]


def late_notices(there: Iterable[str]) -> set[tuple[str, str]]:
    """What another node may still tell to who comes now: these have entered,
    and anybody may have left when the block before ended."""
    return {("exit", name) for name in PRESENT} | {("enter", name) for name in there}


class Reader:
    """Who reads in a transcript. ``late``: notices, and of whom, that may come
    and are not shown."""

    def __init__(self, cmd_client: CmdClient, late: set[tuple[str, str]]) -> None:
        self.cmd_client = cmd_client
        self.leaving = False
        self._late = late

    def frame(self, wanted: str) -> Frame:
        """The next frame that is no late notice, unless that is what is
        wanted."""
        while True:
            found = self.cmd_client.frame()
            if (
                found.opcode != TEXT
                or _plain(found.text) == wanted
                or not self._is_late(found)
            ):
                return found

    def _is_late(self, found: Frame) -> bool:
        if not self._late:
            return False
        body = json.loads(found.text)
        data = body.get("response", {}).get("data") or {}
        return (body.get("cmd"), data.get("from")) in self._late

    def quiet(self) -> None:
        """Nothing more comes to those who stay."""
        if not self.leaving:
            self.cmd_client.send(frame(PING, b"quiet?"))
            found = self.frame("")
            assert (found.opcode, found.payload) == (PONG, b"quiet?"), (
                f"not quiet: {found}"
            )


def _send(reader: Reader, words: str) -> None:
    reader.leaving |= words.startswith("close ")
    reader.cmd_client.send(
        close(int(words.split()[1])) if words.startswith("close ") else text(words)
    )


def _expect(block: Block, reader: Reader, words: str) -> None:
    if words.startswith("close "):
        reader.leaving = True
        found = reader.frame("")
        assert found.close_code == int(words.split()[1]), (
            f"{block}: {words}\nfound {found}"
        )
        return
    found = reader.frame(_plain(words))
    assert found.opcode != CLOSE, f"{block}: {words}\nfound {found}"
    assert matches(_plain(found.text), _plain(words)), (
        f"{block}: says {words}\nfound {found.text}"
    )


def _plain(words: str) -> str:
    """What the server numbers itself, and times, are different each time."""
    return _TIME.sub('"time":#', _NUMBERED.sub('"seq":"#"', words))


@contextmanager
def browser_of(server: Server, system: str) -> Iterator[str]:
    """A time in which a client of a system is connected; its clientId."""
    with CmdClient(server.ws) as browser:
        browser.upgrade(f"/ws?systemId={system}")
        client_id: str = browser.message().json["data"]["clientId"]
        yield client_id


@contextmanager
def present(block: Block, folder: Path, *servers: Server) -> Iterator[None]:
    """A time in which those are connected whom the reader of the page has
    connected.

    They are the streams of ``connecting``. In a block of two windows they are
    two chat pages, and in one of a cluster ann is on the first node and bob on
    the second.
    """
    with ExitStack() as stack:
        if {"windows", "cluster"} & set(block.words):
            where = {"app": DEFAULT_APP} if "windows" in block.words else {"appID": APP}
            for user in PRESENT:
                one = stack.enter_context(cmd_client(node_of(user, servers).ws))
                assert one.ask_cmd("login", {"userID": user, **where})[0] == 200
        else:
            shell = Shell(folder, *servers)
            for command in connecting(block.page):
                stack.enter_context(listening(block, shell, command, "…"))
        yield
    nobody(*servers)


def connecting(page: Path) -> list[str]:
    """The commands that a page shows, or links, to connect ann and bob; none if
    it does not mention them."""
    if f"({_CONNECT})" in page.read_text(encoding="utf-8"):
        page = page.with_name(_CONNECT.partition("#")[0])
    lines = "".join(block.text for block in blocks(page, "sh")).splitlines()
    return [line for line in lines if line.startswith("curl -N ")]


def nobody(*servers: Server) -> None:
    """Wait until all servers have noticed that everybody left."""
    for server in servers:
        eventually(
            lambda server=server: server_is_empty(server), what="everybody has left"
        )


def server_is_empty(server: Server) -> bool:
    """Whether nobody is in the app; a server with keys is not asked and taken
    at our word."""
    return '"keys"' in server.config_file.read_text(encoding="utf-8") or not (
        users(server.http, APP) or users(server.http, DEFAULT_APP)
    )
