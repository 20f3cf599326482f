"""Parts for the texts of all formats: limits, names of emoji, and the
conversion of marks."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import IO, Any, Final

import msgspec

from imserver.plugin.wire import well_formed

from .fields import list_at
from .records import EVERYBODY, MARK, File

LATEST_MS: Final = 253_402_300_799_000
"""Limit of times, in Unix milliseconds: the end of the year 9999."""
SECOND_MS: Final = 1000
SECOND_US: Final = 1_000_000
MOST_TEXT_BYTES: Final = 64 * 1024
"""Limit of a text in bytes; a longer one is cut."""
_MOST_MENTIONS: Final = 100
_CODE: Final = re.compile(
    r"(```.*?(?:```|\Z)|^~~~.*?(?:^~~~|\Z)|``.+?``|`[^`\n]+`)", re.DOTALL | re.MULTILINE
)
_TONES: Final = "🏻🏼🏽🏾🏿"
_FIRST_TONE: Final = 2
"""The number of the first skin tone in Slack."""
_LIKE_ADDRESS: Final = re.compile(r"[@/\\]|\.\S")
"""The form of a label that the messages page refuses, because it could pretend
to lead elsewhere."""
_CONTROLS: Final = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


@cache
def emoji_names() -> Mapping[str, str]:
    """Return the emoji by their names in Slack. Most servers share these
    names."""
    return msgspec.json.decode(
        files(__package__).joinpath("emoji.json").read_bytes(), type=dict[str, str]
    )


def emoji_named(name: str) -> str:
    """Return the emoji with a name such as ``wave::skin-tone-3``.

    ``""`` if the name is that of an archive's own emoji.
    """
    base, _, tone = name.partition("::skin-tone-")
    emoji = emoji_names().get(base, "")
    if emoji and tone in ("2", "3", "4", "5", "6"):
        return emoji.rstrip("\ufe0f") + _TONES[int(tone) - _FIRST_TONE]
    return emoji


def is_own_emoji(emoji: str) -> bool:
    """Whether an emoji is an app's own one, which is a picture, written
    ``:name:``."""
    return emoji.startswith(":") and len(emoji) > 2


@cache
def _names_of_emoji() -> Mapping[str, str]:
    """Return the names by the emoji. Of several names of one emoji, the first
    counts."""
    return {emoji: name for name, emoji in reversed(list(emoji_names().items()))}


def emoji_name(emoji: str) -> tuple[str, int]:
    """Return the name of an emoji in Slack, and its skin tone from 2 to 6.

    The name is ``""`` if Slack does not know the emoji, and the tone is 0 if
    the emoji has no tone. ``👋🏽`` is ``("wave", 4)``. An app's own emoji
    ``:name:`` has this name.
    """
    if is_own_emoji(emoji) and emoji.endswith(":"):
        return emoji[1:-1], 0
    names = _names_of_emoji()
    tone = next((tone for tone in _TONES if tone in emoji), "")
    base = emoji.replace(tone, "", 1)
    # The list has some emoji with the sign that asks for a picture, which
    # disappears before a tone.
    forms = (emoji, base, f"{base}\ufe0f")
    name = next((names[form] for form in forms if form in names), "")
    if tone and emoji not in names:
        return name, _TONES.index(tone) + _FIRST_TONE
    return name, 0


def clean(text: str) -> str:
    """Return a text without control characters, and therefore without marks.

    A text of more than :data:`MOST_TEXT_BYTES` is cut.
    """
    text = well_formed(text).translate(_CONTROLS)
    raw = text.encode()
    if len(raw) <= MOST_TEXT_BYTES:
        return text
    return raw[:MOST_TEXT_BYTES].decode(errors="ignore") + "…"


def around_code(
    text: str, outside: Callable[[str], str], inside: Callable[[str], str] = str
) -> str:
    """Change the parts of a text that are not code by ``outside``.

    Code is between backticks or tildes. ``inside`` changes it; by default it
    stays.
    """
    parts = _CODE.split(text)
    # Every second part is code.
    parts[::2] = map(outside, parts[::2])
    parts[1::2] = map(inside, parts[1::2])
    return "".join(parts)


def labelled(label: str, target: str) -> str:
    """Return a link with a label, in the form that the messages page accepts.

    It is ``[plan](https://a.org)``, for example. If the label looks like
    another address, the link is ``label (address)``.
    """
    if label in ("", target):
        return target
    if not target.startswith(("http://", "https://")) or _LIKE_ADDRESS.search(label):
        return f"{label} ({target})"
    return f"[{label}]({target.replace('(', '%28').replace(')', '%29')})"


_ALL: Final[tuple[str, str] | None] = ("all", "all")
"""The user and the nickname that stand for everybody."""


def with_people(
    text: str, named: Callable[[str], tuple[str, str] | None]
) -> tuple[str, list[str]]:
    """Replace the marks of people by names such as ``@Ann``.

    Returns the text and the users whom it mentions, or only ``all`` if it
    mentions everybody. ``named``: id of a person there → their user and
    nickname here, or None if the person is unknown.
    """
    mentions: dict[str, None] = {}

    def replace_mark(match: re.Match[str]) -> str:
        sign, id = match.groups()
        if sign != "@":
            return match[0]
        account = _ALL
        if id != EVERYBODY:
            account = named(id)
        if account is None:
            return f"@{id}"
        user, nickname = account
        mentions[user] = None
        return f"@{nickname}"

    if "\x02" in text:  # a mark begins with this character
        text = MARK.sub(replace_mark, text)
    if "all" in mentions:
        return text, ["all"]
    return text, list(mentions)[:_MOST_MENTIONS]


def linked(text: str) -> list[str]:
    """Return the ids of the messages to which a text links."""
    return [id.partition("|")[0] for sign, id in MARK.findall(text) if sign == "#"]


def with_links(text: str, address_of: Callable[[str], str]) -> str:
    """Replace the marks of links to messages by addresses.

    ``address_of``: id of a message there → its address here. If it returns
    ``""`` because the message was not imported, the original address is taken.
    """

    def replace_mark(match: re.Match[str]) -> str:
        id, _, address = match[2].partition("|")
        if match[1] == "#":
            return address_of(id) or address
        return match[0]

    return MARK.sub(replace_mark, text)


COVER: Final = "▒▒▒"
"""Stands in a text in place of a spoiler. The spoiler is in a file below the
text."""
_SPOILERS: Final = "spoilers/"


def spoilers_file(texts: Sequence[str]) -> File:
    """Return the spoilers of a message as a file.

    People read them only if they open the file. Its id contains its content
    (see :func:`spoilers_in`), so it need not be stored until the import.
    """
    return File(_SPOILERS + "\n\n".join(texts), "spoiler.txt")


def spoilers_in(file: str) -> IO[bytes] | None:
    """Open a file of spoilers by its id. None for other files."""
    if file.startswith(_SPOILERS):
        return BytesIO(file.removeprefix(_SPOILERS).encode())
    return None


def attachments_in(value: object) -> Iterator[str]:
    """Yield the additions of apps to a message as texts of Markdown.

    They have the form that Slack has introduced: ``[{"title": "Build 7",
    "text": "failed"}]``, for example.
    """
    if not isinstance(value, list):
        return
    for attachment in value:
        if isinstance(attachment, dict):
            yield _text_of_attachment(attachment)


def _text_of_attachment(attachment: dict[str, Any]) -> str:
    """Return the title, the texts and the fields of an addition as lines.

    If all of them are missing, its fallback is returned, or ``""``.
    """
    texts = {key: text for key, text in attachment.items() if isinstance(text, str)}
    lines = [
        texts.get("pretext"),
        texts.get("author_name"),
        _title_of(texts),
        texts.get("text"),
    ]
    lines += lines_of_fields(list_at(attachment, "fields"))
    lines += [texts.get("image_url"), texts.get("footer")]
    return "\n".join(filter(None, lines)) or texts.get("fallback", "")


def _title_of(texts: Mapping[str, str]) -> str:
    """Return the title of an addition, as a link if it has an address."""
    title = texts.get("title", "")
    link = texts.get("title_link", "")
    if title and link:
        return f"[{title}]({link})"
    return title


def lines_of_fields(rows: Iterable[object]) -> list[str]:
    """Return the fields of an addition as lines, such as ``Branch: main``.

    A field is ``{"title": "Branch", "value": "main"}``. Other rows are left
    out.
    """
    return [
        f"{row.get('title') or ''}: {row.get('value') or ''}".strip(": ")
        for row in rows
        if isinstance(row, dict)
    ]
