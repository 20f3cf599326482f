"""What a child tells its parent: a page of shared memory, which costs neither of them a system call."""

import mmap
from struct import Struct
from typing import Final

_BEATS: Final = Struct("=Q")
_MARKS: Final = Struct("=???")
_LENGTH: Final = Struct("=H")
_MARKS_AT: Final = _BEATS.size
_LENGTH_AT: Final = _MARKS_AT + _MARKS.size
_TEXT_AT: Final = _LENGTH_AT + _LENGTH.size


class Page:
    """One child's page. The parent makes it before the fork; then only the child writes, the parent reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """Forget the child before."""
        self._memory[:] = bytes(mmap.PAGESIZE)

    # --- the child ------------------------------------------------------------------------------------------

    def beat(self, started: bool, ready: bool, full: bool) -> None:
        """The loop turns; and whether the node serves, can do its work, has no room for another client."""
        _MARKS.pack_into(self._memory, _MARKS_AT, started, ready, full)
        _BEATS.pack_into(self._memory, 0, self.beats + 1)

    def excuse(self, text: str) -> None:
        """Why the child ends: one line."""
        data = text.encode("utf-8", "backslashreplace")[: mmap.PAGESIZE - _TEXT_AT]
        self._memory[_TEXT_AT : _TEXT_AT + len(data)] = data
        _LENGTH.pack_into(self._memory, _LENGTH_AT, len(data))

    # --- the parent -----------------------------------------------------------------------------------------

    @property
    def beats(self) -> int:
        """How often the loop has turned; a loop that hangs leaves it as it is."""
        beats: int = _BEATS.unpack_from(self._memory, 0)[0]
        return beats

    @property
    def started(self) -> bool:
        """Whether the node serves."""
        return self._marks[0]

    @property
    def ready(self) -> bool:
        """Whether the node can do its work."""
        return self._marks[1]

    @property
    def full(self) -> bool:
        """Whether the node has no room for another client."""
        return self._marks[2]

    @property
    def _marks(self) -> tuple[bool, bool, bool]:
        started, ready, full = _MARKS.unpack_from(self._memory, _MARKS_AT)
        return started, ready, full

    @property
    def text(self) -> str:
        """What the child said before it ended; empty if nothing."""
        (length,) = _LENGTH.unpack_from(self._memory, _LENGTH_AT)
        return self._memory[_TEXT_AT : _TEXT_AT + length].decode("utf-8", "replace")
