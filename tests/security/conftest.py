"""The server that the attack suite attacks: API keys, apps with and without login rules."""

from collections.abc import Iterator

import pytest

from tests.security.attack_setting import CONFIG
from tests.support import Server


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys; see :data:`tests.security.attack_setting.CONFIG`."""
    server = Server(tmp_path_factory.mktemp("guarded"), config=CONFIG)
    yield server
    server.stop()
    server.check()


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in demo mode."""
    server = Server(tmp_path_factory.mktemp("demo"))
    yield server
    server.stop()
    server.check()
