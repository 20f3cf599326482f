"""``imserver upgrade``: another release beside this one, and a link that says
which of them runs."""

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
from imserver.gateway.storage.address import database_address
from imserver.gateway.storage.migrations import (
    missing_steps,
    named,
    newer_steps,
    next_step,
    taken_steps,
)
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
"""What a release needs with its packages, and while they are unpacked."""
_UNFINISHED: Final = "unfinished"
"""The file in the folder of a release that is being installed."""
_BEFORE: Final = ".before"
"""The end of the name of the link to the release that ran before."""


class Release(Struct, frozen=True):
    """A release. ``package``: the ``__init__.py`` of its server. ``names``: the
    distributions that come with it. ``home``: the folder in which it is
    installed; None: it must be installed first."""

    version: str
    package: str
    names: frozenset[str]
    home: Path | None


def read_release(dist: Path, stack: ExitStack) -> Release:
    """Read a wheel, the folder of a release's files, or a folder in which one
    is installed. Raises StartError."""
    try:
        site = next(dist.glob("lib/python*/site-packages"), None)
        if site is None:
            with zipfile.ZipFile(
                next(dist.glob("imserver-*.whl")) if dist.is_dir() else dist
            ) as wheel:
                site = Path(stack.enter_context(TemporaryDirectory()))
                wheel.extractall(site)
            files = {each.name.split("-")[0] for each in dist.glob("*.whl")}
            home = None
        else:
            home = dist.resolve()
            if (home / _UNFINISHED).exists():
                raise StartError(
                    f"{dist} is not whole, its installation was interrupted: delete it"
                )
            files = {
                each.metadata["Name"].replace("-", "_")
                for each in distributions(path=[str(site)])
            }
        own = next(iter(distributions(name="imserver", path=[str(site)])))
        return Release(
            own.version, str(site / "imserver" / "__init__.py"), frozenset(files), home
        )
    except (OSError, zipfile.BadZipFile, StopIteration):
        raise StartError(f"{dist} is no wheel and no folder of a release") from None


# --- what speaks for and against it -------------------------------------------


def findings(config: Config, release: Release, dist: Path) -> Iterator[Finding]:
    """What speaks for and against running this release in place of this one."""
    old, new = (
        tuple(map(int, re.findall(r"\d+", each)[:2]))
        for each in (__version__, release.version)
    )
    is_far = new[0] != old[0] or abs(new[1] - old[1]) > 1
    meaning = "nodes of both cannot be one cluster, and only a backup leads back"
    mend = "stop all nodes, make a backup, and read the notes; or take the releases between one by one"
    if is_far:
        way_back = ""
    else:
        way_back = (
            "; nodes of both are one cluster, and imserver upgrade --back leads back"
        )
    yield finding_of(
        is_far,
        "version",
        f"{__version__}, then {release.version}{way_back}",
        meaning,
        mend,
    )
    yield from [*running_server(config)] or [
        Finding("ok", "server", "none of these settings runs here")
    ]
    yield from findings_of_features(config)
    address = database_address(config.storage, config.server.data_dir)
    taken = dict[str, int]()
    if address.exists:
        try:
            probe(
                address,
                config.storage,
                1,
                [lambda sql: taken.update(taken_steps(sql.connection))],
            )
        except Exception as error:
            yield Finding(
                "fail",
                "database",
                f"{address.shown} does not answer: {str(error).splitlines()[0]}",
            )
        else:
            missing, newer = (
                missing_steps(taken, release.package),
                newer_steps(taken, release.package),
            )
            if missing:
                words = f"its first node adds {named(missing)}"
            else:
                words = "none is missing"
            if newer:
                more = f"; {named(newer)} stay, unused"
            else:
                more = ""
            yield Finding("ok", "steps of the database", words + more)
    lost = ", ".join(sorted(_plug_ins() - release.names))
    meaning = "they are not in it"
    mend = "add their wheels"
    yield finding_of(
        bool(lost), "plug-ins", lost or "none is missing", meaning, mend, fails=True
    )
    yield from _obstacles(release, dist)
    if (dist / "SHA256SUMS").is_file():
        _run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], dist)


def _obstacles(release: Release, dist: Path) -> Iterator[Finding]:
    """What keeps this release from being installed, or the link from naming
    it."""
    home = Path(sys.prefix)
    if release.home is not None and release.home == home.resolve():
        # it is this one: whoever asks in its container wants to know of the
        # database alone
        return
    try:
        link = _link_of_this()
        yield Finding("ok", "link", f"{link} names this release")
        folder = link.parent
    except StartError as error:
        folder = home.parent
        mend = "install with a link, as docs/operations.md says, or as you have installed this release"
        yield Finding(
            "fail",
            "link",
            str(error).partition(":")[0],
            "nothing can name another release",
            mend,
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        meaning = "the link cannot be changed"
        mend = "run this as the owner of the folder"
        yield Finding(
            "fail", "folder", f"this user may not write to {folder}", meaning, mend
        )
    if release.home is not None:
        return
    meaning = "it cannot be installed"
    try:
        need_space(home.parent, SPACE_BYTES)
    except StartError as error:
        yield Finding("fail", "space", str(error), meaning, "make room")
    target = _home_of(release)
    if target.exists() and not (target / _UNFINISHED).exists():
        mend = f"name {target} in place of {dist}, or delete it"
        yield Finding("fail", "target", f"{target} exists already", meaning, mend)
    if dist.is_dir() and not _lists_of(dist):
        text = f"{dist} has no imserver-*-requirements.txt"
        yield Finding(
            "fail", "requirements", text, meaning, "take all files of the release"
        )
    python = _python()
    if shutil.which(python) is None:
        yield Finding(
            "fail",
            "Python",
            f"{python} is not there",
            meaning,
            "install this Python again",
        )


def _plug_ins() -> set[str]:
    """The distributions of features that are installed beside this release."""
    return {
        each.dist.name.replace("-", "_")
        for each in entry_points(group=GROUP)
        if each.dist
    }


# --- installing it, and the link ----------------------------------------------


def _link_of_this() -> Path:
    """The link beside the folder of this release that names it. Raises
    StartError."""
    home = Path(sys.prefix)
    for path in sorted(home.parent.iterdir()):
        if (
            path.is_symlink()
            and path.suffix != _BEFORE
            and path.resolve() == home.resolve()
        ):
            return path
    raise StartError(
        f"no link names {home}: docs/operations.md says how to install with one"
    )


def _home_of(release: Release) -> Path:
    """The folder beside this release into which one is installed."""
    return Path(sys.prefix).with_name(f"imserver-{release.version}")


def _lists_of(dist: Path) -> list[str]:
    """The lists of packages among the files of a release."""
    return [each.name for each in dist.glob("imserver-*-requirements.txt")]


def _python() -> str:
    """The Python that makes the environment of a release: the one that runs
    this."""
    return f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


@long_work("installing")
def _install(release: Release, dist: Path) -> Path:
    """Install a release into a new folder beside this one. Returns the folder.
    Raises StartError."""
    home = _home_of(release)
    mark = home / _UNFINISHED
    if mark.exists():  # a power cut ended the last run
        shutil.rmtree(home)
    if home.exists():
        raise StartError(
            f"{home} exists already: name it in place of {dist}, or delete it"
        )
    pip = [
        str(home / "bin" / "pip"),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if (dist / "wheels").is_dir():
        offline = ["--no-index"]
    else:
        offline = []
    commands = [[*pip, str(dist.absolute())]]
    if dist.is_dir():
        lists = _lists_of(dist)
        wanted = [
            each.name
            for each in dist.glob("imserver_*.whl")
            if each.name.split("-")[0] in _plug_ins()
        ]
        commands = [[*pip, *offline, "--require-hashes", "-r", *lists]]
        commands += [[*pip, *offline, *wanted]] if wanted else []
    click.echo(f"installs into {home}")
    os.umask(0o022)  # that of root may keep it from the user of the server
    try:
        home.mkdir()
        mark.touch()
        _run([_python(), "-m", "venv", str(home)])
        for command in commands:
            _run(command, dist if dist.is_dir() else None)
        os.sync()  # pip does not: after a power cut files would be empty
        mark.unlink()
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return home


def _run(
    command: list[str], folder: Path | None = None, output: int | None = None
) -> None:
    try:
        status = subprocess.run(
            command, cwd=folder, stdout=output, check=False
        ).returncode
    except OSError as error:
        raise StartError(f"{command[0]}: {error.strerror}") from None
    if status:
        raise StartError(f"{' '.join(command)} ended with status {status}")


def switch(link: Path, target: Path) -> None:
    """Let the link name another release; the one of now is named by ``.before``
    beside it."""
    # whoever installed the target may not have: the link would name empty files
    # after a power cut
    os.sync()
    name = Path(os.path.relpath(target.resolve(), link.parent.resolve()))
    for path, home in (
        (link.with_name(link.name + _BEFORE), link.readlink()),
        (link, name),
    ):
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(home)
        new.replace(path)


def lack_of(config: Config, version: str) -> str:
    """What the running server lacks to be this release, in words; ``""``: it is
    ready, and this one as far as it says."""
    findings = [*running_server(config)]
    if [each.level for each in findings] != ["ok"]:
        return "is not ready"
    running = re.match(r"imserver (.+) runs", findings[0].found)
    is_this = running is None or version in running[1].split(", ")
    if is_this or running is None:
        return ""
    return f"is {running[1]} and not {version}"


def step_in_work(config: Config, package: str) -> str:
    """The step of the database that a release takes now, or next; ``""``: none,
    or the database does not answer. ``package``: see :class:`Release`."""
    address = database_address(config.storage, config.server.data_dir)
    taken = dict[str, int]()
    if not address.exists:
        return ""
    try:
        probe(
            address,
            config.storage,
            1,
            [lambda sql: taken.update(taken_steps(sql.connection))],
        )
    except Exception:
        return ""
    return next_step(taken, package)


def _wait_until_ready(config: Config, release: Release) -> None:
    """Wait until the running server is this release, and ready. Each step of
    the database has a minute, and so has the rest. Raises StartError."""
    step = ""
    deadline = monotonic() + _READY_SECONDS
    with long_work("waiting for the server") as say:
        while lack := lack_of(config, release.version):
            step_before = step
            step = step_in_work(config, release.package)
            if step != step_before:
                deadline = monotonic() + _READY_SECONDS
                say(
                    f"waiting for {step} of the database"
                    if step
                    else "waiting for the server"
                )
            if monotonic() > deadline:
                if step:
                    at = f", at {step} of the database"
                else:
                    at = ""
                raise StartError(f"the server {lack} after {_READY_SECONDS:.0f} s{at}")
            sleep(1)


def _restart(
    command: list[str], config: Config, link: Path, before: Path, release: Release
) -> None:
    """Restart the server. If it is not this release then, and ready, let the
    link name the release of before, and restart it again. Raises StartError."""
    try:
        _run(command)
        _wait_until_ready(config, release)
    except StartError as error:
        switch(link, before)
        subprocess.run(command, check=False)
        raise StartError(
            f"{error}; {link} is {before} again, and was restarted"
        ) from None
    show(running_server(config))


def _program(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> list[str] | None:
    """The words of a command, whose program is there."""
    try:
        words = None if text is None else shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if words is not None and not (words and shutil.which(words[0])):
        raise click.BadParameter(f"there is no program {text}")
    return words


@click.command()
@settings_options
@CommandLine.prints_data
@click.option(
    "--check", "is_check", is_flag=True, help="Only say what speaks against it."
)
@click.option(
    "--back",
    is_flag=True,
    help="Take the release that ran before this one, in place of DIST.",
)
@click.option(
    "--restart",
    metavar="COMMAND",
    callback=_program,
    help="Restarts the server; if it is not ready then, or not this release, go back.",
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
    """Install DIST beside this release, and let the link that names this one
    name it.

    DIST is the folder of a release's files, a wheel, or the folder of an
    installed release. First the command says what speaks against it; a failure
    ends it, but not --back. Servers run on until they are restarted.
    """
    if CommandLine.wants_json() and not is_check:
        raise click.UsageError("--json goes with --check")
    if back == (dist is not None):
        fail("name DIST, or give --back")
    try:
        config = load_settings(path, data_dir)
        link = None if is_check and not back else _link_of_this()
        if link is not None and dist is None:
            dist = _release_before(link)
        assert dist is not None

        with ExitStack() as stack:
            release = read_release(dist, stack)
            failures = show(findings(config, release, dist))
        # With --back, the release that goes may be why they fail.
        if failures and (is_check or not back):
            raise StartError("nothing has changed")
        if is_check or link is None:
            return

        before = _switch_to(link, release, dist, path)
        click.echo(
            f"{link} is {release.version}; back: {link}/bin/imserver upgrade --back"
        )
        if restart is not None:
            _restart(restart, config, link, before, release)
    except (StartError, OSError) as error:
        fail(error)
    if restart is None:
        click.echo("now restart the server")


def _release_before(link: Path) -> Path:
    """The folder of the release that ran before the one that the link names.
    Raises StartError."""
    folder = link.with_name(link.name + _BEFORE).resolve()
    if not folder.exists():
        raise StartError(f"{folder} names no release that ran before")
    return folder


def _switch_to(link: Path, release: Release, dist: Path, path: str | None) -> Path:
    """Install a release where it is not yet, let it check the settings, and let
    the link name it. Returns the folder that the link named before. Raises
    StartError."""
    home = release.home or _install(release, dist)
    before = link.resolve()
    if home == before:
        raise StartError(f"{link} is {home} already")
    settings = ["-c", path] if path else []
    program = str(home / "bin" / "imserver")
    _run([program, "check-config", *settings], output=subprocess.DEVNULL)
    switch(link, home)
    return before
