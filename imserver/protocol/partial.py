"""Objects of another server's protocol, of which this server has a part.

Nothing may be ignored that changes what the sender means: an object with such a field is refused.
"""

from __future__ import annotations

from base64 import b64decode
from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import force_setattr

_NOTHING: Final = frozenset((b"", b"null", b"false", b"0", b'""', b"[]", b"{}"))
"""Values that say nothing: libraries also send fields that nobody has set."""


class Partial(Struct, frozen=True):
    """An object of another server's protocol. It is checked while it is decoded.

    ``not_supported``: fields that this server lacks. ``in_base64``: fields with JSON, which may be given in
    base64 in a field of their own, whose name begins with ``b64``. ``late``: whoever decodes it calls
    :meth:`check`.
    """

    not_supported: ClassVar[tuple[str, ...]] = ()
    in_base64: ClassVar[tuple[str, ...]] = ()
    late: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.late:
            self.check()

    def check(self) -> None:
        """Refuse what this server lacks, and decode what is in base64. Raises ValueError with the field."""
        for name in self.not_supported:
            given = getattr(self, name)
            if given is not UNSET and bytes(given) not in _NOTHING:
                raise ValueError(f"{name} is not supported")
        for name in self.in_base64:
            if encoded := getattr(self, f"b64{name}"):
                force_setattr(self, name, _json_in(f"b64{name}", encoded))


def _json_in(name: str, encoded: str) -> Raw:
    try:
        content = b64decode(encoded, validate=True)
        msgspec.json.decode(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is not JSON in base64") from None
    return Raw(content)
