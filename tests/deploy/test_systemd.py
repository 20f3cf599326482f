"""deploy/imserver.service: systemd can read it, and it fits the settings and the guides."""

import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.support import ROOT

FILE = ROOT / "deploy" / "imserver.service"
PROGRAM = "/opt/imserver/bin/imserver"
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))
UNIT = RawConfigParser()
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read(FILE, encoding="utf-8")
SERVICE = UNIT["Service"]


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_it_without_a_warning(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    file = tmp_path / FILE.name
    file.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")  # it must exist
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if FILE.name in line]


def test_its_command_is_the_one_of_the_install_guide_and_has_known_options() -> None:
    command = SERVICE["ExecStart"]
    assert f"\n{command}\n" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    program, *words = command.split()
    assert program == PROGRAM
    done = subprocess.run(
        [sys.executable, "-m", "imserver", *words, "--help"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_waits_for_the_database_without_end() -> None:
    # A node ends while the database is away. By default systemd gives up after five ends in ten seconds.
    assert UNIT["Unit"].getint("StartLimitIntervalSec") == 0
    assert SERVICE["Restart"] == "on-failure"
    assert UNIT["Install"]["WantedBy"] == "multi-user.target"


def test_it_has_more_time_to_stop_than_its_drain_takes() -> None:
    longest = sum(DEFAULTS["drain"].values()) + DEFAULTS["websocket"]["close_seconds"] + 15
    assert SERVICE.getint("TimeoutStopSec") > longest
    assert (SERVICE["KillSignal"], SERVICE["KillMode"]) == ("SIGTERM", "mixed")


def test_it_is_not_root_and_writes_only_its_folders() -> None:
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    user, folder = SERVICE["User"], f"/var/lib/{SERVICE['StateDirectory']}"
    assert f'useradd --system --home-dir "{folder}" --shell /usr/sbin/nologin {user}\n' in guide
    assert f"`server.data_dir: {folder}`" in guide
    assert (SERVICE["WorkingDirectory"], SERVICE["StateDirectoryMode"]) == (folder, "0700")
    assert SERVICE["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in SERVICE
    assert SERVICE.getboolean("NoNewPrivileges")
    assert SERVICE["CapabilityBoundingSet"] == SERVICE["AmbientCapabilities"] == ""
