"""The distribution installed; one node, and two that share a Redis; a bot whose
producer is the test."""

import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.plug_ins import install, running
from tests.support import Server
from tests.tools import NODE_MODULES
from tests.users import User

PLUGIN = Path(__file__).parents[1]
APP = "shop"
KEY = "key-of-the-admin-0123456789"
CONFIG: dict[str, Any] = {
    "features": ["messages", "webhooks", "accounts", "groups", "bots", "ai_chat"],
    "ai_chat": {"app": APP},
    "server": {"origin_policy": "any"},
    "limits": {"bot_rate": 0, "messages_per_second": 0},
    "api": {"requests_per_second": 0, "keys": [{"key": KEY, "scopes": ["admin"]}]},
    "apps": {APP: {"account_tokens": "required"}},
}
Chunk = dict[str, Any]
READERS: list["Reader"] = []


@pytest.fixture(autouse=True)
def closed_readers() -> Iterator[None]:
    yield
    while READERS:
        READERS.pop().close()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server beside which the distribution is
    installed."""
    return install(tmp_path_factory.mktemp("ai-chat"), PLUGIN)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    modules = folder / "node_modules"
    modules.mkdir()
    for each in NODE_MODULES.iterdir():
        if each.name != "imserver-ai-chat":
            (modules / each.name).symlink_to(each)
    shutil.copytree(PLUGIN / "npm", modules / "imserver-ai-chat")
    return folder


@pytest.fixture(scope="module", params=["one", "two"])
def servers(
    request: pytest.FixtureRequest,
    installed: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Server]]:
    """Where the reader is, and where the producer is: one node, or two."""
    number = 1 if request.param == "one" else 2
    with running(
        tmp_path_factory.mktemp(request.param), installed, number, CONFIG
    ) as servers:
        yield servers[0], servers[-1]


class Producer:
    """A bot that the test lets speak, through any node."""

    def __init__(self, bot: User) -> None:
        self.bot = bot

    def open(self, server: Server, to: str = "", **more: Any) -> str:
        where = {"to": to} if to else {}
        opened: str = self._at(server).post("messages/stream/open", **where, **more)[
            "stream"
        ]
        return opened

    def append(
        self, server: Server, stream: str, *pieces: str, first: int = 1
    ) -> list[str]:
        rows = [
            {"stream": stream, "piece": number, "text": text}
            for number, text in enumerate(pieces, first)
        ]
        return [
            each["status"]
            for each in self._at(server).post("messages/stream/append", pieces=rows)[
                "results"
            ]
        ]

    def close(self, server: Server, stream: str) -> Any:
        return self._at(server).post("messages/stream/close", stream=stream)

    def _at(self, server: Server) -> User:
        return User(server, self.bot.token, self.bot.user, self.bot.app)


class Reader:
    """The chunks of one stream over HTTP. ``status``: of the answer; without
    200 there is no stream."""

    def __init__(
        self,
        server: Server,
        token: str,
        path: str,
        body: Any = None,
        prefix: str = "/ai-chat",
    ) -> None:
        self._connection = http.client.HTTPConnection(*server.http, timeout=60)
        READERS.append(self)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }
        method = "GET" if body is None else "POST"
        content = None if body is None else json.dumps(body)
        self._connection.request(method, prefix + path, content, headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.headers = self._answer.headers

    def document(self) -> Any:
        return json.loads(self._answer.read() or b"null")

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks until [DONE]. A stream that ends earlier raises
        IncompleteRead."""
        while line := self._answer.readline():
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                yield json.loads(line[6:])

    def until(self, kind: str) -> list[Chunk]:
        found = []
        for chunk in self:
            found.append(chunk)
            if chunk["type"] == kind:
                break
        return found

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def said(chunks: list[Chunk]) -> str:
    return "".join(
        [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]
    )


def message(chat: str, text: str, id: str) -> dict[str, Any]:
    """A request as useChat sends it."""
    parts = [{"type": "text", "text": text}]
    said = {"id": id, "role": "user", "parts": parts}
    return {"id": chat, "messages": [said], "trigger": "submit-message"}
