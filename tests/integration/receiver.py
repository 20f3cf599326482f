"""A back end of an app: takes what it is told, answers what it is asked, and
remembers both."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support import eventually

SECRET = "the secret of the webhook, as in the settings"


@dataclass(frozen=True)
class Post:
    """One request: path, headers by lower-case name, body, and when it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    time: float
    method: str = "POST"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


class Receiver:
    """An HTTP server in threads of its own. ``reply`` says what is answered; it
    may take its time.

    A reply of None breaks the connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.forget()
        self._scheme = "http" if tls is None else "https"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """As if it were new; connections to it stay."""
        self.posts: list[Post] = []
        self.reply: Callable[[Post], Answer | None] = lambda _: (200, b"")
        self.connections = 0
        """How many came."""
        self.drip_seconds = 0.0
        """Pause between two bytes of an answer's body."""

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def settings(self) -> dict[str, Any]:
        """An app's ``webhook`` that tells this receiver of everything."""
        return {"url": f"{self.url}/events", "secret": SECRET}

    @property
    def authorising(self) -> dict[str, Any]:
        """An app's ``webhook`` that asks this receiver about logins."""
        return {"authorise_url": f"{self.url}/authorise", "secret": SECRET}

    @property
    def reviewing(self) -> dict[str, Any]:
        """An app's ``webhook`` that asks this receiver about messages. It has
        time, on a busy machine too."""
        return {
            "review_url": f"{self.url}/review",
            "review_seconds": 30,
            "secret": SECRET,
        }

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events of these names so far, those of repeated requests once."""
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        for post in tuple(self.posts):
            if post.path == "/events":
                for event in post.json["events"]:
                    seen[event["app"], event["id"]] = event
        return [
            event for event in seen.values() if not names or event["event"] in names
        ]

    def wait_for(
        self, count: int, *names: str, seconds: float = 60
    ) -> list[dict[str, Any]]:
        """So many events of these names, no more."""
        eventually(
            lambda: len(self.events(*names)) >= count,
            seconds,
            f"{count} of {names}: {self.posts}",
        )
        found = self.events(*names)
        assert len(found) == count, found
        return found


def rejecting(_: Post) -> Answer:
    """A ``reply`` to a question about one message."""
    return 200, b'{"answers": [{"action": "reject", "reason": "No advertising"}]}'


def replacing(_: Post) -> Answer:
    """A ``reply`` to a question about one message."""
    return 200, b'{"answers": [{"action": "replace", "text": "***"}]}'


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def setup(self) -> None:
            receiver.connections += 1
            super().setup()

        def do_POST(self) -> None:
            with contextlib.suppress(OSError):  # who waits no longer hangs up
                self._serve()

        do_GET = do_POST
        do_PUT = do_GET
        do_DELETE = do_GET

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            post = Post(self.path, headers, body, time.monotonic(), self.command)
            receiver.posts.append(post)
            answer = receiver.reply(post)
            if answer is None:
                self.close_connection = True
                return
            status, content, more = (*answer, {})[:3]
            if "Content-Length" in more:  # of more bytes than it has
                self.close_connection = True
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            for start in range(len(content)) if receiver.drip_seconds else ():
                self.wfile.write(content[start : start + 1])
                self.wfile.flush()
                time.sleep(receiver.drip_seconds)
            if not receiver.drip_seconds:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
