"""``imserver upgrade``: installs another release beside this one. A link names
the release that runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import distributions, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Final

import click
from msgspec import Struct

from imserver import __version__
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import GROUP
from imserver.gateway.offline import load_settings, settings_options
from imserver.gateway.storage.address import DatabaseAddress, database_address
from imserver.gateway.storage.migrations import (
    missing_steps,
    named,
    newer_steps,
    next_step,
    taken_steps,
)
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.terminal import CommandLine, fail
from imserver.offline.database import probe
from imserver.offline.doctor import (
    finding_of,
    findings_of_features,
    running_server,
    show,
)
from imserver.plugin.commands import Finding
from imserver.plugin.progress import long_work
from imserver.plugin.space import need_space

_READY_SECONDS: Final = 60.0
SPACE_BYTES: Final = 400 << 20
"""The space for a release with its packages, including the time while they are
unpacked."""
_UNFINISHED: Final = "unfinished"
"""The file in the folder of a release that is being installed."""
_BEFORE: Final = ".before"
"""The ending of the link to the release that ran before."""
_OTHERS_ONLY_READ: Final = 0o022
"""The umask with which other users can read new files, but not write them."""


class Release(Struct, frozen=True):
    """A release that may replace this one.

    ``package``: the ``__init__.py`` of its server. ``names``: the distributions
    that come with it, written with ``_``. ``home``: the folder in which it is
    installed; None: it must be installed first.
    """

    version: str
    package: str
    names: frozenset[str]
    home: Path | None


def read_release(dist: Path, stack: ExitStack) -> Release:
    """Read a release from what the operator has given.

    ``dist`` is a wheel, the folder of a release's files, or a folder in which
    it is installed. A wheel is unpacked into a temporary folder, which
    ``stack`` deletes. Raises StartError.
    """
    try:
        site = next(dist.glob("lib/python*/site-packages"), None)
        if site is not None:
            return _read_installed(dist, site)
        site = _unpacked_wheel(dist, stack)
        # The name of a wheel begins with that of its distribution.
        names = {file.name.split("-")[0] for file in dist.glob("*.whl")}
        return _release_in(site, names, home=None)
    except (OSError, zipfile.BadZipFile, StopIteration):
        raise StartError(
            f"{dist} is neither a wheel nor the folder of a release"
        ) from None


def _unpacked_wheel(dist: Path, stack: ExitStack) -> Path:
    """Unpack the wheel of a release, and return the temporary folder.

    Raises OSError, zipfile.BadZipFile, and StopIteration if there is no wheel.
    """
    wheel = dist
    if dist.is_dir():
        wheel = next(dist.glob("imserver-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        site = Path(stack.enter_context(TemporaryDirectory()))
        archive.extractall(site)
    return site


def _read_installed(dist: Path, site: Path) -> Release:
    """Read a release that is installed in the folder ``dist``.

    ``site`` is the folder of its packages. Raises StartError.
    """
    home = dist.resolve()
    if (home / _UNFINISHED).exists():
        raise StartError(
            f"{dist} is incomplete, because its installation was interrupted: delete it"
        )
    # Its plug-ins are distributions, too. Names of files have "_" in place of
    # "-".
    installed = distributions(path=[str(site)])
    names = {each.metadata["Name"].replace("-", "_") for each in installed}
    return _release_in(site, names, home)


def _release_in(site: Path, names: set[str], home: Path | None) -> Release:
    """Return the release whose server is in the folder of packages ``site``.

    Raises StopIteration if there is no server.
    """
    server = next(iter(distributions(name="imserver", path=[str(site)])))
    package = str(site / "imserver" / "__init__.py")
    return Release(server.version, package, frozenset(names), home)


# --- what speaks for and against it -------------------------------------------


def findings(config: Config, release: Release, dist: Path) -> Iterator[Finding]:
    """Check whether ``release`` may replace the release that runs.

    ``dist`` is the wheel or folder from which it was read. Raises StartError if
    a file differs from its checksum.
    """
    yield _check_versions(release)
    servers = list(running_server(config))
    # An upgrade may be prepared while the server is stopped.
    if not servers:
        servers = [Finding("ok", "server", "no server of these settings runs here")]
    yield from servers
    yield from findings_of_features(config)
    yield from _steps(config, release)
    yield _check_plug_ins(release)
    yield from _obstacles(release, dist)
    if (dist / "SHA256SUMS").is_file():
        _run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], dist)


def _check_versions(release: Release) -> Finding:
    """Check whether nodes of both releases can form one cluster.

    They can if the major version is equal, and the minor version differs by at
    most 1.
    """
    old_major, old_minor = _numbers_of(__version__)
    major, minor = _numbers_of(release.version)
    is_far = major != old_major or abs(minor - old_minor) > 1
    way_back = "; nodes of both releases can be one cluster, and imserver upgrade --back goes back"
    if is_far:
        way_back = ""
    return finding_of(
        is_far,
        "version",
        f"{__version__}, then {release.version}{way_back}",
        "nodes of both releases cannot be one cluster, and you can go back only with a backup",
        "stop all nodes, make a backup, and read the notes; or install the releases in between one by one",
    )


def _numbers_of(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version: 3 and 4 for ``3.4.1``."""
    major, minor, *_ = map(int, re.findall(r"\d+", version))
    return major, minor


def _check_plug_ins(release: Release) -> Finding:
    """Check whether the new release has the plug-ins of this one."""
    missing = ", ".join(sorted(_plug_ins() - release.names))
    return finding_of(
        bool(missing),
        "plug-ins",
        missing or "none is missing",
        "the new release does not have them",
        "add the wheels of these plug-ins",
        fails=True,
    )


def _steps(config: Config, release: Release) -> Iterator[Finding]:
    """Say which migration steps of the database the release adds.

    A *migration step* is a change to the tables by a release.
    """
    address = database_address(config.storage, config.server.data_dir)
    if not address.exists:
        return
    try:
        taken = _taken_steps(address, config)
    except Exception as error:
        text = f"{address.shown} does not answer: {str(error).splitlines()[0]}"
        yield Finding("fail", "database", text)
        return
    words = _words_about_steps(taken, release)
    yield Finding("ok", "steps of the database", words)


def _words_about_steps(taken: dict[str, int], release: Release) -> str:
    """Say which steps a release adds to the ``taken`` ones of a database."""
    words = "none is missing"
    missing = missing_steps(taken, release.package)
    if missing:
        words = f"its first node adds {named(missing)}"
    # A database that a newer release has used has further steps.
    newer = newer_steps(taken, release.package)
    if newer:
        words += f"; {named(newer)} stay, unused"
    return words


def _taken_steps(address: DatabaseAddress, config: Config) -> dict[str, int]:
    """Return the last migration step that the database has taken, by owner.

    The owners of steps are the server and each feature. Raises the driver's
    errors.
    """
    taken = dict[str, int]()

    def read_steps(sql: PooledStatements) -> None:
        taken.update(taken_steps(sql.connection))

    probe(address, config.storage, tries=1, looks=[read_steps])
    return taken


def _obstacles(release: Release, dist: Path) -> Iterator[Finding]:
    """Yield the obstacles to installing a release.

    There are no findings if the release is the one that executes this.
    """
    home = Path(sys.prefix)
    if release.home is not None and release.home == home.resolve():
        # This happens in the container of the release, where an operator only
        # wants to know about the database.
        return
    yield from _obstacles_to_link(home)
    if release.home is None:
        yield from _obstacles_to_installation(release, dist, home.parent)


def _obstacles_to_link(home: Path) -> Iterator[Finding]:
    """Yield the obstacles to changing the link to this release.

    ``home``: the folder in which this release is installed.
    """
    try:
        link = _link_of_this()
        yield Finding("ok", "link", f"{link} names this release")
        folder = link.parent
    # This release was installed without a link, for example in a container.
    except StartError as error:
        folder = home.parent
        mend = "install with a link, as docs/operations.md says, or in the same way as this release"
        yield Finding(
            "fail",
            "link",
            str(error).partition(":")[0],
            "no link can point to another release",
            mend,
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        meaning = "the link cannot be changed"
        mend = "run this as the owner of the folder"
        yield Finding(
            "fail", "folder", f"this user may not write to {folder}", meaning, mend
        )


def _obstacles_to_installation(
    release: Release, dist: Path, parent: Path
) -> Iterator[Finding]:
    """Yield the obstacles to installing ``dist`` in a new folder.

    ``parent``: where the folder is made.
    """
    meaning = "the release cannot be installed"
    yield from _obstacles_of_folder(_home_of(release), dist, parent, meaning)
    if dist.is_dir() and not _requirements_of(dist):
        found = f"{dist} has no imserver-*-requirements.txt"
        mend = "download all files of the release"
        yield Finding("fail", "requirements", found, meaning, mend)
    python = _python()
    if shutil.which(python) is None:
        found = f"{python} does not exist"
        yield Finding("fail", "Python", found, meaning, "install this Python again")


def _plug_ins() -> set[str]:
    """Return the installed distributions of features."""
    points = entry_points(group=GROUP)
    return {each.dist.name.replace("-", "_") for each in points if each.dist}


# --- installing it, and the link ----------------------------------------------


def _link_of_this() -> Path:
    """Return the link that names the folder of this release.

    Raises StartError if there is no such link.
    """
    home = Path(sys.prefix)
    for path in sorted(home.parent.iterdir()):
        # The other link, to the release that ran before, may also name it.
        if not path.is_symlink() or path.suffix == _BEFORE:
            continue
        if path.resolve() == home.resolve():
            return path
    raise StartError(
        f"no link names {home}: docs/operations.md says how to install with one"
    )


def _home_of(release: Release) -> Path:
    """Return the folder beside this one into which a release is installed."""
    return Path(sys.prefix).with_name(f"imserver-{release.version}")


def _requirements_of(dist: Path) -> list[str]:
    """Return the names of the files that list the packages of a release."""
    return [each.name for each in dist.glob("imserver-*-requirements.txt")]


def _python() -> str:
    """Return the Python that makes the environment of a release."""
    major, minor, *_ = sys.version_info
    return f"{sys.base_prefix}/bin/python{major}.{minor}"


@long_work("installing")
def _obstacles_of_folder(
    target: Path, dist: Path, parent: Path, meaning: str
) -> Iterator[Finding]:
    """Yield the obstacles to making the new folder ``target`` in ``parent``."""
    try:
        need_space(parent, SPACE_BYTES)
    except StartError as error:
        yield Finding("fail", "space", str(error), meaning, "free some space")
    # An unfinished installation is deleted and begun again.
    if target.exists() and not (target / _UNFINISHED).exists():
        mend = f"give {target} in place of {dist}, or delete {target}"
        yield Finding("fail", "target", f"{target} exists already", meaning, mend)


def _install(release: Release, dist: Path) -> Path:
    """Install a release into a new folder beside this one. Returns the folder.

    If that fails, the folder is deleted. Raises StartError.
    """
    home = _free_home(release, dist)
    mark = home / _UNFINISHED
    folder = None
    if dist.is_dir():
        folder = dist
    commands = _pip_commands(home, dist)
    click.echo(f"installs into {home}")
    # The umask of root may forbid the user of the server to read the files.
    os.umask(_OTHERS_ONLY_READ)
    try:
        home.mkdir()
        mark.touch()
        _run([_python(), "-m", "venv", str(home)])
        for command in commands:
            _run(command, folder)
        # pip does not synchronise files. After a power cut they would be empty.
        os.sync()
        mark.unlink()
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return home


def _free_home(release: Release, dist: Path) -> Path:
    """Return the folder for a release, which does not exist.

    Raises StartError if a whole installation is there.
    """
    home = _home_of(release)
    # The last run was interrupted, for example by a power cut.
    if (home / _UNFINISHED).exists():
        shutil.rmtree(home)
    if home.exists():
        raise StartError(
            f"{home} exists already: give it in place of {dist}, or delete it"
        )
    return home


def _pip_commands(home: Path, dist: Path) -> list[list[str]]:
    """Return the commands that install a release into the folder ``home``.

    ``dist`` is a wheel, or the folder of a release's files. A folder may also
    have plug-ins; the commands install the plug-ins that this release has.
    """
    program = str(home / "bin" / "pip")
    pip = [program, "install", "--quiet", "--disable-pip-version-check"]
    if not dist.is_dir():
        return [[*pip, str(dist.absolute())]]
    # The folder has all packages, so no network is needed.
    if (dist / "wheels").is_dir():
        pip.append("--no-index")
    commands = [[*pip, "--require-hashes", "-r", *_requirements_of(dist)]]
    wanted = _wheels_of_plug_ins(dist)
    if wanted:
        commands.append([*pip, *wanted])
    return commands


def _wheels_of_plug_ins(dist: Path) -> list[str]:
    """Return the wheels in a folder of the plug-ins that this release has."""
    plug_ins = _plug_ins()
    return [
        wheel.name
        for wheel in dist.glob("imserver_*.whl")
        if wheel.name.split("-")[0] in plug_ins
    ]


def _run(
    command: list[str], folder: Path | None = None, output: int | None = None
) -> None:
    """Run a program that must succeed. Raises StartError if it fails.

    ``folder`` is its working directory, and ``output`` the file descriptor for
    its output; None: as for this process.
    """
    try:
        done = subprocess.run(command, cwd=folder, stdout=output, check=False)
    except OSError as error:
        raise StartError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise StartError(f"{' '.join(command)} ended with status {done.returncode}")


def switch(link: Path, target: Path) -> None:
    """Point the link to another release.

    The link ``.before`` beside it then names the release that the link named
    until now.
    """
    # The program that installed the target may not have synchronised its files.
    # After a power cut the link would then name empty files.
    os.sync()
    relative_target = Path(os.path.relpath(target.resolve(), link.parent.resolve()))
    # The link to the present release is made first, so that a power cut between
    # the two steps does not lose it.
    _replace_link(link.with_name(link.name + _BEFORE), link.readlink())
    _replace_link(link, relative_target)


def _replace_link(path: Path, home: Path) -> None:
    """Make a link, in place of an existing one.

    The link names one of the two folders at each moment.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(home)
    new.replace(path)


def lack_of(config: Config, version: str) -> str:
    """Say why the server is not ready, or does not run this version yet.

    Returns ``""`` if it is ready and one of its nodes has this version, or does
    not tell its version.
    """
    findings = list(running_server(config))
    if [finding.level for finding in findings] != ["ok"]:
        return "is not ready"
    match = re.match(r"imserver (.+) runs", findings[0].found)
    if match is None:  # without an API key, the server does not tell its version
        return ""
    versions = match[1]
    if version in versions.split(", "):
        return ""
    return f"is {versions} and not {version}"


def step_in_work(config: Config, package: str) -> str:
    """Return the migration step that a release takes now, or next.

    Returns ``""`` if it has taken all steps, and if there is no database or it
    does not answer. ``package``: the ``__init__.py`` of the server of the
    release.
    """
    address = database_address(config.storage, config.server.data_dir)
    if not address.exists:
        return ""
    try:
        taken = _taken_steps(address, config)
    except Exception:
        return ""
    return next_step(taken, package)


def _wait_until_ready(config: Config, release: Release) -> None:
    """Wait until the running server is this release, and ready.

    Each migration step of the database may take a minute, and so may the start
    after the last step. Raises StartError.
    """
    step = ""
    deadline = monotonic() + _READY_SECONDS
    with long_work("waiting for the server") as say:
        while True:
            lack = lack_of(config, release.version)
            if not lack:
                return
            step_before = step
            step = step_in_work(config, release.package)
            if step != step_before:
                # The server makes progress, so it gets more time.
                deadline = monotonic() + _READY_SECONDS
                if step:
                    say(f"waiting for {step} of the database")
                else:
                    say("waiting for the server")
            if monotonic() > deadline:
                raise StartError(_lack_after_waiting(lack, step))
            sleep(1)


def _lack_after_waiting(lack: str, step: str) -> str:
    """Say why an upgrade has failed.

    ``lack``: such as "is not ready". ``step``: the migration step that is under
    way; ``""``: none.
    """
    at_step = ""
    if step:
        at_step = f", at {step} of the database"
    return f"the server {lack} after {_READY_SECONDS:.0f} s{at_step}"


def _restart(
    command: list[str], config: Config, link: Path, before: Path, release: Release
) -> None:
    """Restart the server by a command, and wait until it runs ``release``.

    If that fails, point the link to the folder ``before`` again, restart once
    more, and raise StartError.
    """
    try:
        _run(command)
        _wait_until_ready(config, release)
    except StartError as error:
        switch(link, before)
        subprocess.run(command, check=False)
        raise StartError(
            f"{error}; {link} points to {before} again, and the server was restarted"
        ) from None
    show(running_server(config))


def _program(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> list[str] | None:
    """Split the command of an option into words.

    None: the option is left out. The first word must be a program. Raises
    BadParameter.
    """
    if text is None:
        return None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not words or not shutil.which(words[0]):
        raise click.BadParameter(f"there is no program {text}")
    return words


@click.command()
@settings_options
@CommandLine.prints_data
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="Only check for problems. Install nothing.",
)
@click.option(
    "--back",
    is_flag=True,
    help="Go back to the previous release, in place of DIST.",
)
@click.option(
    "--restart",
    metavar="COMMAND",
    callback=_program,
    help="Restart the server with COMMAND. If the server is then not ready, or not this release, go back.",
)
@click.argument("dist", type=click.Path(path_type=Path, exists=True), required=False)
def upgrade(
    path: str | None,
    data_dir: str | None,
    is_check: bool,
    back: bool,
    restart: list[str] | None,
    dist: Path | None,
) -> None:
    """Install DIST beside this release, and point the link of this release to
    DIST.

    DIST is the folder of a release's files, a wheel, or the folder of an
    installed release. First, the command checks for problems. If a check fails,
    the command stops; with --back, it continues. Servers run the old release
    until you restart them.
    """
    _refuse_contradictions(is_check, back, has_dist=dist is not None)
    try:
        config = load_settings(path, data_dir)
        link = None
        # A check needs no link, as it installs nothing.
        if back or not is_check:
            link = _link_of_this()
        if link is not None and dist is None:
            dist = _release_before(link)
        assert dist is not None

        with ExitStack() as stack:
            release = read_release(dist, stack)
            failures = show(findings(config, release, dist))
        # With --back, the release that runs now may be the cause of failures.
        if failures and (is_check or not back):
            raise StartError("nothing has changed")
        if is_check or link is None:
            return

        before = _switch_to(link, release, dist, path)
        click.echo(
            f"{link} is {release.version}; to go back: {link}/bin/imserver upgrade --back"
        )
        if restart is not None:
            _restart(restart, config, link, before, release)
    except (StartError, OSError) as error:
        fail(error)
    if restart is None:
        click.echo("now restart the server")


def _release_before(link: Path) -> Path:
    """Return the folder of the previous release.

    Raises StartError.
    """
    folder = link.with_name(link.name + _BEFORE).resolve()
    if not folder.exists():
        raise StartError(f"{folder} does not point to a previous release")
    return folder


def _switch_to(link: Path, release: Release, dist: Path, path: str | None) -> Path:
    """Install a release if it is not installed yet, and point the link to it.

    Before that, the new release checks the settings. Returns the folder that
    the link named before. ``path``: the file of the settings. Raises
    StartError.
    """
    home = release.home or _install(release, dist)
    before = link.resolve()
    if home == before:
        raise StartError(f"{link} already points to {home}")
    # Only the new release knows which settings it accepts.
    command = [str(home / "bin" / "imserver"), "check-config"]
    if path:
        command += ["-c", path]
    _run(command, output=subprocess.DEVNULL)
    switch(link, home)
    return before


def _refuse_contradictions(is_check: bool, back: bool, has_dist: bool) -> None:
    """End the command if its arguments contradict each other."""
    if CommandLine.wants_json() and not is_check:
        raise click.UsageError("--json needs --check")
    if back == has_dist:
        fail("give either DIST or --back")
