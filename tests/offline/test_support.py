"""``imserver support``: what helps is in the file, and no secret, name or
message."""

import json
import zipfile
from pathlib import Path

import pytest

from imserver.offline.support import redacted_line
from tests.support import run_cli

SECRETS = {
    name: f"planted-secret-of-{name}-0123456789"
    for name in (
        "key",
        "jwt",
        "mail",
        "hook",
        "database",
        "redis",
        "file",
        "environment",
    )
}
PEOPLE = ("Annelore", "annelore@example.org", "+4915112345678", "Meet me at the bridge")

SETTINGS = {
    "app": {"log_file": "server.log", "http_port": 1},
    "api": {"keys": [{"key": SECRETS["key"], "scopes": ["admin"]}]},
    "storage": {"url": f"postgresql://im:{SECRETS['database']}@127.0.0.1:1/im"},
    "smtp": {
        "host": "127.0.0.1",
        "user": "chat",
        "password": SECRETS["mail"],
        "sender": PEOPLE[1],
    },
    "apps": {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRETS["jwt"]}],
            "webhook": {"url": "http://127.0.0.1:1/hook", "secret": SECRETS["hook"]},
        }
    },
}
LOG = f"""\
2026-12-01T00:00:00.000+00:00 INFO    imserver.gateway: the first line may be cut
2026-12-01T00:00:01.000+00:00 INFO    imserver.gateway.core.network: this process may open 20000 files
2026-12-01T00:00:02.000+00:00 WARNING imserver.people: {PEOPLE[0]} wrote: {PEOPLE[3]} {SECRETS["jwt"]}
2026-12-01T00:00:03.000+00:00 ERROR   imserver.gateway.node: {PEOPLE[1]} failed
Traceback (most recent call last):
  File "/home/{PEOPLE[0]}/lib/python3.11/site-packages/imserver/gateway/node/node.py", line 17, in run
    raise ValueError("{PEOPLE[3]}")
ValueError: {PEOPLE[2]}: {PEOPLE[3]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of a server with all that a bundle may not have."""
    (tmp_path / "imserver.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "server.log").write_text(LOG, encoding="utf-8")
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "secret").write_text(SECRETS["file"], encoding="utf-8")
    return tmp_path


def test_the_bundle_has_what_helps_and_nothing_of_anybody(folder: Path) -> None:
    done = run_cli(
        "support", "help.zip", folder=folder, IMSERVER_KEY=SECRETS["environment"]
    )
    assert done.returncode == 0, done
    assert (folder / "help.zip").stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(folder / "help.zip") as archive:
        parts = {
            name: archive.read(name).decode("utf-8") for name in archive.namelist()
        }
    assert list(parts) == [
        "settings.yaml",
        "versions.txt",
        "doctor.txt",
        "log.txt",
        "metrics.txt",
    ]
    everything = "\n".join(parts.values())
    for planted in (*SECRETS.values(), *PEOPLE):
        assert planted not in everything
    assert "log_file: server.log" in parts["settings.yaml"]
    assert "IMSERVER_KEY" in parts["versions.txt"]
    assert "fail  database: postgresql" in parts["doctor.txt"]
    assert "this process may open 20000 files" in parts["log.txt"]
    assert 'File "imserver/gateway/node/node.py", line 17, in run' in parts["log.txt"]
    assert "\nValueError: …" in parts["log.txt"]
    assert "the server does not answer" in parts["metrics.txt"]


def test_nothing_is_replaced_and_broken_settings_are_named(folder: Path) -> None:
    (folder / "help.zip").write_text("of yesterday")
    assert (
        "help.zip exists already"
        in run_cli("support", "help.zip", folder=folder).stderr
    )
    (folder / "imserver.yaml").write_text("nonsense: 1")
    done = run_cli("support", "new.zip", folder=folder)
    assert (done.returncode, "imserver.yaml, line 1" in done.stderr) == (1, True)
    assert (folder / "help.zip").read_text() == "of yesterday"
    assert not (folder / "new.zip").exists()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("no line of a log, but what somebody has written", "…"),
        ('{"message": "a document of a user"}', "…"),
        ("{broken", "…"),
        (
            '{"time": "t", "level": "info", "logger": "imserver.x", "message": "ann says hi", "user": "ann"}',
            '{"time": "t", "level": "info", "logger": "imserver.x", "message": "(11 characters)"}',
        ),
    ],
)
def test_of_a_line_only_the_words_of_the_server_are_left(line: str, shown: str) -> None:
    assert redacted_line(line) == shown
