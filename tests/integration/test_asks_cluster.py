"""Questions over two real nodes and one database: asked at one, answered at the other, with double taps."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.errors import ReplyCode

from .clusters import Nodes, app_with, nodes_of
from .cmd import logged_in
from .v1 import good

QUESTIONS = 10
YES_NO = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("asks"), 2) as two:
        yield two


def ask(nodes: Nodes, number: int, app: int, **fields: Any) -> int:
    body = {"app": str(app), "user": "ann", "to": "bob", "text": "tea?", "options": YES_NO, **fields}
    return int(good(nodes.http[number], "asks/create", body)["id"])


def wait(nodes: Nodes, number: int, app: int, id: int) -> dict[str, Any]:
    body = {"app": str(app), "user": "ann", "id": id, "wait": 60}
    question: dict[str, Any] = good(nodes.http[number], "asks/get", body)
    return question


def test_of_taps_on_two_devices_at_two_nodes_one_counts(nodes: Nodes) -> None:
    app = app_with("multi")
    with ExitStack() as stack:
        phone = stack.enter_context(logged_in(nodes.ws[0], "bob", app, cursor=0))
        laptop = stack.enter_context(logged_in(nodes.ws[1], "bob", app, cursor=0))
        pool = stack.enter_context(ThreadPoolExecutor(QUESTIONS + 2))
        ids = [ask(nodes, number % 2, app) for number in range(QUESTIONS)]
        waiting = [pool.submit(wait, nodes, number % 2, app, id) for number, id in enumerate(ids)]
        for id in ids:
            taps = [
                pool.submit(device.ask_cmd, "answer", {"id": id, "value": value})
                for device, value in ((phone, "yes"), (laptop, "no"))
            ]
            codes = sorted(tap.result()[0] for tap in taps)
            assert codes == [ReplyCode.OK, ReplyCode.UNAUTHORIZED]
        questions = [one.result() for one in waiting]
    assert {one["state"] for one in questions} == {"answered"}
    assert all(len(one["answers"]) == 1 for one in questions)
    for server in nodes.http:
        seen = [good(server, "asks/get", {"app": str(app), "id": id}) for id in ids]
        assert seen == questions


def test_the_other_node_closes_the_question_of_a_killed_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(tmp_path_factory.mktemp("killed"), 2) as nodes:
        app = app_with("multi")
        id = ask(nodes, 1, app, seconds=5)
        nodes.servers[1].process.send_signal(signal.SIGKILL)
        nodes.servers[1].process.wait()
        assert wait(nodes, 0, app, id)["state"] == "expired"
