"""The ways are as long as docs/architecture.md says."""

import re
import subprocess
import sys

from tests.gateway.cluster.redis_server import program
from tests.processes import ended_on_failure, spawn
from tests.support import ROOT


def test_the_ways_have_as_many_modules_as_the_architecture_says() -> None:
    process = spawn([sys.executable, "-m", "tests.ways"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with ended_on_failure(process):
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    measured = dict(re.findall(r"^([a-z ]+): (\d+) modules", printed, re.MULTILINE))
    page = (ROOT / "docs" / "architecture.md").read_text()
    reported = dict(re.findall(r"A ([a-z ]+) enters (\d+) modules", page))
    assert {name: reported.get(name) for name in measured} == measured, printed
    assert measured == reported or not program(), "without Redis, those of a cluster are left out"
