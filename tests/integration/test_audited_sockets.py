"""A command over a socket is an act, as a request is."""

import json
from pathlib import Path

from imserver.plugin.testing import NodeProcess
from tests.operate.audit.test_two_nodes import APP, FEATURES, SETTINGS, ActingNodes


def test_a_command_over_a_socket_is_found_once(tmp_path: Path) -> None:
    with NodeProcess(
        features=("centrifuge", *FEATURES), settings=SETTINGS, folder=tmp_path / "node"
    ) as node:
        acting = ActingNodes([node], seed=1)
        before = acting.acts()
        method = {
            "method": "imserver:createGroup",
            "data": {"name": "tea", "members": []},
        }
        with node.connect(f"/connection/{APP}/websocket") as socket:
            for id, command in enumerate(
                ({"connect": {"token": acting.token}}, {"rpc": method}), 1
            ):
                socket.send(json.dumps({"id": id, **command}))
                answer = json.loads(socket.recv(60))
                assert "error" not in answer, answer
        acting.done["groups.create", f"account:{acting.user}", ""] += 1
        assert acting.acts() - before == acting.done
