"""Acts of all ways over two nodes that share a database: each is stored once,
by the right principal."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imserver.plugin.testing import NodeProcess
from tests.support import run_cli

FEATURES = ("messages", "accounts", "groups", "audit")
KEY = "admin-key-of-the-tests"
APP = "7101"
SETTINGS: dict[str, Any] = {
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
    "apps": {APP: {"open": True, "account_tokens": "required"}},
}


class ActingNodes:
    """Two nodes and a command, and what they have done: (name, principal,
    users) → how often."""

    def __init__(self, nodes: list[NodeProcess], seed: int) -> None:
        self.nodes = nodes
        self.choice = random.Random(seed)
        self.done: Counter[tuple[str, str, str]] = Counter()
        self.key_id = ""
        account = self.post(
            "accounts/register", KEY, app=APP, name="annlee", password="correct horse b"
        )
        self.user, self.token = account["account"]["user"], account["token"]
        owner = self.post(
            "accounts/register", KEY, app=APP, name="danlee", password="correct horse b"
        )
        self.owner, self.staff = owner["account"]["user"], owner["token"]
        self.post("accounts/role", KEY, app=APP, user=self.owner, role="owner")
        self.group = self.post("groups/create", self.token, app=APP, name="tea")[
            "group"
        ]
        self.done.clear()

    def post(self, path: str, key: str, **body: Any) -> Any:
        answer = self.choice.choice(self.nodes).post(f"/api/v1/{path}", body, key=key)
        assert answer.status < 300, (path, answer)
        return answer.json

    def ban(self, number: int) -> None:
        self.post("ban", KEY, app=APP, users=[f"u{number}"], seconds=60)
        self.done["ban", "key", f"u{number}"] += 1

    def unban_in_a_batch(self, number: int) -> None:
        command = {"unban": {"app": APP, "users": [f"u{number}", "x"]}}
        self.post(
            "batch",
            KEY,
            commands=[command, {"push": {"app": APP, "user": "x", "text": "no act"}}],
        )
        self.done["unban", "key", f"u{number},x"] += 1

    def rename(self, number: int) -> None:
        self.post(
            "groups/rename", self.token, app=APP, group=self.group, name=f"tea {number}"
        )
        self.done["groups.rename", f"account:{self.user}", ""] += 1

    def unban_by_role(self, number: int) -> None:
        self.post("unban", self.staff, app=APP, users=[f"u{number}"])
        self.done["unban", f"staff:{self.owner}", f"u{number}"] += 1

    def add_a_node(self, _number: int) -> None:
        with self.nodes[0].another():
            pass
        for name in ("node.start", "node.drain"):
            self.done[name, "node", ""] += 1

    def kick(self, number: int) -> None:
        node = self.choice.choice(self.nodes)
        for user in (f"u{number}", ""):  # without a user nothing changes
            form = f"appID={APP}&userID={user}".encode()
            assert node.post("/user/kick", form, key=KEY).json["code"] == 200
        self.done["disconnect", "key", f"u{number}"] += 1

    def command(self, number: int) -> None:
        done = run_cli(
            "app", "create", f"app{number}", "-c", str(self.nodes[0].config_file)
        )
        assert done.returncode == 0, done
        self.done["apps.create", "command", ""] += 1

    def refused(self, number: int) -> None:
        assert (
            self.nodes[0]
            .post("/api/v1/ban", {"app": APP, "users": ["x"]}, key=KEY)
            .status
            == 400
        )
        assert (
            self.nodes[0]
            .post("/api/v1/unban", {"app": APP, "users": ["x"]}, key="none")
            .status
            == 401
        )

    def acts(self) -> Counter[tuple[str, str, str]]:
        stored: Counter[tuple[str, str, str]] = Counter()
        after = 0
        while True:
            page = (
                self.nodes[-1]
                .get(f"/api/v1/audit?limit=1000&after={after}", key=KEY)
                .json
            )
            for act in page["acts"]:
                by = act["by"]["kind"]
                if by in ("account", "staff"):
                    by += f":{act['by']['id']}"
                user = act["user"] if act["user"] != self.user else ""
                users = ",".join(
                    [*filter(None, [user]), *act["facts"].get("users", ())]
                )
                stored[act["name"], by, users] += 1
            after = page["next"]
            if not after:
                return stored


@pytest.mark.parametrize(
    "number", [40, pytest.param(1000, marks=pytest.mark.full("sampled"))]
)
def test_each_act_is_found_once(
    url: str, redis_url: str, tmp_path: Path, number: int
) -> None:
    address = redis_url.removeprefix("redis://").partition("/")[0]
    more = {
        "storage": {"url": url},
        "redis": {"addr": address},
        "cluster": {"advertise": "127.0.0.1", "redis_seconds": 10, "rpc_seconds": 10},
    }
    node = NodeProcess(
        features=FEATURES, settings={**SETTINGS, **more}, folder=tmp_path / "node"
    )
    with node as first, first.another() as second:
        acting = ActingNodes([first, second], seed=number)
        ways = [
            acting.ban,
            acting.unban_in_a_batch,
            acting.rename,
            acting.kick,
            acting.refused,
        ]
        before = acting.acts()
        ways.append(acting.unban_by_role)
        rare = {number // 2: acting.add_a_node}
        for step in range(number):
            way = (
                acting.command
                if step % 50 == 25
                else rare.get(step) or acting.choice.choice(ways)
            )
            way(step)
        assert acting.acts() - before == acting.done
    verified, exported, hashed = (
        run_cli("audit", *each, "-c", str(first.config_file))
        for each in (["verify"], ["export"], ["export", "--hashes"])
    )
    assert (verified.returncode, exported.returncode) == (0, 0), (verified, exported)
    chain = [json.loads(line) for line in hashed.stdout.splitlines()]
    assert verified.stdout.split()[-1] == f"{chain[-1]['number']}:{chain[-1]['hash']}"
    hashed_fields = {
        "number",
        "time",
        "name",
        "kind",
        "app",
        "request",
        "names",
        "previous",
        "hash",
    }
    assert all(each.keys() == hashed_fields for each in chain)
    numbers = [json.loads(line)["number"] for line in exported.stdout.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
