"""The suite of centrifuge-python itself, as Centrifugo's maintainers run it
against Centrifugo.

It is in the source distribution alone, which pip fetches. One word is another
one: the secret of its tokens, which is shorter than the server allows.
"""

import importlib.metadata
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import StartServer
from tests.support import clean_environment
from tests.tools import leave_out

from .conftest import SECRET

PORT = 8000
"""The suite has it in its addresses."""
MODULES = ("background_tasks", "client", "proxy", "ready", "ssl")
"""Those that ask a server. The others ask a stand-in of the suite."""
NAMESPACE: dict[str, Any] = {
    "history_seconds": 300,
    "recovery": True,
    **dict.fromkeys(("publish", "read_presence", "read_history"), "subscribers"),
}
OPEN: dict[str, Any] = {
    **NAMESPACE,
    **dict.fromkeys(("presence", "join_leave", "delta"), True),
    "history_size": 100,
}
SHOP: dict[str, Any] = {
    "known_channels_only": True,
    "jwt": [{"algorithm": "HS256", "key": SECRET}],
    "channels": {
        "": OPEN,
        "user": OPEN,
        "smallhistory": {**NAMESPACE, "history_size": 2},
    },
}
"""What the suite's docker-compose.yml tells Centrifugo."""

pytestmark = [pytest.mark.full("programs"), pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The folder of the source distribution of the version that is
    installed."""
    pinned = f"centrifuge-python=={importlib.metadata.version('centrifuge-python')}"
    options = (
        "-q",
        "--no-deps",
        "--no-binary",
        "centrifuge-python",
        "--dest",
        str(tmp_path),
    )
    command = [sys.executable, "-m", "pip", "download", *options, pinned]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False
    )
    if done.returncode:
        leave_out(f"pip cannot fetch the sources of {pinned}")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "sources", filter="data")
    (folder,) = (tmp_path / "sources").iterdir()
    module = folder / "tests" / "test_client.py"
    before, after = module.read_text(encoding="utf-8").split('hmac_secret = "secret"')
    module.write_text(f'{before}hmac_secret = "{SECRET}"{after}', encoding="utf-8")
    return folder


def test_the_suite_of_centrifuge_python_passes(
    suite: Path,
    start_server: StartServer,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            leave_out(f"port {PORT} is in use")
    start_server(
        config={
            "app": {"websocket_port": PORT},
            "apps": {"shop": SHOP},
            "centrifuge": {"app": "shop"},
        }
    )
    report = tmp_path / "report.xml"
    # Its helpers are coroutines whose names begin with "test": only its classes
    # have tests.
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "python_functions=",
        f"--junitxml={report}",
    )
    command = [sys.executable, "-m", "pytest", *options, "--timeout=100"]
    done = subprocess.run(
        [*command, *(f"tests/test_{name}.py" for name in MODULES)],
        cwd=suite,
        env=clean_environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    cases = [*ElementTree.parse(report).iter("testcase")]
    assert not [each for each in cases if each.find("skipped") is not None]
    record_property("checks", len(cases))
