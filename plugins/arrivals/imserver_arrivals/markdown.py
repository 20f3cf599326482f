"""Converts Markdown of other servers into texts of the messages page, and
back."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from .text import around_code, clean, labelled

_SIGN: Final = re.compile(r"[*_~`@:<\[#>+\\]")
"""The characters without which a text is equal in both forms."""
_MARKS: Final = [
    (sign, re.compile(pattern, re.MULTILINE), replacement)
    for sign, pattern, replacement in (
        ("#", r"^ {0,3}#{1,6}[ \t]+(\S[^\n]*)$", r"**\1**"),
        ("* ", r"^([ \t]*)\* ", r"\1- "),
        ("+ ", r"^([ \t]*)\+ ", r"\1- "),
        (">", r"^>(?=[^ >\n])", "> "),
        ("*", r"(?<![\w*\\])\*(?![*\s])([^*\n]+?)(?<![\s*\\])\*(?![\w*])", r"_\1_"),
        (
            "***",
            r"(?<![\w*\\])\*\*\*(?![*\s])([^*\n]+?)(?<![\s*\\])\*\*\*(?![\w*])",
            r"*_\1_*",
        ),
        ("**", r"(?<![*\\])\*\*(?![*\s])([^*\n]+?)(?<![\s*\\])\*\*(?!\*)", r"*\1*"),
        ("__", r"(?<![\w_\\/])__(?![_\s])([^_\n]+?)(?<![\s_\\])__(?![\w_])", r"*\1*"),
    )
]
"""Marks of Markdown → marks here: the characters without which the pattern
cannot match, the pattern, and its replacement. They are applied in this
order."""
_TOKEN: Final = re.compile(
    r"\\(?P<escaped>[\\`*_{}\[\]()#+.!~|>-])"
    r"|!?\[(?P<label>[^\[\]\n]{0,1000})\]\((?P<target>[^\s()<>]{1,2000})(?:[ \t][^()\n]{0,300})?\)"
    r"|<(?P<bare>https?://[^\s<>]{1,2000})>"
    r"|https?://[^\s<>\"]+"
)


def of_markdown(text: str, convert_words: Callable[[str], str]) -> str:
    """Convert Markdown to the form that texts have here.

    ``**Hi** [plan](https://a.org)`` becomes ``*Hi* [plan](https://a.org)``.
    ``convert_words`` converts names and emoji in the parts that are neither
    code nor an address.
    """
    text = clean(text)
    if not _SIGN.search(text):
        return text
    return around_code(
        text, partial(_converted, convert_words=convert_words), _with_backticks
    )


def _with_backticks(code: str) -> str:
    """Return code with backticks as its fence, in place of tildes."""
    return re.sub("^~~~", "```", code, flags=re.MULTILINE)


_OWN_MARK: Final = re.compile(
    r"(?P<place>\[[^\[\]\n]{0,1000}\]\([^\s()<>]{1,2000}\)|https?://[^\s<>\"]+)"
    r"|(?<![\w*])\*(?![*\s])(?P<bold>[^*\n]+?)(?<![\s*])\*(?![\w*])"
    r"|(?P<sign>\\(?=[\\`*_{}\[\]()#+.!~|>-])|^ {0,3}#{1,6}(?=[ \t])|^[*+](?= ))",
    re.MULTILINE,
)
"""An address, bold text here, or a character that Markdown would take for a
sign."""


def to_markdown(text: str) -> str:
    """Convert a text of ours to Markdown. :func:`of_markdown` converts it
    back."""
    return around_code(text, partial(_OWN_MARK.sub, _as_markdown))


def _as_markdown(match: re.Match[str]) -> str:
    """Return the replacement of a match of :data:`_OWN_MARK`.

    Addresses stay, bold text gets two stars, and other signs are escaped.
    """
    if match["place"]:
        return match["place"]
    if match["bold"]:
        return f"**{match['bold']}**"
    return "\\" + match["sign"].lstrip(" ")


def _converted(text: str, convert_words: Callable[[str], str]) -> str:
    """Convert Markdown that has no code: its marks, its links and its words."""
    for sign, pattern, replacement in _MARKS:
        # A search for the sign is faster than the pattern, and mostly enough.
        if sign in text:
            text = pattern.sub(replacement, text)
    parts: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        words = text[end : match.start()]
        parts.append(convert_words(words))
        parts.append(_token(match))
        end = match.end()
    parts.append(convert_words(text[end:]))
    return "".join(parts)


def _token(match: re.Match[str]) -> str:
    """Return the replacement of an escaped character, a link or an address."""
    if match["target"] is None:
        return match["escaped"] or match["bare"] or match[0]
    return labelled(match["label"], match["target"])
