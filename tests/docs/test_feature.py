"""The guide to writing a feature: its distribution is built, installed beside the server, and used."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from imserver.config.settings import Config, StorageSettings
from imserver.errors import StartError
from imserver.node import feature_list
from imserver.storage.store import Store
from imserver.storage.tables import StoreTables
from tests.conftest import StartServer
from tests.docs.markdown import Block, blocks
from tests.integration.raw import TEXT, Raw, frame
from tests.support import ROOT, Server, clean_environment, eventually
from tests.test_packaging import build

GUIDE = ROOT / "docs" / "guides" / "write-a-feature.md"
FILES = {block.words[0]: block.text for block in blocks(GUIDE, "toml", "python")}


def only(language: str) -> Block:
    (found,) = blocks(GUIDE, language)
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
    for name in ("imserver_lines", "lines_tables"):
        sys.modules.pop(name, None)


def test_the_guide_does_what_it_says(installed: Path, start_server: StartServer) -> None:
    assert len(FILES["imserver_lines.py"].splitlines()) <= 250
    server = start_server(
        config=yaml.safe_load(only("yaml").text),
        environment={"PYTHONPATH": f"{ROOT}:{installed}"},
    )
    with Raw(server.ws) as client:
        client.upgrade("/lines")
        for line in only("text").text.splitlines():
            way, _, words = line.partition(" ")
            if way == "→":
                client.send(frame(TEXT, words.encode()))
            else:
                assert client.frame().text == words
    with Raw(server.ws) as client:
        client.upgrade("/acc")
        for name, data in (
            ("login", {"userID": "bob", "app": "shop"}),
            ("tell", {"to": "bob", "text": "hello"}),
        ):
            client.send(frame(TEXT, json.dumps({"cmd": name, "data": data}).encode()))
        answers = [json.loads(client.frame().text) for _ in range(3)]
        answer = next(each for each in answers if each["cmd"] == "tell")
        assert (answer["response"]["code"], answer["response"]["data"]) == (200, "sent")
    assert json.loads(server.get("/lines/told")[1]) == {"told": 3}
    assert re.search(rb"^imserver_lines_told_total\{.*\} 3$", server.get("/metrics")[1], re.MULTILINE)


def greeting(server: Server) -> str:
    with Raw(server.ws) as client:
        client.upgrade("/lines")
        return client.frame().text


def test_its_settings_come_from_the_file_the_environment_and_sighup(
    installed: Path, start_server: StartServer
) -> None:
    config = yaml.safe_load(only("yaml").text)
    paths = {"PYTHONPATH": f"{ROOT}:{installed}"}
    server = start_server(config=config, environment=paths)
    assert greeting(server) == "Welcome."
    server.configure({**config, "lines": {"greeting": "Hello."}})
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: greeting(server) == "Hello.")
    server = start_server(config=config, environment={**paths, "IMSERVER_LINES_GREETING": "Good day."})
    assert greeting(server) == "Good day."


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("features: [lines]\nlines: {greting: x}\n", "line 2: unknown key 'lines.greting'"),
        ("lines: {greeting: x}\n", "line 1: unknown key 'lines'"),
        ("features: [lines]\nlines: {greeting: [1]}\n", "line 2: lines.greeting"),
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


@pytest.mark.usefixtures("here")
def test_its_rows_are_erased_and_exported_and_an_older_one_refuses_the_database(tmp_path: Path) -> None:
    from lines_tables import last_text, set_last_text

    def opened(tables: StoreTables) -> Store:
        store = Store(StorageSettings(), str(tmp_path), threaded=False, tables=tables)
        store.start()
        return store

    tables = feature_list.tables_of(feature_list.load_features(Config(features=("lines",))))
    with closing(opened(tables)) as store:
        for user in ("ann", "bob"):
            set_last_text(store, "shop", user, f"from {user}")
    with closing(opened(feature_list.tables_of(()))) as store:  # the distribution is no longer used
        pages = [(page.table, page.columns, page.rows) for page in store.rows_of_user("shop", "ann")]
        assert pages == [("lines_text", ("member", "text"), [("ann", "from ann")])]
        store.delete_rows_of_user("shop", "ann")
        assert [last_text(store, "shop", user) for user in ("ann", "bob")] == ["", "from bob"]
    (lines,) = tables.of_others
    with pytest.raises(StartError, match="newer than the feature 'lines'"):
        opened(structs.replace(tables, of_others=(structs.replace(lines, migrations=()),)))
