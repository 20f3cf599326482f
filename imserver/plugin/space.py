"""Checks whether a disk has room for the files that a command is about to
write."""

import shutil
from pathlib import Path
from typing import Final

from imserver.gateway.errors import StartError

_MB_SHIFT: Final = 20
_RESERVE_SHARE: Final = 20
"""Which part of the size is needed in addition: a twentieth."""
_RESERVE_BYTES: Final = 64 << _MB_SHIFT


def need_space(folder: Path, size: int) -> None:
    """Raise StartError if a disk has no room for the files of a command.

    It must have ``size`` bytes free, a twentieth of them more, and 64 MB. The
    folder need not exist yet.
    """
    # A folder that will be made is on the disk of the folder above it.
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent

    free = shutil.disk_usage(existing).free
    needed = size + size // _RESERVE_SHARE + _RESERVE_BYTES
    if free < needed:
        missing_mb = (needed - free >> _MB_SHIFT) + 1
        needed_mb = needed >> _MB_SHIFT
        free_mb = free >> _MB_SHIFT
        raise StartError(
            f"{folder} has too little space: {missing_mb} MB are missing "
            f"({needed_mb} MB are needed, {free_mb} MB are free)"
        )
