"""The programs of the guide to notifications: a worker for vendors' services,
and a page without SDK."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from time import time
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.v1 import good
from tests.notifications.devices import Device
from tests.processes import end, spawn
from tests.sdk.node import NODE_FLAGS, run
from tests.support import ROOT, Server, clean_environment, eventually
from tests.tools import require

GUIDE = ROOT / "docs" / "guides" / "notifications.md"
SECONDS = 60
SECRET = "0123456789abcdef" * 4


@contextmanager
def worker(folder: Path, server: Server, sent: str = "True") -> "Iterator[Queue[str]]":
    """What the worker prints, line by line, while it runs in a folder.
    ``sent``: the answer of the vendor."""
    (block,) = blocks(GUIDE, "python")
    program = folder / "worker.py"
    assert block.text.count("return True") == 1
    program.write_text(
        block.text.replace("return True", f"return {sent}"), encoding="utf-8"
    )
    address = f"http://{server.http.host}:{server.http.port}"
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = clean_environment(IM_URL=address, PYTHONPATH=str(ROOT))
    process = spawn(
        [sys.executable, str(program)], cwd=folder, env=environment, **output
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    reader = Thread(
        target=lambda pipe: [lines.put(line) for line in pipe], args=(process.stdout,)
    )
    reader.start()
    try:
        yield lines
    finally:
        process.terminate()
        reader.join()
        end(process)


def test_the_worker_hands_absent_users_to_a_vendor(
    start_server: StartServer, tmp_path: Path
) -> None:
    webhook = {"events": ["absent"], "absent_seconds": 0}
    server = start_server(
        config={"apps": {"default": {"open": True, "webhook": webhook}}}
    )

    def say(text: str, to: str = "ann") -> int:
        fields = {"app": "default", "user": "bob", "to": to, "text": text}
        return int(good(server.http, "messages/send", fields)["conversation"])

    def push(text: str) -> None:
        good(
            server.http,
            "push",
            {"app": "default", "user": "ann", "text": text, "sender": "shop"},
        )

    def last() -> str:
        return str(good(server.http, "events/log", app="default", limit=1000)["next"])

    position = tmp_path / "position.txt"
    with worker(tmp_path, server) as lines:
        conversation = say("tea?")
        assert (
            lines.get(timeout=SECONDS)
            == f"to token-of-a-phone: bob: tea? (1, {conversation})\n"
        )
        say("nobody has this phone", to="cleo")
        push("first")
        assert lines.get(timeout=SECONDS).startswith(
            "to token-of-a-phone: shop: first (1, event-"
        )
        eventually(
            lambda: position.exists() and position.read_text() == last(),
            what="its position",
        )
    with worker(tmp_path, server) as lines:
        push("second")
        assert lines.get(timeout=SECONDS).startswith(
            "to token-of-a-phone: shop: second"
        )
        eventually(lambda: position.read_text() == last(), what="its position")
    away = 'Path("up").exists() or 1 / 0'
    with worker(tmp_path, server, away) as lines:
        push("third")
        for _ in range(2):
            assert lines.get(timeout=SECONDS).startswith(
                "to token-of-a-phone: shop: third"
            )
            assert lines.get(timeout=SECONDS) == "division by zero\n"
        (tmp_path / "up").touch()
        while (line := lines.get(timeout=SECONDS)) == "division by zero\n":
            pass
        assert line.startswith("to token-of-a-phone: shop: third")


@pytest.mark.needs("node")
def test_a_browser_subscribes_without_the_sdk(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Node.js with a stub of what only browsers have."""
    (block,) = (block for block in blocks(GUIDE, "js") if block.words == ("subscribe",))
    app = {"jwt": [{"algorithm": "HS256", "key": SECRET}]}
    server = start_server(config={"apps": {"default": app}})
    claims = {"sub": "ann", "app": "default", "exp": int(time()) + 600}
    token = jwt.encode(claims, SECRET, "HS256")
    known = Device().endpoint("https://push.example.com/1")
    subscription = {"endpoint": known.url, "expirationTime": None}
    keys = {"p256dh": known.p256dh, "auth": known.auth}
    stubs = f"""
        const node = globalThis.fetch;
        const server = "http://{server.http.host}:{server.http.port}";
        globalThis.fetch = (path, options) => node(server + path, options);
        const given = {{ toJSON: () => ({json.dumps({**subscription, "keys": keys})}) }};
        const pushManager = {{ subscribe: async ({{ applicationServerKey: key }}) => key && given }};
        const serviceWorker = {{ ready: {{ pushManager }} }};
        Object.defineProperty(globalThis, "navigator", {{ value: {{ serviceWorker }} }});
        const token = "{token}";
    """
    script = tmp_path / "subscribe.mjs"
    script.write_text(stubs + block.text, encoding="utf-8")
    run([require("node"), *NODE_FLAGS, str(script)])
    (found,) = good(server.http, "notifications/endpoints", app="default", key=token)[
        "endpoints"
    ]
    assert (found["host"], found["device"]) == (
        "push.example.com",
        "Firefox on a laptop",
    )
