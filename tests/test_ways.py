"""The ways are as long as the documents say."""

import re
import subprocess
import sys

from tests.gateway.cluster.redis_server import program
from tests.processes import ended_on_failure, spawn
from tests.support import ROOT


def test_the_ways_have_as_many_modules_as_the_documents_say() -> None:
    process = spawn(
        [sys.executable, "-m", "tests.ways"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with ended_on_failure(process):
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    measured = dict(re.findall(r"^([a-z ]+): (\d+) modules", printed, re.MULTILINE))
    texts = " ".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    reported = dict(re.findall(r"A ([a-z ]+) enters (\d+) modules", texts))
    assert {name: reported.get(name) for name in measured} == measured, printed
    assert measured == reported or not program(), (
        "without Redis, those of a cluster are left out"
    )
