"""An erasure that begins later: the user or app is locked, and it can be
undone, on any node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.config.settings import Config, StorageSettings
from imserver.operate.erasure import FEATURE
from imserver.operate.erasure.declared import NotWaiting
from imserver.operate.erasure.deletion import AppDeletion, DeletionGoesOn, ErasureShown
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.identity import Tenants
from imserver.plugin.storage import Erasure, Store
from imserver.plugin.testing import Answer, NodeProcess, check_tables, eventually
from tests.processes import end, spawn
from tests.support import run_cli

FEATURES = ("messages", "accounts", "audit", "erasure", "safety")
KEY = "admin-key-of-the-tests"
SHOP_KEY = "key-of-the-app-of-the-tests"
ANN = {"app": "shop", "name": "annlee", "password": "correct horse"}
SETTINGS: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["admin"]},
            {"key": SHOP_KEY, "scopes": ["admin"], "apps": ["made"]},
        ]
    },
    "storage": {"look_seconds": 0.5},
    "apps": {"shop": {"account_tokens": "required"}, "door": {"open": True}},
}


@pytest.fixture
def nodes(
    url: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """A cluster of two nodes, once on each engine."""
    more = {
        "storage": {"url": url, "look_seconds": 0.5},
        "redis": {"addr": redis_url.removeprefix("redis://").partition("/")[0]},
        "cluster": {"advertise": "127.0.0.1", "redis_seconds": 10, "rpc_seconds": 10},
    }
    node = NodeProcess(
        features=FEATURES, settings={**SETTINGS, **more}, folder=tmp_path / "node"
    )
    with node as first, first.another() as second:
        yield first, second


def good(answer: Answer) -> Any:
    assert answer.status < 300, answer
    return answer.json


def state(node: NodeProcess, user: str) -> str:
    return str(
        good(node.get(f"/api/v1/users/erase/show?app=shop&user={user}", key=KEY))[
            "state"
        ]
    )


def login(node: NodeProcess, app: str = "shop") -> Answer:
    name = ANN["name"]
    password = ANN["password"]
    return node.post(
        "/api/v1/accounts/login", {"app": app, "login": name, "password": password}
    )


def acts(node: NodeProcess) -> list[tuple[str, str | None, Any]]:
    found = good(node.get("/api/v1/audit?app=shop", key=KEY))["acts"]
    return [
        (act["name"], act["user"], act["facts"])
        for act in found
        if act["name"].startswith("users.")
    ]


def test_it_begins_once_on_any_node_or_is_undone_until_then(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    account = good(one.post("/api/v1/accounts/register", ANN, key=KEY))
    user = account["account"]["user"]
    token = account["token"]
    whom = {"app": "shop", "user": user}

    def erase(node: NodeProcess, seconds: int) -> Any:
        return good(
            node.post(
                "/api/v1/users/erase",
                {**whom, "seconds": seconds, "reason": "left"},
                key=KEY,
            )
        )

    assert (
        two.post("/api/v1/users/erase/undo", whom, key=KEY).json["code"]
        == "not_waiting"
    )
    answer = erase(one, 3600)
    assert (answer["erased"], state(two, user)) == (False, "waiting")
    # it begins already: nobody hastens it by asking twice
    assert erase(two, 1) == answer
    eventually(lambda: login(one).status == login(two).status == 403)
    assert one.get("/api/v1/accounts/show?app=shop", key=token).status == 403
    good(two.post("/api/v1/users/erase/undo", whom, key=KEY))
    assert (
        state(one, user),
        one.get("/api/v1/accounts/show?app=shop", key=token).status,
    ) == ("none", 200)
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


def test_to_undo_it_lifts_no_ban_of_a_moderator(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
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
        good(
            one.post(
                "/api/v1/users/erase",
                {"app": "shop", "user": user, "seconds": 3600},
                key=KEY,
            )
        )
    ban("bob")
    for user in ("ann", "bob", "carol"):
        good(
            one.post("/api/v1/users/erase/undo", {"app": "shop", "user": user}, key=KEY)
        )
    eventually(lambda: bans(one) == bans(two) == {("ann", "spam"), ("bob", "spam")})


def test_no_end_of_a_ban_lets_in_who_is_to_be_erased(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    user = good(one.post("/api/v1/accounts/register", ANN, key=KEY))["account"]["user"]
    whom = {"app": "shop", "user": user}
    banned = {"app": "shop", "users": [user]}
    # nothing that a moderator writes is taken for the erasure
    words = {"reason": "to be erased"}

    good(one.post("/api/v1/users/erase", {**whom, "seconds": 3600}, key=KEY))
    good(two.post("/api/v1/ban", {**banned, "seconds": 1, **words}, key=KEY))
    eventually(lambda: good(one.get("/api/v1/bans?app=shop", key=KEY))["count"] == 0)
    for node in nodes:
        for path, body in (("unban", banned), ("moderation/unban", whom)):
            assert (
                node.post(f"/api/v1/{path}", body, key=KEY).json["code"]
                == "to_be_erased"
            )
    good(two.post("/api/v1/accounts/lock", {**whom, "seconds": 0}, key=KEY))
    good(one.post("/api/v1/accounts/unlock", whom, key=KEY))
    assert [login(node).status for node in nodes] == [403, 403]
    with one.another() as third:  # it starts while the erasure waits
        assert login(third).status == 403
    good(two.post("/api/v1/ban", {**banned, "seconds": 0, **words}, key=KEY))
    good(one.post("/api/v1/users/erase/undo", whom, key=KEY))
    assert [login(node).status for node in nodes] == [403, 403]
    good(two.post("/api/v1/unban", banned, key=KEY))
    assert [login(node).status for node in nodes] == [200, 200]


def test_an_erasure_at_once_ends_what_was_to_begin(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    whom = {"app": "shop", "user": "bob"}
    good(one.post("/api/v1/users/erase", {**whom, "seconds": 3600}, key=KEY))
    assert good(two.post("/api/v1/users/erase", whom, key=KEY)) == {"erased": True}
    assert state(one, "bob") == "ended"
    end, begun, waiting = acts(one)
    assert end == ("users.erase.end", None, {})
    assert [begun[:2], waiting[:2]] == [("users.erase", None)] * 2


def test_a_command_waits_and_ctrl_c_takes_it_back() -> None:
    with NodeProcess(features=FEATURES, settings=SETTINGS) as node:
        url = f"http://{node.http.host}:{node.http.port}"
        me = {"IMSERVER_KEY": KEY}
        account = good(node.post("/api/v1/accounts/register", ANN, key=KEY))
        ann = ("erase", "--url", url, "shop/annlee")
        user = account["account"]["user"]
        assert "not_waiting" in run_cli(*ann, "--undo", **me).stderr
        command = [sys.executable, "-m", "imserver", *ann, "--after", "1h"]
        waiting = spawn(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **me}
        )
        assert f"annlee ({user}) is locked out" in waiting.stderr.readline()
        assert state(node, user) == "waiting"
        waiting.send_signal(signal.SIGINT)
        assert "was cancelled" in waiting.stderr.read()
        assert (waiting.wait(30), state(node, user)) == (1, "none")
        end(waiting)
        done = run_cli(*ann, "--after", "1", "--reason", "left", **me)
        assert (done.stdout, state(node, user)) == (
            f"annlee ({user}) is erased\n",
            "ended",
        )


def test_who_is_nobody_is_said() -> None:
    with NodeProcess(features=FEATURES, settings=SETTINGS) as node:
        url = f"http://{node.http.host}:{node.http.port}"
        me = {"IMSERVER_KEY": KEY}
        for target, words in (
            ("shop/typo", "app shop has no account typo, so nothing was done"),
            ("door/typo", "the database had no data of user typo"),
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


# --- an app -------------------------------------------------------------------

NEWS = {"app": "made", "channel": "news"}


class Shop:
    """The app ``made`` with what belongs to it: an account, a message, a
    history and a ban."""

    def __init__(self, node: NodeProcess) -> None:
        history = {"history_size": 9, "history_seconds": 600}
        settings = {
            "account_tokens": "required",
            "max_channels": 7,
            "channels": {"news": history},
        }
        good(
            node.post(
                "/api/v1/apps/create", {"app": "made", "settings": settings}, key=KEY
            )
        )
        account = good(
            node.post("/api/v1/accounts/register", {**ANN, "app": "made"}, key=KEY)
        )
        self.user, self.token = account["account"]["user"], account["token"]
        other = good(
            node.post(
                "/api/v1/accounts/register",
                {**ANN, "app": "made", "name": "bobby"},
                key=KEY,
            )
        )
        message = {
            "app": "made",
            "user": self.user,
            "to": other["account"]["user"],
            "text": "hello",
        }
        good(node.post("/api/v1/messages/send", message, key=SHOP_KEY))
        good(
            node.post(
                "/api/v1/channels/publish", {**NEWS, "text": "packed"}, key=SHOP_KEY
            )
        )
        good(
            node.post(
                "/api/v1/ban",
                {"app": "made", "users": ["bad"], "seconds": 3600},
                key=SHOP_KEY,
            )
        )
        self.before = self.look(node, SHOP_KEY)

    def look(self, node: NodeProcess, key: str) -> list[Any]:
        """What a key sees of the app; the code of the refusal of what it does
        not see."""
        questions = (
            "apps/show?app=made",
            f"accounts/show?app=made&user={self.user}",
            f"conversations?app=made&user={self.user}",
            "channels/history?app=made&channel=news&limit=9",
            "bans?app=made",
        )
        answers = [node.get(f"/api/v1/{question}", key=key) for question in questions]
        return [
            answer.json.get("code")
            or {**answer.json, "bans": len(answer.json.get("bans", ()))}
            for answer in answers
        ]

    def stream(self, node: NodeProcess) -> Any:
        return node.stream(f"/api/v1/events?app=made&user={self.user}", key=self.token)


def refuses(shop: Shop, node: NodeProcess) -> bool:
    refused = [*shop.look(node, SHOP_KEY)[1:], *shop.look(node, shop.token)[1:3]]
    return refused == ["unknown_app"] * 6 and login(node, "made").status == 404


def delete(node: NodeProcess, seconds: int, **more: str) -> Any:
    body = {
        "app": "made",
        "confirm": "made",
        **({"seconds": seconds} if seconds else {}),
        **more,
    }
    return good(node.post("/api/v1/apps/delete", body, key=KEY))


def undo(node: NodeProcess) -> Answer:
    return node.post("/api/v1/apps/delete/undo", {"app": "made"}, key=KEY)


def deletion(node: NodeProcess) -> str:
    return str(good(node.get("/api/v1/apps/delete/show?app=made", key=KEY))["state"])


def test_an_app_is_locked_until_it_is_deleted_or_is_as_it_was(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    shop = Shop(one)
    assert (undo(two).json["code"], deletion(one)) == ("not_waiting", "none")
    with shop.stream(one) as here, shop.stream(two) as there:
        answer = delete(one, 3600)
        for lines in (here, there):
            assert any("4506" in line for line in lines)
    assert (answer["accounts"], answer["messages"], deletion(two)) == (2, 1, "waiting")
    # it begins already: nobody hastens it by asking twice
    assert delete(two, 1) == answer
    for node in nodes:
        eventually(partial(refuses, shop, node))
        assert good(node.get("/api/v1/apps/show?app=made", key=KEY))["locked"] is True
        assert (
            node.post("/api/v1/apps/create", {"app": "made"}, key=KEY).json["code"]
            == "app_exists"
        )
    assert undo(two).status == 200
    eventually(
        lambda: shop.look(one, SHOP_KEY) == shop.look(two, SHOP_KEY) == shop.before
    )
    with shop.stream(one) as here:
        assert next(here)
    assert (undo(one).json["code"], deletion(one)) == ("not_waiting", "none")

    delete(one, 3, reason="closed")
    one.process.kill()  # the other node goes on
    eventually(lambda: deletion(two) == "ended")
    assert undo(two).json["code"] == "not_waiting"
    good(two.post("/api/v1/apps/create", {"app": "made"}, key=KEY))
    assert [answer.get("count") for answer in shop.look(two, SHOP_KEY)[3:]] == [None, 0]
    found = good(two.get("/api/v1/audit?app=made", key=KEY))["acts"]
    assert [
        (act["name"], act["facts"])
        for act in found
        if act["name"].startswith("apps.delete")
    ] == [
        ("apps.delete.end", {"reason": "closed"}),
        ("apps.delete", {"seconds": 3, "reason": "closed"}),
        ("apps.delete.undo", {}),
        ("apps.delete", {"seconds": 1}),
        ("apps.delete", {"seconds": 3600}),
    ]


def test_a_deletion_at_once_ends_what_was_to_begin(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    shop = Shop(one)
    delete(one, 3600)
    assert "ends" not in delete(two, 0)
    assert deletion(one) == "ended"
    good(two.post("/api/v1/apps/create", {"app": "made"}, key=KEY))
    assert (deletion(one), undo(one).json["code"]) == ("none", "not_waiting")
    assert shop.look(two, SHOP_KEY)[0]["max_channels"] == 0


def test_a_command_deletes_an_app_later_and_ctrl_c_takes_it_back(
    url: str, tmp_path: Path
) -> None:
    # Without a server: the command carries it out.
    more = {"IMSERVER_STORAGE_URL": url, "IMSERVER_STORAGE_LOOK_SECONDS": "0.1"}
    where = ("--data-dir", str(tmp_path))
    assert run_cli("app", "create", *where, "made", **more).returncode == 0
    assert (
        "cannot be cancelled"
        in run_cli("app", "delete", *where, "made", "--undo", **more).stderr
    )
    command = [
        sys.executable,
        "-m",
        "imserver",
        "app",
        "delete",
        *where,
        "made",
        "--yes",
        "--after",
        "1h",
    ]
    waiting = spawn(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **more}
    )
    assert "0 accounts" in waiting.stderr.readline()
    assert "made is locked" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert "was cancelled" in waiting.stderr.read()
    assert waiting.wait(30) == 1
    end(waiting)
    assert run_cli("app", "show", *where, "made", **more).returncode == 0
    done = run_cli("app", "delete", *where, "made", "--yes", "--after", "1", **more)
    assert done.stdout == "app made deleted\n"
    assert "does not exist" in run_cli("app", "show", *where, "made", **more).stderr


def test_a_deletion_that_failed_goes_on_and_spares_another_app_of_the_name(
    url: str, tmp_path: Path
) -> None:
    def fail(_app: str) -> None:
        raise StorageUnavailable

    store = Store(StorageSettings(url), str(tmp_path), threaded=False)
    store.start()
    tenants = Tenants(Config(), store, None, lambda _name, _settings: "")
    deletion = AppDeletion(store, tenants, 0.0)
    tenants.register("made")
    with pytest.raises(DeletionGoesOn):
        deletion.delete("made", [Erasure(frozenset(), lambda *_: None, fail)], "closed")
    due = deletion.waiting.get("made")
    assert due is not None
    assert (ErasureShown.of(due).state, due.reason) == ("under way", "closed")
    assert deletion.begin("made", [])
    assert deletion.waiting.get("made") is None

    tenants.register("made")
    deletion.plan("made", 0, "")
    fails, works = (
        Erasure(frozenset(), lambda *_: None, each) for each in (fail, list)
    )
    with pytest.raises(StorageUnavailable):
        deletion.begin("made", [fails])
    with pytest.raises(NotWaiting):
        deletion.undo("made")
    assert (deletion.waiting.get("made") is not None, store.is_deleted("made")) == (
        True,
        True,
    )
    assert deletion.begin("made", [works])
    tenants.register("made")
    deletion.waiting.add("made", "", 0, "")
    assert not deletion.begin("made", [works])
    assert (deletion.waiting.get("made"), tenants.get("made") is not None) == (
        None,
        True,
    )
    deletion.plan("made", 0, "")
    deletion.waiting.drop("made")  # whoever began to undo it was interrupted
    deletion.undo("made")
    assert not tenants.by_name["made"].locked
    store.close()
