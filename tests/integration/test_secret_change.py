"""The secret of a cluster is changed while its users stay: two nodes restart
one after the other."""

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support import Server, run_cli
from tests.users import User

from .clusters import Nodes, nodes_of
from .cmd import logged_in
from .v1 import good, refused

KEY = "admin-key-of-the-tests"
APPS = {
    "7101": {"open": True},
    "7102": {"jwt": [{"algorithm": "HS256"}]},
    "gochat": {"account_tokens": "required"},
}


def session_token(server: Server) -> str:
    """A token as the back end of an app makes it, with the secret that the
    server derives for it now."""
    key = run_cli(
        "token", "secret", "7102", "--config", str(server.config_file)
    ).stdout.strip()
    return jwt.encode(
        {"sub": "ann", "app": "7102", "exp": time.time() + 3600}, key, "HS256"
    )


def accepts(server: Server, account: str, session: str) -> None:
    good(server.http, "accounts/show", app="gochat", key=account)
    with logged_in(server.ws, "ann", 7102, serviceToken=session):
        pass


def reach_each_other(nodes: Nodes) -> None:
    """Pushes by user and by connection id, in both directions."""
    here, there = nodes.running
    for via, to in ((here, there), (there, here)):
        with logged_in(to.ws, "bob", 7101) as client:
            push = {"app": "7101", "user": "bob", "text": "hi"}
            assert good(via.http, "push", push, key=KEY)["sent"] == 1
            client.push("msg")
            users = good(via.http, "presence", key=KEY, app="7101", user="bob")["users"]
            (session,) = users[0]["sessions"]
            named = {"app": "7101", "connection": session["connection"]}
            assert good(via.http, "connections/show", key=KEY, **named)["user"] == "bob"


@pytest.mark.full("processes")
def test_tokens_and_connections_survive_until_the_second_secret_goes(
    tmp_path: Path,
) -> None:
    files = {name: tmp_path / name for name in ("old", "new")}
    for file in files.values():
        file.write_text(file.name * 20)
        file.chmod(0o600)

    def settings(first: str, second: str = "") -> dict[str, Any]:
        more = {"second_secret_file": str(files[second])} if second else {}
        return {"server": {"secret_file": str(files[first]), **more}}

    api = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    with nodes_of(
        tmp_path / "cluster", 0, apps=APPS, api=api, accounts={"registration": True}
    ) as nodes:
        for _ in range(2):
            nodes.start(settings("old"))
        nodes.wait_until_met()
        before = User.register(nodes.servers[0]).token, session_token(nodes.servers[0])
        with pytest.raises(AssertionError, match="another secret"):
            # the other node does not accept the new one yet
            nodes.start(settings("new", "old"))
        after = before
        for first, second in (("old", "new"), ("new", "old")):
            for _ in range(2):
                nodes.running[0].stop()
                node = nodes.start(settings(first, second))
                nodes.wait_until_met()
                reach_each_other(nodes)
                for server in nodes.running:
                    accepts(server, *before)
                after = User.register(node).token, session_token(node)
                for server in nodes.running:
                    accepts(server, *after)
        for _ in range(2):
            nodes.running[0].stop()
            node = nodes.start(settings("new"))
            nodes.wait_until_met()
            reach_each_other(nodes)
            accepts(node, *after)
            assert refused(node.http, "accounts/show", app="gochat", key=before[0])[
                :2
            ] == (
                401,
                "token_invalid",
            )
            check = "token", "check", "--app", "7102", "--config", str(node.config_file)
            assert run_cli(*check, before[1]).returncode == 1
            assert run_cli(*check, after[1]).returncode == 0
