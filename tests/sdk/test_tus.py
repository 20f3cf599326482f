"""tus-js-client over a line that loses a tenth of what it carries, while the node is killed."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.processes import end, spawn
from tests.sdk.lossy import LossyProxy
from tests.sdk.node import NODE_FLAGS
from tests.support import eventually
from tests.tools import require

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("node", "tus-js-client")]

SCRIPT = Path(__file__).with_name("tus.mjs")
PIECE = 300_000
SIZES = [1, 4096, 700_000, 9_000_000, 300_000, 50_000]
LARGE = 9_000_000


@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_files_arrive_whole_over_a_bad_line_and_after_a_kill(
    start_server: StartServer, tmp_path: Path, http_server: str
) -> None:
    config: dict[str, Any] = {
        "uploads": {"min_free_bytes": 0, "directory": str(tmp_path / "media")},
        "storage": {"url": f"sqlite:///{tmp_path}/shared.db"},
    }
    first = start_server(config=config, http_server=http_server)
    second = start_server(config=config, http_server=http_server)
    output = tmp_path / "output.txt"
    with LossyProxy((first.http.host, first.http.port), 0.1) as line, output.open("w") as written:
        host, port = line.address
        options = {
            "url": f"http://{host}:{port}/api/v1/uploads/tus?app=101&user=ann",
            "sizes": SIZES,
            "piece": PIECE,
        }
        process = spawn(
            [require("node"), *NODE_FLAGS, str(SCRIPT)],
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TUS": json.dumps(options)},
        )
        try:
            parts = tmp_path / "media" / "incoming"
            eventually(
                lambda: any(path.stat().st_size > LARGE // 3 for path in parts.glob("*/*") if path.exists()),
                what="a third of the large file has arrived",
            )
            os.kill(first.pid, signal.SIGKILL)
            line.target = (second.http.host, second.http.port)
            eventually(lambda: process.poll() is not None, 200, what="all files have arrived")
        finally:
            end(process)
        cut = line.cut
    lines = output.read_text()
    assert process.returncode == 0, lines
    reported = [json.loads(each) for each in lines.splitlines()]
    assert [each["file"]["bytes"] for each in reported] == SIZES
    assert all(each["file"]["sha256"] == each["sent"] for each in reported)
    assert cut > 10
    status, body = second.get("/api/v1/uploads?app=101&user=ann")
    assert (status, json.loads(body)["total"]) == (200, len(SIZES)), "none is stored twice"
