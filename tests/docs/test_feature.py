"""The guide to writing a feature: its distribution is built, installed beside
the server, and used."""

import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.browser.chromium import DRIVER, Browser
from tests.browser.messenger import Account, Chat
from tests.conftest import StartServer
from tests.docs.markdown import Block, blocks, prose, tables
from tests.integration.raw import PATIENCE_SECONDS
from tests.support import ROOT, Server, clean_environment, eventually
from tests.test_packaging import build
from tests.tools import require

GUIDE = ROOT / "docs" / "guides" / "write-a-feature.md"
FILES = {block.words[0]: block.text for block in blocks(GUIDE, "toml", "python", "js")}


def only(language: str) -> Block:
    (found,) = (block for block in blocks(GUIDE, language) if not block.words)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the distribution is installed."""
    tree = tmp_path_factory.mktemp("lines") / "tree"
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    target = tree.parent / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run(
        [*pip, str(build(tree))], env=clean_environment(PYTHONPATH=""), check=True
    )
    return {"PYTHONPATH": f"{ROOT}:{target}"}


def test_names_are_where_the_guide_says() -> None:
    named = re.findall(
        r"`[^`]*?(\w+)\)?` of\s+`(imserver\.plugin[\w.]*)`", prose(GUIDE)
    )
    assert ("about", "imserver.plugin.http") in named
    assert [
        (name, module)
        for name, module in named
        if not hasattr(import_module(module), name)
    ] == []


def test_the_guide_does_what_it_says(
    installed: dict[str, str], start_server: StartServer
) -> None:
    server = start_server(
        config=yaml.safe_load(only("yaml").text), environment=installed
    )
    with server.connect("/lines") as client:
        for line in only("text").text.splitlines():
            way, _, words = line.partition(" ")
            if way == "→":
                client.send(words)
            else:
                assert client.recv(PATIENCE_SECONDS) == words


def test_its_command_counts_moods(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "imserver.yaml").write_text("features: [moods]\n", encoding="utf-8")
    counted = subprocess.run(
        [sys.executable, "-m", "imserver", "moods", "shop"],
        cwd=tmp_path,
        env=clean_environment(**installed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert counted.stdout == "0 users of shop have a mood\n", counted.stderr


def test_the_page_says_moods(
    installed: dict[str, str], start_server: StartServer, tmp_path: Path
) -> None:
    require(DRIVER)
    config = {
        "features": ["all", "moods"],
        "accounts": {"registrations_per_address": 0},
    }
    server = start_server(config=config, environment=installed)
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.send(ann, "text", {"text": "How are you?"})
    browser = Browser(tmp_path / "chromium")
    try:
        chat = Chat(browser, ann)
        chat.open(ann.newest)
        long, refusal = f"/mood {'a' * 41}", chat.words["messages_refused_1001"]
        for line, text in (
            ("/mood", "?"),
            ("/mood happy", "happy"),
            ("/mood", "happy"),
            (long, refusal),
        ):
            chat.run(
                "for (const each of document.querySelectorAll('.toast')) each.remove()"
            )
            chat.say(line)
            chat.has(".toast", text)
    finally:
        browser.quit()


def test_all_that_a_module_of_the_page_gets_is_explained() -> None:
    code = (ROOT / "static/messages/parts/additions.js").read_text("utf-8")
    given = re.findall(r"@property \{.*\} (\w+)", code)
    rows = [row["name"] for table in tables(GUIDE) for row in table if "name" in row]
    explained = [
        re.match(r"\w+", name)[0]
        for row in rows
        for name in re.findall(r"\w+(?:\([^)]*\))?", row)
    ]  # type: ignore[index]
    assert {"words"} <= set(given) <= set(explained)


def test_the_tests_of_the_guide_pass(installed: dict[str, str], tmp_path: Path) -> None:
    for name in (
        "test_moods.py",
        "test_notes.py",
        "test_greetings.py",
        "test_lines.py",
    ):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    options = "-m pytest -q -p no:cacheprovider . --rootdir"
    command = [sys.executable, *options.split(), str(tmp_path)]
    environment = clean_environment(**installed)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def longest(server: Server) -> int:
    """How many characters a mood may have."""
    with server.connect("/lines") as client:
        client.send("login shop ann")
        assert client.recv(PATIENCE_SECONDS) == "ok"
        for number in range(1, 100):
            client.send("mood " + "a" * number)
            if client.recv(PATIENCE_SECONDS) != "ok":
                return number - 1
    return 0


def test_its_settings_come_from_the_file_the_environment_and_sighup(
    installed: dict[str, str], start_server: StartServer
) -> None:
    config = yaml.safe_load(only("yaml").text)
    server = start_server(config=config, environment=installed)
    assert longest(server) == 20
    server.configure({**config, "moods": {"characters": 3}})
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: longest(server) == 3)
    server = start_server(
        config=config, environment={**installed, "IMSERVER_MOODS_CHARACTERS": "5"}
    )
    assert longest(server) == 5
