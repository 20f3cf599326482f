"""The distribution and the fixture of the suite installed, and servers with
them: one node, and two that share a Redis."""

import json
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))  # as it is here; `installed` has the distribution

from imserver.plugin.testing import eventually  # noqa: E402
from tests.integration import plug_ins  # noqa: E402
from tests.stores import database_servers, empty_url, open_store  # noqa: E402
from tests.support import Server  # noqa: E402
from tests.users import User  # noqa: E402

__all__ = ["database_servers", "empty_url", "open_store"]
KEY = "key-of-the-admin-0123456789"
CONFIG: dict[str, Any] = {
    "features": ["all", "mcp", "mcp_fixture"],
    "mcp": {"allow_loopback": True},
    "apps": {"gochat": {"mcp": {"confirm_seconds": 60}, "accounts": {"search": True}}},
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
}


installed, servers = plug_ins.fixtures(
    "mcp", CONFIG, PLUGIN, PLUGIN / "tests" / "fixture"
)


class Site(NamedTuple):
    """Nodes, with a bot of ann, who talks with bob. ``first`` and ``last`` are
    the same if there is one."""

    first: Server
    last: Server
    ann: User
    bob: User
    bot: User

    def url(self, server: Server | None = None) -> str:
        return f"{(server or self.last).http_url}/mcp"


def people(server: Server) -> tuple[User, User, User]:
    """Two accounts, and a bot of the first."""
    ann = User.register(server, key=KEY, nickname="Ann")
    bob = User.register(server, key=KEY, nickname="Bob")
    bot = ann.post("bots", name=f"helper{time.time_ns() % 10**9}")
    return ann, bob, User(server, bot["token"], bot["id"])


def running(
    folder: Path, environment: dict[str, str], number: int, **config: Any
) -> AbstractContextManager[list[Server]]:
    return plug_ins.running(folder, environment, number, {**CONFIG, **config})


@pytest.fixture(scope="module")
def site(servers: list[Server]) -> Site:
    return Site(servers[0], servers[-1], *people(servers[0]))


def post(url: str, body: Any, token: str = "", **headers: str) -> tuple[int, Any, Any]:
    """Status, document and headers of the answer to one request, as bytes or
    JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    given |= {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(
        url,
        data,
        {**given, **{name.replace("_", "-"): each for name, each in headers.items()}},
    )
    try:
        answer = urlopen(request, timeout=60)
    except HTTPError as error:
        answer = error
    with answer:
        content = answer.read()
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        lines = [
            line[6:] for line in content.splitlines() if line.startswith(b"data: ")
        ]
        content = lines[-1]
    return answer.status, json.loads(content) if content else None, answer.headers


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def rpc(url: str, token: str, method: str, **params: Any) -> Any:
    """The answer to a request of 2026-07-28: its result, or the error as a dict
    with ``code``."""
    name = (
        params.get("uri")
        if method == "resources/read"
        else params.get("taskId", params.get("name", ""))
    )
    headers = {
        "MCP_Protocol_Version": "2026-07-28",
        "Mcp_Method": method,
        "Mcp_Name": str(name),
    }
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {"_meta": META, **params},
    }
    answer = post(url, body, token, **headers)[1]
    return answer["result"] if "result" in answer else answer["error"]


OPTIONS = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
BY_TASKS = {
    **META,
    "io.modelcontextprotocol/clientCapabilities": {
        "elicitation": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    },
}


def begun(url: str, token: str, name: str, **arguments: Any) -> str:
    """The id of the task that a tool has become."""
    task = rpc(url, token, "tools/call", name=name, arguments=arguments, _meta=BY_TASKS)
    assert (task.get("resultType"), task.get("status")) == ("task", "working"), task
    return str(task["taskId"])


def of_task(method: str, url: str, token: str, task: str, **more: Any) -> Any:
    """What ``tasks/get`` and others say of a task."""
    return rpc(url, token, f"tasks/{method}", taskId=task, _meta=BY_TASKS, **more)


def ended(url: str, token: str, task: str, status: str = "completed") -> Any:
    """A task that has ended so."""

    def look() -> Any:
        now = of_task("get", url, token, task)
        return now if now["status"] not in ("working", "input_required") else None

    last = eventually(look, what="the end of the task", seconds=90)  # a lease has 60
    assert last["status"] == status, last
    return last


def tool(url: str, token: str, name: str, **arguments: Any) -> Any:
    """What a tool returns, which must be a success."""
    result = rpc(url, token, "tools/call", name=name, arguments=arguments)
    assert result.get("isError") is False, result
    return result["structuredContent"]


def question(user: User, of: str) -> Any:
    """The open question of an agent to a user."""

    def look() -> Any:
        messages = user.get("messages/sync", after=0, limit=200)["messages"]
        asked = [
            each
            for each in messages
            if each["from"] == of and "ask" in each.get("meta", {})
        ]
        return next(
            (each for each in asked if "state" not in each["meta"]["ask"]), None
        )

    return eventually(look, what="the question")
