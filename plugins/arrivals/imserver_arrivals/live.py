"""A server of theirs that runs: what an adapter of ``--follow`` is.

An adapter writes what happens there as small archives of the format that its exports have. So the reader of
the format makes the same ids of both, and the importer stores each message once, whichever way it comes.
"""

from pathlib import Path
from typing import ClassVar, Final, Protocol

from imserver.plugin.errors import ImserverError

MARK: Final = "imserver"
"""A message that is posted back bears this name and its id in our log, in a field of theirs that keeps what
apps write there. The reader of the format passes over who bears it, in an archive, too: so no message goes
round, whatever else is lost."""


class LiveError(ImserverError):
    """Their server did not do what was asked; the text says why. ``is_final``: it never will (a token that
    does not count, a channel that is gone); otherwise it may be asked again."""

    def __init__(self, text: str, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


class Live(Protocol):
    """A server of theirs, as the account sees it whose token it gets.

    One module with one such class. Nothing here is called by two greenlets or threads at once.
    """

    name: ClassVar[str]
    """That of the format that it writes, of :data:`~imserver_arrivals.formats.FORMATS`."""

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """``back``: the id of a group there → where ours are posted (``""``: of all other groups); empty:
        nothing is posted back. Nothing is asked yet."""
        ...

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write what has happened since the ``cursor`` as an archive into an empty folder, and return the
        new cursor. It waits up to ``seconds`` for something to happen. The folder stays empty if nothing has.

        ``cursor`` is a text of its own, with all that a new process needs to miss nothing; that of the call
        before means that the archive was stored. Without any (``""``) it begins with what happens from now
        on; with ``@`` and Unix milliseconds, with what has happened since then. The archive names each person
        and each group that its messages need, with all members. What is written again is stored once.
        Raises LiveError; what was written then is not read.
        """
        ...

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of ours, with the :data:`MARK` and its ``id``, in the name of its sender. False: no
        ``back`` leads to the group. Raises LiveError."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...
