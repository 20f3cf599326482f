"""The attack "links and host names": users send links to hosts that hang, drip, redirect for ever, or answer
with bombs, and long names of hosts; somebody else waits for a preview.

The hosts are one listener of this process. The path says how it answers.
"""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from bench.abuse_answers import row_of
from bench.context import RunContext
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.probe import watched
from bench.servers import NodeProcess

NAME: Final = "demo: links and host names"
APP: Final = "101"
USERS: Final = 5
LINKS_EACH: Final = 200
"""Each of them sends so many messages with a link of their own: 1,000 together."""
MESSAGES_EACH: Final = 50
WAIT_SECONDS: Final = 45.0
MOST_DELAY_S, MOST_GROWTH_MB = 40.0, 32
_PAGE: Final = {"Content-Type": "text/html"}


def _huge_picture() -> bytes:
    """A PNG of 900 million pixels in a few hundred bytes."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


_ANSWERS: Final[dict[str, tuple[int, dict[str, str], bytes]]] = {
    "good": (200, _PAGE, b"<title>a good page</title>"),
    "loop": (302, {}, b""),
    "bomb": (200, {**_PAGE, "Content-Encoding": "gzip"}, gzip.compress(b"<a " * 17_000_000)),
    "costly": (200, _PAGE, b"<a " * 170_000),
    "picture": (200, _PAGE, b'<title>x</title><meta property="og:image" content="/huge">'),
    "huge": (200, {"Content-Type": "image/png"}, _huge_picture()),
}
_NAMES: Final = (
    "https://" + "".join(map(chr, range(0x4E00, 0x6D00))),
    " ".join(f"https://{'.'.join(chr(0x4E00 + 7 * number) * 50 for _ in range(4))}" for number in range(38)),
    ("https://" + "\ufdfa" * 240 + " ") * 32,
)
"""Texts with names in letters beyond ASCII: one of 8,000, and as many as are looked at."""
_ATTACKS: Final = ("hang", "drip", "loop", "bomb", "costly", "picture")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        with suppress(OSError):  # who waits no longer hangs up
            if kind == "hang":
                time.sleep(WAIT_SECONDS)
                return
            status, headers, body = _ANSWERS.get(kind, _ANSWERS["good"])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if kind == "loop":
                self.send_header("Location", f"{self.path}+")
            self.end_headers()
            for byte in body if kind == "drip" else ():
                self.wfile.write(bytes((byte,)))
                time.sleep(1.0)
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Hosts(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def _hosts() -> Iterator[int]:
    """The port of the hosts."""
    hosts = _Hosts(("0.0.0.0", 0), _Handler)
    thread = threading.Thread(target=hosts.serve_forever, daemon=True)
    thread.start()
    try:
        yield hosts.server_address[1]
    finally:
        hosts.shutdown()
        hosts.server_close()
        thread.join()


def links(context: RunContext) -> Json:
    """The row of the attack."""
    settings = {
        "IMSERVER_APPS": json.dumps({APP: {"open": True, "previews": True}}),
        "IMSERVER_PREVIEWS_ALLOW_LOOPBACK": "true",
    }
    node = context.pool.start(NodeProcess(context.log, environment=settings, cores=context.cores.server))
    context.target, pid = node.target, node.pids[0]
    (prober,) = context.start_workers(1)
    try:
        with _hosts() as port:
            _wait(context, _send(context, "bob", f"http://127.0.0.1:{port}/good/warm"))
            messages = []
            for number in range(LINKS_EACH):
                for user in range(USERS):
                    kind = _ATTACKS[(number + user) % len(_ATTACKS)]
                    host = f"127.0.{user + 1}.{number % 250 + 1}"
                    messages.append(
                        _send(context, f"mallory-{user}", f"http://{host}:{port}/{kind}/{number}")
                    )
            names = [_send(context, "mallory-0", text) for text in _NAMES]
            with watched(context, prober, pid, 2 * WAIT_SECONDS) as measured:
                for name in names:
                    _show(context, [name])
                for start in range(0, len(messages), MESSAGES_EACH):
                    _show(context, messages[start : start + MESSAGES_EACH])
                began = time.monotonic()
                _wait(context, _send(context, "bob", f"http://127.0.0.1:{port}/good/one"))
                delay_s = time.monotonic() - began
    finally:
        node.control("stop")
    return row_of(
        NAME,
        f"the preview of somebody else came after {delay_s:.2f} s",
        (delay_s / MOST_DELAY_S, measured["growth_mb"] / MOST_GROWTH_MB),
        delay_s=delay_s,
        **measured,
    )


def _send(context: RunContext, user: str, text: str) -> int:
    """The id of a message to the reader."""
    message = {"app": APP, "user": user, "to": "reader", "text": text}
    answer = post(context.target, "/api/v1/messages/send", message)
    if "id" not in answer:
        raise BenchError(f"links: {json.dumps(answer)[:300]}")
    return int(answer["id"])


def _show(context: RunContext, messages: list[int]) -> Any:
    return post(context.target, "/api/v1/previews/show", {"app": APP, "user": "reader", "messages": messages})


def _wait(context: RunContext, message: int) -> None:
    """Wait until a message has its preview."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not _show(context, [message])["previews"]:
        if time.monotonic() > deadline:
            raise BenchError("links: a preview has not come")
        time.sleep(0.1)
