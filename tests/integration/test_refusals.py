"""Why something was refused, and lifting it: of one node, and of two with one
Redis."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import Server, run_cli
from tests.users import PASSWORD, User

from . import v1
from .clusters import Nodes, nodes_of
from .cmd import login_code
from .setting import MULTI

ADMIN = "admin-key-of-the-tests"
READ = "read-key-of-the-tests"
OF_SHOP = "key-of-the-shop-tests"
CONFIG: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": READ, "scopes": ["read"]},
            {"key": OF_SHOP, "scopes": ["admin"], "apps": ["shop"]},
        ]
    },
    "accounts": {"failures": 2, "registration": True},
    "apps": {
        "shop": {"account_tokens": "required"},
        "other": {"account_tokens": "required"},
        "gochat": {"account_tokens": "required"},
        str(MULTI): {"open": True, "login_policy": "multi"},
    },
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("refusals"), 2, **CONFIG) as nodes:
        yield nodes


@pytest.fixture
def server(nodes: Nodes) -> Server:
    """One of them."""
    return nodes.servers[0]


def fail_until_limited(server: Server, phone: str) -> None:
    """Type wrong passwords until the server takes no more."""
    codes = [log_in(server, phone, "wrong")[1] for _ in range(3)]
    assert codes == ["wrong_login", "wrong_login", "too_many_requests"]


def log_in(server: Server, phone: str, password: str = PASSWORD) -> tuple[int, str]:
    body = {"app": "shop", "login": phone, "password": password}
    answer = v1.call(server.http, "accounts/login", body)
    return answer.status, answer.json.get("code", "")


def refusals(server: Server, key: str = ADMIN, **query: str) -> Any:
    return v1.good(server.http, f"refusals?{urlencode(query)}", key=key)


def logins(answer: Any) -> list[tuple[str, str, int]]:
    return sorted(
        (row["reason"], row["account"], row["count"]) for row in answer["refusals"]
    )


def test_she_logs_in_at_once_when_an_operator_has_lifted_her_limit(
    nodes: Nodes,
) -> None:
    one, two = nodes.servers
    eve = User.register(one, "shop", name="eve")
    codes = [log_in(each, "eve", "wrong")[1] for each in (one, two, one)]
    assert codes == ["wrong_login", "wrong_login", "too_many_requests"]
    assert log_in(two, "eve") == (429, "too_many_requests")
    for each in (one, two):
        answer = refusals(each, app="shop", user="eve")
        assert logins(answer) == [("attempts", eve.user, 2), ("password", eve.user, 2)]
        attempts, (hold,) = answer["refusals"][0], answer["holds"]
        assert (attempts["limit"], attempts["user"]) == ("pair", "")
        assert attempts["meaning"]
        assert attempts["lift"]
        assert (hold["kind"], hold["name"]) == ("rate", "pair")
        assert min(attempts["until"], hold["until"]) > attempts["last"]
        assert set(answer["users"]) == {"eve", eve.user}
    # A node that has not counted all of her attempts asks Redis.
    lifted = v1.good(two.http, "limits/lift", {"app": "shop", "user": "eve"}, key=ADMIN)
    assert [each["name"] for each in lifted["lifted"]] == ["pair"]
    assert log_in(one, "eve") == (200, "")
    assert refusals(one, app="shop", user="eve")["holds"] == []
    assert f"login of account {eve.user} in shop refused: password" in one.log_text
    assert "'eve'" not in one.log_text


MUTES = (
    "Calm down.",
    "the owner or an admin of the group can lift the mute",
    "To lift the other limits: ",
)


def test_the_command_explains_and_lifts(server: Server, tmp_path: Path) -> None:
    dan = User.register(server, "shop", name="dan")
    fail_until_limited(server, "dan")
    mute = {"app": "shop", "user": dan.user, "seconds": 3600, "reason": "Calm down."}
    v1.good(server.http, "moderation/mute", mute, key=ADMIN)
    lea = User.register(server, "shop", name="lea")
    lea.post("groups/mute", group=lea.group(dan), member=dan.user, until=2**31)
    explained = run_cli("why", "shop/dan", "--url", server.http_url, IMSERVER_KEY=ADMIN)
    assert explained.returncode == 0, explained.stderr
    for text in (
        f"dan is account {dan.user} of shop.",
        "pair: ",
        "imserver why shop/dan --lift",
        "2 times",
        *MUTES,
    ):
        assert text in explained.stdout, explained.stdout
    lifted = run_cli(
        "why", "shop/dan", "--lift", "--url", server.http_url, IMSERVER_KEY=ADMIN
    )
    assert re.match(
        r"Lifted\n  rate .*\n .*\n  muted .*\n +Calm down.\nStill in force\n  muted",
        lifted.stdout,
    )
    assert log_in(server, "dan") == (200, "")
    again = run_cli(
        "why", "shop/dan", "--lift", "--url", server.http_url, IMSERVER_KEY=ADMIN
    )
    assert again.stdout.startswith("Still in force\n  muted")
    assert login_code(server.ws, "\x1b[31mred", "shop") == 1003
    shown = run_cli("why", "shop", "--url", server.http_url, IMSERVER_KEY=ADMIN).stdout
    assert "[31mred" in shown
    assert "\x1b" not in shown, "a terminal obeys no text of a stranger"
    without = run_cli("why", "shop/dan", "--url", server.http_url)
    assert without.returncode == 1
    assert "set IMSERVER_KEY" in without.stderr
    (tmp_path / "imserver.yaml").write_text(json.dumps(CONFIG))
    assert (
        run_cli("why", "shop/dan", "--url", server.http_url, folder=tmp_path).returncode
        == 0
    )
