"""``imserver upgrade``: what it says beforehand, and that the link names what
it should at every moment."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

import imserver
from imserver import __version__
from imserver.gateway.config.settings import (
    AppSettings,
    Config,
    ServerSettings,
    StorageSettings,
)
from imserver.offline.upgrade import findings, read_release, step_in_work, switch
from tests.gateway.storage.servers import migrate
from tests.gateway.storage.test_migrations import at_step
from tests.support import ROOT, clean_environment, run_cli
from tests.test_packaging import build, copy_sources

NEXT = "1.1.0"


def wheel(folder: Path, version: str, step: int) -> Path:
    """The wheel of a release whose core has steps up to this one."""
    file = folder / f"imserver-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as file_of_wheel:
        file_of_wheel.writestr("imserver/__init__.py", "")
        if step:
            file_of_wheel.writestr(
                "imserver/storage/steps.py", f"STEPS = {{\n    {step}: '',\n}}\n"
            )
        head = f"Metadata-Version: 2.1\nName: imserver\nVersion: {version}\n"
        file_of_wheel.writestr(f"imserver-{version}.dist-info/METADATA", head)
    return file


@pytest.mark.parametrize(
    ("version", "step", "level", "words"),
    [
        (__version__, 99, "ok", "its first node adds 99 of storage; "),
        ("1.1.0", 1, "ok", "none is missing; "),
        ("1.9.0", 1, "warn", "none is missing; "),
        ("2.0.0", 1, "warn", "none is missing; "),
        ("1.0.0", 0, "ok", "none is missing; "),  # it has no steps
    ],
)
def test_it_says_which_steps_come_and_whether_there_is_a_way_back(
    tmp_path: Path, version: str, step: int, level: str, words: str
) -> None:
    migrate(f"sqlite:///{tmp_path}/imserver.db")
    config = Config(
        app=AppSettings(http_port=0), server=ServerSettings(data_dir=str(tmp_path))
    )
    file = wheel(tmp_path, version, step)
    with ExitStack() as stack:
        found = [*findings(config, release := read_release(file, stack), file)]
    rows = {each.name: each for each in found}
    assert (rows["version"].level, "--back goes back" in rows["version"].found) == (
        level,
        level == "ok",
    )
    assert rows["server"].found == "no server of these settings runs here"
    assert rows["steps of the database"].found.startswith(words)
    assert "of messages" in rows["steps of the database"].found, "it does not have them"
    gone = replace(config, storage=StorageSettings("postgresql://im@127.0.0.1:1/im"))
    assert ("fail", "database") in [
        (each.level, each.name) for each in findings(gone, release, file)
    ]


def test_it_names_the_step_for_which_it_waits(tmp_path: Path) -> None:
    config = Config(server=ServerSettings(data_dir=str(tmp_path)))
    assert step_in_work(config, imserver.__file__) == "", "there is no database"
    url = f"sqlite:///{tmp_path}/imserver.db"
    with at_step(url, 40):
        pass
    assert step_in_work(config, imserver.__file__) == "step 41 of storage"
    migrate(url)
    assert step_in_work(config, imserver.__file__) == ""
    gone = replace(config, storage=StorageSettings("postgresql://im@127.0.0.1:1/im"))
    assert step_in_work(gone, imserver.__file__) == ""


def test_a_check_fails_where_an_upgrade_would(tmp_path: Path) -> None:
    """This installation has no link, as one from a package index, and its
    folder may be another's."""
    config = Config(
        app=AppSettings(http_port=0), server=ServerSettings(data_dir=str(tmp_path))
    )
    file = wheel(tmp_path, "1.1.0", 1)
    (tmp_path / "release").mkdir()
    wheel(tmp_path / "release", "1.1.0", 1)
    with ExitStack() as stack:
        of_wheel = {
            each.name: each
            for each in findings(config, read_release(file, stack), file)
        }
        folder = tmp_path / "release"
        of_folder = {
            each.name: each
            for each in findings(config, read_release(folder, stack), folder)
        }
    assert (of_wheel["link"].level, of_folder["requirements"].level) == ("fail", "fail")
    assert of_wheel["link"].found == f"no link names {sys.prefix}"
    assert "requirements" not in of_wheel


def test_the_link_names_a_release_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "opt" / "imserver-1").mkdir(parents=True)
    link = tmp_path / "opt" / "imserver"
    link.symlink_to("imserver-1")
    switch(link, tmp_path)
    assert link.resolve() == tmp_path
    switch(link, link.with_name("imserver.before"))
    assert os.readlink(link) == "imserver-1"


@pytest.mark.parametrize(
    "command", ["systemctl 'restart", "no-such-program restart", ""]
)
def test_a_restart_that_cannot_be_called_is_refused_before_anything_changes(
    command: str,
) -> None:
    done = run_cli("upgrade", "--restart", command, ".")
    assert (done.returncode, "Invalid value for '--restart'" in done.stderr) == (
        2,
        True,
    )


class Installation:
    """A folder with this release and the link that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / f"imserver-{__version__}"
        venv.create(self.home, with_pip=True)
        self.environment = clean_environment(
            PIP_NO_DEPS="1", PIP_NO_INDEX="1", PYTHONPATH=sysconfig.get_path("purelib")
        )
        self._call(self.home / "bin" / "pip", "install", "-q", self.wheel(__version__))
        (folder / "imserver").symlink_to(self.home.name)
        (folder / "imserver.yaml").write_text("server: {data_dir: data}\n", "utf-8")

    def wheel(self, version: str) -> Path:
        tree = self.folder / f"tree-{version}" / "tree"
        copy_sources(ROOT, tree)
        package = tree / "imserver" / "__init__.py"
        package.write_text(
            package.read_text("utf-8").replace(f'"{__version__}"', f'"{version}"'),
            "utf-8",
        )
        return build(tree)

    def run(self, *words: object, fails: bool = False) -> str:
        return self._call(
            self.folder / "imserver" / "bin" / "imserver", *words, fails=fails
        )

    def _call(self, *words: object, fails: bool = False) -> str:
        where = {"cwd": self.folder, "env": self.environment}
        done = subprocess.run(
            [*map(str, words)], **where, capture_output=True, text=True, check=False
        )
        assert done.returncode == fails, done
        return done.stdout + done.stderr

    def links(self) -> dict[str, str]:
        return {
            each.name: os.readlink(each)
            for each in self.folder.iterdir()
            if each.is_symlink()
        }


@pytest.mark.full("programs")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_upgrade_and_the_way_back_are_one_command_each(tmp_path: Path) -> None:
    here = Installation(tmp_path)
    old = f"imserver-{__version__}"
    new = f"imserver-{NEXT}"
    assert "does not point to a previous release" in here.run(
        "upgrade", "--back", fails=True
    )
    file = here.wheel(NEXT)
    here.run("upgrade", "--check", file)
    assert here.links() == {"imserver": old}
    (tmp_path / new).mkdir()
    (tmp_path / new / "unfinished").touch()  # as a power cut leaves it
    assert "now restart" in here.run("upgrade", file)
    assert here.links() == {"imserver": new, "imserver.before": old}
    assert here.run("version") == f"{NEXT}\n"
    assert "exists already" in here.run("upgrade", file, fails=True)
    assert "already" in here.run("upgrade", "imserver", fails=True)
    here.run("upgrade", "--back")
    assert here.links() == {"imserver": old, "imserver.before": new}
    command = f"{sys.executable} -c 'raise SystemExit(3)'"
    assert "status 3" in here.run("upgrade", "--restart", command, new, fails=True)
    assert here.links()["imserver"] == old
    (tmp_path / "imserver.yaml").write_text(
        "server: {data_dir: data}\nbackups: {folder: /absent}\n", "utf-8"
    )
    assert "fail  backups" in here.run("upgrade", "--back")
    (tmp_path / "imserver.yaml").write_text("unknown: {}\n", "utf-8")
    assert "unknown" in here.run("upgrade", "--back", fails=True)
