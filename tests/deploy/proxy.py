"""A real nginx with the configuration of deploy/, in front of the servers of a test."""

import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.raw import Address
from tests.support import ROOT, Server, eventually
from tests.tools import require

CONFIG = ROOT / "deploy" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """nginx in the foreground with all its files in ``folder``; listens at ``address``."""

    def __init__(self, folder: Path, servers: Sequence[Server]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address: Address = free.getsockname()
        self.folder = folder
        file = folder / "nginx.conf"
        file.write_text(self._moved(CONFIG.read_text(encoding="utf-8"), servers), encoding="utf-8")
        self.command = [require("nginx"), "-p", str(folder), "-c", str(file), "-g", "daemon off;"]

    def _moved(self, text: str, servers: Sequence[Server]) -> str:
        """The configuration with the ports of the test, its files in our folder, and a few files at most."""
        first, second = servers
        for written, wanted in (
            ("127.0.0.1:8080 ", f"127.0.0.1:{first.http.port} "),
            ("127.0.0.1:8081 ", f"127.0.0.1:{second.http.port} "),
            ("127.0.0.1:8089 ", f"127.0.0.1:{first.ws.port} "),
            ("127.0.0.1:8090 ", f"127.0.0.1:{second.ws.port} "),
            ("listen      80;", f"listen {self.address[1]};"),
            ("/run/nginx.pid", f"{self.folder}/nginx.pid"),
        ):
            assert text.count(written) == 1, written
            text = text.replace(written, wanted)
        text = text.replace("/var/log/nginx", str(self.folder))
        text = re.sub("worker_rlimit_nofile +[0-9]+;", "", text)
        text = re.sub("worker_connections +[0-9]+;", "worker_connections 512;", text)
        paths = "".join(f"{name}_temp_path {self.folder}/{name};" for name in _TEMPORARY)
        return text.replace("http {", f"http {{ {paths}", 1)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        try:
            eventually(self._listens, what="nginx listens")
        except AssertionError:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0

    @property
    def access_log(self) -> str:
        return (self.folder / "im.log").read_text(encoding="utf-8")
