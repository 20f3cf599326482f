"""Slack's texts as ours: mentions, links, emoji and marks."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from imserver.plugin.runtime import Service
from imserver.plugin.wire import well_formed

from .slack import Attachment, Message

MOST_TEXT_BYTES: Final = 64 * 1024
"""A longer text is cut. Slack's have at most 40,000 characters."""
MOST_DEPTH: Final = 12
"""Levels of blocks that are read."""
_CONTROLS: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_TAG: Final = re.compile(r"<([^<>\n]{1,4000})>")
_CODE: Final = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_EMOJI: Final = re.compile(r":([a-z0-9_+'-]{1,100}):(?::skin-tone-([2-6]):)?")
_STRUCK: Final = re.compile(r"(?<![\w~])~(?![~\s])([^~\n]+?)(?<!\s)~(?![\w~])")

Named = Callable[[str], tuple[str, str] | None]
"""Slack's id of a user → our user and nickname; None: unknown."""


@cache
def emoji_names() -> Mapping[str, str]:
    """Slack's name of an emoji → the emoji."""
    return msgspec.json.decode(files(__package__).joinpath("emoji.json").read_bytes(), type=dict[str, str])


def emoji_named(name: str) -> str:
    """The emoji with a name of Slack, such as ``wave::skin-tone-3``; ``""``: a workspace's own one."""
    base, _, tone = name.partition("::skin-tone-")
    emoji = emoji_names().get(base, "")
    if emoji and tone in ("2", "3", "4", "5", "6"):
        return emoji.rstrip("\ufe0f") + "🏻🏼🏽🏾🏿"[int(tone) - 2]
    return emoji


def clean(text: str) -> str:
    """A text without control characters, and of at most :data:`MOST_TEXT_BYTES`."""
    text = well_formed(text).translate(_CONTROLS)
    raw = text.encode()
    return text if len(raw) <= MOST_TEXT_BYTES else raw[:MOST_TEXT_BYTES].decode(errors="ignore") + "…"


class Texts(Service):
    """Converts texts. ``named``: see :data:`Named`; ``channels``: id → name."""

    named: Named
    channels: Mapping[str, str]

    def convert(self, text: str) -> tuple[str, list[str]]:
        """A text of Slack as ours, and the users whom it mentions (``all``: everybody)."""
        mentions: dict[str, None] = {}
        text = _TAG.sub(lambda match: self._tag(match[1], mentions), text)
        parts = _CODE.split(text)
        parts[::2] = [_STRUCK.sub(r"~~\1~~", _EMOJI.sub(_emoji, part)) for part in parts[::2]]
        text = "".join(parts)
        for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(escape, sign)
        return clean(text), ["all"] if "all" in mentions else list(mentions)[:100]

    def _tag(self, content: str, mentions: dict[str, None]) -> str:
        """What stands for ``<content>``. It is still escaped."""
        target, _, label = content.partition("|")
        if target.startswith("@"):
            name = self.named(target[1:])
            if name is None:
                return f"@{(label or target[1:]).lstrip('@')}"
            mentions[name[0]] = None
            return f"@{_escaped(name[1])}"
        if target.startswith("#"):
            return f"#{label or _escaped(self.channels.get(target[1:], target[1:]))}"
        if target.startswith("!"):
            word = target[1:].partition("^")[0]
            if word in ("here", "channel", "everyone"):
                mentions["all"] = None
                return "@all"
            return label or f"@{word}"
        if target.startswith(("mailto:", "tel:")):
            return label or target.partition(":")[2]
        if label in ("", target) or target.partition("://")[2].rstrip("/") == label.rstrip("/"):
            return target
        return f"{label} ({target})"


def _emoji(match: re.Match[str]) -> str:
    return emoji_named(match[1] + (f"::skin-tone-{match[2]}" if match[2] else "")) or match[0]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- messages of apps ---------------------------------------------------------------------------------------


def text_of(message: Message) -> str:
    """The text of a message; of an app also what it says in attachments, or in blocks alone."""
    text = message.text or (message.comment.comment if message.comment else "") or ""
    if not text and message.blocks:
        text = "".join(_of_blocks(message.blocks, 0)).strip()
    more = [said for each in message.attachments or () if (said := _of_attachment(each, text))]
    return "\n".join(filter(None, (text, *more)))


def _of_attachment(given: Attachment, text: str) -> str:
    link = given.title_link or ""
    title = f"<{link}|{given.title}>" if given.title and link.startswith("http") else given.title
    fields = [
        f"{each.get('title') or ''}: {each.get('value') or ''}".strip(": ") for each in given.fields or ()
    ]
    if link and link in text:  # Slack's preview of a link that the message has
        return ""
    parts = [each for each in (given.pretext, title, given.text, *fields) if each]
    return "\n".join(parts) or given.fallback or ""


def _of_blocks(value: Any, depth: int) -> Iterator[str]:
    """The texts in blocks, as marks."""
    if depth > MOST_DEPTH:
        return
    if isinstance(value, list):
        for each in value:
            yield from _of_blocks(each, depth + 1)
        return
    if not isinstance(value, dict):
        return
    kind, text = value.get("type"), value.get("text")
    if kind in ("mrkdwn", "plain_text", "text") and isinstance(text, str):
        yield text
    elif kind == "link" and isinstance(value.get("url"), str):
        yield f"<{value['url']}|{text}>" if isinstance(text, str) else f"<{value['url']}>"
    elif kind == "emoji":
        yield f":{value.get('name')}:"
    elif kind == "user":
        yield f"<@{value.get('user_id')}>"
    elif kind == "channel":
        yield f"<#{value.get('channel_id')}>"
    elif kind == "broadcast":
        yield f"<!{value.get('range')}>"
    else:
        for key in ("text", "fields", "elements"):
            yield from _of_blocks(value.get(key), depth + 1)
        if kind in ("section", "header", "context", "rich_text_section", "rich_text_preformatted"):
            yield "\n"
