"""A web site on loopback, in threads of its own."""

import contextlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from PIL import Image

Answer = tuple[int, bytes, dict[str, str]]


def html(text: str, **headers: str) -> Answer:
    """A page."""
    return 200, text.encode(), {"Content-Type": "text/html; charset=utf-8", **headers}


def redirect(target: str) -> Answer:
    return 302, b"", {"Location": target}


def picture(width: int, height: int, form: str = "PNG") -> Answer:
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(file, form)
    return 200, file.getvalue(), {"Content-Type": f"image/{form.lower()}"}


class Site:
    """``pages``: path → its answer, or what makes one. ``requests``: the paths that were asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer | Callable[[], Answer]] = {}
        self.requests: list[str] = []
        self.connections = 0
        self.drip_seconds = 0.0
        """Pause between two bytes of a body."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            site.connections += 1
            super().setup()

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # who waits no longer hangs up
                self._serve()

        def _serve(self) -> None:
            site.requests.append(self.path)
            answer = site.pages.get(self.path, (404, b"", {}))
            status, content, headers = answer() if callable(answer) else answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            step = 1 if site.drip_seconds else max(len(content), 1)
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
                time.sleep(site.drip_seconds)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
