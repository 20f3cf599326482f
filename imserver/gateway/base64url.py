"""Base64 for URLs (RFC 4648, section 5), as tokens, ids and cursors are
written: without padding.

Every text that this server makes has only one form, and :func:`decode` accepts
no other. A second form of a token would not be found in a list of used tokens.
A second form of an id would be a second key of a cache.
"""

from base64 import urlsafe_b64encode
from binascii import a2b_base64
from typing import Final

_REFUSED: Final = b"!"
"""A character of no alphabet of base64, so that the strict decoder refuses
it."""
_STRICT_ALPHABET: Final = bytes.maketrans(b"-_+/=", b"+/" + _REFUSED * 3)
_EITHER_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_LAST_CHARACTERS: Final = {2: "AQgw", 3: "AEIMQUYcgkosw048"}
"""Length of the last group → the characters that may end the group. In these
characters, the bits that the content does not fill are zero."""
_GROUP: Final = 4
"""The characters that stand for three bytes."""


def encode(content: bytes) -> str:
    """Encode bytes in their only form, without padding."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decode a text that :func:`encode` makes.

    Raises ValueError for every other text: with padding, with characters of
    another alphabet, or with bits that the content does not fill.
    """
    last_characters = _LAST_CHARACTERS.get(len(text) % _GROUP)
    if last_characters is not None and text[-1] not in last_characters:
        raise ValueError("this is no base64url: its last character has bits too many")
    return _strictly_decoded(text, _STRICT_ALPHABET)


def decode_any_form(text: str) -> bytes:
    """Decode base64 that another program made.

    The text may have padding, and the standard alphabet. Callers use this for
    keys of browsers and of operators, never for tokens. Raises ValueError.
    """
    return _strictly_decoded(text.rstrip("="), _EITHER_ALPHABET)


def _strictly_decoded(text: str, alphabet: bytes) -> bytes:
    """Decode a text, whose characters ``alphabet`` makes standard ones.

    Raises ValueError.
    """
    padding = b"=" * (-len(text) % _GROUP)
    try:
        standard = text.encode("ascii").translate(alphabet)
        # This takes half the time of urlsafe_b64decode, which also skips
        # characters that are no base64.
        return a2b_base64(standard + padding, strict_mode=True)
    except ValueError:
        raise ValueError("this is no base64url") from None
