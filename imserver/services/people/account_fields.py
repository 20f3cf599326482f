"""What an account may be called, and how its id is read."""

from __future__ import annotations

import re
from typing import Final

from imserver.errors import ImserverError
from imserver.services.people.passwords import MAX_PASSWORD_BYTES
from imserver.storage.contract import (
    AVATAR_CHARACTERS,
    MAX_ID,
    NICKNAME_CHARACTERS,
    PHONE_CHARACTERS,
)

DEVICE_CHARACTERS: Final = 64

_unshowable: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what is no text at all."""


class BadField(ImserverError):
    """What was given cannot be stored; the text says which, and why."""


def check_phone(phone: str) -> None:
    """Raise BadField for what is no phone number."""
    _check(phone, "phone", 1, PHONE_CHARACTERS)


def check_shown(nickname: str, avatar: str) -> None:
    """Raise BadField for what no account may show of itself."""
    _check(nickname, "nickname", 0, NICKNAME_CHARACTERS)
    _check(avatar, "avatar", 0, AVATAR_CHARACTERS)


def check_password(password: str) -> None:
    """Raise BadField for what can be no password."""
    if not 1 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        raise BadField(f"password: expected 1 to {MAX_PASSWORD_BYTES} bytes")


def check_device(device: str) -> None:
    """Raise BadField for what no device may be called."""
    _check(device, "device", 0, DEVICE_CHARACTERS)


def may_be_login(phone: str, password: str) -> bool:
    """Whether any account could have these."""
    return _fits(phone, 1, PHONE_CHARACTERS) and len(password.encode()) <= MAX_PASSWORD_BYTES


def account_id(user: str) -> int:
    """The id of an account as a number; 0 if that is none."""
    if not (user.isascii() and user.isdecimal()) or len(user) > 19 or user[:1] == "0":
        return 0
    id = int(user)
    return id if id <= MAX_ID else 0


def _fits(text: str, least: int, most: int) -> bool:
    return least <= len(text) <= most and _unshowable.search(text) is None


def _check(text: str, name: str, least: int, most: int) -> None:
    if not _fits(text, least, most):
        raise BadField(f"{name}: expected {least} to {most} characters that can be shown")
