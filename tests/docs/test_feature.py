"""The guide to writing a feature: its distribution is built, installed beside the server, and used."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from imserver.errors import StartError
from imserver.node import feature_list
from tests.conftest import StartServer
from tests.docs.markdown import Block, blocks, tables
from tests.integration.raw import PATIENCE_SECONDS
from tests.support import ROOT, Server, clean_environment, eventually
from tests.test_packaging import build

GUIDE = ROOT / "docs" / "guides" / "write-a-feature.md"
FILES = {block.words[0]: block.text for block in blocks(GUIDE, "toml", "python")}


def only(language: str) -> Block:
    (found,) = (block for block in blocks(GUIDE, language) if not block.words)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the distribution is installed."""
    tree = tmp_path_factory.mktemp("lines") / "tree"
    tree.mkdir()
    for name, text in FILES.items():
        (tree / name).write_text(text, encoding="utf-8")
    target = tree.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(build(tree))], env=clean_environment(PYTHONPATH=""), check=True)
    return target


@pytest.fixture
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution is installed for this process, too."""
    monkeypatch.syspath_prepend(str(installed))
    yield
    for name in ("imserver_moods", "imserver_greetings", "imserver_lines"):
        sys.modules.pop(name, None)


def test_the_guide_does_what_it_says(installed: Path, start_server: StartServer) -> None:
    lines = [line for line in FILES["imserver_moods.py"].splitlines() if line]
    assert len(lines) <= 90
    server = start_server(
        config=yaml.safe_load(only("yaml").text), environment={"PYTHONPATH": f"{ROOT}:{installed}"}
    )
    with server.connect("/lines") as client:
        for line in only("text").text.splitlines():
            way, _, words = line.partition(" ")
            if way == "→":
                client.send(words)
            else:
                assert client.recv(PATIENCE_SECONDS) == words


def test_all_that_a_module_of_the_page_gets_is_explained() -> None:
    given = re.findall(r"@property \{.*\} (\w+)", (ROOT / "static/messages/additions.js").read_text("utf-8"))
    rows = [row["name"] for table in tables(GUIDE) for row in table if "name" in row]
    explained = [re.match(r"\w+", name)[0] for row in rows for name in re.findall(r"\w+(?:\([^)]*\))?", row)]  # type: ignore[index]
    assert given
    assert set(given) <= set(explained)


def test_the_tests_of_the_guide_pass(installed: Path, tmp_path: Path) -> None:
    for name in ("test_moods.py", "test_greetings.py", "test_lines.py"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=f"{ROOT}:{installed}"),
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
    installed: Path, start_server: StartServer
) -> None:
    config = yaml.safe_load(only("yaml").text)
    paths = {"PYTHONPATH": f"{ROOT}:{installed}"}
    server = start_server(config=config, environment=paths)
    assert longest(server) == 20
    server.configure({**config, "moods": {"characters": 3}})
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: longest(server) == 3)
    server = start_server(config=config, environment={**paths, "IMSERVER_MOODS_CHARACTERS": "5"})
    assert longest(server) == 5


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("features: [moods]\nmoods: {letters: 3}\n", "line 2: unknown key 'moods.letters'"),
        ("moods: {characters: 3}\n", "line 1: unknown key 'moods'"),
        ("features: [moods]\nmoods: {characters: a}\n", "line 2: moods.characters"),
    ],
)
@pytest.mark.usefixtures("here")
def test_wrong_settings_of_the_feature_are_refused_with_their_line(
    tmp_path: Path, text: str, output: str
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StartError) as caught:
        feature_list.check(*feature_list.load_with_locations(str(file), {}))
    assert output in str(caught.value)
