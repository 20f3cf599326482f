"""The pages of an archive, which a user reads without a network, from a folder,
in any browser.

The list is on the left, a conversation on the right in a frame; on a phone it
takes the place of the list. A page works without its script. The script only
chooses the language and shows times in the time zone of the reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from imserver.plugin.messages import Message

_WORDS: Final = {
    "export": ("Your data", "你的数据"),
    "conversations": ("Conversations", "会话"),
    "files": ("Files", "文件"),
    "about": ("About this archive", "关于此存档"),
    "made": ("Made", "生成时间"),
    "rows": (
        "What the server has about you, as JSON lines",
        "服务器上与你有关的数据（JSON 行）",
    ),
    "records": ("records", "条"),
    "recalled": ("This message was deleted", "此消息已删除"),
    "changed": ("The group has changed", "群组有变更"),
    "joined": ("Somebody joined", "有人加入"),
    "left": ("Somebody left", "有人离开"),
    "edited": ("edited", "已编辑"),
    "thread": ("reply in a thread", "话题中的回复"),
    "back": ("Back", "返回"),
    "choose": (
        "Choose a conversation. Your browser searches in it with Ctrl+F.",
        "选择一个会话。用浏览器的查找（Ctrl+F）可在其中搜索。",
    ),
    "profile": ("Profile", "个人资料"),
    "acts": ("What was done by you, or to you", "你的操作记录"),
    "none": ("There are none.", "没有。"),
}

_OFFLINE: Final = Path(__file__).parent / "offline"
_STYLE: Final = (_OFFLINE / "page.css").read_text("utf-8")
_SCRIPT: Final = (_OFFLINE / "page.js").read_text("utf-8")
_SECOND_MS: Final = 1000
_SHORT_CHARACTERS: Final = 300
_NOTES: Final = {"join": "joined", "leave": "left", "group": "changed"}
"""Kind of an entry that is a line of its own → the word for it."""
_upload: Final = re.compile(rb"/api/v1/uploads/([A-Za-z0-9_-]{16,64})").search
"""Finds the address of an upload."""
_PICTURES: Final = ("png", "jpg", "jpeg", "gif", "webp", "avif", "svg", "bmp")


def _words(key: str) -> str:
    """A text in both languages, as HTML.

    Both are in the page; its script hides one of them.
    """
    english, chinese = _WORDS[key]
    return f'<span lang="en">{english}</span><span lang="zh">{chinese}</span>'


def _head(title: str, kind: str) -> str:
    """The beginning of a page, up to its ``body``.

    ``kind`` is the class of the body.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><script>{_SCRIPT}</script></head>"
        f'<body class="{kind}">'
    )


def _time(milliseconds: int) -> str:
    """A time in Unix milliseconds as HTML.

    Senders may give any time to their messages. ``""`` if no calendar has it.
    """
    try:
        moment = datetime.fromtimestamp(milliseconds / _SECOND_MS, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M} UTC</time>'


# --- a conversation -----------------------------------------------------------

CONVERSATION_END: Final = b"</main></body></html>\n"


def conversation_head(title: str) -> bytes:
    """The page of a conversation, up to its first entry."""
    back = f'<a class="back" href="../index.html">{_words("back")}</a>'
    return (
        _head(title, "talk")
        + f"<header>{back}<h1>{escape(title)}</h1></header><main>\n"
    ).encode()


def shown(
    entry: Message, user: str, names: Mapping[str, str], files: Mapping[str, str]
) -> bytes:
    """An entry of a conversation as HTML.

    It is empty for an entry that changes another one (an edit, a reaction),
    because the changed entry is shown in its present state. ``user`` is the
    reader, whose own messages look different. ``names`` is user → name.
    ``files`` is id of an upload → its name in the archive.
    """
    if entry.kind in _NOTES:
        word = _words(_NOTES[entry.kind])
        return f'<div class="note">{word} · {_time(entry.time_ms)}</div>\n'.encode()
    content = _content(entry, files)
    if not content:
        return b""

    own = ""
    if entry.sender == user:
        own = ' class="own"'
    head = _head_of(entry, names)
    foot = _reactions(entry)
    return (
        f'<article id="m{entry.id}"{own}><small>{head}</small>{content}{foot}</article>\n'
    ).encode(errors="replace")


def _head_of(entry: Message, names: Mapping[str, str]) -> str:
    """The line above a message as HTML: sender, time, and a link to its thread."""
    sender = names.get(entry.sender) or entry.sender
    head = f"{escape(sender)} · {_time(entry.time_ms)}"
    if entry.is_edited:
        head += f" · {_words('edited')}"
    if entry.thread:
        head += f' · <a href="#m{entry.thread}">{_words("thread")}</a>'
    return head


def _reactions(entry: Message) -> str:
    """The reactions to a message as HTML, such as ``👍 3``; ``""`` without any."""
    reactions = [f"{escape(each.emoji)} {each.count}" for each in entry.reactions]
    if not reactions:
        return ""
    return f"<div><small>{' '.join(reactions)}</small></div>"


def _content(entry: Message, files: Mapping[str, str]) -> str:
    """The content of an entry as HTML; ``""`` if the entry is not a message."""
    # The entry of a recall that is about itself is a recalled message.
    if entry.kind == "recall" and entry.about == entry.id:
        return f'<p class="soft">{_words("recalled")}</p>'
    if entry.kind == "message":
        return _content_of_message(entry, files)
    return ""


def _content_of_message(entry: Message, files: Mapping[str, str]) -> str:
    """The content of a message as HTML.

    It is the text of the message. If the message names an upload in ``files``,
    it is a picture or a link. Otherwise it is some words about the message.
    """
    text = entry.body.decode(errors="replace")
    if entry.type == "text":
        return f"<p>{escape(text)}</p>"
    match = _upload(entry.body)
    name = ""
    if match:
        name = files.get(match[1].decode(), "")
    if not name:
        words = _short(entry.body, text)
        return f'<p class="soft">{escape(entry.type)}: {escape(words)}</p>'
    return _link(name, is_picture=entry.type == "picture")


def _link(name: str, is_picture: bool) -> str:
    """A file of the archive as HTML: the picture itself, or a link to the file.

    ``name`` is the name in the archive, such as ``files/7f3a/plan.pdf``. A file
    is also shown as a picture if its name has the ending of a picture.
    """
    # The page of a conversation is in a folder of its own.
    address = escape(f"../{quote(name)}")
    file_name = name.rpartition("/")[2]
    title = escape(file_name)
    ending = file_name.rpartition(".")[2].lower()
    if is_picture or ending in _PICTURES:
        return f'<a href="{address}"><img src="{address}" alt="{title}" loading="lazy"></a>'
    return f'<p><a href="{address}">{title}</a></p>'


def _short(body: bytes, text: str) -> str:
    """The words for a message that is not text, at most
    :data:`_SHORT_CHARACTERS`.

    They are the first text, title, name or URL in its JSON, or else the
    beginning of its content. ``text`` is the body as text.
    """
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = None
    if isinstance(data, dict):
        for key in ("text", "title", "name", "url"):
            value = data.get(key)
            if isinstance(value, str) and value:
                return value[:_SHORT_CHARACTERS]
    return text[:_SHORT_CHARACTERS]


# --- the list -----------------------------------------------------------------


def index(
    profile: Mapping[str, Any],
    conversations: Iterable[tuple[int, str, str]],
    files: Iterable[str],
    tables: Mapping[str, int],
    begun: int,
) -> Iterator[bytes]:
    """The first page of the archive, piece by piece.

    ``profile`` has the fields of the user's account, with ``app`` and ``user``.
    ``conversations`` are the id, title and kind of each. ``files`` are names in
    the archive. ``tables`` is table → number of rows. ``begun`` is when the
    archive was begun, in Unix seconds.
    """
    name = str(profile.get("nickname") or profile.get("name") or profile["user"])
    yield _list_head(profile["app"], name, begun)
    links = (
        (f"conversations/{id}.html", escape(title)) for id, title, _ in conversations
    )
    yield from _items(links)

    yield f"</ul><h2>{_words('files')}</h2><ul>\n".encode()
    yield from _items(map(_link_to_file, files))

    yield _contents(tables)
    yield f"</ul></nav>{_frame(name)}</body></html>\n".encode()


def _list_head(app: str, name: str, begun: int) -> bytes:
    """The first page up to the list of conversations.

    ``name`` is the name of the user.
    """
    head = _head(f"{name} · {app}", "index")
    when = _time(begun * _SECOND_MS)
    about_archive = f"{escape(app)} · {_words('made')} {when}"
    heading = f"<h1>{escape(name)}</h1><small>{about_archive}</small>"
    return f"{head}<nav>{heading}<h2>{_words('conversations')}</h2><ul>\n".encode()


def _link_to_file(name: str) -> tuple[str, str]:
    """The address of a file of the archive, and its name without the folder."""
    return escape(quote(name)), escape(name.rpartition("/")[2])


def _contents(tables: Mapping[str, int]) -> bytes:
    """The part of the list about the archive itself.

    It has links to the profile and to the audit log of the user, and each table
    with its number of rows.
    """
    about = (
        f'<li><a target="view" href="profile.json">{_words("profile")}</a></li>'
        f'<li><a target="view" href="audit.jsonl">{_words("acts")}</a></li>'
    )
    return (
        f"</ul><h2>{_words('about')}</h2><ul>{about}</ul>"
        f"<h2>{_words('rows')}</h2><ul class='soft'>\n{_counts(tables)}"
    ).encode()


def _counts(tables: Mapping[str, int]) -> str:
    """The lines with the tables and their numbers of rows."""
    records = _words("records")
    return "".join(
        f"<li>rows/{escape(table)}: {count} {records}</li>\n"
        for table, count in sorted(tables.items())
    )


def _frame(name: str) -> str:
    """The frame in which a conversation is shown.

    Until the reader chooses one, the frame asks the reader to choose.
    """
    head = _head(name, kind="")
    choose = _words("choose")
    start_page = f'{head}<p class="start">{choose}</p></body></html>'
    return f'<iframe name="view" title="" srcdoc="{escape(start_page)}"></iframe>'


def _items(links: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    """The items of a list of links, as HTML, or one line which says that the
    list is empty.

    ``links`` are pairs of address and title, both as HTML already.
    """
    is_empty = True
    for address, title in links:
        is_empty = False
        yield f'<li><a target="view" href="{address}">{title}</a></li>\n'.encode()
    if is_empty:
        yield f'<li class="soft">{_words("none")}</li>'.encode()
