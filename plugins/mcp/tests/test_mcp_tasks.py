"""Tasks: who sees them, that what a person permits happens once, and nodes that
are killed meanwhile."""

import json
import socket
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import (
    BY_TASKS,
    CONFIG,
    KEY,
    OPTIONS,
    Site,
    begun,
    ended,
    of_task,
    people,
    question,
    rpc,
    running,
    tool,
)
from imserver_mcp import FEATURE, verify_receipt
from imserver_mcp.declared import Task, TaskCall
from imserver_mcp.protocol import Code, McpError
from imserver_mcp.receipts import KEY as KEY_OF_META
from imserver_mcp.receipts import act_of, receipt
from imserver_mcp.tasks import MOST_OPEN, TaskRows
from imserver_mcp.verify_receipt import PERMIT, Wrong, check, check_chain, digest, main
from msgspec.structs import replace

from imserver.operate.audit.acts import entry_of
from imserver.operate.audit.chain import AuditRow, hash_of
from imserver.plugin.identity import Act, Principal
from imserver.plugin.testing import eventually
from tests.integration.clusters import nodes_of
from tests.integration.plug_ins import install
from tests.integration.release import unpack
from tests.sdk.node import run
from tests.stores import ENGINES, TABLES, OpenStore
from tests.support import ROOT, Server
from tests.users import User

HERE = Path(__file__).parent
FEATURES = ["messages", "webhooks", "accounts", "groups", "bots", "ask", "audit", "mcp"]
IMSERVER = (sys.executable, "-m", "imserver")
SAMPLED = [
    pytest.param(each, marks=pytest.mark.full("sampled")) for each in ENGINES[1:]
]
ON_EACH = pytest.mark.parametrize("empty_url", ["sqlite", *SAMPLED], indirect=True)
SEND_ASKS = {"gochat": {"mcp": {"confirm": ["send"], "confirm_seconds": 3600}}}


def texts(user: User) -> list[str]:
    got = user.get("messages/sync", after=0, limit=200)["messages"]
    return [
        each["text"]
        for each in got
        if each["kind"] == "message" and each["from"] != user.user
    ]


def acts(server: Server, question: int) -> int:
    """How many acts say that the yes to a question was used."""
    return len(
        User(server, KEY).get("audit", name=PERMIT, about=f"message:{question}")["acts"]
    )


def test_a_question_is_a_task_until_it_has_its_answer(site: Site) -> None:
    first = site.url(site.first)
    last = site.url()
    bot = site.bot.token
    task = begun(
        first,
        bot,
        "ask",
        to=site.bob.user,
        text="As a task?",
        options=OPTIONS,
        seconds=7200,
    )
    now = of_task("get", last, bot, task)
    assert (now["status"], now["ttlMs"] >= 7_200_000, now["resultType"]) == (
        "working",
        True,
        "complete",
    )
    for other in (site.ann, site.ann.bot(f"other{task[5:12]}_bot")):
        for method in ("get", "update", "cancel"):
            assert of_task(method, last, other.token, task)["code"] == Code.BAD_PARAMS
    site.bob.post(
        "asks/answer", id=question(site.bob, site.bot.user)["id"], value="yes"
    )
    result = ended(last, bot, task)["result"]
    answer = result["structuredContent"]
    assert (answer["state"], answer["answers"][0]["value"]) == ("answered", "yes")
    again = of_task("get", first, bot, task)
    assert (of_task("cancel", last, bot, task)["resultType"], again["result"]) == (
        "complete",
        result,
    )
    refused = rpc(last, bot, "tasks/get", taskId=task)
    assert refused["data"] == {
        "requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    }


def test_a_task_that_is_cancelled_asks_nobody_any_more(site: Site) -> None:
    task = begun(
        site.url(),
        site.bot.token,
        "ask",
        to=site.bob.user,
        text="Cancelled?",
        options=OPTIONS,
    )
    asked = question(site.bob, site.bot.user)["id"]
    of_task("cancel", site.url(site.first), site.bot.token, task)
    assert of_task("get", site.url(), site.bot.token, task)["status"] == "cancelled"
    answer = site.bob.post("asks/answer", id=asked, value="yes")
    assert (answer["accepted"], answer["ask"]["state"]) == (False, "cancelled")


def test_who_has_too_many_tasks_asks_nobody(site: Site) -> None:
    bot = site.ann.bot("busy_bot")
    for _ in range(MOST_OPEN):
        begun(site.url(), bot.token, "confirm_delete")
    given = {"to": site.bob.user, "text": "One more?", "options": OPTIONS}
    refused = rpc(
        site.url(), bot.token, "tools/call", name="ask", arguments=given, _meta=BY_TASKS
    )
    assert (refused["code"], refused["data"]["max"]) == (Code.EXHAUSTED, MOST_OPEN)
    asked = [
        each
        for each in site.bob.get("messages/sync", after=0, limit=200)["messages"]
        if each["from"] == bot.user
    ]
    assert [
        each["meta"]["ask"]["state"] for each in asked if each["kind"] == "message"
    ] == ["cancelled"]


@ON_EACH
def test_calls_that_wait_count_and_no_two_take_the_last_place(
    empty_url: str, open_store: OpenStore
) -> None:
    store = open_store(empty_url, tables=replace(TABLES, of_others=(FEATURE.stored,)))
    rows = TaskRows(store)
    by = Principal("bot", apps=frozenset({"shop"}), user="helper")
    what = TaskCall(by, "", "send", {}, {}, True)

    def add(state: str = "held", user: str = "helper") -> Task | None:
        with suppress(McpError):
            return rows.add(
                Task(app="shop", user=user, state=state, what=what, question=7), 60, 10
            )
        return None

    for number in range(MOST_OPEN - 1):
        assert add("held" if number % 2 else "working")
    (held,) = filter(
        None,
        [each.value for each in gevent.joinall([gevent.spawn(add) for _ in range(12)])],
    )
    assert (add("working") is None, add(user="bob") is None) == (True, False)
    rows.end_waiting(held)
    assert add("working")


@pytest.mark.full("processes")  # the server looks for the client after 20 seconds
def test_a_call_that_waits_is_forgotten_when_its_client_goes(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path / "nodes", installed, 1, apps=SEND_ASKS) as (server,):
        _, bob, bot = people(server)
        call = {
            "name": "send",
            "arguments": {"to": bob.user, "text": "nobody hears of it"},
        }
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        ).encode()
        head = f"POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bot.token}\r\n"
        head += "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"

        def held() -> int:
            with closing(
                sqlite3.connect(server.folder / "data" / "imserver.db")
            ) as file:
                return int(file.execute("SELECT COUNT(*) FROM mcp_task").fetchone()[0])

        with socket.create_connection((server.http.host, server.http.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: held() == 1, what="the call")
        eventually(lambda: held() == 0, what="the end of what waits", seconds=60)


def test_the_client_of_pypi_takes_a_task(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        command = [
            sys.executable,
            str(HERE / "judge_tasks.py"),
            site.url(),
            site.bot.token,
            site.bob.user,
        ]
        waiting = pool.submit(run, command)
        site.bob.post(
            "asks/answer", id=question(site.bob, site.bot.user)["id"], value="yes"
        )
        assert waiting.result(60).strip() == "yes"


def test_what_a_person_permits_is_done_once_and_what_they_do_not_never(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path / "nodes", installed, 1, apps=SEND_ASKS) as (server,):
        ann, bob, bot = people(server)
        url = f"{server.http_url}/mcp"
        for value in ("no", "yes"):
            task = begun(
                url, bot.token, "send", to=bob.user, text=f"sent after {value}"
            )
            ann.post("asks/answer", id=question(ann, bot.user)["id"], value=value)
            assert ended(url, bot.token, task)["result"]["isError"] is (value == "no")
        cancelled = begun(url, bot.token, "send", to=bob.user, text="cancelled")
        of_task("cancel", url, bot.token, cancelled)
        last = begun(url, bot.token, "send", to=bob.user, text="the token has ended")
        asked = question(ann, bot.user)["id"]
        ann.post("bots/rotate", bot=bot.user)
        ann.post("asks/answer", id=asked, value="yes")
        # looked at after it
        last = begun(url, ann.token, "ask", to=bob.user, text="later", options=OPTIONS)
        bob.post("asks/answer", id=question(bob, ann.user)["id"], value="yes")
        ended(url, ann.token, last)
        assert texts(bob) == ["sent after yes", "later"]


def test_a_yes_leaves_one_receipt_that_holds_without_the_server(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with (
        running(tmp_path / "nodes", installed, 2, apps=SEND_ASKS) as (first, last),
        ThreadPoolExecutor(2) as pool,
    ):
        ann, bob, bot = people(first)
        url = f"{first.http_url}/mcp"
        there = f"{last.http_url}/mcp"
        given = {"to": bob.user, "text": "with a receipt, für ann \x1f"}
        task = begun(url, bot.token, "send", **given)
        asked = question(ann, bot.user)["id"]
        places = (ann, User(last, ann.token, ann.user))
        answers = list(
            pool.map(
                lambda who, value: who.post("asks/answer", id=asked, value=value),
                places,
                ["yes", "no"],
            )
        )
        is_yes = answers[0]["accepted"]
        assert [each["accepted"] for each in answers] == [is_yes, not is_yes]
        result = ended(there, bot.token, task)["result"]
        assert (acts(first, asked), KEY_OF_META in result.get("_meta", {})) == (
            is_yes,
            is_yes,
        )
        waiting = pool.submit(
            rpc, there, bot.token, "tools/call", name="send", arguments=given
        )
        asked = question(ann, bot.user)["id"]
        ann.post("asks/answer", id=asked, value="yes")
        found = waiting.result(60)["_meta"][KEY_OF_META]
        for who, of in ((bot, url), (ann, there)):
            assert tool(of, who.token, "receipt", question=asked) == found
        assert rpc(
            url, bob.token, "tools/call", name="receipt", arguments={"question": asked}
        )["isError"]
        says = check(found, given)
        assert (says["by"], says["person"], says["answer"]) == (
            bot.user,
            ann.user,
            "yes",
        )
        with pytest.raises(Wrong):
            check(found, {**given, "text": "another"})
        config = str(first.config_file)
        chain = run(
            [*IMSERVER, "audit", "export", "--hashes", "-c", config],
            tmp_path,
            **installed,
        )
        head = run(
            [*IMSERVER, "audit", "verify", "-c", config], tmp_path, **installed
        ).split()[-1]
        (tmp_path / "chain.jsonl").write_text(chain, encoding="utf-8")
        (tmp_path / "receipt.json").write_text(json.dumps(found), encoding="utf-8")
        command = [
            sys.executable,
            "-I",
            verify_receipt.__file__,
            "receipt.json",
            "--chain",
            "chain.jsonl",
        ]
        shown = run([*command, "--head", head], tmp_path)
        assert shown.startswith(f"{ann.user} has said yes to {bot.user} at "), shown
        assert (
            main(
                [
                    str(tmp_path / "receipt.json"),
                    "--arguments",
                    str(tmp_path / "receipt.json"),
                ]
            )
            == 1
        )


def made(number: int) -> tuple[bytes, list[bytes]]:
    """A receipt, and a chain with its row between two others."""
    bot = Principal("bot", apps=frozenset({"shop"}), user="helper")
    given = {"to": "bob", "text": f"für bob\n\x1f {number}"}
    text = f"May I use `send`? {given}"
    call = TaskCall(bot, "", "send", given, {}, True, question_digest=digest(text))
    task = Task(app="shop", user="helper", what=call, question=7)
    asked = {
        "id": 7,
        "text": text,
        "answers": [{"user": "ann", "value": "yes", "time": 1_700_000_000_000}],
    }
    rows = []
    previous = ""
    names = ()
    for act in (
        Act("node.start", Principal("node", key="n1")),
        act_of(task, asked, bot),
        Act("x", bot),
    ):
        entry, of_act = entry_of(act)
        place = number + len(rows), 1_700_000_000_000 + number, entry, previous
        rows.append(AuditRow(*place, hash_of(*place)))
        previous = rows[-1].hash
        names = of_act if act.name == PERMIT else names
    return json.dumps(receipt(rows[1], names, text), ensure_ascii=False).encode(), [
        row.hashed() + b"\n" for row in rows
    ]


@pytest.mark.parametrize(
    "number",
    [1, *(pytest.param(n, marks=pytest.mark.full("sampled")) for n in range(2, 101))],
)
def test_each_changed_bit_of_a_receipt_and_of_its_chain_is_found(number: int) -> None:
    whole, chain = made(number)
    original = json.loads(whole)
    check(original)
    assert (
        check_chain(
            chain, original["row"], f"{number + 2}:{json.loads(chain[2])['hash']}"
        )
        == 3
    )
    same = 0
    for changed in flipped(whole):
        with suppress(ValueError):
            now = json.loads(changed)
            same += now == original
            if now != original:
                with pytest.raises(Wrong):
                    check(now)
    assert same <= 2 * whole.count(b"\\u001f")  # \u001F is the same text
    for place, line in enumerate(chain):
        for changed in flipped(line):
            with pytest.raises(Wrong):
                check_chain(
                    [
                        *chain[:place],
                        *changed.splitlines(keepends=True),
                        *chain[place + 1 :],
                    ],
                    original["row"],
                )


def flipped(content: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@ON_EACH
def test_tasks_wait_while_their_nodes_are_killed_replaced_and_restarted(
    empty_url: str, installed: dict[str, str], tmp_path: Path
) -> None:
    """Nobody asks for the tasks: they are done where the answer finds a
    node."""
    config: Any = {**CONFIG, "apps": SEND_ASKS, "storage": {"url": empty_url}}
    with nodes_of(tmp_path, 0, **config) as nodes:
        nodes.start_many(2, environment=installed)
        first, second = nodes.servers
        ann, bob, bot = people(first)
        tasks = [
            begun(
                f"{first.http_url}/mcp",
                bot.token,
                "send",
                to=bob.user,
                text=f"task {number}",
            )
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
        eventually(
            lambda: texts(bob) == ["task 0"],
            what="what the killed node had begun",
            seconds=60,
        )
        ann.post("asks/answer", id=asked[1], value="yes")
        second.process.kill()
        third = nodes.start(environment=installed)
        ann.server = bob.server = third
        eventually(
            lambda: texts(bob) == ["task 0", "task 1"],
            what="what was answered before",
            seconds=90,
        )
        ann.post("asks/answer", id=asked[2], value="yes")
        results = [
            ended(f"{third.http_url}/mcp", bot.token, task)["result"] for task in tasks
        ]
        assert not any(each["isError"] for each in results)
        assert texts(bob) == ["task 0", "task 1", "task 2"]
        assert [acts(third, each) for each in asked] == [1, 1, 1]


BEFORE = "5700203e28fedeb91292c0cf1c3bd176fb4d9db8"
"""The first release has no tasks: until one has them, this commit is the one
before."""


@pytest.mark.full("programs")
@pytest.mark.needs("git")
def test_tasks_wait_while_a_newer_node_takes_the_place_of_theirs_and_an_older_one_comes_back(
    installed: dict[str, str], tmp_path: Path
) -> None:
    """A task of each is done by the other, in the middle of the exchange and
    behind it."""
    tree = unpack(tmp_path / "before", BEFORE, "plugins/mcp")
    before = install(tmp_path / "old", tree / "plugins" / "mcp")
    before["PYTHONPATH"] = before["PYTHONPATH"].replace(str(ROOT), str(tree), 1)
    config: Any = {**CONFIG, "features": FEATURES, "apps": SEND_ASKS}
    config["storage"] = {"url": f"sqlite:///{tmp_path}/some.db"}
    with nodes_of(tmp_path / "nodes", 0, **config) as nodes:
        node = nodes.start(environment=before)
        ann, bob, bot = people(node)
        tasks = list[str]()
        sent = list[str]()

        def begin(text: str) -> int:
            tasks.append(
                begun(f"{node.http_url}/mcp", bot.token, "send", to=bob.user, text=text)
            )
            return int(question(ann, bot.user)["id"])

        def say_yes(asked: int, text: str) -> None:
            sent.append(text)
            assert ann.post("asks/answer", id=asked, value="yes")["accepted"]
            eventually(lambda: texts(bob) == sent, what=text, seconds=90)

        for environment, number in ((installed, 1), (before, 2), (installed, 3)):
            asked = begin(f"task {number}")
            following = nodes.start(environment=environment)
            node.stop()
            node = following
            ann.server = node
            bob.server = node
            say_yes(asked, f"task {number}")
        for task in tasks:
            assert not ended(f"{node.http_url}/mcp", bot.token, task)["result"][
                "isError"
            ]
