"""The modules that a push and a stored message enter, and their functions: ``python -m tests.ways``.

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

    def of(self, act: Callable[[], object]) -> Way:
        """The functions that ``act`` runs each time. Periodic work falls into one of the times only."""
        for _ in range(3):
            act()
        runs = []
        for _ in range(3):
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
    client = Caller(node.parts.ws_port).upgrade()
    login = {"userID": user, "appID": 101, "cursor": 0}
    client.send(text(msgspec.json.encode({"cmd": "login", "data": login}).decode()))
    client.expect(1)
    return client


def ways(folder: str) -> tuple[Way, Way]:
    """The ways of a push by HTTP, and of a stored message of the cmd dialect."""
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
    back_end = Caller(node.parts.http_port)
    headers = [("Authorization", f"Bearer {_KEY}")]
    numbers = count(1)

    def receive() -> None:
        bob.expect(len(bob.frames) + 1)
        gevent.sleep(_REST_SECONDS)

    def push() -> None:
        body = b"appID=101&userID=bob&msgID=%d&message=hi" % next(numbers)
        back_end.send(request("/user/sendMessage", method="POST", headers=headers, body=body))
        receive()

    def send() -> None:
        ann.send(text('{"cmd":"send","data":{"to":"bob","text":"hi"}}'))
        receive()

    found = recorder.of(push), recorder.of(send)
    node.stop()
    logs.close()
    return found


def main() -> None:
    """Print both ways."""
    with tempfile.TemporaryDirectory() as folder:
        for name, way in zip(("push", "stored message"), ways(folder), strict=True):
            print(f"{name}: {len(way)} modules")
            for module, functions in way.items():
                print(f"  {module}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
