"""Locks, keys of owners and second factors on two nodes: what one decides holds for the other at once."""

from collections.abc import Iterator
from time import time
from typing import Any

import pyotp
import pytest

from tests.support import eventually, run_cli
from tests.users import PASSWORD, User

from .clusters import Nodes, nodes_of
from .cmd import logged_in
from .test_v1_cluster import close_code
from .v1 import KEYS

KEY = "admin-key-of-the-tests"
APP = "77"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    apps = {APP: {"account_tokens": "required"}}
    accounts = {"registration": True, "registrations_per_address": 0, "logins_per_address": 0}
    folder = tmp_path_factory.mktemp("accounts")
    with nodes_of(folder, 2, apps=apps, accounts=accounts, api=KEYS) as two:
        yield two


def both(nodes: Nodes, token: str, user: str = "") -> list[User]:
    """Somebody who asks one node, and the other."""
    return [User(server, token, user, APP) for server in nodes.servers]


def person(nodes: Nodes, **fields: Any) -> list[User]:
    one = User.register(nodes.servers[0], APP, **fields)
    return both(nodes, one.token, one.user)


def test_a_command_locks_while_nodes_run(nodes: Nodes) -> None:
    _, ann = person(nodes, name="cli")
    first, second = nodes.servers
    with logged_in(second.ws, ann.user, int(APP), serviceToken=ann.token) as session:
        done = run_cli("account", "lock", "-c", str(first.config_file), f"{APP}/cli", folder=first.folder)
        assert done.stdout == f"{APP}/cli is locked\n", done.stderr
        assert close_code(session) == 4503
    assert ann.refused_get("accounts/show") == (401, "token_invalid")


def test_a_key_of_an_owner_ends_with_the_owner_on_every_node(nodes: Nodes) -> None:
    keyed, (one, _) = User(nodes.servers[0], KEY, app=APP), person(nodes)
    keyed.post("accounts/role", user=one.user, role="owner")
    limited = {"scopes": ["admin"], "apps": [APP]}
    first = User(one.server, one.token).post("keys/create", **limited)
    second = User(one.server, first["secret"]).post("keys/create", **limited)
    assert (first["key"]["maker"], second["key"]["maker"]) == (one.user, one.user)
    assert User(one.server, KEY).post("keys/create", **limited)["key"]["maker"] == ""
    holders = [both(nodes, each["secret"])[1] for each in (first, second)]

    def statuses() -> list[int]:
        return [holder.ask("GET", "keys", {})[0] for holder in holders]

    eventually(lambda: statuses() == [200, 200], 5, "keys on the other node")
    who, several = {"user": one.user}, {"users": [one.user]}
    for begin, end in (
        (("accounts/lock", who), ("accounts/unlock", who)),
        (("ban", {**several, "seconds": 600}), ("unban", several)),
    ):
        keyed.post(begin[0], **begin[1])
        eventually(lambda: statuses() == [401, 401], 5, "no keys of a locked owner")
        keyed.post(end[0], **end[1])
        eventually(lambda: statuses() == [200, 200], 5, "keys of an owner")
    keyed.post("accounts/role", user=one.user, role="moderator")
    eventually(lambda: statuses() == [401, 401], 5, "no keys of a moderator")
    rows = User(one.server, KEY).get("keys", app=APP, ended="true")["keys"]
    assert [row["state"] for row in rows if row["id"] == first["key"]["id"]] == ["revoked"]


def test_a_code_is_used_once_on_all_nodes(nodes: Nodes) -> None:
    one, other = person(nodes, name="factor")
    secret = one.post("accounts/factor/begin", password=PASSWORD)["secret"]
    codes = [pyotp.TOTP(secret).generate_otp(int(time()) // 30 + drift) for drift in (0, 1)]
    other.post("accounts/factor/confirm", code=codes[0])
    login = {"login": "factor", "password": PASSWORD, "code": codes[1]}
    assert other.post("accounts/login", **login)["token"]
    assert one.refused("accounts/login", **login) == (401, "wrong_code")
