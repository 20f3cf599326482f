"""The server that the attack suite attacks: API keys, apps with and without
login rules."""

from collections.abc import Iterator

import pytest

from tests.rows import sections
from tests.security.attack_setting import CONFIG
from tests.support import Server

from .node_harness import APPS, Harness, config


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys; see :data:`tests.security.attack_setting.CONFIG`."""
    server = Server(tmp_path_factory.mktemp("guarded"), config=CONFIG)
    yield server
    server.stop()
    server.check()


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    """A node with keys where anybody registers. ``NODE`` of a module has more
    settings, by their sections."""
    more = dict(getattr(request.module, "NODE", {}))
    unlimited = {"registrations_per_address": 0, "logins_per_address": 0}
    accounts = {"registration": True, **unlimited, **more.pop("accounts", {})}
    apps = more.pop("apps", APPS)
    folder = tmp_path_factory.mktemp("node")
    harness = Harness(
        config(folder, apps=apps, of_features=sections(accounts=accounts, **more))
    )
    yield harness
    harness.close()
