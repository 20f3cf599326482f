"""What kind of program this is, whatever is built into it. Others prove a part
of it:

| what | proved by |
| --- | --- |
| ``setup.py`` builds the package with ``templates/``, ``static/`` and ``config/`` | ``test_packaging.py`` |
| ``supervisor.conf`` starts, restarts and drains the server (``make test-all``) | ``test_supervisor.py`` |
| both HTTP servers give the same answers | ``integration/test_both_servers.py`` |
| readers serve each ready socket, one at a time | ``transport/test_poller.py`` |
| the sweep closes silent clients | ``hub/test_expiry.py`` |
| a plain client of zerorpc is answered by a node | ``cluster/test_rpc.py`` |
"""

import json
import os
import shlex
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.config.load import load_with_locations
from tests.gateway.cluster.redis_server import RedisServer

from .integration.clusters import nodes_of, states
from .integration.cmd import logged_in
from .integration.v1 import good
from .support import COMMAND, ROOT, Server

FOLDERS = ("imserver", "templates", "static", "config", "tests")
FILES = ("setup.py", "supervisor.conf", "config/default.yaml", "imserver/__main__.py")

RECORDER = """
from gevent import monkey; monkey.patch_all()
import json, sys
import flask, gevent, zerorpc
from gevent.hub import get_hub
from gevent.pywsgi import WSGIHandler, WSGIServer
from zerorpc.core import ClientBase, ServerBase
from imserver.cli import main
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.outbox import Flusher

lines = open("kind.jsonl", "a", buffering=1)

def record(owner, name, describe):
    original = getattr(owner, name)
    def recorder(self, *arguments, **options):
        row = {"call": f"{owner.__name__}.{name}", "hub": gevent.getcurrent() is get_hub()}
        print(json.dumps(row | describe(self, *arguments)), file=lines)
        return original(self, *arguments, **options)
    setattr(owner, name, recorder)

def request(app, environ, start_response):
    handler = start_response.__self__
    served = isinstance(handler, WSGIHandler) and isinstance(handler.server, WSGIServer)
    return {"path": environ["PATH_INFO"], "port": handler.server.socket.getsockname()[1] if served else 0}

def callers(_):
    frame, names = sys._getframe(), []
    while frame is not None:
        names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return {"callers": names}

record(flask.Flask, "wsgi_app", request)
record(Connection, "on_readable", callers)
record(Flusher, "_flush", lambda _: {})
record(zerorpc.Pusher, "__call__", lambda _, name, *rest: {"name": name})
record(ClientBase, "__call__", lambda _, name, *rest: {"name": name, "kind": rest[2]})
record(ServerBase, "_async_task", lambda _, event: {"name": event.name, "kind": event.args[2]})
main()
"""
"""The server; a line of JSON says how each of some functions is called."""


def calls(server: Server, name: str) -> list[dict[str, Any]]:
    """How a function was called until now."""
    lines = (server.folder / "kind.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["call"] == name]


def test_the_tree_has_its_folders_and_files() -> None:
    assert [name for name in FOLDERS if not (ROOT / name).is_dir()] == []
    assert [name for name in FILES if not (ROOT / name).is_file()] == []
    for name in ("front", "wsgi"):
        assert (
            load_with_locations(os.devnull, {"IMSERVER_SERVER_HTTP": name})[
                0
            ].server.http
            == name
        )


def test_supervisor_runs_the_command_with_which_all_tests_start_a_server() -> None:
    parser = RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read(ROOT / "supervisor.conf", encoding="utf-8")
    program = parser["program:imserver"]
    python, *arguments = shlex.split(program["command"])
    assert python == "%(here)s/.venv/bin/python"
    assert arguments == [*COMMAND[1:], "serve"]
    assert (program["autorestart"], program["stopsignal"]) == ("true", "TERM")


@pytest.mark.needs("redis-server")
def test_nodes_are_served_by_gevent_flask_and_zerorpc(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with nodes_of(tmp_path, 0, redis_server) as nodes:
        nodes.start_many(
            2, command=(sys.executable, "-c", RECORDER), http_server="wsgi"
        )
        first, second = nodes.servers
        paths = ("/home/index", "/system/state", "/api/v1/openapi.json")
        for path in paths:
            assert first.get(path)[0] == 200
        with logged_in(second.ws, "ann", 101) as ann:
            assert (
                good(first.http, "push", {"app": "101", "user": "ann", "text": "hi"})[
                    "sent"
                ]
                == 1
            )
            assert ann.push("msg").json["response"]["data"]["msg"] == "hi"
        assert states(first)["missingNodes"] == []

    served = {row["path"]: row for row in calls(first, "Flask.wsgi_app")}
    for path in (*paths, "/api/v1/push"):
        assert (served[path]["port"], served[path]["hub"]) == (
            first.http.port,
            False,
        ), path
    read = calls(second, "Connection.on_readable")
    assert read
    assert all("Readers._run" in row["callers"] and not row["hub"] for row in read)
    flushed = calls(second, "Flusher._flush")
    assert flushed
    assert all(row["hub"] for row in flushed)
    assert {row["name"] for row in calls(first, "Pusher.__call__")} == {"batch"}
    for server, name in (
        (first, "ClientBase.__call__"),
        (second, "ServerBase._async_task"),
    ):
        assert ("ask", "state") in {
            (row["name"], row["kind"]) for row in calls(server, name)
        }
