"""The bots of examples/ as processes, and a stand-in for the language model of
one."""

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from imserver.plugin.testing import START_SECONDS
from tests.processes import end, spawn
from tests.support import ROOT, Server, clean_environment, eventually


class ExampleBot:
    """A bot of examples/. Its files are in ``folder``, so that it goes on where
    it was killed."""

    def __init__(
        self,
        server: Server,
        example: str,
        token: str,
        folder: Path,
        app: str = "gochat",
        **environment: str,
    ) -> None:
        self._program = ROOT / "examples" / example / "bot.py"
        self._folder = folder
        self._environment = clean_environment(
            BOT_SERVER=server.http_url, BOT_APP=app, BOT_TOKEN=token, **environment
        )
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is connected."""
        self._starts += 1
        self._output = self._folder / f"output-{self._starts}.txt"
        with self._output.open("wb") as file:
            self._process = spawn(
                [sys.executable, str(self._program)],
                stdout=file,
                stderr=file,
                env=self._environment,
                cwd=self._folder,
            )
        self.wait_for("ready")

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text since it was started."""

        def look() -> bool:
            printed = self._output.read_text(encoding="utf-8")
            assert self._process.poll() is None, printed
            return text in printed

        eventually(look, START_SECONDS, f"the bot prints {text!r}")

    def kill(self) -> None:
        """End it in the middle of its work."""
        end(self._process, signal.SIGKILL)


class LanguageModel:
    """An endpoint of the OpenAI chat format on a port of its own. It answers
    with ``words``, one by one.

    ``requests``: what it was asked. After :meth:`break_after` it ends the
    connection in the middle. ``gate``: it waits for it before the last word.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.requests: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.breaks_after: int | None = None
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                model.requests.append(
                    json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                )
                self.send_response(200 if self.path == "/v1/chat/completions" else 404)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                for number, word in enumerate(model.words):
                    if number == model.breaks_after:
                        self.wfile.write(b"40\r\ndata: {")
                        return
                    if number == len(model.words) - 1:
                        model.gate.wait(60)
                    part = {"choices": [{"index": 0, "delta": {"content": word}}]}
                    self._write(f"data: {json.dumps(part)}\n\n")
                self._write("data: [DONE]\n\n")
                self._write("")

            def _write(self, text: str) -> None:
                """Write a chunk; ``""``: the end."""
                self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text.encode()))

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
