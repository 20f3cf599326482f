"""Every example of the documents does what it says: run, played or read against
a real server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Choice, Command, Context, Group
from click.testing import CliRunner

from imserver.cli import main
from imserver.gateway import assets
from imserver.gateway.node.feature_list import load_config
from tests.conftest import StartServer
from tests.docs.markdown import EXAMPLE_PAGES, Block, blocks, filled_in, table_with
from tests.docs.play import (
    APP,
    browser_of,
    exchanges,
    play_frames,
    play_session,
    present,
)
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.supervisor.family import Family
from tests.integration.action import action_session
from tests.integration.clusters import Nodes, name_of, nodes_of
from tests.integration.cmd import CmdClient, fresh, get, logged_in, post
from tests.integration.raw import ask, request
from tests.support import HTTP_SERVERS, ROOT, Server, eventually

IN_THE_ENVIRONMENT = {"IMSERVER_UPLOADS_S3_SECRET_KEY": "a long secret"}
"""What the documents tell to set beside the configuration."""
SESSIONS = [block for page in EXAMPLE_PAGES for block in blocks(page, "console")]
OPEN = [block for block in SESSIONS if block.words in ((), ("windows",))]
DRIVEN = [block for block in SESSIONS if "client" in block.words]
BEGUN = [block for block in SESSIONS if block.words == ("init",)]
SERVERS = {("keys",), ("cluster",), ("processes",), ("features",)}
SERVED = [block for block in SESSIONS if block.words in SERVERS]
FRAMES = [
    block
    for page in EXAMPLE_PAGES
    for block in blocks(page, "text")
    if "frames" in block.words
]
JSON = [block for page in EXAMPLE_PAGES for block in blocks(page, "json")]
YAML = [block for page in EXAMPLE_PAGES for block in blocks(page, "yaml")]
OF_A_FEATURE = (
    "write-a-feature.md",
    "ntfy.md",
    "phones.md",
    "ai-chat.md",
    "agents.md",
    "durable-streams.md",
)
"""Their features are not installed here; tests/docs/test_feature.py and
plugins/*/tests use them."""
WITH_KEY = "**With a [key]"
"""How the line on top of a guide begins that says what its sessions need on a
server with keys."""
WITH_A_KEY = sorted(
    {block.page for block in OPEN if block.page.parent.name == "guides"}
)
COMMANDS = [block for page in EXAMPLE_PAGES for block in blocks(page, "sh")]
FILES = ("bots.md", "write-a-feature.md", "your-product.md")
"""Guides with blocks that are files, named by their first word: test_bots.py,
test_feature.py and test_product.py use them."""
SCRIPTS = "centrifuge notifications oauth pusher subscribe token wechat"
PYTHON = "agent.py cent client native notifications oauth pusher receiver token verify"
ELSEWHERE: dict[str, set[tuple[str, ...]]] = {
    "console": {
        ("oauth",),
        ("ntfy",),
        ("phones",),
        ("ai-chat",),
        ("agents",),
        ("mailbox",),
        ("durable-streams",),
        ("follow",),
    },
    "python": {(word,) for word in PYTHON.split()},
    "js": {(), *((word,) for word in SCRIPTS.split())},
}
"""Language → words of the blocks that other tests run: of docs/, foreign/ and
sdk/, and those of plug-ins."""


def test_no_example_is_left_out() -> None:
    """A block in a language, or with words, that nothing here knows would not
    be checked."""
    played = {*map(id_of, (*OPEN, *DRIVEN, *BEGUN, *SERVED))}
    examined = ("console", "js", "bash", "python", "javascript", "")
    left = [
        str(block)
        for page in EXAMPLE_PAGES
        for block in blocks(page, *examined)
        if id_of(block) not in played
        and block.words not in ELSEWHERE.get(block.language, ())
        and not (page.name in FILES and "." in "".join(block.words[:1]))
    ]
    assert not left
    assert {block.words for block in SERVED} == SERVERS
    assert all((OPEN, DRIVEN, BEGUN, FRAMES, JSON, YAML, COMMANDS))


def id_of(block: Block) -> tuple[Path, int]:
    return block.page, block.line


def test_a_command_whose_output_goes_elsewhere_shows_no_progress() -> None:
    """curl prints a progress meter to the terminal when its output goes to a
    file, a pipe or a variable."""
    noisy = [
        f"{block}: {command}"
        for block in SESSIONS
        for command, _ in exchanges(block.text)
        for options, end in re.findall(
            r"\bcurl ([^|)]*)([|)]?)", re.sub("'[^']*'", "", command)
        )
        if (end or "-o " in options) and not options.startswith("-s ")
    ]
    assert not noisy


@pytest.mark.parametrize("block", OPEN, ids=str)
def test_a_shell_session_prints_what_it_says(
    block: Block, server: Server, tmp_path: Path
) -> None:
    with present(block, tmp_path, server):
        play_session(block, tmp_path, server)


@pytest.mark.parametrize("block", SERVED, ids=str)
def test_a_shell_session_with_servers_of_its_own_prints_what_it_says(
    block: Block, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        serving(block, request.getfixturevalue, tmp_path) as (servers, variables),
        present(block, tmp_path, *servers),
    ):
        play_session(block, tmp_path, *servers, **variables)


@contextmanager
def serving(
    block: Block, fixture: Callable[[str], Any], folder: Path
) -> Iterator[tuple[Sequence[Server], dict[str, str]]]:
    """The servers that a block needs, and what its commands know. A
    configuration is the one above it, but for where Redis is."""
    if "cluster" in block.words:
        yield fixture("nodes").servers, {}
    elif "processes" in block.words:
        config = nearest(block, "redis:")
        config["redis"] = {"url": f"redis://127.0.0.1:{fixture('redis_server').port}"}
        family = Family(folder / "family", config["redis"]["url"], 2, config=config)
        try:
            yield [family], {}
        finally:
            family.stop()
        family.check()
    else:
        config = nearest(block, f"{block.words[0]}:")
        keys = {"KEY": config["api"]["keys"][0]["key"]} if "keys" in block.words else {}
        yield [fixture("start_server")(config=config)], keys


@pytest.mark.full("programs")
@pytest.mark.parametrize("page", WITH_A_KEY, ids=lambda page: page.name)
def test_the_sessions_of_a_guide_work_with_a_key_as_its_first_line_says(
    page: Path, start_server: StartServer, tmp_path: Path
) -> None:
    """The key has the scopes of the line and no others. The apps are those that
    the page to which the line links tells the reader to add."""
    key = "a key of the guide's reader"
    watcher = "a key that sees who is there"
    keys = [
        {"key": key, "scopes": scopes_of(page)},
        {"key": watcher, "scopes": ["read"]},
    ]
    (added,) = (
        block
        for block in YAML
        if block.page.name == "send-a-push.md" and "gochat" in block.text
    )
    server = start_server(config={"api": {"keys": keys}, **yaml.safe_load(added.text)})
    for block in OPEN:
        if block.page == page:
            with present(block, tmp_path, server):
                play_session(
                    replace(block, text=with_header(block.text)),
                    tmp_path,
                    server,
                    KEY=key,
                )
            eventually(
                lambda: nobody_is_there(server, watcher), what="everybody has left"
            )


def scopes_of(page: Path) -> list[str]:
    """The scopes that the line on top of a guide names."""
    _, begins, rest = page.read_text(encoding="utf-8").partition(WITH_KEY)
    assert begins, f"{page.name} does not say what its examples need with a key"
    line = rest.partition("\n\n")[0]
    return [scope for scope in ("push", "read", "admin") if f"`{scope}`" in line]


def with_header(session: str) -> str:
    """A session as the line on top of a guide says that it looks with a key."""
    return "\n".join(
        re.sub(r"\bcurl( -N)?", r'curl\1 -H "Authorization: Bearer $KEY"', line)
        if line.startswith("$ ") and "Authorization" not in line
        else line
        for line in session.split("\n")
    )


def nobody_is_there(server: Server, key: str) -> bool:
    headers = [("Authorization", f"Bearer {key}")]
    counts = ask(server.http, request("/api/v1/counts", headers=headers)).json
    return not any(app["sessions"] for app in counts["apps"])


def test_the_sessions_after_init_end_in_a_login_with_a_token(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The first block writes the settings; the others use a server that has
    them, but for its ports."""
    first, *others = BEGUN
    assert {block.page for block in others} == {first.page}
    command = tmp_path / "bin" / "imserver"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -P -m imserver "$@"\n'
    )
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    play_session(first, tmp_path, PATH=path)
    written = yaml.safe_load((tmp_path / "imserver.yaml").read_text(encoding="utf-8"))
    server = start_server(config={"api": written["api"], "apps": written["apps"]})
    for block in others:
        play_session(
            block, tmp_path, server, PATH=path, KEY=written["api"]["keys"][0]["key"]
        )


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
@pytest.mark.parametrize("block", DRIVEN, ids=str)
def test_a_shell_session_with_a_client_of_a_system_prints_what_it_says(
    block: Block, http_server: str, start_server: StartServer, tmp_path: Path
) -> None:
    config = nearest(block, "keys:") if "keys" in block.words else {}
    server = start_server(config=config, http_server=http_server)
    with browser_of(server, "shop") as client:
        play_session(block, tmp_path, server, CLIENT=client)


def nearest(block: Block, word: str) -> Any:
    """The configuration with this word that stands last above a block."""
    above = [
        it
        for it in YAML
        if it.page == block.page and it.line < block.line and word in it.text
    ]
    assert above, f"{block}: no {word} above it"
    return yaml.safe_load(filled_in(above[-1].text))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes of one cluster."""
    apps = {name: {} for name in ("101", "102", "103", "104", "action:1")}
    patient = {"redis_seconds": 20, "rpc_seconds": 20}
    with nodes_of(
        tmp_path_factory.mktemp("nodes"), 2, apps=apps, cluster=patient
    ) as two:
        yield two


@pytest.mark.parametrize(
    "block", [block for block in FRAMES if "cluster" not in block.words], ids=str
)
def test_a_transcript_is_what_goes_over_the_wire(
    block: Block, server: Server, tmp_path: Path
) -> None:
    play_frames(block, tmp_path, server)


@pytest.mark.parametrize(
    "block", [block for block in FRAMES if "cluster" in block.words], ids=str
)
def test_a_transcript_of_two_nodes_is_what_goes_over_the_wire(
    block: Block, nodes: Nodes, tmp_path: Path
) -> None:
    play_frames(block, tmp_path, *nodes.servers)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.mark.full("programs")
def test_what_is_answered_while_a_node_does_not_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Ann is on the first node. The second one, where bob was, is killed."""
    with nodes_of(
        tmp_path_factory.mktemp("dying"), 2, cluster={"rpc_seconds": 1}
    ) as nodes:
        first, second = nodes.servers

        def push(path: str, user: str) -> Any:
            fields = {
                "appID": APP,
                "userID": user,
                "msgID": fresh("d"),
                "message": "hi",
            }
            return post(first.http, path, **fields).json

        with logged_in(first.ws, "ann", APP), CmdClient(second.ws) as bob:
            bob.upgrade().login("bob", APP)
            listed, failed, partly = (
                the_json(word) for word in ("missing", "failed", "partly")
            )
            listed["data"]["missingNodes"] = [name_of(second)]
            second.process.kill()
            second.process.wait()
            assert get(first.http, "/user/list", appID=APP).json == listed
            eventually(
                lambda: push("/user/sendMessage", "bob") == failed,
                what="it is known to be away",
            )
            assert push("/user/sendMessageAll", "news") == partly


def the_json(word: str) -> Any:
    """The only JSON block with this word."""
    (block,) = (block for block in JSON if word in block.words)
    return json.loads(block.text)


def test_the_record_in_redis_is_what_is_shown(nodes: Nodes) -> None:
    shown = the_json("record")
    with (
        logged_in(nodes.servers[0].ws, shown["userID"], shown["appID"]),
        nodes.redis.client() as client,
    ):
        found = json.loads(
            client.get(f"acc:user:online:{shown['appID']}_{shown['userID']}")
        )
    assert list(found) == list(shown)
    for key, value in shown.items():
        assert type(found[key]) is type(value), key
        if key not in ("accPort", "clientIp", "loginTime", "heartbeatTime"):
            assert found[key] == value, key


def test_the_keys_in_redis_are_those_that_are_shown(nodes: Nodes) -> None:
    rows = table_with(
        ROOT / "docs" / "reference" / "cluster.md", "key", "type", "value", "lifetime"
    )
    shown = [re.sub(r"<\w+>", "*", key) for row in rows for key in keys_of(row["key"])]
    first = nodes.servers[0]
    with (
        logged_in(first.ws, "ann", APP),
        action_session(first.ws, "ann", room="r"),
        nodes.redis.client() as client,
    ):
        post(
            first.http,
            "/user/sendMessage",
            appID=APP,
            userID="ann",
            msgID=fresh("r"),
            message="hi",
        )
        found = set(client.keys())
    assert not [
        key for key in found if not any(fnmatchcase(key, pattern) for pattern in shown)
    ]
    for pattern in shown[:6]:
        assert any(fnmatchcase(key, pattern) for key in found), pattern


def keys_of(cell: str) -> list[str]:
    """The keys in a cell; those that begin with a colon go on from the
    first."""
    first, *others = cell.split(", ")
    return [first, *(first.partition(":")[0] + other for other in others)]


def test_json_is_json_and_system_state_has_the_keys_that_are_shown(
    server: Server,
) -> None:
    for block in JSON:
        json.loads(block.text)
    status, body = server.get("/system/state?isDebug=true&detail=true")
    assert status == 200
    received = json.loads(body)
    shown = the_json("state")
    configured = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))[
        "apps"
    ]
    apps = received["data"]["apps"]
    for name in set(apps) - set(configured):  # other examples have connected to it
        del apps[name]
    assert shape(received) == shape(shown)


def shape(value: Any) -> Any:
    """The keys of objects in objects, in their order; counters are compared
    elsewhere."""
    if not isinstance(value, dict):
        return None
    return [
        (key, None if key == "metrics" else shape(inner))
        for key, inner in value.items()
    ]


@pytest.mark.parametrize(
    "block", [each for each in YAML if each.page.name not in OF_A_FEATURE], ids=str
)
def test_yaml_is_a_configuration(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of
    file = tmp_path / "my.yaml"
    file.write_text(filled_in(block.text), encoding="utf-8")
    environ = IN_THE_ENVIRONMENT if "s3:" in block.text else {}
    assert load_config(str(file), environ=environ).warnings == ()


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_exist(block: Block) -> None:
    """They are not run; the shell can read them, make has the target, imserver
    command and options."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?m)^make ([a-z-]+)", block.text):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for line in re.findall(r"(?m)(?:^|[ /])imserver ([^|>&\n]*)", block.text):
        words = line.partition("#")[0].split()
        commands = [word for word in words[:2] if re.fullmatch("[a-z][a-z-]*", word)]
        shown = CliRunner().invoke(main, [*commands, "--help"])
        assert shown.exit_code == 0, f"{block}: imserver {line}: {shown.output}"
        for option in (
            word.partition("=")[0] for word in words if word.startswith("--")
        ):
            assert re.search(rf"{option}\b", shown.output), (
                f"{block}: imserver {line}: no {option}"
            )


def test_what_a_page_lets_choose_can_be_chosen() -> None:
    """``--option VALUE`` in the text of a page. Pages of figures and decisions
    are of their day."""
    for page in (
        page
        for page in EXAMPLE_PAGES
        if not re.search("/benchmarks|/scale|/decisions/", str(page))
    ):
        for line in re.findall(
            r"`imserver ([a-z][^`|]* --[^`]*)`", page.read_text(encoding="utf-8")
        ):
            words = line.split()
            command: Command = main
            while (
                isinstance(command, Group)
                and words
                and (next := command.get_command(Context(main), words[0]))
            ):
                command = next
                words.pop(0)
            choices = {
                name: option.type.choices
                for option in command.params
                for name in option.opts
                if isinstance(option.type, Choice)
            }
            wrong = [
                pair
                for pair in pairwise(words)
                if pair[1] not in choices.get(pair[0], pair[1:])
            ]
            assert not wrong, f"{page.name}: imserver {line}"
