"""A real nginx with the configuration of deploy/, in front of the servers of a
test."""

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.integration.raw import Address
from tests.ports import free_ports
from tests.processes import end, ended_on_failure, spawn
from tests.support import ROOT, Server, eventually
from tests.tools import require

CONFIG = ROOT / "deploy" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


NODES = ("127.0.0.1:8080", "127.0.0.1:8089", "127.0.0.1:8081", "127.0.0.1:8090")
"""Where the configuration looks for the HTTP and WebSocket ports of the first
and of the second node."""


class Foreground:
    """A program that runs in a ``with`` and listens at ``address``."""

    address: Address
    command: Sequence[str]

    def __enter__(self) -> Self:
        self._process = started(self.command, self.address)
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)


class Nginx(Foreground):
    """nginx in the foreground with all its files in ``folder``; listens at
    ``address``.

    ``text`` is its configuration, in which the addresses ``nodes`` stand for
    the two servers: the ports of their usual listeners, or for ``ports``.
    ``port``: where it listens; 0: any.
    """

    def __init__(
        self,
        folder: Path,
        servers: Sequence[Server],
        text: str = "",
        nodes: Sequence[str] = NODES,
        ports: Sequence[int] = (),
        port: int = 0,
    ) -> None:
        self.address: Address = ("127.0.0.1", port or free_ports())
        self.folder = folder
        text = text or CONFIG.read_text(encoding="utf-8")
        ports = ports or [
            port for server in servers for port in (server.http.port, server.ws.port)
        ]
        for written, port in zip(nodes, ports, strict=True):
            assert f"server {written} " in text, written
            text = text.replace(f"server {written} ", f"server 127.0.0.1:{port} ")
        file = folder / "nginx.conf"
        file.write_text(self._moved(text), encoding="utf-8")
        self.command = [
            require("nginx"),
            "-p",
            str(folder),
            "-c",
            str(file),
            "-g",
            "daemon off;",
        ]

    def _moved(self, text: str) -> str:
        """The configuration with its files in our folder, our port, and a few
        files at most."""
        text = replaced(text, "listen      80;", f"listen {self.address[1]};")
        text = replaced(text, "/run/nginx.pid", f"{self.folder}/nginx.pid")
        text = text.replace("/var/log/nginx", str(self.folder))
        text = re.sub("worker_rlimit_nofile +[0-9]+;", "", text)
        text = re.sub("worker_connections +[0-9]+;", "worker_connections 512;", text)
        paths = "".join(
            f"{name}_temp_path {self.folder}/{name};" for name in _TEMPORARY
        )
        return replaced(text, "http {\n", f"http {{ {paths}\n")

    @property
    def access_log(self) -> str:
        return (self.folder / "im.log").read_text(encoding="utf-8")

    @property
    def error_log(self) -> str:
        return (self.folder / "error.log").read_text(encoding="utf-8")


HAPROXY = ROOT / "deploy" / "haproxy.cfg"


class HaProxy(Foreground):
    """haproxy in the foreground; listens at ``address``. ``moved``: address in
    its configuration → ours."""

    def __init__(self, folder: Path, text: str, moved: Mapping[str, str]) -> None:
        self.address: Address = ("127.0.0.1", free_ports())
        text = replaced(text, "bind :80\n", f"bind 127.0.0.1:{self.address[1]}\n")
        for written, address in moved.items():
            text = replaced(text, f" {written} ", f" {address} ")
        file = folder / "haproxy.cfg"
        file.write_text(
            re.sub("maxconn +[0-9]+", "maxconn 512", text), encoding="utf-8"
        )
        self.command = [require("haproxy"), "-db", "-f", str(file)]


def around(site: str) -> str:
    """A whole configuration around upstreams and servers."""
    return f"pid /run/nginx.pid;\nevents {{ worker_connections 512; }}\nhttp {{\n{site}}}\n"


@contextmanager
def powered_off() -> Iterator[int]:
    """A port without an answer, as of a host that is powered off: its queue of
    connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        answered = True
        while answered:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.5)
            try:
                waiting.connect(address)
            except TimeoutError:
                answered = False
        yield address[1]


def started(
    command: Sequence[str], address: Address, **options: Any
) -> "subprocess.Popen[str]":
    """A program in the foreground that listens at this address."""
    process = spawn(command, **{"stderr": subprocess.PIPE, "text": True, **options})

    def listens() -> bool:
        assert process.poll() is None, process.communicate()[1]
        with socket.socket() as probe:
            return probe.connect_ex(address) == 0

    with ended_on_failure(process):
        eventually(listens, what=f"{command[0]} listens")
    return process


def replaced(text: str, written: str, wanted: str) -> str:
    """``text`` with ``written``, which stands there once, made ``wanted``."""
    assert text.count(written) == 1, written
    return text.replace(written, wanted)


def without_address(text: str) -> str:
    """``text`` for an nginx that cannot connect to any node: it has no address
    of its own to connect from."""
    return replaced(
        text, "server_tokens off;", "server_tokens off; proxy_bind 203.0.113.9;"
    )
