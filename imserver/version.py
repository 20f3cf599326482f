"""The version of a source tree. Needs the standard library only: the build
scripts read it, too."""

import os
from functools import cache
from pathlib import Path
from typing import Final

from imserver import __version__

_ROOT: Final = Path(__file__).resolve().parents[1]


@cache
def running_version() -> str:
    """Return the version of the program that runs. Waits for git once."""
    return full_version()


def full_version(root: Path = _ROOT) -> str:
    """Return the version of a source tree, in the form of PEP 440.

    ``root`` is the folder of the tree. A git checkout that is not the tagged
    release is a development version with its commit, such as
    ``1.0.0.dev0+g84b2fa58c0de.dirty`` (``dirty``: with changes that are not
    committed). A tree without ``.git`` has the version that its files name: a
    release, or what was built from a checkout. Waits for git.
    """
    if not (root / ".git").exists():
        return __version__
    release = f"v{__version__}"
    text = _describe(root, release)
    if not text:  # no git, or the checkout of another user
        return f"{__version__}.dev0+unknown"
    # The checkout is exactly the commit of the tag, without changes.
    if text == release:
        return __version__
    # After a tag, git names it, the number of commits since, and the commit.
    commit = text
    if not text.startswith("v"):  # git found no tag
        commit = f"g{text}"
    return f"{__version__}.dev0+{commit.replace('-', '.')}"


def _describe(root: Path, tag: str) -> str:
    """Return git's name of the current commit, by its distance to a tag.

    Without the tag before it, the name is the commit. ``""``: git does not
    answer.
    """
    return _output_of(
        (
            "git",
            "-C",
            str(root),
            "describe",
            "--tags",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--match",
            tag,
        )
    )


def _output_of(command: tuple[str, ...]) -> str:
    """Run a program, and return its output.

    Returns ``""`` if the program is not there or fails. This uses functions of
    the system: for subprocesses, gevent would make an event loop, which a
    supervisor that forks must not have.
    """
    import posix  # without what gevent makes of these functions in the module os

    receiver, sender = os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, sender, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    with open(receiver, "rb") as output:
        try:
            child = posix.posix_spawnp(
                command[0], command, os.environ, file_actions=actions
            )
        except OSError:
            return ""
        finally:
            posix.close(sender)
        text = output.read().decode(errors="replace").strip()
    _, status = posix.waitpid(child, 0)
    if status:
        return ""
    return text
