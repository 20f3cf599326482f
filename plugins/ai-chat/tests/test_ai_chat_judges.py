"""Unmodified clients: the AI SDK, AG-UI's client, and the npm package on the AI SDK."""

import itertools
import json
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from conftest import APP, CONFIG, KEY, PLUGIN

from imserver_client import Entry, Messenger
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.plug_ins import running
from tests.sdk.node import NODE_FLAGS, run, run_node
from tests.support import ROOT, Server
from tests.tools import require
from tests.users import User

HERE = Path(__file__).parent
_names = itertools.count()


@pytest.mark.needs("node")
def test_the_judges_chat_with_a_bot(servers: tuple[Server, Server], project: Path) -> None:
    here, there = servers
    ann = User.register(here, APP, key=KEY)
    bot = ann.bot(f"judge{next(_names)}_bot")
    place = {
        "url": here.http_url,
        "api": there.http_url,
        "token": ann.token,
        "chat": bot.user,
        "bot": {"token": bot.token, "user": ann.user},
    }
    shutil.copy(HERE / "judges.test.mjs", project)
    run_node(str(project / "judges.test.mjs"), PLACE=json.dumps(place))


@pytest.mark.needs("tsc")
def test_the_types_of_the_package_are_those_of_the_ai_sdk(project: Path) -> None:
    shutil.copy(HERE / "consumer.ts", project)
    options = {
        "strict": True,
        "noEmit": True,
        "module": "nodenext",
        "target": "es2022",
        "types": [],
        "skipLibCheck": True,
    }
    config = {"compilerOptions": {**options, "lib": ["es2022", "dom"]}, "files": ["consumer.ts"]}
    (project / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    (project / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    run([require("tsc"), "-p", str(project)])


def test_the_package_has_its_version_and_nothing_else() -> None:
    described = json.loads((PLUGIN / "npm" / "package.json").read_text("utf-8"))
    names = {path.name for path in (PLUGIN / "npm").iterdir()}
    assert names == {*described["files"], "package.json", "README.md", "LICENSE"}
    assert f'version = "{described["version"]}"' in (PLUGIN / "pyproject.toml").read_text("utf-8")


def place_of(servers: list[Server]) -> dict[str, Any]:
    """What a script has to know that kills nodes: Ann, her bot and the processes."""
    ann = User.register(servers[1], APP, key=KEY)
    bot = ann.bot("dying_bot")
    return {
        "urls": [each.http_url for each in servers],
        "processes": [each.process.pid for each in servers],
        "token": ann.token,
        "chat": bot.user,
        "bot": {"token": bot.token, "user": ann.user},
    }


@pytest.mark.needs("node")
def test_an_answer_survives_the_death_of_nodes(
    project: Path, installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, installed, 4, CONFIG) as servers:
        shutil.copy(HERE / "killed.test.mjs", project)
        run_node(str(project / "killed.test.mjs"), PLACE=json.dumps(place_of(servers)))


@pytest.mark.needs("node")
def test_an_application_with_ag_ui_hears_that_its_node_has_died(
    project: Path, installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, installed, 2, CONFIG) as servers:
        shutil.copy(HERE / "killed_ag_ui.mjs", project)
        place = json.dumps(place_of(servers))
        run([require("node"), *NODE_FLAGS, str(project / "killed_ag_ui.mjs")], PLACE=place)


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "ai-chat.md"
    (settings,), (session,) = blocks(guide, "yaml"), blocks(guide, "console")
    server = Server(tmp_path / "node", config=yaml.safe_load(settings.text), environment=installed)
    try:
        ann = User.register(server)
        bot = ann.bot("tea_bot")

        def answer() -> None:
            for event in messenger:
                if isinstance(event, Entry) and event.sender == ann.user:
                    stream = messenger.stream_open(conversation=event.conversation).stream
                    messenger.stream_append([(stream, 1, "Yes, "), (stream, 2, "please.")])
                    messenger.stream_close(stream)

        with Messenger(server.ws_url, "gochat", bot.user, bot.token, cursor=None) as messenger:
            thread = Thread(target=answer)
            thread.start()
            play_session(session, tmp_path, server, ANN=ann.token, BOT=bot.user)
        thread.join()
    finally:
        server.stop()
    server.check()
