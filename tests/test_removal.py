"""Each feature and foreign dialect can go: a node without it serves the core
and the others.

The folder cannot be imported, and the setting ``features`` leaves it out. What
uses several features at once has its tests elsewhere.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import yaml
from msgspec import Struct

from imserver.gateway.api.v1.apps import given_group, shown_entry, shown_group
from imserver.gateway.config.declared import hints_of, struct_in
from imserver.gateway.config.values import RENAMED_OF_APPS
from imserver.gateway.errors import ReplyCode
from imserver.gateway.node.feature_list import FEATURES, declarations_of, load_core
from imserver.plugin import FeatureRow
from imserver.plugin.testing import check_absent, upgrade_status
from tests.conftest import StartServer
from tests.integration.cmd import logged_in
from tests.integration.v1 import good
from tests.rows import DIALECTS, DOCUMENTED
from tests.rows import FEATURES as ALL
from tests.support import ROOT, Server, clean_environment

pytestmark = pytest.mark.slow  # all of them together

WITHOUT = """
from gevent import monkey; monkey.patch_all()
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith({packages!r}):
            raise ImportError(name + " is absent")
sys.meta_path.insert(0, Absent())
from imserver.cli import main
main()
"""


def check_core(server: Server, has_messages: bool = True) -> None:
    """A login, a push, a channel, a stored message, metrics."""
    app = {"app": "7"}
    with logged_in(server.ws, "ann", 7) as ann, logged_in(server.ws, "bob", 7) as bob:
        assert (
            good(server.http, "push", {**app, "user": "ann", "text": "hello"})["sent"]
            == 1
        )
        assert ann.push("msg").json["response"]["data"]["msg"] == "hello"
        assert bob.ask_cmd("subscribe", {"channel": "news"})[0] == 200
        publication = {**app, "channel": "news", "text": "one"}
        assert good(server.http, "channels/publish", publication)["status"] == "sent"
        assert "one" in bob.push("publication").text
        code = 200 if has_messages else ReplyCode.NO_ROUTE
        assert ann.ask_cmd("send", {"to": "bob", "text": "stored"})[0] == code
    assert server.get("/metrics")[0] == 200
    assert server.get("/api/v1/openapi.json")[0] == 200


def check_settings(
    server: Server,
    removed: list[FeatureRow],
    described: dict[str, Any],
    command: tuple[str, ...],
) -> None:
    """The manual and the document name no setting and no dialect of absent
    features."""
    done = subprocess.run(
        [*command, "check-config", "--defaults", "-c", str(server.config_file)],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
        cwd=ROOT,
    )
    names = {feature.name for feature in removed}
    rest = declarations_of(
        tuple(feature for feature in ALL if feature.name not in names)
    )
    own = declarations_of(tuple(removed))
    written = yaml.safe_load(done.stdout)
    assert written.keys() == set(rest.names.values())
    for name in own.rows.keys() - rest.rows.keys():
        section, _, key = name.partition(".")
        assert key not in (written.get(section) or ()), name
    keys = own.app_hints.keys() - rest.app_hints.keys()
    entries = {
        line.split()[1] for line in done.stdout.splitlines() if line.startswith("#   ")
    }
    assert keys.isdisjoint(entries)
    schemas = described["components"]["schemas"]
    given = schemas["AppSettingsGiven"]["properties"]
    assert given.keys() == schemas["AppShown"]["properties"].keys() - {
        "app",
        "configured",
        "locked",
    }
    old = {name for name, new in RENAMED_OF_APPS.items() if new in rest.app_hints}
    assert given.keys() == rest.app_hints.keys() | old
    assert set(given["dialects"]["items"]["enum"]) == set(rest.dialects)
    shapes = {
        name
        for kind in own.app_kinds
        if kind not in rest.app_kinds
        for name in groups_in(kind)
    }
    assert schemas.keys().isdisjoint(shapes)


def groups_in(kind: type[Struct]) -> Iterator[str]:
    """Names of the shapes of the structs in the settings of an app."""
    for hint in hints_of(kind).values():
        if inner := struct_in(hint):
            yield from (
                shape(inner).__name__
                for shape in (given_group, shown_group, shown_entry)
            )


@pytest.mark.parametrize(
    "absent", [*((package,) for package in FEATURES), FEATURES], ids="+".join
)
def test_a_node_without_a_feature_serves_the_core(
    start_server: StartServer, absent: tuple[str, ...]
) -> None:
    removed = [import_module(package).FEATURE for package in absent]
    names = {feature.name for feature in removed}
    for feature in ALL:  # each comes after those that it uses
        if feature not in removed and not names.isdisjoint(feature.uses):
            removed.append(feature)
            names.add(feature.name)
    present = [feature for feature in ALL if feature not in removed]
    rest = [feature.name for feature in present if feature not in load_core()]
    command = (sys.executable, "-c", WITHOUT.format(packages=absent))
    server = start_server(
        command=command, config={"features": rest, "apps": {"7": {"open": True}}}
    )
    check_core(server, "messages" not in names)
    for feature in removed:
        check_absent(server, feature)
    assert server.get("/")[0] == (404 if "pages" in names else 200)
    described = json.loads(server.get("/api/v1/openapi.json")[1])
    operations = [row for feature in removed for row in feature.operations]
    tags = {row.tag for row in operations} - {
        row.tag for row in DOCUMENTED if row not in operations
    }
    assert {tag["name"] for tag in described["tags"]}.isdisjoint(tags)
    check_settings(server, removed, described, command)
    gone = [dialect for feature in removed for dialect in feature.dialects]
    for dialect in DIALECTS:
        if dialect not in gone:
            query = f"?{dialect.chosen_by}=1" if dialect.chosen_by else ""
            assert (
                upgrade_status(server, dialect.path.replace("*", "x") + query) == 101
            ), dialect.name
