"""An upgrade without an interruption: nodes of the release before and of this
one are one cluster.

Every test of clusters is run once more with each second node of the release
before: people, pushes, channels, histories, stored messages, signals, policies,
kicks, bans, queries between nodes. What only a cluster of two releases can do
wrong has its tests below. The data that one server leaves to the next:
``test_upgrade.py``. Nodes that are replaced one after the other, up and down:
``tests/upgrade``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import ROOT, Server

from . import v1
from .clusters import OTHER_RELEASE, Nodes, nodes_of
from .cmd import logged_in
from .release import environment_of, unpack

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("redis-server")]

FILES: Final = (
    "foreign/test_centrifuge_cluster",
    "integration/test_action_dialect",
    "integration/test_bots",
    "integration/test_client_dialect",
    "integration/test_cluster",
    "integration/test_messaging",
    "integration/test_stored_conversations_cluster",
)
"""Not ``integration/test_failed_publications``: it tests answers that the
release before does not give."""
ABSENT = [file for file in FILES if not (ROOT / "tests" / f"{file}.py").is_file()]
assert not ABSENT, (
    f"no such files of tests: {ABSENT}"
)  # while tests are collected, so without the full ones, too
NOT_WITH_BOTH: Final = (
    # In demo mode, nodes of the release before listen for other nodes on other
    # addresses than loopback, too.
    "integration/test_cluster.py::test_in_demo_mode_other_machines_reach_no_port_for_nodes[False]",
    # The release before does not know the command streamStop.
    "integration/test_bots.py::test_a_streamed_answer_is_stopped_at_another_node_and_stored_once_when_its_own_is_killed",
    # The release before deletes a bot while Redis is away.
    "integration/test_bots.py::test_a_deletion_that_fails_while_redis_is_away_is_completed_by_the_same_request",
    # The release before calls such users absent.
    "integration/test_cluster.py::test_while_redis_is_away_nobody_who_may_be_on_another_node_is_called_absent",
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the release before."""
    return unpack(tmp_path_factory.mktemp("before"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [0, 1], ids=["old-first", "new-first"])
@pytest.mark.parametrize("file", FILES)
def test_clusters_of_both_releases_pass_the_tests_of_clusters(
    old: Path, tmp_path: Path, file: str, number: int
) -> None:
    """``number``: of the first node of the release before; every second one
    is."""
    left_out = [f"--deselect=tests/{test}" for test in NOT_WITH_BOTH]
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "FLAKY"))
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            f"--basetemp={tmp_path / 'tests'}",
            *left_out,
            f"tests/{file}.py",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**given, OTHER_RELEASE: f"{number}:{old}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert " passed" in done.stdout


# --- what only two releases can do wrong --------------------------------------


def test_nodes_of_both_releases_agree_on_the_features_that_both_know(
    old: Path, tmp_path: Path
) -> None:
    """What only this release knows keeps neither away. What an operator leaves
    out of one node does."""
    with nodes_of(tmp_path, 0) as nodes:

        def start(tree: Path, *features: str) -> Server:
            return nodes.start(
                {"features": [*features]}, environment=environment_of(tree)
            )

        start(old, "client")
        first = start(ROOT, "client")
        more = start(ROOT, "client", "watch")
        start(old, "client")
        nodes.wait_until_met()
        waits = "features that wait until all nodes have them: watch"
        assert waits in more.log_text
        assert waits not in first.log_text
        differs = "the cluster has other features than this node"
        for tree in (old, ROOT):
            with pytest.raises(AssertionError, match=differs):
                start(tree, "client", "pusher", "webhooks")


@pytest.mark.parametrize("there", ["old", "new"])
@pytest.mark.parametrize("app", ["my_app", "50%"])
def test_users_of_an_app_of_any_name_are_found_by_both(
    pair: Nodes, app: str, there: str
) -> None:
    """The records of online users in Redis write such names in another way
    since."""
    with logged_in(pair.ws[there == "new"], "ann", app) as ann:
        for http in pair.http:
            assert v1.good(http, "presence", app=app, user="ann")["users"][0]["online"]
            assert (
                v1.good(http, "push", {"app": app, "user": "ann", "text": "hi"})["sent"]
                == 1
            )
            assert ann.push("msg").json["response"]["data"]["msg"] == "hi"


@pytest.fixture(scope="module")
def pair(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A node of the release before and one of this one."""
    apps = {name: {"open": True, "login_policy": "multi"} for name in ("my_app", "50%")}
    with nodes_of(tmp_path_factory.mktemp("pair"), 0, apps=apps) as nodes:
        for tree in (old, ROOT):
            nodes.start(environment=environment_of(tree))
        nodes.wait_until_met()
        yield nodes
