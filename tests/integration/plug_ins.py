"""Distributions of plug-ins, installed beside a server, and nodes with them."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clusters import nodes_of
from tests.support import ROOT, Server, clean_environment
from tests.test_packaging import build


def install(folder: Path, *sources: Path) -> dict[str, str]:
    """Install distributions from copies of their folders. Returns the
    environment of a server with them."""
    ignored = shutil.ignore_patterns(
        "tests", "build", "npm", "*.egg-info", "__pycache__"
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
    ]
    for source in sources:
        tree = folder / source.name / "tree"
        shutil.copytree(source, tree, ignore=ignored)
        command = [*pip, str(folder / "installed"), str(build(tree))]
        subprocess.run(command, env=clean_environment(PYTHONPATH=""), check=True)
    return {"PYTHONPATH": f"{ROOT}:{folder / 'installed'}"}


def fixtures(name: str, config: Mapping[str, Any], *sources: Path) -> tuple[Any, Any]:
    """The fixtures ``installed``, the environment of a server beside which the
    distributions are installed; and ``servers``, one node, and two."""

    @pytest.fixture(scope="session")
    def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
        return install(tmp_path_factory.mktemp(name), *sources)

    @pytest.fixture(scope="module", params=["one", "two"])
    def servers(
        request: pytest.FixtureRequest,
        installed: dict[str, str],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[list[Server]]:
        number = 1 if request.param == "one" else 2
        with running(
            tmp_path_factory.mktemp(request.param), installed, number, config
        ) as servers:
            yield servers

    return installed, servers


@contextmanager
def running(
    folder: Path, environment: dict[str, str], number: int, config: Mapping[str, Any]
) -> Iterator[list[Server]]:
    """So many nodes. The second has the WSGI server."""
    folder.mkdir(exist_ok=True)
    if number == 1:
        server = Server(folder, config=config, environment=environment)
        try:
            yield [server]
        finally:
            server.stop()
        server.check()
        return
    with nodes_of(folder, 0, **config) as nodes:
        nodes.start_many(number, environment=environment)
        yield nodes.servers
