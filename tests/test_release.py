"""``make release``: one version, and the same bytes from the same commit."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imserver import __version__
from imserver.version import full_version
from tests.support import ROOT, clean_environment
from tests.tools import leave_out
from tools import release

EPOCH = 1_800_000_000


def test_all_packages_have_one_version() -> None:
    assert set(release.versions(ROOT).values()) == {__version__}


def test_each_package_carries_the_license() -> None:
    for package in release.PYTHON_PACKAGES:
        assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


# --- documents ----------------------------------------------------------------------------------------------


def test_the_bill_of_materials_names_all_packages_and_what_needs_them() -> None:
    bill = release.bill_of_materials(ROOT, __version__, EPOCH)
    pins = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if "==" in line]
    assert len(bill["components"]) == len(pins) + 2  # our own client, and the names of emoji
    needs = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    reached: set[str] = set()
    waiting = [bill["metadata"]["component"]["bom-ref"]]
    while waiting:
        if (ref := waiting.pop()) not in reached:
            reached.add(ref)
            waiting += needs[ref]
    assert reached == set(needs)


LOCK = """\
one==1.0 \\
    --hash=sha256:00
    # via imserver (pyproject.toml)
three[extra]==3.0 \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via
    #   one
    #   two-b
two-b==2.0 \\
    --hash=sha256:00
    # via one
"""


def test_a_lock_file_says_which_packages_need_another() -> None:
    assert release.read_lock(LOCK) == {
        "one": {"version": "1.0", "users": ["imserver"]},
        "three": {"version": "3.0", "users": ["one", "two-b"]},
        "two-b": {"version": "2.0", "users": ["one"]},
    }


CHANGES = "# Changes\n\n## 0.2.0 (unreleased)\n\nNew.\n\n### Push\n\n- One.\n\n## 0.1.0\n\nFirst.\n"


def test_release_notes_are_the_section_of_the_version() -> None:
    assert release.release_notes(CHANGES, "0.2.0") == "New.\n\n### Push\n\n- One.\n"
    assert release.release_notes(CHANGES, "0.1.0") == "First.\n"
    with pytest.raises(release.click.ClickException, match=r"no section 0\.3\.0"):
        release.release_notes(CHANGES, "0.3.0")


# --- what is refused ----------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **who}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the files that name a version, as the current folder."""
    folder = tmp_path / "sources"
    for package in ("imserver", "imserver_client"):
        write(folder / package / "__init__.py", '__version__ = "1.2.3"\n')
    for package in ("bench", "plugins/ntfy"):
        write(folder / package / "pyproject.toml", '[project]\nversion = "1.2.3"\n')
    for package in release.NPM_PACKAGES:
        write(folder / package / "package.json", {"version": "1.2.3"})
    rows = {Path(package).name: {"version": "1.2.3"} for package in release.NPM_PACKAGES}
    write(folder / "sdk/package-lock.json", {"packages": rows})
    write(folder / "CHANGELOG.md", "## 1.2.3 (unreleased)\n\nNew.\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "First")
    monkeypatch.chdir(folder)
    return folder


def refusal(*arguments: str) -> str:
    """What a command says that fails."""
    done = CliRunner().invoke(release.main, ["--out", "made", *arguments])
    assert done.exit_code == 1, done.output
    return done.output


@pytest.mark.needs("git")
def test_versions_that_differ_are_refused(sources: Path) -> None:
    write(sources / "sdk/react/package.json", {"version": "1.2.2"})
    git(sources, "commit", "-q", "-a", "-m", "Second")
    assert "1.2.2  sdk/react/package.json" in refusal()


@pytest.mark.needs("git")
def test_a_tag_exists_and_names_the_version(sources: Path) -> None:
    assert "git failed" in refusal("v1.2.3")
    git(sources, "tag", "v1.2.4")
    assert "the tag of version 1.2.3 is v1.2.3, not v1.2.4" in refusal("v1.2.4")


@pytest.mark.needs("git")
def test_a_tagged_version_has_a_date(sources: Path) -> None:
    git(sources, "tag", "v1.2.3")
    assert "CHANGELOG.md gives version 1.2.3 no date" in refusal("v1.2.3")


@pytest.mark.needs("git")
def test_a_commit_without_a_tag_is_built_with_a_warning(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = git(sources, "rev-parse", "HEAD")
    assert not release.check_tag("", commit, "1.2.3", "")
    assert "is not tagged v1.2.3" in capsys.readouterr().err
    git(sources, "tag", "v1.2.3")
    assert release.check_tag("", commit, "1.2.3", "")
    assert not capsys.readouterr().err
    write(sources / "CHANGELOG.md", "changed")
    release.check_tag("", commit, "1.2.3", "")
    assert "not committed" in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "made" / "other.txt", "")
    monkeypatch.chdir(tmp_path)
    assert "is not empty" in refusal()


# --- the files ----------------------------------------------------------------------------------------------


def released(clone: Path, umask: int, **environment: str) -> dict[str, bytes]:
    """The files of a release that are built in a clone of this repository."""
    subprocess.run(
        [sys.executable, "-m", "tools.release", "--out", "made"],
        cwd=clone,
        env=clean_environment(PYTHONPATH="", **environment),
        umask=umask,
        check=True,
    )
    return {path.name: path.read_bytes() for path in (clone / "made").iterdir()}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.needs("git", "npm")
def test_two_builds_of_a_commit_are_equal_byte_for_byte(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        leave_out("this is no repository")
    one, other = tmp_path / "one", tmp_path / "a folder elsewhere"
    for clone in (one, other):
        git(tmp_path, "clone", "-q", str(ROOT), str(clone))
    files = released(one, 0o022, TZ="UTC")
    assert files == released(other, 0o077, TZ="Asia/Shanghai")
    version = full_version(one)
    assert sorted(files) == sorted(
        [
            "SHA256SUMS",
            f"imserver-{__version__}-container.tar.gz",
            f"imserver-{__version__}-notes.md",
            f"imserver-{version}-py3-none-any.whl",
            f"imserver-{__version__}.cdx.json",
            f"imserver-{version}.tar.gz",
            f"imserver-client-{__version__}.tgz",
            f"imserver-react-{__version__}.tgz",
            f"imserver_client-{__version__}-py3-none-any.whl",
            f"imserver_client-{__version__}.tar.gz",
            f"imserver_ntfy-{__version__}-py3-none-any.whl",
            f"imserver_ntfy-{__version__}.tar.gz",
        ]
    )
    sums = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "SHA256SUMS"
    }
    with tarfile.open(one / "made" / f"imserver-{version}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"imserver/__init__.py", "templates/home.html", "sdk/js/imserver.js", "LICENSE"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "data"))]
    with tarfile.open(one / "made" / f"imserver-{__version__}-container.tar.gz") as container:
        names = {name.partition("/")[2] for name in container.getnames()}
    assert {"Dockerfile", "compose.yaml", "deploy/nginx.conf", "requirements.lock", "imserver"} <= names
