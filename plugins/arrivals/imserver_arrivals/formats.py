"""The formats of archives, each by its name, with its reader and its writer. If
the operator names no format, the first that accepts an archive is used."""

from pathlib import Path
from typing import Final

from .matrix import Matrix
from .mattermost import Mattermost
from .problems import BadArchive, BrokenArchive
from .records import Archive
from .rocketchat import RocketChat
from .slack import SlackExport
from .to_mattermost import MattermostWriter
from .to_slack import SlackWriter
from .to_zulip import ZulipWriter
from .zulip import Zulip

FORMATS: Final[dict[str, type[Archive]]] = {
    reader.name: reader
    for reader in (SlackExport, Mattermost, Zulip, RocketChat, Matrix)
}
FOLLOWED: Final = ("mattermost", "slack", "matrix")
"""The formats of servers that :mod:`imserver_arrivals.follow` follows."""
WRITERS: Final[dict[str, type[MattermostWriter | SlackWriter | ZulipWriter]]] = {
    "mattermost": MattermostWriter,
    "slack": SlackWriter,
    "zulip": ZulipWriter,
}


def archive_of(path: Path, name: str | None = None) -> Archive:
    """Open the archive at a path, a file or a folder.

    ``name``: the name of its format, such as ``slack``. None: the first format
    that accepts it. Raises BadArchive and OSError.
    """
    readers = list(FORMATS.values())
    if name:
        readers = [FORMATS[name]]
    reasons = []
    for reader in readers:
        try:
            return reader(path)
        except BrokenArchive:
            # No other format could read it either.
            raise
        except BadArchive as error:
            reasons.append(str(error).removeprefix(f"{path} is "))
    raise BadArchive(f"{path} is {'; '.join(reasons)}")
