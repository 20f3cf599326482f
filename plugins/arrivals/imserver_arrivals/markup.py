"""Converts HTML into texts in the form that they have here."""

import re
from collections.abc import Callable
from html import unescape
from typing import Final, NamedTuple

MOST_DEPTH: Final = 32
"""The most tags in each other. Deeper tags are left as text."""
_MOST_INDENT: Final = 4
"""The most levels by which an item of a nested list is indented."""
_MARKS: Final = {
    **dict.fromkeys(("b", "strong", "h1", "h2", "h3", "h4", "h5", "h6"), "*"),
    **dict.fromkeys(("i", "em"), "_"),
    **dict.fromkeys(("del", "s", "strike"), "~~"),
    "code": "`",
}
_PARAGRAPHS: Final = frozenset(
    ("p", "pre", "blockquote", "ul", "ol", "table", "h1", "h2", "h3", "h4", "h5", "h6")
)
_LINES: Final = frozenset(("div", "li", "tr", "summary", "details", "caption"))
_EMPTY: Final = frozenset(("br", "hr", "img"))
_TOKEN: Final = re.compile(
    r"<(?:(/?)([A-Za-z][A-Za-z0-9-]{0,30})(?![A-Za-z0-9-])([^<>]{0,4000})|[!?][^<>]{0,4000})>"
)
"""A tag or a comment. The pattern takes linear time, which html.parser does not
promise for input of users."""
_ATTRIBUTE: Final = re.compile(
    r"([A-Za-z-]{1,60})(?:=(?:\"([^\"]*)\"|'([^']*)'|([^\s\"']+)))?"
)
"""An attribute, with or without a value."""
_SPOILER: Final = "data-mx-spoiler"
"""The attribute of text that is covered until somebody opens it. Its value is
the reason (Matrix's specification, client-server API, 11.2.1.9)."""
_SPACE: Final = re.compile(r"[ \t\r\n\f]+")
_LABEL: Final = re.compile(r"(?!.*(?:[@/\\\x02]|\.\S))[^\[\]\n]{1,200}", re.DOTALL)
"""The text of a link, as the messages page accepts it: nothing that looks like
an address."""
_TARGET: Final = re.compile(r"https?://[^\s()<>\"]{1,2000}")
_LANGUAGE: Final = re.compile(r"language-([A-Za-z][\w+#.-]{0,19})")


class _Tag(NamedTuple):
    """A tag that is open: its end has not come yet."""

    name: str
    attributes: dict[str, str]
    begin: int
    """The index of the piece with which the content of the tag begins."""


def html_text(
    html: str,
    link: Callable[[str, str], str | None],
    plain: Callable[[str], str],
    drop: str,
    cover: Callable[[str, str], str],
) -> str:
    """Convert HTML to a text in the form that texts have here.

    ``<p>Hi <b>all</b></p>`` becomes ``Hi *all*``.

    ``link``: (address, its text) → the replacement of the link, or None for a
    usual link. ``plain``: a text outside of code and links → the text with
    mentions. ``drop``: a tag that is left out with its content. ``cover``:
    (spoiler, its reason) → the replacement of the spoiler.
    """
    parser = _Parser(link, plain, drop, cover)
    end = 0
    for token in _TOKEN.finditer(html):
        parser.add(unescape(html[end : token.start()]))
        end = token.end()
        slash, name, inner = token.groups()
        if name is None:  # a comment
            continue
        if slash:
            parser.end(name.lower())
        else:
            parser.begin(name.lower(), _attributes_in(inner))
    parser.add(unescape(html[end:]))
    return parser.text()


def _attributes_in(text: str) -> dict[str, str]:
    """Return the attributes of a tag, such as ``{"href": "https://a.org"}``."""
    attributes = {}
    for name, *values in _ATTRIBUTE.findall(text):
        # A value may have double, single or no quotes. The pattern has a group
        # for each, and at most one of them is not empty.
        attributes[name] = unescape("".join(values))
    return attributes


class _Parser:
    """Collects the pieces of a text.

    When a tag ends, the pieces within it are joined and converted to one piece.
    For the arguments see :func:`html_text`.
    """

    def __init__(
        self,
        link: Callable[[str, str], str | None],
        plain: Callable[[str], str],
        drop: str,
        cover: Callable[[str, str], str],
    ) -> None:
        """Begin an empty text."""
        self._link = link
        self._plain = plain
        self._drop = drop
        self._cover = cover
        self._pieces: list[str] = []
        self._open: list[_Tag] = []
        """The open tags; the innermost comes last."""
        self._numbers: list[int] = []
        """The next number in each open list; 0 if the list has no numbers."""
        self._language = ""
        """The language of the open block of code."""

    def text(self) -> str:
        """The whole text. Tags that are still open are closed."""
        while self._open:
            self._close_innermost()
        return "".join(self._pieces).strip("\n ")

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin a tag.

        A tag without content, such as ``br``, is a piece itself. Tags that are
        too deep are ignored, so their content belongs to the tag around them.
        """
        self._end_text_at(tag)
        if tag in _EMPTY:
            self._add_empty(tag, attributes)
            return
        if tag == "li":
            self._begin_item()
        elif tag in ("td", "th"):
            self._begin_cell()
        if len(self._open) >= MOST_DEPTH:
            return
        match = _LANGUAGE.search(attributes.get("class", ""))
        if match:
            self._language = match[1]
        if tag in ("ul", "ol"):
            self._numbers.append(_first_number(tag, attributes))
        self._open.append(_Tag(tag, attributes, begin=len(self._pieces)))

    def _add_empty(self, tag: str, attributes: dict[str, str]) -> None:
        """Add a tag without content: a break, a line, or the text of a
        picture."""
        if self._is_in(self._drop):
            return
        alternative = attributes.get("alt") or attributes.get("title") or ""
        self._pieces.append({"br": "\n", "hr": "\n---\n"}.get(tag, alternative))

    def _begin_cell(self) -> None:
        """Begin a cell of a table with a bar, unless it is the first in its
        row."""
        if self._pieces and not self._pieces[-1].endswith("\n"):
            self._pieces.append(" | ")

    def _begin_item(self) -> None:
        """Begin an item of the innermost list with ``- `` or its number.

        Items of a nested list are indented. HTML may have an item without a
        list.
        """
        depth = max(len(self._numbers) - 1, 0)
        number = 0
        mark = "- "
        if self._numbers and self._numbers[-1]:
            number = self._numbers[-1]
            mark = f"{number}. "
        self._pieces.append("  " * min(depth, _MOST_INDENT) + mark)
        if number:
            self._numbers[-1] += 1

    def end(self, tag: str) -> None:
        """End the innermost tag with this name, and all tags in it.

        The end of a tag that is not open is ignored.
        """
        if any(each.name == tag for each in self._open):
            while self._close_innermost() != tag:
                pass

    def add(self, data: str) -> None:
        """Add a text between two tags.

        Outside of ``pre``, several spaces or line breaks count as one space.
        """
        if self._is_in(self._drop):
            return
        if self._is_in("pre"):
            self._pieces.append(data)
            return
        data = _SPACE.sub(" ", data)
        if not self._pieces or self._pieces[-1].endswith(("\n", " ")):
            data = data.lstrip(" ")
        if not data:
            return
        if not self._is_in("code", "a"):
            data = self._plain(data)
        self._pieces.append(data)

    def _is_in(self, *names: str) -> bool:
        """Whether one of these tags is open."""
        return any(each.name in names for each in self._open)

    def _end_text_at(self, tag: str) -> None:
        """End the paragraph or the line, if the begin or end of a tag does
        so."""
        if tag in _PARAGRAPHS:
            self._end_paragraph()
        elif tag in _LINES:
            self._end_lines(1)

    def _end_paragraph(self) -> None:
        """End the paragraph with an empty line. In a list, end the line."""
        if self._numbers:
            self._end_lines(1)
        else:
            self._end_lines(2)

    def _end_lines(self, count: int) -> None:
        """End the current line, or the paragraph if ``count`` is 2.

        Nothing happens at the beginning of a tag or of a list item.
        """
        begin = 0
        if self._open:
            begin = self._open[-1].begin
        if len(self._pieces) == begin:
            return
        last = self._pieces[-1].rstrip(" ")
        # A list item may begin with a paragraph.
        if last.endswith(("- ", ". ")) or not last:
            return
        # The last piece may have line ends already.
        line_ends = len(last) - len(last.rstrip("\n"))
        self._pieces[-1] = last + "\n" * max(count - line_ends, 0)

    def _close_innermost(self) -> str:
        """End the innermost tag, and replace its pieces by one converted piece.

        Returns the name of the tag.
        """
        tag = self._open.pop()
        content = "".join(self._pieces[tag.begin :])
        del self._pieces[tag.begin :]
        content = self._converted(tag, content)
        if _SPOILER in tag.attributes and content and not self._is_in(self._drop):
            content = self._cover(content, tag.attributes[_SPOILER])
        self._pieces.append(content)
        self._end_text_at(tag.name)
        return tag.name

    def _converted(self, tag: _Tag, content: str) -> str:
        """Return the content of a tag that ends, with the marks for this
        tag."""
        name = tag.name
        if name == self._drop:
            return ""
        if name in ("ul", "ol"):
            self._numbers.pop()
        elif name == "pre":
            content = self._end_code(content)
        elif name == "blockquote":
            content = _quoted(content)
        elif name == "a":
            content = self._anchor(tag.attributes.get("href", ""), content)
        # Marks within marks, or within code, would be shown as characters.
        elif name in _MARKS and not self._is_in("pre", "a", *_MARKS):
            content = marked(content, _MARKS[name])
        return content

    def _end_code(self, content: str) -> str:
        """Return a block of code that ends, with its marks and its language."""
        code = content.strip("\n")
        block = f"```{self._language}\n{code}\n```"
        self._language = ""
        return block

    def _anchor(self, address: str, label: str) -> str:
        """Return a link as a text.

        It is its replacement, its address, ``[label](address)``, or ``label
        (address)`` if the label may look like another address.
        """
        label = label.strip()
        replacement = self._link(address, label)
        if replacement is not None:
            return replacement
        if not address:
            return label
        host_and_path = address.partition("://")[2].rstrip("/")
        if label in ("", address) or label.rstrip("/") == host_and_path:
            return address
        is_simple = _LABEL.fullmatch(label) and _TARGET.fullmatch(address)
        if self._is_in(*_MARKS) or not is_simple:
            return f"{label} ({address})"
        return f"[{label}]({address})"


def _quoted(text: str) -> str:
    """Return a text as a quote: each line begins with ``>``."""
    return "\n".join(f"> {line}" for line in text.split("\n") if line.strip())


def _first_number(tag: str, attributes: dict[str, str]) -> int:
    """Return the first number in a list; 0 if the list has no numbers."""
    if tag == "ul":
        return 0
    first = attributes.get("start", "1")
    if re.fullmatch(r"[1-9]\d{0,2}", first):
        return int(first)
    return 1


def marked(text: str, mark: str) -> str:
    """Put marks around each line of a text: ``Hi`` and ``*`` make ``*Hi*``.

    A text with links, mentions or such marks stays as it is.
    """
    if not text or mark in text or "\x02" in text or "://" in text:
        return text
    return "\n".join(_marked_line(line, mark) for line in text.split("\n"))


def _marked_line(line: str, mark: str) -> str:
    """Put marks directly before the first and after the last visible
    character."""
    kernel = line.strip()
    if not kernel:
        return line
    return line.replace(kernel, f"{mark}{kernel}{mark}", 1)
