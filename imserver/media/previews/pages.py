"""The process that reads pages: title, description, name of the site, and the
address of a picture.

It is a program. It reads one :class:`PageTask` per line from its standard input
and answers each with a :class:`LinkedPage` or ``null``. It imports nothing of
the server, and ends with its input. If a page takes :data:`CPU_SECONDS`,
SIGPROF ends the program.

Only the head of a page is read. Each text of a page is cleaned: control
characters, line breaks and characters that change the direction of text are
left out, and the length is limited.
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
"""Limit of the decompressed size of a page."""
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
_MARKS_OF_ENCODINGS: Final = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)
"""The byte order marks with which a text may begin, and their encodings."""
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
"""Name of an encoding on the web → its codec. Other names are not accepted."""
_CHARSET_BYTES: Final = 4096
"""The number of bytes at the beginning of a page in which it may declare its
encoding."""
_LONGEST_CHARACTER_BYTES: Final = 4
"""The bytes of a character in UTF-8, at most."""
_CLEANED_CHARACTERS: Final = 10_000
"""The number of characters of a text that are cleaned, before it is
shortened."""
_MAX_NAMES: Final = 1000
"""Limit of the meta elements of a page."""
_GZIP_OR_ZLIB: Final = 47
"""This number in place of the size of the window tells zlib to detect whether
the data are gzip or zlib."""
_FIRST_OWN_DESCRIPTOR: Final = 3
"""Descriptors below are standard input, output and error."""
_MAX_DESCRIPTORS: Final = 1 << 16
"""Limit of the descriptors that are closed one by one. Some systems allow a
billion."""
_TITLE_NAMES: Final = ("og:title", "twitter:title")
_DESCRIPTION_NAMES: Final = ("og:description", "twitter:description", "description")
_PICTURE_NAMES: Final = (
    "og:image:secure_url",
    "og:image",
    "og:image:url",
    "twitter:image",
    "twitter:image:src",
)
_JOINERS: Final = "\u200c\u200d"
"""Formatting characters that words and emoji need."""


class PageTask(Struct, frozen=True):
    """A page to read.

    ``content``: the bytes of the page. ``type``, ``encoding``: the headers
    ``Content-Type`` and ``Content-Encoding``. ``url``: the address of the page.
    """

    content: bytes
    type: str
    encoding: str
    url: str


class LinkedPage(Struct, frozen=True):
    """The title, description, site and picture that a page names.

    ``site``: the name of the site. ``picture``: an absolute URL. An empty field
    is not set.
    """

    title: str
    description: str = ""
    site: str = ""
    picture: str = ""


def read(task: PageTask) -> LinkedPage | None:
    """Read the title, the description and the picture of a page.

    Returns None if the page has no title. May raise any exception.
    """
    head = _head_of(task)
    # A page may have a title for previews. Otherwise the title of the window is
    # used.
    title = head.first_of(_TITLE_NAMES) or "".join(head.title)
    title = clean(title, TITLE_CHARACTERS)
    if not title:
        return None
    description = head.first_of(_DESCRIPTION_NAMES)
    site = head.names.get("og:site_name", "")
    return LinkedPage(
        title=title,
        description=clean(description, DESCRIPTION_CHARACTERS),
        site=clean(site, SITE_CHARACTERS),
        picture=_picture_of(head, task.url),
    )


def _head_of(task: PageTask) -> "_Head":
    """Parse a page up to the end of its head, where its titles are."""
    head = _Head()
    try:
        content = unpacked(task.content, task.encoding)
        head.feed(decoded(content, task.type))
        head.close()
    except _Complete:  # the rest of the page is not read
        pass
    return head


def _picture_of(head: "_Head", url: str) -> str:
    """The absolute address of the picture that a page names; ``""`` if the page
    names no picture, or if the address is too long.

    A relative address starts from the page at ``url``, or from the base that
    the page names.
    """
    picture = head.first_of(_PICTURE_NAMES).strip()
    if picture:
        base = urljoin(url, head.base.strip())
        picture = urljoin(base, picture)
    if len(picture) > URL_CHARACTERS or not picture.startswith(("https://", "http://")):
        return ""
    # Half of a surrogate pair is no valid UTF-8.
    return picture.encode("utf-8", "replace").decode()


def unpacked(content: bytes, encoding: str) -> bytes:
    """The content of a page without its compression, at most
    :data:`PAGE_BYTES`.

    ``encoding``: the header ``Content-Encoding``, for example ``gzip``. Raises
    ValueError and zlib.error.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return content
    if name not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the encoding {name!r} is not known")
    return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(content, PAGE_BYTES)


def decoded(content: bytes, media_type: str) -> str:
    """The text of a page.

    The encoding is taken from the mark at the beginning, else from the header,
    else from the page. If none of them names an encoding, the text is decoded
    as UTF-8. If the bytes are not valid UTF-8, the encoding of Western Europe
    is used.
    """
    for mark, name in _MARKS_OF_ENCODINGS:
        if content.startswith(mark):
            return content.removeprefix(BOM_UTF8).decode(name, "replace")

    codec = _CHARSETS.get(_charset_of(content, media_type))
    if codec:
        return content.decode(codec, "replace")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        # The content may end in the middle of a character, because only the
        # beginning of the page was fetched.
        is_cut = error.start > len(content) - _LONGEST_CHARACTER_BYTES
        return content.decode("utf-8" if is_cut else _LATIN, "replace")


def _charset_of(content: bytes, media_type: str) -> str:
    """The name of the encoding that the header, or else the page, declares;
    ``""`` if neither does."""
    in_header = _CHARSET_OF_TYPE.search(media_type)
    if in_header:
        return in_header[1].lower()
    in_page = _CHARSET.search(content[:_CHARSET_BYTES])
    if not in_page:
        return ""
    name = in_page[1].decode().lower()
    if name.startswith("utf-16"):
        # The page declares an encoding with two bytes for each letter. This
        # cannot be true, because the declaration itself was found in ASCII
        # letters.
        return "utf-8"
    return name


def clean(text: str, most: int) -> str:
    """A text in one line of at most ``most`` characters.

    Control characters and marks that change the direction of text are left out.
    """
    spaced = " ".join(text[:_CLEANED_CHARACTERS].split())
    visible = "".join(filter(_is_visible, spaced))
    # The text is split again, because removed characters may have been between
    # spaces.
    words = " ".join(visible.split()).strip(_JOINERS)
    line = unicodedata.normalize("NFC", words)
    if len(line) <= most:
        return line
    return f"{line[: most - 1].rstrip()}…"


def _is_visible(letter: str) -> bool:
    """Whether a character may stay in a text. Control and format characters may
    not, except characters that join letters."""
    # The categories that begin with C are control and format characters.
    return letter in _JOINERS or unicodedata.category(letter)[0] != "C"


class _Complete(Exception):
    """Raised when the head of the page was read, because its body is not
    needed."""


class _Head(HTMLParser):
    """Reads the head of a page. Raises :class:`_Complete` at its end."""

    def __init__(self) -> None:
        """Begin before the first element of a page."""
        super().__init__(convert_charrefs=True)
        self.names: dict[str, str] = {}
        """Name or property of a meta element → its content. The first element
        counts."""
        self.title: list[str] = []
        """The pieces of the first title."""
        self.base = ""
        """The address from which relative addresses start; ``""``: the page
        names none."""
        self._in_title = False

    def first_of(self, names: tuple[str, ...]) -> str:
        """The content of the first of these meta elements that is not empty."""
        for name in names:
            content = self.names.get(name)
            if content:
                return content
        return ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that the preview needs: a title, a base, or
        metadata."""
        if tag == "body":
            raise _Complete
        if tag == "title":
            self._in_title = not self.title
        elif tag == "meta":
            self._add_meta(attrs)
        elif tag == "base" and not self.base:
            addresses = [value or "" for name, value in attrs if name == "href"]
            if addresses:
                self.base = addresses[0]

    def _add_meta(self, attrs: list[tuple[str, str | None]]) -> None:
        """Note the name and the content of an element ``meta``."""
        values = {name: value or "" for name, value in attrs}
        name = values.get("property") or values.get("name") or ""
        name = name.strip().lower()
        if name and len(self.names) < _MAX_NAMES:
            self.names.setdefault(name, values.get("content", ""))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of the title or of the head."""
        if tag == "title":
            self._in_title = False
        elif tag == "head":
            raise _Complete

    def handle_data(self, data: str) -> None:
        """Note a piece of the title."""
        if self._in_title:
            self.title.append(data)


def main() -> None:
    """Carry out the tasks from standard input, one on each line, until the
    input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    _limit_process()
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


def _limit_process() -> None:
    """Close the files of the server, and limit the memory of this process.

    If an attacker takes over a parser, it must not be able to use connections
    and files of the server, or all memory of the machine.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(_FIRST_OWN_DESCRIPTOR, min(limit, _MAX_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
