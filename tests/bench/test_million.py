"""The million in a tiny form: a few hundred users on two processes with a Redis."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import million
from bench.connections import MOST_REFUSED, ConnectionSet, Target
from bench.dialects import OPENERS
from bench.figures import FIGURES
from bench.loop import Loop
from tests.bench.play import run
from tests.support import Server

pytestmark = pytest.mark.linux

QUICK = ("--push-seconds", "0.5", "--calm-seconds", "0.1", "--idle-seconds", "0.3", "--broadcasts", "1")


@pytest.fixture
def quick(short_rests: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short phases."""
    for name, seconds in (("CALM", 0.3), ("BUSY", 0.6)):
        monkeypatch.setattr(million, f"{name}_SECONDS", seconds)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.usefixtures("quick")
def test_a_few_hundred_instead_of_a_million(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(million, "BEAT_SECONDS", 0.0)  # everybody beats before each phase
    result = run("million", "--connections", "300", "--processes", "2", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (report,) = found["reports"]
    figures = report["figures"]
    assert report["stopped"] == ""
    assert set(figures) <= set(FIGURES)
    assert figures["online"] == figures["listed"] == 300
    assert figures["pushes"] > 20
    assert 0 < figures["push_p50_ms"] <= figures["push_p99_ms"]
    assert 0 < figures["broadcast_seconds"] < 60
    assert figures["pss_full_mb"] > 10
    assert found["bars"] == []  # they are for a million

    file, document = tmp_path / "million.json", tmp_path / "doc.md"
    file.write_text(result.stdout)
    document.write_text("before\n<!-- million -->\nold\n<!-- end -->\nafter")
    assert run("table", str(file), "--into", str(document)).exit_code == 0
    assert "| users online | 300 |" in document.read_text()
    assert "old" not in document.read_text()


def test_a_server_that_admits_nobody_is_not_asked_for_ever(start_server: Callable[..., Server]) -> None:
    server = start_server(config={"apps": {"101": {"dialects": ["sse"]}}})
    read_end, write_end = os.pipe()
    connections = ConnectionSet(Loop(read_end), Target(server.ws.host, server.ws.port))
    opening = connections.open(range(1000), OPENERS["cmd"], seconds=3600, retry=True)
    os.close(read_end)
    os.close(write_end)
    assert opening.opened == 0
    assert opening.refused >= MOST_REFUSED
    assert next(iter(opening.errors)).startswith("login refused")


@pytest.mark.full
@pytest.mark.usefixtures("quick")
def test_one_process_needs_no_redis() -> None:
    result = run("million", "--connections", "100", "--processes", "1", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["reports"][0]["figures"]["redis_mb"] is None
