"""``make release``: one version, and the same bytes from the same commit."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from imserver import __version__
from imserver.version import full_version
from tests.support import ROOT, clean_environment
from tests.tools import leave_out
from tools import key, release
from tools.version import set_version

EPOCH = 1_800_000_000


def test_all_packages_have_one_version() -> None:
    assert set(release.versions(ROOT).values()) == {__version__}


def test_plug_ins_install_beside_a_server_without_a_tag() -> None:
    for plugin in release.plugins(ROOT):
        (need,) = (
            each
            for each in release.read_project(ROOT / plugin)["dependencies"]
            if each.startswith("imserver")
        )
        assert Requirement(need).specifier.contains(
            f"{__version__}.dev0+g84b2fa58c0de"
        ), plugin


def test_each_package_carries_the_license() -> None:
    for package in release.python_packages(ROOT):
        assert (ROOT / package / "LICENSE").read_bytes() == (
            ROOT / "LICENSE"
        ).read_bytes()


# --- documents ----------------------------------------------------------------


def test_the_bill_of_materials_names_all_packages_and_what_needs_them() -> None:
    bill = release.bill_of_materials(ROOT, __version__, EPOCH)
    pins = [
        line
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
        if "==" in line
    ]
    plugins = [
        release.read_project(ROOT / plugin)["name"] for plugin in release.plugins(ROOT)
    ]
    # Our own client, and the names of emoji.
    assert len(bill["components"]) == len(pins) + 2 + len(plugins)
    needs = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    server = bill["metadata"]["component"]["bom-ref"]
    refs = [each["bom-ref"] for each in bill["components"] if each["name"] in plugins]
    assert all(server in needs[ref] for ref in refs)
    reached: set[str] = set()
    waiting = [server, *refs]
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


CHANGES = "# Changes\n\n## 0.2.0 (unreleased)\n\nNew.\n\n### Push\n\n- One.\n\n## 0.1.0\n\nFirst.\n"


def test_release_notes_are_the_section_of_the_version() -> None:
    assert release.release_notes(CHANGES, "0.2.0") == "New.\n\n### Push\n\n- One.\n"
    assert release.release_notes(CHANGES, "0.1.0") == "First.\n"
    with pytest.raises(release.click.ClickException, match=r"no section 0\.3\.0"):
        release.release_notes(CHANGES, "0.3.0")


def test_the_site_shows_what_the_server_of_its_version_has(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    target = tmp_path / "older-site.tar.gz"
    write(tree / "imserver/__init__.py", "TABLES = 'those of then'\n")
    code = "import pathlib, sys, imserver\nsite = pathlib.Path(sys.argv[2])\nsite.mkdir()\n"
    write(tree / "tools/__init__.py", "")
    write(
        tree / "tools/site.py",
        f"{code}(site / 'index.html').write_text(imserver.TABLES)\n",
    )
    release.pack_site(tree, target, 0)
    with tarfile.open(target) as packed:
        page = packed.extractfile("older-site/index.html")
        assert page is not None
        assert page.read() == b"those of then"


# --- what a stranger checks ---------------------------------------------------


def make_key(folder: Path) -> tuple[Path, str]:
    """A key of minisign without a password; its file, and the public key."""
    secret = folder / "release.key"
    public = folder / "release.pub"
    command = ["minisign", "-G", "-W", "-s", str(secret), "-p", str(public)]
    subprocess.run(command, check=True, capture_output=True)
    return secret, public.read_text("utf-8").splitlines()[1]


def verified(files: Path, public: str) -> bool:
    """Whether the two commands of the guide accept the files of a folder."""
    commands = (
        ["minisign", "-Vm", release.CHECKSUMS, "-P", public],
        ["sha256sum", "--check", "--strict", release.CHECKSUMS],
    )
    return all(
        subprocess.run(command, cwd=files, capture_output=True, check=False).returncode
        == 0
        for command in commands
    )


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def assert_every_change_is_refused(files: Path, public: str) -> None:
    assert verified(files, public)
    for path in [each for each in files.rglob("*") if each.is_file()]:
        content = path.read_bytes()
        change_a_byte(path)
        assert not verified(files, public), path
        path.write_bytes(content)
    assert verified(files, public)


@pytest.mark.needs("minisign", "sha256sum")
def test_a_file_that_was_changed_or_removed_is_refused(tmp_path: Path) -> None:
    files = tmp_path / "files"
    for name in ("imserver-1.2.3.tar.gz", "wheels/flask-3.0-py3-none-any.whl"):
        write(files / name, "content")
    secret, public = make_key(tmp_path)
    release.write_checksums(files)
    release.sign(
        files / release.CHECKSUMS, secret, "imserver 1.2.3", f"The key: `{public}`.\n"
    )
    assert_every_change_is_refused(files, public)
    (files / "wheels").rename(tmp_path / "elsewhere")
    assert not verified(files, public)
    (tmp_path / "other").mkdir()
    other, _ = make_key(tmp_path / "other")
    with pytest.raises(
        release.click.ClickException, match=r"SECURITY\.md has no public key"
    ):
        release.sign(files / release.CHECKSUMS, other, "imserver 1.2.3", public)


def test_the_requirements_name_the_hash_of_each_wheel(tmp_path: Path) -> None:
    ours = {"imserver-1.2.3-py3-none-any.whl", "imserver_client-1.2.3-py3-none-any.whl"}
    for name in (*ours, "wheels/two_b-2.0-py3-none-any.whl"):
        write(tmp_path / name, name)
    sums = {path.name: release.checksum(path) for path in tmp_path.rglob("*.whl")}
    lines = release.requirements(tmp_path, LOCK).splitlines()
    for name, requirement in zip(
        sorted(ours), ("imserver", "imserver-client"), strict=True
    ):
        assert f"{requirement}==1.2.3 --hash=sha256:{sums[name]}" in lines
    built = lines.index("two-b==2.0 \\")
    assert (
        lines[built + 1] == f"    --hash=sha256:{sums['two_b-2.0-py3-none-any.whl']} \\"
    )
    assert [line for line in lines if line in LOCK.splitlines()] == LOCK.splitlines()


# --- what is refused ----------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    who = {
        f"GIT_{role}_{what}": "tests"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    command = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **who, "TZ": "UTC"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the files that name a version, as the current
    folder."""
    folder = tmp_path / "sources"
    for package in ("imserver", "imserver_client"):
        write(folder / package / "__init__.py", '__version__ = "1.2.3"\n')
    for package in ("bench", "checker", "plugins/one"):
        write(folder / package / "pyproject.toml", '[project]\nversion = "1.2.3"\n')
    for package in release.NPM_PACKAGES:
        write(folder / package / "package.json", {"version": "1.2.3"})
    rows = {
        Path(package).name: {"version": "1.2.3"} for package in release.NPM_PACKAGES
    }
    write(folder / "sdk/package-lock.json", {"packages": rows})
    write(folder / "plugins/one/npm/package.json", {"version": "1.2.3"})
    write(folder / "CHANGELOG.md", "## 1.2.3 (unreleased)\n\nNew.\n")
    write(folder / "SECURITY.md", "")
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
    for name in ("sdk/react", "plugins/one/npm"):
        write(sources / name / "package.json", {"version": "1.2.2"})
    git(sources, "commit", "-q", "-a", "-m", "Second")
    refused = refusal()
    assert "1.2.2  sdk/react/package.json" in refused
    assert "1.2.2  plugins/one/npm/package.json" in refused


@pytest.mark.needs("git")
def test_a_tag_exists_and_names_the_version(sources: Path) -> None:
    assert "git failed" in refusal("v1.2.3")
    git(sources, "tag", "v1.2.4")
    assert "the tag of version 1.2.3 is v1.2.3, not v1.2.4" in refusal("v1.2.4")


@pytest.mark.needs("git")
def test_a_tagged_version_has_the_date_of_its_commit(sources: Path) -> None:
    day = git(
        sources,
        "show",
        "--no-patch",
        "--format=%cd",
        "--date=format-local:%Y-%m-%d",
        "HEAD",
    )
    git(sources, "tag", "v1.2.3")
    heading = f"## 1.2.3 ({day})"
    assert f"CHANGELOG.md has no line '{heading}'" in refusal("v1.2.3")
    commit = release.find_commit("v1.2.3")
    assert release.check_tag("v1.2.3", commit, "1.2.3", f"# Changes\n\n{heading}\n")


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


def test_a_version_is_set_in_all_packages_and_dated(sources: Path) -> None:
    write(sources / "CHANGELOG.md", "## 1.3.0 (unreleased)\n\nNew.\n")
    set_version(sources, "1.3.0", "2026-01-02")
    assert set(release.versions(sources).values()) == {"1.3.0"}
    assert "## 1.3.0 (2026-01-02)\n" in (sources / "CHANGELOG.md").read_text("utf-8")


def test_a_new_key_is_published_and_the_old_one_ends() -> None:
    policy = (ROOT / "SECURITY.md").read_text("utf-8")
    one = "RW" + "a" * 54
    other = "RW" + "b" * 54
    first = key.publish(policy, one, "2026-01-02")
    assert "There is no key yet" not in first
    second = key.publish(first, other, "2027-03-04")
    assert (
        f"| `{one}` | 2026-01-02 | 2027-03-04 |\n| `{other}` | 2027-03-04 | |\n"
        in second
    )
    assert release.public_keys(second)[-2:] == [one, other]


def test_a_folder_with_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "made" / "other.txt", "")
    monkeypatch.chdir(tmp_path)
    assert "is not empty" in refusal()


# --- the files ----------------------------------------------------------------


def clone_with_key(folder: Path, public: str) -> Path:
    """A clone of this repository whose SECURITY.md names a public key."""
    git(folder.parent, "clone", "-q", str(ROOT), str(folder))
    policy = folder / "SECURITY.md"
    policy.write_text(f"{policy.read_text('utf-8')}\n`{public}`\n", encoding="utf-8")
    date = "2026-01-02T03:04:05Z"
    who = ("-c", "user.name=tests", "-c", "user.email=tests")
    environment = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    command = [
        "git",
        "-c",
        "safe.directory=*",
        *who,
        "commit",
        "-q",
        "-a",
        "-m",
        "Name the key",
    ]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder


def released(
    clone: Path, umask: int, secret: Path, **environment: str
) -> dict[str, bytes]:
    """The files of a release that are built in a clone of this repository."""
    subprocess.run(
        [sys.executable, "-m", "tools.release", "--out", "made", "--key", str(secret)],
        cwd=clone,
        env=clean_environment(PYTHONPATH="", **environment),
        umask=umask,
        check=True,
    )
    dist = clone / "made"
    return {
        path.relative_to(dist).as_posix(): path.read_bytes()
        for path in dist.rglob("*")
        if path.is_file()
    }


@pytest.mark.full("programs")
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.needs("git", "npm", "minisign", "sha256sum")
def test_two_builds_of_a_commit_are_equal_byte_for_byte_and_no_other_file_is_accepted(
    tmp_path: Path,
) -> None:
    if not (ROOT / ".git").exists():
        leave_out("this is no repository")
    secret, public = make_key(tmp_path)
    one, other = (
        clone_with_key(tmp_path / name, public)
        for name in ("one", "a folder elsewhere")
    )
    files = released(one, 0o022, secret, TZ="UTC")
    assert files == released(other, 0o077, secret, TZ="Asia/Shanghai")
    version = full_version(one)
    plugins = [
        release.read_project(one / plugin)["name"].replace("-", "_")
        for plugin in release.plugins(one)
    ]
    assert plugins
    npm_packages = [
        json.loads((one / package / "package.json").read_text(encoding="utf-8"))["name"]
        for package in (*release.NPM_PACKAGES, *release.npm_of_plugins(one))
    ]
    assert sorted(name for name in files if not name.startswith("wheels/")) == sorted(
        [
            "SHA256SUMS",
            "SHA256SUMS.minisig",
            f"imserver-{__version__}-container.tar.gz",
            f"imserver-{__version__}-notes.md",
            f"imserver-{__version__}-requirements.txt",
            f"imserver-{__version__}-site.tar.gz",
            f"imserver-{version}-py3-none-any.whl",
            f"imserver-{__version__}.cdx.json",
            f"imserver-{version}.tar.gz",
            *(f"{package}-{__version__}.tgz" for package in npm_packages),
            f"imserver_client-{__version__}-py3-none-any.whl",
            f"imserver_client-{__version__}.tar.gz",
            *(f"{plugin}-{__version__}-py3-none-any.whl" for plugin in plugins),
            *(f"{plugin}-{__version__}.tar.gz" for plugin in plugins),
        ]
    )
    sums = dict(
        line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines()
    )
    assert sums == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if not name.startswith("SHA256SUMS")
    }
    with tarfile.open(one / "made" / f"imserver-{version}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {
        "imserver/__init__.py",
        "templates/home.html",
        "sdk/js/imserver.js",
        "LICENSE",
    } <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "data"))]
    with tarfile.open(
        one / "made" / f"imserver-{__version__}-container.tar.gz"
    ) as container:
        names = {name.partition("/")[2] for name in container.getnames()}
    assert {
        "Dockerfile",
        "compose.yaml",
        "deploy/nginx.conf",
        "requirements.lock",
        "imserver",
    } <= names
    assert_every_change_is_refused(one / "made", public)
    assert_pip_installs_no_other_wheel(one / "made", tmp_path)


def assert_pip_installs_no_other_wheel(dist: Path, folder: Path) -> None:
    """Without a look at the checksums, too."""

    def install() -> subprocess.CompletedProcess[str]:
        venv.create(folder / "venv", with_pip=False, clear=True)
        (file,) = dist.glob("imserver-*-requirements.txt")
        python = str(folder / "venv/bin/python")
        how = (
            "install",
            "--quiet",
            "--no-index",
            "--require-hashes",
            "--requirement",
            str(file),
        )
        command = [sys.executable, "-m", "pip", "--python", python, *how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = install()
    assert done.returncode == 0, done.stderr
    for pattern in ("imserver-*.whl", "wheels/flask-*.whl", "wheels/http_ece-*.whl"):
        (wheel,) = dist.glob(pattern)
        content = wheel.read_bytes()
        change_a_byte(wheel)
        assert "DO NOT MATCH THE HASHES" in install().stderr, wheel
        wheel.write_bytes(content)
