"""Whether a disk has room for what a command is about to write."""

import shutil
from pathlib import Path

from imserver.gateway.errors import StartError


def need_space(folder: Path, size: int) -> None:
    """Raise StartError if the disk of a folder, which may not exist yet, has no
    room for ``size`` bytes, a twentieth of them, and 64 MB."""
    there = next(
        each
        for each in (folder.absolute(), *folder.absolute().parents)
        if each.exists()
    )
    free = shutil.disk_usage(there).free
    needed = size + size // 20 + (64 << 20)
    if free < needed:
        missing = (needed - free >> 20) + 1
        needs = f"{needed >> 20} MB are needed, {free >> 20} MB are free"
        raise StartError(
            f"{folder} has too little space: {missing} MB are missing ({needs})"
        )
