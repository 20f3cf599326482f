"""The modules that pushes, a publication, a login and a stored message enter: ``python -m tests.ways``.

A node without Redis serves in this process, with an API key, a log file and SQLite. When it is warm, a
profile function notes the functions of the package that run from a request to its delivery, in the loop and
in the thread of the database.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - nothing may be imported before the patch
import tempfile  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402
from itertools import count  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import msgspec  # noqa: E402

import imserver  # noqa: E402
from imserver.config.settings import (  # noqa: E402
    ApiSettings,
    AppSettings,
    Config,
    KeySettings,
    ServerSettings,
    TenantSettings,
)
from imserver.logging import open_logs  # noqa: E402
from imserver.node.node import Node  # noqa: E402
from tests.integration.raw import request, text  # noqa: E402
from tests.transport.harness import Caller, Client  # noqa: E402

_PACKAGE = f"{Path(imserver.__file__).parent}/"
_KEY = "the-key-of-this-program"
_REST_SECONDS = 0.05
"""Time after a delivery in which the rest of its functions run."""

Way = dict[str, list[str]]
"""Module → its functions, both in the order in which they were entered first."""


class CallRecorder:
    """Notes functions while ``way`` is not None."""

    def __init__(self) -> None:
        self.way: Way | None = None

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        """The profile function."""
        code = frame.f_code
        if self.way is None or event != "call" or not code.co_filename.startswith(_PACKAGE):
            return
        module = code.co_filename.removeprefix(_PACKAGE).removesuffix(".py")
        name = code.co_qualname.partition(".<locals>")[0]
        functions = self.way.setdefault(module, [])
        if name not in functions:
            functions.append(name)

    def of(self, act: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Way:
        """The functions that ``act`` runs each time, without those of ``prepare`` before it. Periodic work
        falls into one of the times only."""
        for _ in range(3):
            prepare()
            act()
        runs = []
        for _ in range(3):
            prepare()
            self.way = {}
            act()
            runs.append(self.way)
            self.way = None
        first, *others = runs
        common = {
            module: [name for name in names if all(name in other.get(module, ()) for other in others)]
            for module, names in first.items()
        }
        return {module: names for module, names in common.items() if names}


def _logged_in(node: Node, user: str) -> Client:
    client = Caller(node.core.node.ws_port).upgrade()
    client.send(_login(user, cursor=0))
    client.expect(1)
    return client


def _login(user: str, **more: int) -> bytes:
    login = {"userID": user, "appID": 101, **more}
    return text(msgspec.json.encode({"cmd": "login", "data": login}).decode())


def ways(folder: str) -> dict[str, Way]:
    """The ways of a push by both routes, a publication to a channel, and a login and a stored message of the
    cmd dialect, by their names."""
    recorder = CallRecorder()
    sys.setprofile(recorder.note)  # before the greenlets start: each takes the setting over
    threading.setprofile(recorder.note)
    config = Config(
        app=AppSettings(http_port=0, websocket_port=0, log_file=f"{folder}/log"),
        api=ApiSettings(keys=(KeySettings(key=_KEY, scopes=("push",)),)),
        server=ServerSettings(data_dir=folder),
        apps={"101": TenantSettings(open=True)},
    )
    logs = open_logs(config)
    node = Node(config, logs.requests, lambda parts: None)  # type: ignore[arg-type,return-value]
    node.start()
    ann, bob = _logged_in(node, "ann"), _logged_in(node, "bob")
    back_end = Caller(node.core.node.http_port)
    headers = [("Authorization", f"Bearer {_KEY}")]
    as_json = [*headers, ("Content-Type", "application/json")]
    numbers = count(1)
    connected: list[Client] = []
    bob.send(text('{"cmd":"subscribe","data":{"channel":"news"}}'))
    bob.expect(2)

    def receive() -> None:
        bob.expect(len(bob.frames) + 1)
        gevent.sleep(_REST_SECONDS)

    def post(path: str, body: dict[str, str]) -> None:
        encoded = msgspec.json.encode(body)
        back_end.send(request(path, method="POST", headers=as_json, body=encoded))
        receive()

    def push() -> None:
        post("/api/v1/push", {"app": "101", "user": "bob", "id": f"{next(numbers)}", "text": "hi"})

    def publish() -> None:
        post("/api/v1/channels/publish", {"app": "101", "channel": "news", "text": "hi"})

    def push_by_form() -> None:
        body = b"appID=101&userID=bob&msgID=%d&message=hi" % next(numbers)
        back_end.send(request("/user/sendMessage", method="POST", headers=headers, body=body))
        receive()

    def connect() -> None:
        connected.append(Caller(node.core.node.ws_port).upgrade())
        gevent.sleep(_REST_SECONDS)

    def log_in() -> None:
        carl = connected[-1]
        carl.send(_login(f"carl{next(numbers)}"))
        carl.expect(1)
        gevent.sleep(_REST_SECONDS)

    def send() -> None:
        ann.send(text('{"cmd":"send","data":{"to":"bob","text":"hi"}}'))
        receive()

    found = {
        "push": recorder.of(push),
        "push of the original": recorder.of(push_by_form),
        "publication": recorder.of(publish),
        "login": recorder.of(log_in, connect),
        "stored message": recorder.of(send),
    }
    node.stop()
    logs.close()
    return found


def main() -> None:
    """Print all ways."""
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways(folder).items():
            functions = sum(map(len, way.values()))
            print(f"{name}: {len(way)} modules, {functions} functions")
            for module, names in way.items():
                print(f"  {module}: {', '.join(names)}")


if __name__ == "__main__":
    main()
