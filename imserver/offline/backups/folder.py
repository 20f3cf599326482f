"""The folder of backups. The name of a file tells when it was made, and whether
it was restored on trial.

``imserver backup`` writes them and deletes the old ones. Nodes and ``imserver
doctor`` only list them.
"""

import re
from contextlib import suppress
from pathlib import Path
from time import gmtime, strftime, strptime, time
from typing import Final

from msgspec import Struct

_FORM: Final = "%Y%m%dT%H%M%SZ"
_UNPROVEN: Final = ".unproven.tar"
_PROVEN: Final = ".tar"
"""The endings of the names."""
_DAY_SECONDS: Final = 86_400
_name: Final = re.compile(r"imserver-(\d{8}T\d{6}Z)(\.unproven)?\.tar").fullmatch
"""Matches the name of a backup, such as
``imserver-20261126T083000Z.unproven.tar``."""
_is_leftover: Final = re.compile(
    r"\.trial\.\w{8}|\.?imserver-\d{8}T\d{6}Z\.unproven\.tar\..+"
).fullmatch
"""Matches the name of a file or folder that a killed backup or trial has
left."""


class BackupFile(Struct, frozen=True):
    """An archive of everything in the folder of backups.

    ``created``: when it was begun, in Unix seconds. ``is_proven``: whether the
    last trial has restored it.
    """

    created: int
    is_proven: bool
    path: Path


def new_backup(folder: Path, created: int) -> Path:
    """Return the path of a backup that is begun at a Unix second.

    It is not proven yet: ``imserver-20261126T083000Z.unproven.tar``.
    """
    return folder / f"imserver-{strftime(_FORM, gmtime(created))}{_UNPROVEN}"


def backups_of(folder: Path) -> list[BackupFile]:
    """Return the backups in a folder, the newest first.

    Backups of the future are left out, because a clock was wrong. Raises
    OSError.
    """
    from calendar import timegm  # on first use: most nodes have no backups

    files = []
    for path in folder.iterdir():
        parts = _name(path.name)
        if parts is None:
            continue
        with suppress(ValueError):  # the digits are not a time
            created = timegm(strptime(parts[1], _FORM))
            if created <= time():
                files.append(BackupFile(created, parts[2] is None, path))
    return sorted(files, key=lambda each: each.created, reverse=True)


def mark(path: Path, is_proven: bool) -> Path:
    """Note in the name of a backup whether it could be restored on trial.

    Returns its new name. A file that is not named as a backup keeps its name.
    Raises OSError.
    """
    parts = _name(path.name)
    if not parts:
        return path
    end = _UNPROVEN
    if is_proven:
        end = _PROVEN
    return path.rename(path.with_name(f"imserver-{parts[1]}{end}"))


def delete_old(folder: Path, count: int) -> list[Path]:
    """Delete old backups, and what killed commands have left.

    The newest ``count`` proven backups and the newest ``count`` unproven ones
    stay. Files of killed commands are deleted after a day. Returns the deleted
    files. Raises OSError.
    """
    import shutil  # on first use: it loads compressors, 0.2 MB

    files = backups_of(folder)
    proven = [file.path for file in files if file.is_proven]
    unproven = [file.path for file in files if not file.is_proven]
    to_delete = [*proven[count:], *unproven[count:], *_old_leftovers(folder)]
    for path in to_delete:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return to_delete


def _old_leftovers(folder: Path) -> list[Path]:
    """Return the files of killed commands that are older than a day."""
    before = time() - _DAY_SECONDS
    return [
        path
        for path in folder.iterdir()
        if _is_leftover(path.name) and path.stat().st_mtime < before
    ]
