"""Features of other distributions: what they use, hear and tell other nodes,
and their commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import defstruct

from imserver.gateway.cluster.nodes import NodeMessages, NodeQueries
from imserver.gateway.errors import StartError
from imserver.plugin.testing import NodeProcess
from tests.conftest import StartServer
from tests.gateway.node.test_feature_list import offer
from tests.integration.clusters import nodes_of
from tests.integration.cmd import logged_in
from tests.support import ROOT, Server, clean_environment, eventually

BELL = """
from imserver.plugin import CommandOf, FeatureRow, Parts
FEATURE = FeatureRow(
    "bell", lambda core: Parts(("a bell",)), commands=(CommandOf("bell", "bells:lamp", "Ring it."),)
)
"""

LAMP = '''
from msgspec import Struct, json
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.http import PROBLEM, HttpResponse, Route
from imserver.plugin.identity import Needs, Observer

class Switched(Struct, frozen=True, array_like=True, tag="lamp.switched"):
    """A lamp is on."""
    room: str

class Dimmed(Struct, frozen=True, array_like=True, tag="lamp.dimmed"):
    """A lamp is dimmed."""
    room: str

class Lamp(Observer):
    """Notes who logged in, and which lamps of other nodes were switched."""

    def __init__(self):
        self.users, self.rooms = [], []

    def observes(self, settings):
        return True

    def began(self, connection):
        self.users.append(connection.user)

    def build(self, core):
        self.core = core
        self.bell = core.find(str)
        messages = core.node_messages
        if messages is not None:
            messages.handle(dict.fromkeys(KINDS, lambda message: self.rooms.append(message.room)))
        if ANSWERS:
            core.queries.add("lamp.rooms", str, lambda _: self.rooms)
        return Parts((self,))

    def switch(self, call):
        return answer(self.core.node_messages.broadcast(Switched("hall")))

    def dim(self, call):
        return answer(self.core.node_messages.broadcast(Dimmed("dimmed")))

    def state(self, call):
        return answer({"users": self.users, "rooms": self.rooms, "bell": self.bell})

    def others(self, call):
        others = self.core.others
        _, missing = others.query("lamp.rooms", "")
        return answer({"rooms": others.answers("lamp.rooms", "", list), "missing": len(missing)})

def answer(value):
    return HttpResponse(200, json.encode(value))

def route(path, function):
    return Route("GET", path, Needs.ANYONE, function, style=PROBLEM, hot=True, service=lambda core, _: LAMP)

KINDS, ANSWERS = (Switched, Dimmed), True
LAMP = Lamp()
FEATURE = FeatureRow(
    "lamp",
    LAMP.build,
    routes=(
        route("/lamp/state", Lamp.state), route("/lamp/switch", Lamp.switch), route("/lamp/dim", Lamp.dim),
        route("/lamp/others", Lamp.others),
    ),
    uses=("bell?",),
    answers=lambda base: (LAMP,),
    commands=(CommandOf("lamp", "lamp_command:lamp", "Switch a lamp."),),
)
'''
COMMAND = '''
import click

@click.command()
def lamp():
    """Switch a lamp."""
    click.echo("it is on")
'''


def install(folder: Path, name: str, **modules: str) -> None:
    """Install a distribution that offers the feature ``name`` of the module
    ``<name>s``."""
    offer(folder, name, f"{name}s:FEATURE", name)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which the feature ``lamp`` is installed."""
    install(tmp_path / "lamp", "lamp", lamps=LAMP, lamp_command=COMMAND)
    return tmp_path / "lamp"


def path_of(*folders: Path) -> dict[str, str]:
    return {"PYTHONPATH": ":".join(map(str, (ROOT, *folders)))}


def run(
    environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run ``imserver …`` in a process that finds these distributions."""
    command = [sys.executable, "-m", "imserver", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(**environment),
    )


def state(server: Server) -> dict[str, object]:
    value: dict[str, object] = json.loads(server.get("/lamp/state")[1])
    return value


def test_features_hear_logins_and_use_others(
    folder: Path, tmp_path: Path, start_server: StartServer
) -> None:
    install(tmp_path / "bell", "bell", bells=BELL)
    environment = path_of(folder, tmp_path / "bell")
    config = {"features": ["all", "bell", "lamp"], "apps": {"7": {"open": True}}}
    server = start_server(config=config, environment=environment)
    with logged_in(server.ws, "ann", 7):
        assert state(server) == {"users": ["ann"], "rooms": [], "bell": "a bell"}
    (tmp_path / "my.yaml").write_text("features: [lamp, bell]\n")
    checked = run(environment, "check-config", str(tmp_path / "my.yaml"))
    assert "line 1: features: lamp uses bell: name bell before it" in checked.stderr


@pytest.mark.parametrize("older", [False, True], ids=["same", "older"])
def test_a_feature_has_messages_and_queries_for_others(
    folder: Path, tmp_path: Path, older: bool
) -> None:
    """A node with an older version of the feature counts what it does not
    know."""
    other = tmp_path / "other"
    knows = (
        "KINDS, ANSWERS = (Switched, Dimmed), True",
        "KINDS, ANSWERS = (Switched,), False",
    )
    install(other, "lamp", lamps=LAMP.replace(*knows) if older else LAMP)
    rooms = ["hall"] if older else ["dimmed", "hall"]
    with nodes_of(tmp_path, 0, features=["lamp"]) as nodes:
        first, second = [
            nodes.start(environment=path_of(each)) for each in (folder, other)
        ]
        nodes.wait_until_met()
        assert [first.get(address)[1] for address in ("/lamp/dim", "/lamp/switch")] == [
            b"0"
        ] * 2
        eventually(lambda: state(second)["rooms"] == rooms, 10)
        assert state(first)["rooms"] == []
        lines = second.get("/metrics")[1].splitlines()
        counts = [line[-1:] for line in lines if b"rpc_unreadable_total{" in line]
        assert sorted(counts) == [b"0", b"1" if older else b"0"]
        answers = json.loads(first.get("/lamp/others")[1])
        assert answers == {"rooms": [] if older else [rooms], "missing": int(older)}


def test_features_neither_handle_messages_nor_answer_queries_of_others() -> None:
    own, other = (
        defstruct(name, (), array_like=True, tag="lamp.on") for name in ("Own", "Other")
    )
    no: Any = None
    messages = NodeMessages(no)
    queries = NodeQueries()
    messages.handle({own: print})
    with pytest.raises(StartError, match="node message Other: "):
        messages.handle({other: print})
    queries.add("lamp.rooms", str, str)
    with pytest.raises(StartError, match="has an answer already"):
        queries.add("lamp.rooms", str, str)


@pytest.mark.parametrize("name", ["lamp.rooms", "lamp.switched"])
def test_names_between_nodes_begin_with_their_feature(
    tmp_path: Path, name: str, redis_url: str
) -> None:
    install(
        tmp_path / "lamp", "lamp", lamps=LAMP.replace(name, name.removeprefix("lamp."))
    )
    settings = {
        "features": ["lamp"],
        "redis": {"addr": redis_url.removeprefix("redis://")},
    }
    with pytest.raises(
        AssertionError, match=r"the feature 'lamp': .* begins with lamp\."
    ):
        NodeProcess(settings=settings, environment=path_of(tmp_path / "lamp"))


def test_a_broken_feature_does_not_break_the_command_line(tmp_path: Path) -> None:
    install(tmp_path / "broken", "lamp", lamps="raise SystemExit('broken')\n")
    install(tmp_path / "bell", "bell", bells=BELL + COMMAND)
    environment = path_of(tmp_path / "broken", tmp_path / "bell")
    shown = run(environment, "--help")
    assert shown.returncode == 0
    assert shown.stderr.startswith(
        "warning: the feature 'lamp' of lamp cannot be loaded: SystemExit('broken')"
    )
    assert "\n  bell " in shown.stdout
    install(tmp_path / "lamp", "lamp", lamps=LAMP, lamp_command=COMMAND)
    assert run(path_of(tmp_path / "lamp"), "lamp").stdout == "it is on\n"
    # it looks at no distribution behind its own
    assert run(environment, "bell", "--help").stderr == ""


OLD = '''
from msgspec import Struct
from imserver.plugin import Answers, Feature, FeatureParts, FeatureSettings
from imserver.plugin.http import Call, Resource
from imserver.plugin.identity import Needs
from imserver.plugin.metrics import Metric
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Table

class MoodSettings(Struct, frozen=True):
    characters: int = 40

class Moods:
    def __init__(self, store, config):
        self.store = store
        self.configure(config)
    def configure(self, config):
        self.characters = settings_of(config, MoodSettings).characters

class Mood(Struct):
    rows: int
    characters: int

routes = Resource("moods", lambda core, _: core.service(Moods), chapter="How users are.")

@routes.get("/moods/get", Needs.READ)
def show(moods: Moods, call: Call, app: str) -> Mood:
    """Count the moods of an app"""
    return Mood(len(moods.store.rows("SELECT text FROM moods_mood WHERE app = %s", (app,))), moods.characters)

def build(core):
    moods = Moods(core.storage.store, core.config)
    return FeatureParts(moods, reload=moods.configure)

FEATURE = Feature(
    "moods", build, operations=tuple(routes.rows), settings=FeatureSettings({"moods": MoodSettings}),
    metrics=lambda: [Metric("imserver_moods", "gauge", "", lambda core: core.service(Moods).characters)],
    tables=(Table(name="moods_mood", types="app name500*, text text out words"),),
    migrations=("table moods_mood: app name500*, text text",), answers=lambda base: Answers(),
    commands={"moods": ("lamp_command", "lamp", "Say a mood.")}, face=3,
)
'''


def test_a_feature_made_for_an_earlier_version_runs(
    tmp_path: Path, start_server: StartServer
) -> None:
    install(tmp_path, "moods", moodss=OLD, lamp_command=COMMAND)
    environment = path_of(tmp_path)
    server = start_server(
        config={"features": ["moods"], "moods": {"characters": 7}},
        environment=environment,
    )
    assert json.loads(server.get("/api/v1/moods/get?app=default")[1]) == {
        "rows": 0,
        "characters": 7,
    }
    assert "\nimserver_moods{" in server.get("/metrics")[1].decode()
    assert run(environment, "moods").stdout == "it is on\n"
