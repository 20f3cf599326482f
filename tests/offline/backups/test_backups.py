"""Backups by a schedule: made, restored on trial, counted and watched."""

import json
import os
import subprocess
import tarfile
from pathlib import Path
from time import time
from typing import Any

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.node.feature_list import load_config
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.offline.backups import BackupState
from imserver.offline.backups.command import check_backups
from imserver.offline.backups.folder import backups_of, delete_old, mark, new_backup
from imserver.offline.copies.archive import write
from tests.conftest import StartServer
from tests.support import eventually, run_cli

BEGAN = 1_700_000_000


class Machine:
    """A data folder with a message, and settings with a folder of backups."""

    def __init__(self, folder: Path) -> None:
        self.backups = folder / "backups"
        self.settings = folder / "imserver.yaml"
        text = {
            "server": {"data_dir": str(folder / "data")},
            "backups": {"folder": str(self.backups), "count": 2},
        }
        self.settings.write_text(json.dumps(text), "utf-8")
        store = Store(StorageSettings(), str(folder / "data"), threaded=False)
        store.start()
        store.part(MessageLog).writer.append(
            "app", [Draft(sender="a", to_user="b", body=b"x")]
        )
        store.close()

    def run(
        self, *words: object, fails: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        done = run_cli("backup", "-c", str(self.settings), *map(str, words), seconds=60)
        assert done.returncode == fails, done
        return done

    def finding(self) -> Any:
        (finding,) = check_backups(load_config(str(self.settings)))
        return finding

    def state(self) -> BackupState:
        state = BackupState()
        state.look(self.backups)
        return state


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def damage(file: Path) -> None:
    """Another bit in a page of the database."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_backup_of_the_schedule_is_restored_on_trial_and_watched(
    machine: Machine, start_server: StartServer
) -> None:
    assert (machine.finding().level, machine.state().last_backup) == ("fail", 0), (
        "there is no folder yet"
    )
    output = machine.run().stdout
    (file,) = backups_of(machine.backups)
    assert (file.is_proven, abs(file.created - time()) < 600) == (True, True)
    assert f"it is {file.path}" in output
    assert "the checksum is right" in output
    assert os.listdir(machine.backups) == [file.path.name], (
        "nothing of the trial is left"
    )
    assert machine.finding().level == "ok"
    server = start_server(config={"backups": {"folder": str(machine.backups)}})
    eventually(
        lambda: f"}} {file.created}\n" in server.get("/metrics")[1].decode(),
        what="its first look",
    )
    state = json.loads(server.get("/system/state?detail=true")[1])["data"]
    assert state["metrics"]["last_backup"] == file.created


def test_a_damaged_backup_fails_loudly_until_it_is_whole(machine: Machine) -> None:
    machine.run()
    (file,) = backups_of(machine.backups)
    damage(file.path)
    assert "its checksum is wrong" in machine.run("--check", fails=True).stderr
    (unproven,) = backups_of(machine.backups)
    assert (machine.state().last_backup, machine.state().unproven_backups) == (0, 1)
    assert machine.finding().level == "fail"
    assert str(unproven.path) in machine.finding().found
    damage(unproven.path)  # and back
    assert machine.run("--check", unproven.path).stdout.endswith(f"it is {file.path}\n")
    assert machine.state().last_backup == file.created


def test_the_newest_stay_and_a_proven_one_stays_longest(tmp_path: Path) -> None:
    for day in range(6):
        file = new_backup(tmp_path, BEGAN + day * 86_400)
        file.touch()
        if day < 3:
            mark(file, is_proven=True)
    others = [
        ".imserver-notes",
        "imserver-notes.part",
        ".trial.of-others",
        "imserver-20301399T000000Z.tar",
    ]
    # its clock was wrong, and it would stay the newest
    others += ["imserver-99990101T000000Z.tar"]
    left = [".trial.0ld_0ld_", f"{file.name}.part", f".{file.name}.abc"]
    ages = dict.fromkeys(others + left, BEGAN - 900_000_000) | {
        ".trial.new_new_": time()
    }
    for name, seconds in ages.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (seconds, seconds))
    assert len(delete_old(tmp_path, 2)) == 2 + len(left)
    assert (tmp_path / ".trial.new_new_").exists(), "it is being made"
    files = backups_of(tmp_path)
    assert [(each.created - BEGAN) // 86_400 for each in files] == [5, 4, 2, 1]
    assert [each.is_proven for each in files] == [False, False, True, True]
    assert all((tmp_path / each).exists() for each in others)


def test_a_clock_that_was_set_back_neither_hides_new_backups_nor_deletes_what_it_calls_the_future(
    tmp_path: Path,
) -> None:
    now = int(time())
    # the clock was three days ahead of now
    days = [now + day * 86_400 for day in range(-3, 4)]
    for created in (*days[:3], *days[4:], now):
        file = new_backup(tmp_path, created)
        file.touch()
        mark(file, is_proven=True)
    assert len(delete_old(tmp_path, 2)) == 2
    assert [each.created for each in backups_of(tmp_path)] == [now, days[2]]
    assert len(os.listdir(tmp_path)) == 5
    state = BackupState()
    state.look(tmp_path)
    assert (state.last_backup, state.unproven_backups) == (now, 0)


def test_old_backups_are_a_failure_and_do_not_fill_the_disk_while_new_ones_fail(
    machine: Machine,
) -> None:
    machine.backups.mkdir()
    for day in range(3):
        file = new_backup(machine.backups, BEGAN + day * 86_400)
        file.touch()
        mark(file, is_proven=True)
    assert machine.finding().level == "fail"
    text = machine.settings.read_text("utf-8").replace(
        '"data_dir"', '"secret_file": "absent", "data_dir"'
    )
    machine.settings.write_text(text, "utf-8")
    assert "the secret absent cannot be read" in machine.run(fails=True).stderr
    assert [
        (each.created - BEGAN) // 86_400 for each in backups_of(machine.backups)
    ] == [2, 1]


def test_a_folder_that_depends_on_where_one_is_is_refused(machine: Machine) -> None:
    text = machine.settings.read_text("utf-8").replace(str(machine.backups), "backups")
    machine.settings.write_text(text, "utf-8")
    assert "backups.folder: expected" in machine.run(fails=True).stderr


def test_a_copy_and_an_archive_of_before_are_checked_without_a_checksum(
    machine: Machine, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    archive = tmp_path / "all.tar"
    old = tmp_path / "old.tar"
    machine.run(copy)
    assert "no checksum" in machine.run("--check", copy).stdout
    write(archive, copy, {}, ())
    with tarfile.open(archive) as whole, tarfile.open(old, "w") as without:
        for member in whole:
            if member.name != "checksum":
                without.addfile(member, whole.extractfile(member))
    assert "a release before 1.1" in machine.run("--check", old).stdout
    assert machine.run("--check", archive).stdout.count("\n") == 4, "its name stays"
    with copy.open("r+b") as file:
        file.truncate(20_000)
    assert "malformed" in machine.run("--check", copy, fails=True).stderr
    assert (
        "give a FILE" in run_cli("backup", "--data-dir", str(tmp_path / "other")).stderr
    )
