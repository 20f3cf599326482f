"""Texts by which people know each other: nicknames, names of groups and
devices, descriptions.

Characters that nobody sees can make such a text look like another text, or
change the text beside it. So a name has no control characters, no bidi controls
of Unicode and no invisible characters. Joiners stay where a script or an emoji
needs them.
"""

import re
from typing import Final
from unicodedata import category

_REFUSED: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""General categories. Characters that this Python does not know (``Cn``) may be
new letters or emoji."""
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)
"""Invisible characters of other categories: characters with
Default_Ignorable_Code_Point, except the variation selectors of emoji and
symbols."""
_UNSEEN_ALONE: Final = re.compile("[\\s\u2800\ufe00-\ufe0f]*")
"""Characters that a name may contain only together with other characters."""
_FLAG: Final = re.compile(
    "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,8}\U000e007f"
)
"""The flag of a part of a country: a black flag, its letters as tags, the
end."""
_JOINER: Final = "\u200d"
_NON_JOINER: Final = "\u200c"
_JOINED_SCRIPTS: Final = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff]"
)
"""The letters of scripts in which joiners change letters: from Arabic to the
Indic scripts, Myanmar, Khmer and Mongolian."""
_MODIFIERS: Final = frozenset(
    "\ufe0f\u20e3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
)
"""Characters that may follow an emoji, as a part of it."""


def clean_name(text: str) -> str:
    """Return a text without the characters that a name may not have. The result
    is ``""`` if nothing visible is left."""
    if not (text.isascii() and text.isprintable()):
        in_flags: set[int] = set()  # indexes; flags stay as they are
        for flag in _FLAG.finditer(text):
            in_flags.update(range(*flag.span()))
        text = "".join(
            character
            for index, character in enumerate(text)
            if index in in_flags or _is_allowed(text, index)
        )
    if _UNSEEN_ALONE.fullmatch(text):
        return ""
    return text


def is_name(text: str, least: int, most: int) -> bool:
    """Tell whether a text has an allowed length, only characters that a name
    may have, and at least one visible character.

    An empty text is a name if ``least`` is 0.
    """
    return least <= len(text) <= most and clean_name(text) == text


def _is_allowed(text: str, index: int) -> bool:
    """Tell whether a name may have the character at an index of a text.

    A *joiner* is an invisible character that changes how its neighbours look.
    It is allowed between two letters of a script that needs it, and between two
    emoji. Other invisible characters are not allowed.
    """
    character = text[index]
    if character not in (_JOINER, _NON_JOINER):
        is_visible = _INVISIBLE.match(character) is None
        return category(character) not in _REFUSED and is_visible

    # These are empty at the beginning and at the end of the text.
    before = text[index - 1 : index]
    after = text[index + 1 : index + 2]
    return _may_join(before, character, after)


def _may_join(before: str, joiner: str, after: str) -> bool:
    """Tell whether a joiner is allowed between two characters.

    ``""`` in place of a character is the beginning or the end of the text.
    """
    if _INVISIBLE.match(before) or _INVISIBLE.match(after):
        return False
    if _is_joined(before) and _is_joined(after):
        return True
    # Only one of the two joiners combines emoji.
    if joiner != _JOINER:
        return False
    return (before in _MODIFIERS or _is_emoji(before)) and _is_emoji(after)


def _is_joined(character: str) -> bool:
    """Tell whether joiners change how this letter or mark looks."""
    return (
        _JOINED_SCRIPTS.match(character) is not None and category(character)[0] in "LM"
    )


def _is_emoji(character: str) -> bool:
    """Tell whether this is an emoji or a symbol. ``""`` is not."""
    return bool(character) and (
        category(character) == "So" or "\U0001f000" <= character <= "\U0001faff"
    )
