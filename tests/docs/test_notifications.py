"""The worker of the guide to notifications tells a vendor of absent users, and goes on where it stopped."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread

from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.v1 import good
from tests.processes import end, spawn
from tests.support import ROOT, Server, clean_environment

GUIDE = ROOT / "docs" / "guides" / "notifications.md"
SECONDS = 60


@contextmanager
def worker(folder: Path, server: Server) -> "Iterator[Queue[str]]":
    """What the worker prints, line by line, while it runs in a folder."""
    (block,) = blocks(GUIDE, "python")
    program = folder / "worker.py"
    program.write_text(block.text, encoding="utf-8")
    address = f"http://{server.http.host}:{server.http.port}"
    process = spawn(
        [sys.executable, str(program)],
        cwd=folder,
        env=clean_environment(IM_URL=address, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    reader = Thread(target=lambda pipe: [lines.put(line) for line in pipe], args=(process.stdout,))
    reader.start()
    try:
        yield lines
    finally:
        process.terminate()
        reader.join()
        end(process)


def test_the_worker_hands_absent_users_to_a_vendor(start_server: StartServer, tmp_path: Path) -> None:
    webhook = {"events": ["absent"], "absent_seconds": 0}
    server = start_server(config={"apps": {"default": {"open": True, "webhook": webhook}}})

    def say(text: str, to: str = "ann") -> int:
        fields = {"app": "default", "user": "bob", "to": to, "text": text}
        return int(good(server.http, "messages/send", fields)["conversation"])

    def push(text: str) -> None:
        good(server.http, "push", {"app": "default", "user": "ann", "text": text, "sender": "shop"})

    with worker(tmp_path, server) as lines:
        conversation = say("tea?")
        assert lines.get(timeout=SECONDS) == f"to token-of-a-phone: bob: tea? (1, {conversation})\n"
        say("nobody has this phone", to="cleo")
        push("first")
        assert lines.get(timeout=SECONDS).startswith("to token-of-a-phone: shop: first (1, event-")
    with worker(tmp_path, server) as lines:
        push("second")
        assert lines.get(timeout=SECONDS).startswith("to token-of-a-phone: shop: second")
