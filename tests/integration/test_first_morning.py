"""The first morning of an office, over HTTP and sockets as its browsers do: the
owner, everybody by one link, and a stranger whose link is dead."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml

from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.storage.servers import DatabaseServer
from tests.integration.cmd import CmdClient
from tests.integration.raw import ask, request
from tests.stores import server_of
from tests.support import Server, run_cli
from tests.users import PASSWORD, User

AT_ONCE = 32
MOST_SECONDS = 120


class Newcomer:
    """Somebody who opens the link of others, and gives a name: they can write
    at once."""

    def __init__(self, server: Server, name: str, code: str) -> None:
        assert ask(server.http, request("/home/messages")).status == 200
        stranger = User(server, "")
        assert stranger.get("invitations/show", app="gochat", code=code)["guests"]
        session = stranger.post(
            "invitations/join", app="gochat", code=code, nickname=name
        )["session"]
        self.user = User(server, session["token"], session["account"]["user"])
        self.socket = CmdClient(server.ws).upgrade("/acc")
        self.socket.login(self.user.user, "gochat", serviceToken=session["token"])
        assert self.socket.ask_cmd("sync", {"cursor": 0})[0] == 200
        (group,) = self.user.get("conversations")["conversations"]
        self.user.post(
            "messages/send", conversation=group["conversation"], text=f"I am {name}"
        )

    def receives(self, id: int) -> bool:
        while self.socket.push("message").json["response"]["data"]["id"] < id:
            pass
        return True


@pytest.mark.parametrize(
    ("engine", "nodes", "people"),
    [
        ("sqlite", 1, 21),
        pytest.param("postgresql", 2, 200, marks=pytest.mark.full("load")),
    ],
)
def test_everybody_is_in_by_one_link_within_two_minutes(
    tmp_path: Path,
    database_servers: dict[str, DatabaseServer],
    engine: str,
    nodes: int,
    people: int,
) -> None:
    url = "" if engine == "sqlite" else server_of(engine, database_servers).new_url()
    environment = {"IMSERVER_STORAGE_URL": url} if url else {}
    printed = run_cli("init", "--chat", "--name", "Tea", folder=tmp_path, **environment)
    assert printed.returncode == 0, printed.stderr
    links = dict(re.findall(r"/home/messages#(\w+)=(\S+)", printed.stdout))
    settings: dict[str, Any] = yaml.safe_load((tmp_path / "imserver.yaml").read_text())
    settings["server"]["data_dir"] = str(tmp_path / "data")
    settings["app"] = {"http_port": 0, "websocket_port": 0}
    with ExitStack() as stack:
        if nodes > 1:
            redis = RedisServer(tmp_path)
            stack.callback(redis.kill)
            settings |= {"redis": {"addr": f"127.0.0.1:{redis.port}"}}
            settings["app"]["rpc_port"] = 0
            settings["cluster"] = {"advertise": "127.0.0.1"}
        servers = [
            stack.enter_context(
                Server(
                    tmp_path / f"node{number}", config=settings, environment=environment
                )
            )
            for number in range(nodes)
        ]
        began = monotonic()
        name, code, group = links["owner"].split(".")
        stranger = User(servers[0], "", app="gochat")
        stranger.post("accounts/reset/finish", code=code, password=PASSWORD)
        session = stranger.post("accounts/login", login=name, password=PASSWORD)
        owner = User(servers[0], session["token"])
        with ThreadPoolExecutor(AT_ONCE) as threads:
            come = partial(Newcomer, code=links["invite"])
            office = [
                *threads.map(
                    come, islice(cycle(servers), people), map(str, range(people))
                )
            ]
        for each in office:
            stack.enter_context(each.socket)
        assert monotonic() - began < MOST_SECONDS
        good = owner.post("messages/send", conversation=int(group), text="Good morning")
        assert all(each.receives(good["id"]) for each in office)
        owner.post("invitations/revoke", code=links["invite"])
        for server in servers:
            late = User(server, "", app="gochat")
            assert late.refused_get("invitations/show", code=links["invite"]) == (
                404,
                "unknown_invitation",
            )
