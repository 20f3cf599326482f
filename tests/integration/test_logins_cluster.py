"""Logins and webhooks on two nodes: one derived secret for all, one story for the back end."""

from pathlib import Path
from typing import Any

from tests.gateway.commands.test_token import create
from tests.support import eventually

from .clusters import leases, nodes_of
from .cmd import fresh, logged_in, login_code
from .raw import CLOSE
from .receiver import Receiver
from .v1 import good

KEY = "admin-key-of-the-tests"


def test_each_node_reports_its_own_connections_and_one_node_reports_who_is_absent(tmp_path: Path) -> None:
    with Receiver() as receiver:
        apps = {
            "102": {"open": True, "webhook": receiver.settings, "login_policy": "single"},
            "103": {"jwt": [{}]},
        }
        keys = {"keys": [{"key": KEY, "scopes": ["admin"]}]}

        def reporting_nodes(event: str, user: str) -> list[Any]:
            return [each["node"] for each in receiver.events(event) if each["user"] == user]

        with nodes_of(tmp_path, 2, apps=apps, api=keys) as nodes:
            proof = create(str(nodes.servers[1].config_file), app="103")
            for ws in nodes.ws:
                assert login_code(ws, "ann", 103, serviceToken=proof) == 200
            names = [next(iter(leases(server, KEY))) for server in nodes.servers]
            user, missing = fresh(), fresh()
            with logged_in(nodes.ws[1], user, 102) as replaced:
                eventually(lambda: reporting_nodes("login", user) == [names[1]])
                assert reporting_nodes("connect", user) == [names[1]]
                for to in (user, missing):
                    good(nodes.http[0], "push", {"app": "102", "user": to, "text": "hi"}, key=KEY)
                (absent,) = eventually(lambda: reporting_nodes("absent", missing))
                assert absent in names, "the node that holds the lease of the feed delivers it"
                with logged_in(nodes.ws[0], user, 102):
                    while (closed := replaced.frame()).opcode != CLOSE:
                        pass
                    assert closed.close_code == 4500
                    assert eventually(lambda: reporting_nodes("disconnect", user)) == [names[1]]
            assert not reporting_nodes("absent", user)
