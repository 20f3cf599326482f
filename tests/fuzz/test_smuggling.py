"""No stream is read in two ways: what h11 or nginx refuses, we refuse, or read
as they do."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from tests.deploy.proxy import started
from tests.ports import free_ports
from tests.processes import end
from tests.tools import require

from .smuggling import INNER, NEXT, PARTS, STREAMS, Reading, by_h11, by_us

Address = tuple[str, int]
PATIENCE_SECONDS: Final = 60.0


def differences(name: str, other: Reading) -> str:
    """How our reading of a stream differs from another one; ``""``: we refuse
    it, or it does not."""
    ours = by_us(STREAMS[name] + NEXT)
    if ours == other or (
        ours.refused and other.targets[: len(ours.targets)] == ours.targets
    ):
        return ""
    return f"we read {ours}, the other {other}"


def check(readings: dict[str, Reading], by: str) -> None:
    known = dict(PARTS[by])
    found = {
        name: text
        for name, other in readings.items()
        if (text := differences(name, other))
    }
    new = [f"{name}: {text}" for name, text in found.items() if name not in known]
    assert not new, "\n".join(new)
    assert found.keys() == known.keys(), "the table has what does not differ"


def test_what_h11_refuses_is_refused_or_means_the_same() -> None:
    check({name: by_h11(stream + NEXT) for name, stream in STREAMS.items()}, "h11")


def test_nothing_that_is_smuggled_is_served() -> None:
    """A body is none of the requests: the inner one of a stream is served only
    where nothing hides it."""
    open_ = {
        *("an empty line between", "a bare line feed between", "a return between"),
        # which is another header, for h11 and nginx, too
        "a length with an underscore",
    }
    served = {
        name
        for name, stream in STREAMS.items()
        if "/inner" in by_us(stream + NEXT).targets
    }
    assert served == open_


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Address]:
    """nginx that says which requests it serves."""
    address = ("127.0.0.1", free_ports())
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    served = 'location / { add_header X-Target $request_uri always; return 200 "ok"; }'
    text = (
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{ worker_connections 64; }}\n"
        f"http {{ {paths} access_log off; server {{ listen {address[0]}:{address[1]}; {served} }} }}\n"
    )
    file = tmp_path / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    process = started(
        [require("nginx"), "-p", str(tmp_path), "-c", str(file), "-g", "daemon off;"],
        address,
    )
    yield address
    end(process)


def by_server(address: Address, stream: bytes) -> Reading:
    """How a server reads a stream that names the targets which it serves."""
    answer = b""
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as sock:
        try:
            sock.sendall(stream)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                answer += data
        except ConnectionError:
            assert answer, stream
    heads = re.findall(rb"HTTP/1\.[01] (\d+) [^\r]*\r\n((?:[^\r\n]+\r\n)*)", answer)
    found = [
        (status, re.search(rb"X-Target: ([^\r]*)", lines)) for status, lines in heads
    ]
    paths = [
        re.sub(b"^http://[^/]*", b"", row[1])
        for status, row in found
        if status == b"200" and row
    ]
    targets = [quote(path, safe="/*:?%#") for path in paths]
    return Reading(targets, any(status != b"200" for status, _ in found))


@pytest.mark.needs("nginx")
def test_what_nginx_refuses_is_refused_or_means_the_same(nginx: Address) -> None:
    assert by_server(nginx, INNER + NEXT) == Reading(["/inner", "/next"], False)
    check(
        {name: by_server(nginx, stream + NEXT) for name, stream in STREAMS.items()},
        "nginx",
    )
