"""An erasure that begins later: who is to be erased is locked out, and it can be undone, on any node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.operate.erasure import FEATURE
from imserver.plugin.storage import Store
from imserver.plugin.testing import Answer, NodeProcess, check_tables, eventually
from tests.processes import end, spawn
from tests.support import run_cli

FEATURES = ("messages", "accounts", "audit", "erasure")
KEY = "admin-key-of-the-tests"
ANN = {"app": "shop", "name": "annlee", "password": "correct horse"}
SETTINGS: dict[str, Any] = {
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
    "apps": {"shop": {"account_tokens": "required"}, "door": {"open": True}},
}


@pytest.fixture
def nodes(url: str, redis_url: str, tmp_path: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """A cluster of two nodes, once on each engine."""
    more = {
        "storage": {"url": url},
        "redis": {"addr": redis_url.removeprefix("redis://").partition("/")[0]},
        "cluster": {"advertise": "127.0.0.1", "redis_seconds": 10, "rpc_seconds": 10},
    }
    node = NodeProcess(features=FEATURES, settings={**SETTINGS, **more}, folder=tmp_path / "node")
    with node as first, first.another() as second:
        yield first, second


def good(answer: Answer) -> Any:
    assert answer.status < 300, answer
    return answer.json


def state(node: NodeProcess, user: str) -> str:
    return str(good(node.get(f"/api/v1/users/erase/show?app=shop&user={user}", key=KEY))["state"])


def login(node: NodeProcess) -> Answer:
    name, password = ANN["name"], ANN["password"]
    return node.post("/api/v1/accounts/login", {"app": "shop", "login": name, "password": password})


def acts(node: NodeProcess) -> list[tuple[str, str | None, Any]]:
    found = good(node.get("/api/v1/audit?app=shop", key=KEY))["acts"]
    return [(act["name"], act["user"], act["facts"]) for act in found if act["name"].startswith("users.")]


def test_it_begins_once_on_any_node_or_is_undone_until_then(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    one, two = nodes
    account = good(one.post("/api/v1/accounts/register", ANN, key=KEY))
    user, token = account["account"]["user"], account["token"]
    whom = {"app": "shop", "user": user}

    def erase(node: NodeProcess, seconds: int) -> Any:
        return good(node.post("/api/v1/users/erase", {**whom, "seconds": seconds, "reason": "left"}, key=KEY))

    assert two.post("/api/v1/users/erase/undo", whom, key=KEY).json["code"] == "not_waiting"
    answer = erase(one, 3600)
    assert (answer["erased"], state(two, user)) == (False, "waiting")
    assert erase(two, 1) == answer  # it begins already: nobody hastens it by asking twice
    eventually(lambda: login(one).status == login(two).status == 403)
    assert one.get("/api/v1/accounts/show?app=shop", key=token).status == 403
    good(two.post("/api/v1/users/erase/undo", whom, key=KEY))
    assert (state(one, user), one.get("/api/v1/accounts/show?app=shop", key=token).status) == ("none", 200)
    eventually(lambda: login(one).status == login(two).status == 200)

    erase(one, 3)
    one.process.kill()  # the other node goes on
    eventually(lambda: state(two, user) == "ended")
    assert two.post("/api/v1/users/erase/undo", whom, key=KEY).status == 409
    assert login(two).json["code"] == "wrong_login"
    eventually(lambda: len(acts(two)) == 5)
    end, *begun = acts(two)
    assert end == ("users.erase.end", None, {"reason": "left"})
    assert [(name, who) for name, who, _ in begun] == [
        ("users.erase", None),
        ("users.erase.undo", None),
        ("users.erase", None),
        ("users.erase", None),
    ]


def test_to_undo_it_lifts_no_ban_of_a_moderator(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    one, two = nodes

    def bans(node: NodeProcess) -> set[tuple[str, str]]:
        shown = good(node.get("/api/v1/bans?app=shop", key=KEY))["bans"]
        return {(each["user"], each.get("reason", "")) for each in shown}

    def ban(user: str) -> None:
        whom = {"app": "shop", "users": [user], "seconds": 3600, "reason": "spam"}
        good(two.post("/api/v1/ban", whom, key=KEY))
        eventually(lambda: (user, "spam") in bans(one))

    ban("ann")
    for user in ("ann", "bob", "carol"):
        good(one.post("/api/v1/users/erase", {"app": "shop", "user": user, "seconds": 3600}, key=KEY))
    ban("bob")
    for user in ("ann", "bob", "carol"):
        good(one.post("/api/v1/users/erase/undo", {"app": "shop", "user": user}, key=KEY))
    eventually(lambda: bans(one) == bans(two) == {("ann", "spam"), ("bob", "spam")})


def test_an_erasure_at_once_ends_what_was_to_begin(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    one, two = nodes
    whom = {"app": "shop", "user": "bob"}
    good(one.post("/api/v1/users/erase", {**whom, "seconds": 3600}, key=KEY))
    assert good(two.post("/api/v1/users/erase", whom, key=KEY)) == {"erased": True}
    assert state(one, "bob") == "ended"
    assert good(one.get("/api/v1/bans?app=shop", key=KEY))["bans"] == []


def test_a_command_waits_and_ctrl_c_takes_it_back() -> None:
    with NodeProcess(features=FEATURES, settings=SETTINGS) as node:
        url, me = f"http://{node.http.host}:{node.http.port}", {"IMSERVER_KEY": KEY}
        account = good(node.post("/api/v1/accounts/register", ANN, key=KEY))
        ann, user = ("erase", "--url", url, "shop/annlee"), account["account"]["user"]
        assert "not_waiting" in run_cli(*ann, "--undo", **me).stderr
        command = [sys.executable, "-m", "imserver", *ann, "--after", "3600"]
        waiting = spawn(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **me})
        assert f"annlee ({user}) is locked out" in waiting.stderr.readline()
        assert state(node, user) == "waiting"
        waiting.send_signal(signal.SIGINT)
        assert "was taken back" in waiting.stderr.read()
        assert (waiting.wait(30), state(node, user)) == (1, "none")
        end(waiting)
        done = run_cli(*ann, "--after", "1", "--reason", "left", **me)
        assert (done.stdout, state(node, user)) == (f"annlee ({user}) is erased\n", "ended")


def test_who_is_nobody_is_said() -> None:
    with NodeProcess(features=FEATURES, settings=SETTINGS) as node:
        url, me = f"http://{node.http.host}:{node.http.port}", {"IMSERVER_KEY": KEY}
        for target, words in (
            ("shop/typo", "app shop has no account typo: nothing was done"),
            ("door/typo", "the database had nothing of user typo"),
        ):
            done = run_cli("erase", "--url", url, target, **me)
            assert (done.returncode, done.stdout) == (1, "")
            assert words in done.stderr
        lesser = run_cli("erase", "--url", url, "shop/typo", IMSERVER_KEY="another key")
        assert "does not know the key of IMSERVER_KEY" in lesser.stderr


def test_its_table_is_erased_and_exported(url: str) -> None:
    def fill(store: Store, app: str, user: str) -> None:
        columns = "app, id, created, ends, leased, banned, reason"
        row = (app, user, 1, 2, 1, 1, "left")
        store.write(lambda sql: sql.insert_new("erasure_due", columns, [row]))

    check_tables(FEATURE, fill, url)
