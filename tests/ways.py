"""The modules that pushes, a publication, a login and a stored message enter:
``python -m tests.ways``.

A node serves in this process, with an API key, a log file and SQLite; then two
nodes with a Redis, where one is installed. When they are warm, a profile
function notes the functions of the package that run from a request to its
delivery, in the loop and in the thread of the database.
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
import pytest  # noqa: E402

import imserver  # noqa: E402
from imserver.gateway.config.settings import (  # noqa: E402
    ApiSettings,
    AppSettings,
    Config,
    DrainSettings,
    KeySettings,
    RedisSettings,
    ServerSettings,
    TenantSettings,
    WebSocketSettings,
)
from imserver.gateway.logging import open_logs  # noqa: E402
from imserver.gateway.node.node import Node  # noqa: E402
from tests.gateway.cluster.redis_server import RedisServer  # noqa: E402
from tests.gateway.transport.harness import Caller, Client  # noqa: E402
from tests.integration.raw import request, text  # noqa: E402

_PACKAGE = f"{Path(imserver.__file__).parent}/"
_KEY = "the-key-of-this-program"
_REST_SECONDS = 0.03
"""A way has ended when no function has run for so long."""
_RUNS = 4

Way = dict[str, list[str]]
"""Module → its functions, both in the order in which they were entered
first."""


class CallRecorder:
    """Notes functions while ``way`` is not None."""

    def __init__(self) -> None:
        self.way: Way | None = None
        self.calls = 0
        # before the greenlets start: each takes the setting over
        sys.setprofile(self.note)
        threading.setprofile(self.note)

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        """The profile function."""
        code = frame.f_code
        if (
            self.way is None
            or event != "call"
            or not code.co_filename.startswith(_PACKAGE)
        ):
            return
        self.calls += 1
        module = code.co_filename.removeprefix(_PACKAGE).removesuffix(".py")
        name = code.co_qualname.partition(".<locals>")[0]
        functions = self.way.setdefault(module, [])
        if name not in functions:
            functions.append(name)

    def of(
        self, act: Callable[[], object], prepare: Callable[[], object] = lambda: None
    ) -> Way:
        """The functions that ``act`` runs each time, without those of
        ``prepare`` before it. Periodic work falls into some of the times
        only."""
        runs = []
        for _ in range(2 + _RUNS):
            prepare()
            gevent.sleep(_REST_SECONDS)
            self.way = {}
            act()
            calls = -1
            while calls != (calls := self.calls):
                gevent.sleep(_REST_SECONDS)
            runs.append(self.way)
            self.way = None
        first, *others = runs[2:]
        common = {
            module: [
                name
                for name in names
                if all(name in other.get(module, ()) for other in others)
            ]
            for module, names in first.items()
        }
        return {module: names for module, names in common.items() if names}


def _started(folder: str, redis: RedisSettings | None = None) -> Node:
    config = Config(
        app=AppSettings(
            http_port=0, websocket_port=0, rpc_port=0, log_file=f"{folder}/log"
        ),
        api=ApiSettings(keys=(KeySettings(key=_KEY, scopes=("push",)),)),
        server=ServerSettings(data_dir=folder),
        apps={"101": TenantSettings(open=True)},
        redis=redis or RedisSettings(),
        drain=DrainSettings(close_seconds=0),
        websocket=WebSocketSettings(close_seconds=0.05),
    )
    node = Node(config, open_logs(config).requests, lambda parts: None)  # type: ignore[arg-type,return-value]
    node.start()
    return node


def _login(user: str, **more: int) -> bytes:
    login = {"userID": user, "appID": 101, **more}
    return text(msgspec.json.encode({"cmd": "login", "data": login}).decode())


class Acts:
    """What a back end and clients do at a node. ``bob``, perhaps at another
    one, receives what is sent."""

    def __init__(self, node: Node, bob: Node) -> None:
        self._port = node.core.node.ws_port
        self._back_end = Caller(node.core.node.http_port)
        self._numbers = count(1)
        self._ann = self._logged_in(node, "ann")
        self._bob = self._logged_in(bob, "bob")
        self._bob.send(text('{"cmd":"subscribe","data":{"channel":"news"}}'))
        self._bob.expect(2)
        self._carl = self._ann

    def _logged_in(self, node: Node, user: str) -> Client:
        client = Caller(node.core.node.ws_port).upgrade()
        client.send(_login(user, cursor=0))
        client.expect(1)
        return client

    def _post(self, path: str, body: bytes, *headers: tuple[str, str]) -> None:
        before = len(self._bob.read())
        every = [("Authorization", f"Bearer {_KEY}"), *headers]
        self._back_end.send(request(path, method="POST", headers=every, body=body))
        self._bob.expect(before + 1)

    def _post_json(self, path: str, **body: str) -> None:
        self._post(
            path, msgspec.json.encode(body), ("Content-Type", "application/json")
        )

    def push(self) -> None:
        """Push by ``/api/v1``."""
        self._post_json(
            "/api/v1/push",
            app="101",
            user="bob",
            id=f"{next(self._numbers)}",
            text="hi",
        )

    def push_by_form(self) -> None:
        """Push by the original's route."""
        body = b"appID=101&userID=bob&msgID=%d&message=hi" % next(self._numbers)
        self._post("/user/sendMessage", body)

    def publish(self) -> None:
        """Publish to a channel."""
        self._post_json(
            "/api/v1/channels/publish", app="101", channel="news", text="hi"
        )

    def connect(self) -> None:
        """Open a connection."""
        self._carl = Caller(self._port).upgrade()

    def log_in(self) -> None:
        """Log in on it."""
        self._carl.send(_login(f"carl{next(self._numbers)}"))
        self._carl.expect(1)

    def send(self) -> None:
        """Send a message."""
        before = len(self._bob.read())
        self._ann.send(text('{"cmd":"send","data":{"to":"bob","text":"hi"}}'))
        self._bob.expect(before + 1)


def ways_alone(recorder: CallRecorder, folder: str) -> dict[str, Way]:
    """The ways on a node without Redis, by their names."""
    node = _started(folder)
    acts = Acts(node, node)
    ways = {
        "push": recorder.of(acts.push),
        "push of the original": recorder.of(acts.push_by_form),
        "publication": recorder.of(acts.publish),
        "login": recorder.of(acts.log_in, acts.connect),
        "stored message": recorder.of(acts.send),
    }
    node.stop()
    return ways


def ways_of_two(recorder: CallRecorder, folder: str) -> dict[str, Way]:
    """The ways on two nodes, of which the second has the receiver. Skips
    without Redis."""
    redis = RedisServer(Path(folder))
    nodes = [_started(folder, redis.settings) for _ in range(2)]
    acts = Acts(*nodes)
    ways = {
        "push to another node": recorder.of(acts.push),
        "push of the original to another node": recorder.of(acts.push_by_form),
        "login in a cluster": recorder.of(acts.log_in, acts.connect),
    }
    for node in nodes:
        node.stop()
    redis.kill()
    return ways


def main() -> None:
    """Print all ways."""
    recorder = CallRecorder()
    for measure in (ways_alone, ways_of_two):
        try:
            with tempfile.TemporaryDirectory() as folder:
                ways = measure(recorder, folder)
        except pytest.skip.Exception as reason:
            print(reason)
            continue
        for name, way in ways.items():
            print(
                f"{name}: {len(way)} modules, {sum(map(len, way.values()))} functions"
            )
            for module, names in way.items():
                print(f"  {module}: {', '.join(names)}")


if __name__ == "__main__":
    main()
