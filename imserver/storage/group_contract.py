"""What is asked of a group before it is changed, as plain data; see :mod:`imserver.storage.log_contract`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from imserver.storage.log_contract import Rejected

NOT_ALLOWED: Final = "not_allowed"
FULL: Final = "full"
"""Two words of :class:`Rejected` more: whoever changes a group may not; it would have too many members."""


class Ground(Struct, frozen=True):
    """How a group stands at the moment of a change: the roles of those who are concerned and are members
    (who changes it, who is named), and whether anybody may join."""

    roles: Mapping[str, str]
    open: bool


Right = Callable[[Ground], Rejected | None]
"""Whether a change of a group may be made, asked under the log's lock: nothing comes between it and the
change. It may be asked in another thread, so it looks at what it is given only."""
