"""Running the commands of the load tools in tests."""

import json
from typing import Any

from click.testing import CliRunner, Result

from bench.cli import bench

REPORT = {"command", "each", "faults", "figures", "generator", "imserver", "machine"}


def run(*arguments: str) -> Result:
    """Run ``imserver bench …`` in this process."""
    return CliRunner().invoke(bench, list(arguments))


def found(*arguments: str) -> dict[str, Any]:
    """Run a command with ``--json``, which has to succeed, and return its
    object."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert report.keys() >= REPORT
    assert {"bottleneck", "cpu_us_each", "pinned", "processes", "rate"} == set(
        report["generator"]
    )
    return report
