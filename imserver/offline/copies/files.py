"""Files of the commands about copies: complete or absent, and readable by their
owner only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imserver.gateway.process import write_private
from imserver.gateway.threads import synchronise


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Yield the path of a new file, which becomes ``path`` if complete.

    If the block ends without an error, the file is renamed to ``path``, and
    survives a power failure. Otherwise it is deleted. Raises OSError.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        yield unfinished
        # First the content, and then the name: after a power failure the file
        # is never empty.
        synchronise(unfinished)
        unfinished.rename(path)
        synchronise(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file that only its owner may read.

    It survives a power failure. Raises OSError.
    """
    write_private(path, content)
    synchronise(path.parent)


def free_name(path: Path) -> Path:
    """Return this path, or with a number if it is in use: ``copy.2``.

    So no earlier copy is overwritten.
    """
    name = path
    number = 1
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}.{number}")
    return name
