"""The process that reads pages: title, description, name of the site, and the
address of a picture.

It is a program. It reads one :class:`PageTask` per line from its standard input and answers each with a
:class:`LinkedPage` or ``null``. It imports nothing of the server, and ends with its input. A page that takes
:data:`CPU_SECONDS` ends it by SIGPROF.

Only the head of a page is read. No text of a page is taken as it is: control
characters, line breaks and what changes the direction of text are left out, and
each text has a longest length.
"""

import os
import re
import resource
import signal
import sys
import unicodedata
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

import msgspec
from msgspec import Struct

MEMORY_BYTES: Final = 1 << 28
"""Limit of the memory of the process."""
CPU_SECONDS: Final = 0.5
"""CPU time for one page."""
PAGE_BYTES: Final = 2_097_152
"""Limit of a page that was compressed."""
TITLE_CHARACTERS: Final = 200
DESCRIPTION_CHARACTERS: Final = 300
SITE_CHARACTERS: Final = 60
URL_CHARACTERS: Final = 1000
_CHARSET: Final = re.compile(
    rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([A-Za-z0-9_:.-]{1,30})""",
    re.IGNORECASE,
)
_CHARSET_OF_TYPE: Final = re.compile(
    r"""charset\s{0,9}=\s{0,9}["']?([A-Za-z0-9_:.-]{1,30})""", re.IGNORECASE
)
_LATIN: Final = "windows-1252"
_CHARSETS: Final = {
    **dict.fromkeys(
        ("iso-8859-1", "latin1", "us-ascii", "ascii", "windows-1252", "cp1252"), _LATIN
    ),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"
    ),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "windows-949"), "cp949"),
    **{
        name: name
        for name in (
            "utf-8",
            "utf-16",
            "utf-16le",
            "utf-16be",
            "big5",
            "euc-jp",
            "iso-2022-jp",
        )
    },
    **{name: name for name in ("koi8-r", "koi8-u", "macintosh")},
    **{
        f"iso-8859-{number}": f"iso-8859-{number}"
        for number in range(2, 17)
        if number not in (9, 12)
    },
    **{
        f"windows-125{number}": f"windows-125{number}"
        for number in range(9)
        if number != 2
    },
    "iso-8859-9": "windows-1254",
    "utf8": "utf-8",
    "big5-hkscs": "big5hkscs",
}
"""Name of an encoding on the web → its codec. Others are no encodings of
pages."""
_JOINERS: Final = "\u200c\u200d"
"""Formatting characters that words and emoji need."""


class PageTask(Struct, frozen=True):
    """A page to read: its bytes, the headers ``Content-Type`` and
    ``Content-Encoding``, and its URL."""

    content: bytes
    type: str
    encoding: str
    url: str


class LinkedPage(Struct, frozen=True):
    """What a page says about itself. ``picture``: an absolute URL. ``""``:
    nothing."""

    title: str
    description: str = ""
    site: str = ""
    picture: str = ""


def read(task: PageTask) -> LinkedPage | None:
    """What a page says about itself; None: it has no title. May raise any
    exception."""
    head = _Head()
    try:
        head.feed(decoded(unpacked(task.content, task.encoding), task.type))
        head.close()
    except _Complete:
        pass
    names = head.names
    title = clean(
        names.get("og:title") or names.get("twitter:title") or "".join(head.title),
        TITLE_CHARACTERS,
    )
    if not title:
        return None
    described = (
        names.get(key, "")
        for key in ("og:description", "twitter:description", "description")
    )
    keys = (
        "og:image:secure_url",
        "og:image",
        "og:image:url",
        "twitter:image",
        "twitter:image:src",
    )
    picture = next((names[key] for key in keys if names.get(key)), "").strip()
    if picture:
        picture = urljoin(urljoin(task.url, head.base.strip()), picture)
    is_plain = len(picture) <= URL_CHARACTERS and picture.startswith(
        ("https://", "http://")
    )
    return LinkedPage(
        title,
        clean(next(filter(None, described), ""), DESCRIPTION_CHARACTERS),
        clean(names.get("og:site_name", ""), SITE_CHARACTERS),
        picture.encode("utf-8", "replace").decode() if is_plain else "",
    )


def unpacked(content: bytes, encoding: str) -> bytes:
    """At most :data:`PAGE_BYTES` of what was packed. Raises ValueError and
    zlib.error."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return content
    if name not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the encoding {name!r} is not known")
    # 47: with the head of gzip or zlib
    return zlib.decompressobj(47).decompress(content, PAGE_BYTES)


def decoded(content: bytes, media_type: str) -> str:
    """The text of a page: its mark of order counts first, then its header, then
    what it says."""
    for mark, name in (
        (BOM_UTF8, "utf-8"),
        (BOM_UTF16_LE, "utf-16"),
        (BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.removeprefix(BOM_UTF8).decode(name, "replace")
    announced = _CHARSET_OF_TYPE.search(media_type)
    if announced:
        name = announced[1].lower()
    elif own := _CHARSET.search(content[:4096]):
        name = own[1].decode().lower()
        # what says so in ASCII is not
        name = "utf-8" if name.startswith("utf-16") else name
    else:
        name = ""
    codec = _CHARSETS.get(name)
    if codec:
        return content.decode(codec, "replace")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        is_cut = error.start > len(content) - 4  # in the middle of its last character
        return content.decode("utf-8" if is_cut else _LATIN, "replace")


def clean(text: str, most: int) -> str:
    """A text in one line, without control characters and marks of direction, of
    so many characters."""
    spaced = " ".join(text[:10_000].split())
    letters = "".join(
        each
        for each in spaced
        if each in _JOINERS or unicodedata.category(each)[0] != "C"
    )
    letters = unicodedata.normalize("NFC", " ".join(letters.split()).strip(_JOINERS))
    if len(letters) <= most:
        return letters
    return f"{letters[: most - 1].rstrip()}…"


class _Complete(Exception):
    """The head of the page was read."""


class _Head(HTMLParser):
    """Reads the head of a page. ``names``: the first content of each meta
    element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.names: dict[str, str] = {}
        self.title: list[str] = []
        self.base = ""
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            raise _Complete
        if tag == "title":
            self._in_title = not self.title
        elif tag == "meta":
            values = {name: value or "" for name, value in attrs}
            name = (values.get("property") or values.get("name") or "").strip().lower()
            if name and len(self.names) < 1000:
                self.names.setdefault(name, values.get("content", ""))
        elif tag == "base" and not self.base:
            self.base = next(
                (value or "" for name, value in attrs if name == "href"), ""
            )

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "head":
            raise _Complete

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)


def main() -> None:
    """Carry out the orders of standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    os.closerange(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decoder = msgspec.json.Decoder(PageTask)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            preview = read(decoder.decode(line))
        except Exception:  # a page may raise anything in a parser
            preview = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(preview))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
