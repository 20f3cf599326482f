"""Exports over two nodes that share a database: by a person, a session and a
back end; killed and fetched."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any
from zipfile import ZipFile

import pytest

from imserver.gateway.auth.tokens import make_token
from imserver.gateway.config.settings import JwtSettings
from imserver.plugin.testing import Answer, NodeProcess, eventually
from tests.support import run_cli

FEATURES = ("messages", "accounts", "groups", "audit", "exports")
KEY = "admin-key-of-the-tests"
PASSWORD = "correct horse"
SECRET = "a secret of the tests that is long enough"
SETTINGS: dict[str, Any] = {
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
    "exports": {"per_day": 3},
    "apps": {
        "shop": {"account_tokens": "required"},
        "tea": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
    },
}


@pytest.fixture
def nodes(
    url: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """A cluster of two nodes with one folder of data, once on each engine."""
    more = {
        "storage": {"url": url},
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


def zip_of(answer: Answer) -> ZipFile:
    assert answer.status == 200, answer
    return ZipFile(io.BytesIO(answer.body))


def done(node: NodeProcess, path: str, key: str) -> Any:
    return eventually(
        lambda: (shown := good(node.get(path, key=key)))["state"] == "done" and shown
    )


def test_a_person_exports_their_own_data_and_nobody_else_gets_them_and_those_of_a_session_are_counted(
    nodes: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = nodes
    check_exports_of_a_session(one)
    people = (
        {"app": "shop", "name": name, "password": PASSWORD}
        for name in ("ann_lee", "bob_lee")
    )
    ann, bob = (
        good(one.post("/api/v1/accounts/register", each, key=KEY)) for each in people
    )
    message = {"app": "shop", "to": bob["account"]["user"], "text": "hi"}
    good(one.post("/api/v1/messages/send", message, key=ann["token"]))
    assert (
        good(one.get("/api/v1/exports/show/self?app=shop", key=ann["token"]))["state"]
        == "none"
    )
    start = good(
        one.post("/api/v1/exports/start/self", {"app": "shop"}, key=ann["token"])
    )
    query = f"app=shop&id={start['id']}"
    shown = done(two, f"/api/v1/exports/show/self?{query}", ann["token"])
    assert shown["bytes"] > 0
    assert (
        good(two.get("/api/v1/exports/show/self?app=shop", key=ann["token"])) == shown
    )
    with zip_of(
        two.get(f"/api/v1/exports/file/self?{query}", key=ann["token"])
    ) as file:
        assert json.loads(file.read("profile.json"))["name"] == "ann_lee"
        assert b'"text":"hi"' in file.read("conversations/1.jsonl")
        assert b"accounts.register" in file.read("audit.jsonl")
    for path in ("show/self", "file/self"):
        assert (
            two.get(f"/api/v1/exports/{path}?{query}", key=bob["token"]).status == 404
        )
        assert two.get(f"/api/v1/exports/{path}?{query}").status == 401
    for path in ("show", "file"):
        assert (
            two.get(f"/api/v1/exports/{path}?{query}", key=ann["token"]).status == 401
        )
        assert two.get(f"/api/v1/exports/{path}?{query}", key=KEY).status == 200
    nobody = one.post(
        "/api/v1/exports/start", {"app": "shop", "user": "nobody"}, key=KEY
    )
    assert (nobody.status, nobody.json["code"]) == (404, "unknown_account")
    of_bob = good(
        one.post(
            "/api/v1/exports/start",
            {"app": "shop", "user": bob["account"]["user"]},
            key=KEY,
        )
    )
    ids = [
        each["id"]
        for each in good(two.get("/api/v1/exports?app=shop", key=KEY))["exports"]
    ]
    assert sorted(ids) == sorted([start["id"], of_bob["id"]])
    assert (
        two.post(
            "/api/v1/exports/delete", {"app": "tea", "id": of_bob["id"]}, key=KEY
        ).status
        == 404
    )
    assert good(
        two.post("/api/v1/exports/delete", {"app": "shop", "id": of_bob["id"]}, key=KEY)
    )
    whose = f"app=shop&user={bob['account']['user']}"
    assert good(one.get(f"/api/v1/exports?{whose}", key=KEY)) == {"exports": []}
    # a command beside the nodes of a cluster
    for whose in ("shop", f"shop/{bob['account']['user']}"):
        exported = run_cli(
            "export",
            "-c",
            str(one.config_file),
            whose,
            str(one.folder / f"{len(whose)}.zip"),
        )
        assert exported.returncode == 0, exported
    good(
        one.post(
            "/api/v1/accounts/delete",
            {"app": "shop", "password": PASSWORD},
            key=ann["token"],
        )
    )
    eventually(lambda: two.get(f"/api/v1/exports/file?{query}", key=KEY).status == 404)
    eventually(lambda: not list((one.folder / "data" / "exports").glob(start["id"])))


def check_exports_of_a_session(one: NodeProcess) -> None:
    token = make_token(
        "cat", "tea", int(time()) + 3600, JwtSettings("HS256", SECRET), SECRET
    )
    for number in range(4):
        answer = one.post("/api/v1/exports/start/self", {"app": "tea"}, key=token)
        if number == 3:
            assert answer.status == 429
            break
        query = f"app=tea&id={good(answer)['id']}"
        done(one, f"/api/v1/exports/show/self?{query}", token)
        with zip_of(one.get(f"/api/v1/exports/file/self?{query}", key=token)) as file:
            assert json.loads(file.read("manifest.json"))["user"] == "cat"
