"""What took long on each node, and a log that says more for a while."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.config.settings import Config, KeySettings
from imserver.gateway.metrics import Slow, Timings
from imserver.gateway.terminal import table
from imserver.operate.watch.api import TimingsAnswer
from imserver.operate.watch.slow import SLOW_FOR, Watch
from tests.conftest import StartServer
from tests.gateway.api.api_node import JSON, ApiNode, with_keys
from tests.integration.clusters import name_of, nodes_of
from tests.integration.cmd import logged_in
from tests.integration.v1 import good
from tests.support import eventually, run_cli

ALL = "an-admin-key-of-this-test"
SHOP = "an-admin-key-of-the-shop"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ApiNode]:
    keys = KeySettings(ALL, ("admin",)), KeySettings(SHOP, ("admin",), apps=("shop",))
    node = ApiNode(tmp_path, with_keys(*keys, features=("watch",)))
    yield node
    node.close()


def test_the_slowest_of_each_name_is_remembered_for_an_hour() -> None:
    timings = Timings()
    for seconds in (0.024, 0.3, 0.2):
        timings.took("push", seconds, "key:1", f"request of {seconds}")
    timings.took("list", 0.001)
    assert (timings.slowest["push"].seconds, timings.slowest["push"].request) == (
        0.3,
        "request of 0.3",
    )
    assert (sum(timings["push"].counts), round(timings["push"].total, 3)) == (3, 0.524)
    for before, names in ((time() - SLOW_FOR, ["push"]), (time() + 1, [])):
        timings.forget(lambda slow, before=before: slow.time < before)
        assert list(timings.slowest) == names
    assert "\x1b" not in table("by", [Slow(0.0, 0.1, "token:\x1b[2J")]), (
        "a user has chosen it"
    )


def test_all_nodes_show_what_took_how_long(tmp_path: Path) -> None:
    with nodes_of(tmp_path, 2) as nodes:
        here, there = nodes.servers
        with logged_in(there.ws, "ann", 101):
            good(there.http, "push", {"app": "101", "user": "ann", "text": "hi"})
        rows = good(here.http, "nodes/timings")["timings"]
        found = {(row["node"], row["kind"], row["name"]): row["count"] for row in rows}
        assert found[name_of(there), "requests", "/api/v1/push"] == 1
        assert found[name_of(there), "commands", "Login"] == 1
        assert (name_of(here), "requests", "/api/v1/push") not in found

        def shown_with_a_job() -> str:
            text = run_cli("slow", "--most", "1000", "--url", here.http_url).stdout
            has_job = re.search(r"jobs +catch up: check acks +\d", text)
            return text if has_job else ""

        # a job first runs after a second
        shown = eventually(shown_with_a_job, what="words in place of names in the code")
        assert not re.search(r"[a-z]\._|Store\.", shown)
        eventually(
            lambda: 'route="/api/v1/push",le="+Inf"} 1' in str(there.get("/metrics")[1])
        )
        good(here.http, "nodes/log", {"share": 1, "name": "Login"})
        with logged_in(there.ws, "bob", 101):
            eventually(
                lambda: "Login 200" in there.log_text,
                what="the other node logs commands",
            )


def test_nodes_log_more_for_a_while(node: ApiNode) -> None:
    part = logging.getLogger("imserver.gateway.cluster")
    all_of_it = logging.getLogger("imserver")
    before = all_of_it.level
    requests = node.core.node.request_log

    def log(**wish: Any) -> None:
        node.post_json("/api/v1/nodes/log", wish, key=ALL)

    def now() -> tuple[str, str] | None:
        state = node.get("/api/v1/nodes/timings", key=ALL)["log"]
        return state and (state["level"], state["part"])

    assert now() is None
    log(level="debug", part="gateway.cluster", share=0.5)
    assert now() == ("debug", "gateway.cluster")
    assert (part.getEffectiveLevel(), all_of_it.level) == (logging.DEBUG, before)
    assert requests.settings.request_share == 0.5
    log(level="error")
    assert requests.settings.request_share == 1.0, "as the settings say"
    assert (part.getEffectiveLevel(), all_of_it.level) == (
        logging.ERROR,
        logging.ERROR,
    ), "it replaces that"
    node.core.service(Watch).configure(Config())
    assert (part.getEffectiveLevel(), all_of_it.level) == (
        logging.INFO,
        logging.INFO,
    ), "a reload ends it"
    log(level="error")
    log(level="info", seconds=0)
    assert (all_of_it.level, now()) == (logging.INFO, None)
    assert (
        node.request(
            "POST", "/api/v1/nodes/log", b'{"level":"info"}', kind=JSON, key=SHOP
        ).status
        == 403
    )
    typo = b'{"level":"info","part":"gateway.clutser"}'
    wrong = node.request("POST", "/api/v1/nodes/log", typo, kind=JSON, key=ALL)
    assert wrong.status == 400
    assert b"there is no gateway.clutser; the nearest: gateway.cluster" in wrong.body
    all_of_it.setLevel(before)
    answers = (
        node.request("POST", "/api/v1/nodes/log", body, kind=JSON, key=ALL)
        for body in (
            b'{"name":"/api/v1/push"}',
            b'{"level":"debug","name":"/api/v1/nowhere"}',
        )
    )
    assert [each.status for each in answers] == [400, 400], (
        "it wishes nothing; there is no such call"
    )


def test_a_route_logs_more_or_less_than_the_others_for_a_while(
    node: ApiNode, caplog: pytest.LogCaptureFixture
) -> None:
    timings = node.api.endpoints["GET", "/api/v1/nodes/timings"].route
    for path in ("/one", "/other"):

        def log_path(*_: object, path: str = path) -> TimingsAnswer:
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger("imserver.gateway.cluster").log(level, path)
            return TimingsAnswer([], [])

        node.api.endpoints["GET", path] = node.api.bind(
            replace(timings, path=path, function=log_path)
        )

    def lines(**wish: Any) -> str:
        node.post_json("/api/v1/nodes/log", wish, key=ALL)
        caplog.clear()
        node.get("/one", key=ALL)
        node.get("/other", key=ALL)
        return " ".join(
            f"{each.levelname[0]}{each.getMessage()}" for each in caplog.records
        )

    with caplog.at_level(logging.INFO, "imserver"):
        caplog.handler.setLevel(logging.DEBUG)
        as_settings = "I/one W/one I/other W/other"
        assert lines(level="debug", name="/one") == f"D/one {as_settings}"
        assert (
            lines(level="debug", name="/one", part="gateway.cluster")
            == f"D/one {as_settings}"
        )
        assert lines(level="debug", name="/one", part="gateway.storage") == as_settings
        assert lines(level="error", name="/other", share=0.5) == "I/one W/one"
        assert node.core.node.request_log.shares == {"/other": 0.5}
        assert lines(level="info", name="/other") == as_settings
        assert lines(seconds=0) == as_settings
        assert not node.core.node.request_log.shares


def test_a_command_logs_more_than_the_others_for_a_while(
    start_server: StartServer,
) -> None:
    server = start_server()
    with logged_in(server.ws, "ann", 101):
        good(server.http, "nodes/log", {"level": "debug", "share": 1, "name": "Login"})
    output = run_cli("log", "--url", server.http_url).stdout
    assert re.fullmatch(
        r"level debug, name Login, share 1\.0, until \d\d:\d\d:\d\d\n", output
    )
    for user in ("bob", "b b"):
        with logged_in(server.ws, user, 101) as one:
            one.ask_cmd("heartbeat", {})
    assert run_cli("log", "default", "--url", server.http_url).returncode == 0
    assert run_cli("log", "--url", server.http_url).stdout == "as the settings say\n"
    with logged_in(server.ws, "dan", 101):
        pass
    lines = server.log_text.splitlines()
    debug = [line for line in lines if " DEBUG " in line]
    assert [("'bob'" in line, "login of" in line) for line in debug] == [
        (True, True),
        (False, True),
    ]
    own = [line for line in lines if "imserver.command" in line]
    assert [
        re.sub("^.*command: [0-9.:]+ ", "", re.sub("[0-9.]+ms", "1ms", line))
        for line in own
    ] == [
        "Login 200 1ms app=101 user='bob'",
        "Login 200 1ms app=101 user='b b'",
    ]
