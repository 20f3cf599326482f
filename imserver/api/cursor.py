"""Cursors of lists: the name behind which a page begins, as text that fits into an address."""

from __future__ import annotations

import base64


def cursor(name: str) -> str:
    """What a client sends back to get the page behind ``name``."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def read_cursor(text: str, errors: str = "strict") -> str:
    """The name that :func:`cursor` was made of. Raises ValueError if it is none.

    ``errors`` as in :meth:`bytes.decode`: with ``"replace"`` whatever is base64 stands for some name.
    """
    # No name contains U+0000, which PostgreSQL would refuse.
    content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    return content.decode(errors=errors).replace("\0", "")
