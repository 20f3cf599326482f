"""Tasks: who sees them, that what a person permits happens once, and nodes that are killed meanwhile."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, Site, begun, ended, of_task, people, question, rpc, running
from imserver_mcp.protocol import Code

from imserver.plugin.testing import eventually
from tests.integration.clusters import nodes_of
from tests.sdk.node import run
from tests.users import User

HERE = Path(__file__).parent
OPTIONS = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
SEND_ASKS = {"gochat": {"mcp": {"confirm": ["send"], "confirm_seconds": 3600}}}


def texts(user: User) -> list[str]:
    got = user.get("messages/sync", after=0, limit=200)["messages"]
    return [each["text"] for each in got if each["kind"] == "message" and each["from"] != user.user]


def test_a_question_is_a_task_until_it_has_its_answer(site: Site) -> None:
    first, last, bot = site.url(site.first), site.url(), site.bot.token
    task = begun(first, bot, "ask", to=site.bob.user, text="As a task?", options=OPTIONS, seconds=7200)
    now = of_task("get", last, bot, task)
    assert (now["status"], now["ttlMs"] >= 7_200_000, now["resultType"]) == ("working", True, "complete")
    for other in (site.ann, site.ann.bot(f"other{task[5:12]}_bot")):
        for method in ("get", "update", "cancel"):
            assert of_task(method, last, other.token, task)["code"] == Code.BAD_PARAMS
    site.bob.post("asks/answer", id=question(site.bob, site.bot.user)["id"], value="yes")
    result = ended(last, bot, task)["result"]
    answer = result["structuredContent"]
    assert (answer["state"], answer["answers"][0]["value"]) == ("answered", "yes")
    again = of_task("get", first, bot, task)
    assert (of_task("cancel", last, bot, task)["resultType"], again["result"]) == ("complete", result)
    refused = rpc(last, bot, "tasks/get", taskId=task)
    assert refused["data"] == {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


def test_a_task_that_is_cancelled_asks_nobody_any_more(site: Site) -> None:
    task = begun(site.url(), site.bot.token, "ask", to=site.bob.user, text="Cancelled?", options=OPTIONS)
    asked = question(site.bob, site.bot.user)["id"]
    of_task("cancel", site.url(site.first), site.bot.token, task)
    assert of_task("get", site.url(), site.bot.token, task)["status"] == "cancelled"
    answer = site.bob.post("asks/answer", id=asked, value="yes")
    assert (answer["accepted"], answer["ask"]["state"]) == (False, "cancelled")


def test_the_client_of_pypi_takes_a_task(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        command = [sys.executable, str(HERE / "judge_tasks.py"), site.url(), site.bot.token, site.bob.user]
        waiting = pool.submit(run, command)
        site.bob.post("asks/answer", id=question(site.bob, site.bot.user)["id"], value="yes")
        assert waiting.result(60).strip() == "yes"


def test_what_a_person_permits_is_done_once_and_what_they_do_not_never(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path / "nodes", installed, 1, apps=SEND_ASKS) as (server,):
        ann, bob, bot = people(server)
        url = f"{server.http_url}/mcp"
        for value in ("no", "yes"):
            task = begun(url, bot.token, "send", to=bob.user, text=f"sent after {value}")
            ann.post("asks/answer", id=question(ann, bot.user)["id"], value=value)
            assert ended(url, bot.token, task)["result"]["isError"] is (value == "no")
        cancelled = begun(url, bot.token, "send", to=bob.user, text="cancelled")
        of_task("cancel", url, bot.token, cancelled)
        last = begun(url, bot.token, "send", to=bob.user, text="the token has ended")
        asked = question(ann, bot.user)["id"]
        ann.post("bots/rotate", bot=bot.user)
        ann.post("asks/answer", id=asked, value="yes")
        last = begun(url, ann.token, "ask", to=bob.user, text="later", options=OPTIONS)  # looked at after it
        bob.post("asks/answer", id=question(bob, ann.user)["id"], value="yes")
        ended(url, ann.token, last)
        assert texts(bob) == ["sent after yes", "later"]


@pytest.mark.sqlite_first
def test_tasks_wait_while_their_nodes_are_killed_replaced_and_restarted(
    empty_url: str, installed: dict[str, str], tmp_path: Path
) -> None:
    """Nobody asks for the tasks: they are done where the answer finds a node."""
    config: Any = {**CONFIG, "apps": SEND_ASKS, "storage": {"url": empty_url}}
    with nodes_of(tmp_path, 0, **config) as nodes:
        nodes.start_many(2, environment=installed)
        first, second = nodes.servers
        ann, bob, bot = people(first)
        tasks = [
            begun(f"{first.http_url}/mcp", bot.token, "send", to=bob.user, text=f"task {number}")
            for number in range(3)
        ]
        asked = [
            each["id"]
            for each in ann.get("messages/sync", after=0)["messages"]
            if "ask" in each.get("meta", {})
        ]
        first.process.kill()
        ann.server = bob.server = second
        ann.post("asks/answer", id=asked[0], value="yes")
        eventually(lambda: texts(bob) == ["task 0"], what="what the killed node had begun", seconds=60)
        ann.post("asks/answer", id=asked[1], value="yes")
        second.process.kill()
        third = nodes.start(environment=installed)
        ann.server = bob.server = third
        eventually(lambda: texts(bob) == ["task 0", "task 1"], what="what was answered before", seconds=90)
        ann.post("asks/answer", id=asked[2], value="yes")
        results = [ended(f"{third.http_url}/mcp", bot.token, task)["result"] for task in tasks]
        assert not any(each["isError"] for each in results)
        assert texts(bob) == ["task 0", "task 1", "task 2"]
