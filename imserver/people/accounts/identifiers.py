"""Identifiers of accounts: phone number, e-mail address, user name. Each is
unique in its app.

A user types any of them into one field; :func:`split` finds out which kind it
is. E-mail addresses and user names are stored in lower case, phone numbers
without separators. The originals' clients use any text as a phone number.
"""

import re
from typing import Final, Literal

from imserver.plugin.errors import Problems, ServiceRefused

Identifier = Literal["phone", "email", "name"]
"""A kind of identifier of an account: phone number, e-mail address or user
name."""
IDENTIFIERS: Final[tuple[Identifier, ...]] = ("phone", "email", "name")
PHONE_CHARACTERS: Final = 20
_LEAST_EMAIL: Final = 3
"""Characters of the shortest e-mail address: ``a@b``."""
EMAIL_BYTES: Final = 254
NAME_CHARACTERS: Final = 32
LOGIN_CHARACTERS: Final = EMAIL_BYTES
"""Longest identifier of any kind."""
NAME_PATTERN: Final = "[A-Za-z][A-Za-z0-9_.-]{2,31}"

UNSHOWABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and surrogates."""
_SIGN: Final = r"[^\s@<>()\[\]\\,;:\"]"
"""A plain character of an e-mail address (RFC 5321). Characters that quote,
comment or list addresses are not allowed: with them one mailbox would have many
addresses, and limits count addresses."""
_LABEL: Final = rf"(?:(?!\.){_SIGN})+"
_email: Final = re.compile(rf"{_SIGN}{{1,64}}@{_LABEL}(?:\.{_LABEL})*")
_name: Final = re.compile(NAME_PATTERN, re.ASCII)
_phone: Final = re.compile(r"\+?[0-9]{3,19}", re.ASCII)
SEPARATORS: Final = str.maketrans("", "", " -.()")
"""Separators that people write in phone numbers."""


class BadField(ServiceRefused, problem=Problems.INVALID_REQUEST, detail="{}"):
    """A field cannot be stored. The text names the field and the reason."""


def fits(text: str, least: int, most: int) -> bool:
    """Whether a text has an allowed length and can be shown."""
    return least <= len(text) <= most and UNSHOWABLE.search(text) is None


def checked(kind: Identifier, text: str) -> str:
    """The form in which an identifier is stored. Raises BadField.

    ``email`` and ``name`` are stored in lower case, ``phone`` without
    separators.
    """
    if kind == "email":
        return _checked_email(text.strip().lower())
    if kind == "name":
        return _checked_name(text.strip().lower())
    if not fits(text, 1, PHONE_CHARACTERS):
        raise BadField(
            f"phone: expected 1 to {PHONE_CHARACTERS} characters that can be shown"
        )
    plain = text.translate(SEPARATORS)
    if _phone.fullmatch(plain):
        return plain
    # The originals' clients use any text as a phone number.
    return text


def _checked_email(text: str) -> str:
    """The text, if it is an e-mail address. Raises BadField."""
    is_address = fits(text, _LEAST_EMAIL, EMAIL_BYTES) and _email.fullmatch(text)
    if not is_address or len(text.encode()) > EMAIL_BYTES:
        raise BadField(
            f"email: expected an e-mail address of at most {EMAIL_BYTES} bytes"
        )
    return text


def _checked_name(text: str) -> str:
    """The text, if it can be a user name. Raises BadField."""
    if not _name.fullmatch(text):
        raise BadField(
            f"name: expected a letter and 2 to {NAME_CHARACTERS - 1} letters, "
            "digits, `_`, `.` or `-`"
        )
    return text


def split(login: str) -> tuple[Identifier, str]:
    """The kind of a new identifier and its stored form. Raises BadField.

    ``Ann@Example.com`` becomes ``("email", "ann@example.com")``.
    """
    text = login.strip()
    if "@" in text:
        return "email", checked("email", text)
    if _name.fullmatch(text):
        return "name", checked("name", text)
    text = text.translate(SEPARATORS)
    if _phone.fullmatch(text) is None:
        raise BadField(
            "login: expected a phone number, an e-mail address or a user name"
        )
    return "phone", text


def candidates(login: str) -> tuple[tuple[Identifier, str], tuple[Identifier, str]]:
    """The two identifiers that a login can be, the likelier first.

    Each is a kind and a stored form. There are always two, so that a lookup
    takes the same time for each login.
    """
    text = login.strip()
    if "@" in text:
        return ("email", text.lower()), ("phone", login)
    if _name.fullmatch(text):
        return ("name", text.lower()), ("phone", login)
    return ("phone", login), ("phone", text.translate(SEPARATORS))
