"""Finds the first link in a message, and fetches its page and picture.

Each step of a redirection is a separate request to :class:`PublicRequests`, so
the address of each step is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import msgspec

from imserver.media.uploads.worker import TooCostly, Worker
from imserver.plugin.runtime import BadUrl, PublicRequests, Unreachable

if TYPE_CHECKING:
    from imserver.media.previews.pages import LinkedPage

TEXT_CHARACTERS: Final = 8_000
"""Characters of a message in which a link is looked for."""

# As in static/messages/parts/format.js. Word characters are the letters of
# Latin, Greek and Cyrillic.
_WORD: Final = "A-Za-z0-9\u00aa-\u024f\u0370-\u052f"
_REST: Final = "[^\\s<>\"'`，。；！？、（）《》「」]"
_ENDS: Final = (
    "(?:com|org|net|edu|gov|io|dev|app|ai|tv|eu|uk|us|ca|au|nz|de|ch|fr|nl|es|pt|se|dk|fi|cz|gr|hu|ro|ua|ru|cn"
    "|hk|tw|jp|kr|sg|th|vn|ae|tr|ir|il|br|mx|ar|za|xyz|site|online|shop|blog|tech|cloud|wiki)"
    "|(?:at|be|co|id|in|info|is|it|me|my|no|to)(?=/)"
)
_NAME: Final = (
    rf"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\.){{1,5}}(?:{_ENDS})(?![{_WORD}_@-]|\.[{_WORD}])"
    rf"(?::[0-9]{{1,5}}(?![0-9]))?(?:[/?#]{_REST}*)?"
)
_MARKS: Final = re.compile(
    "|".join(
        (
            r"```.+?```|`[^`\n]+`",
            rf"(?<![{_WORD}*])(?P<stars>\*\*?)(?! )[^*\n]+?(?<! )(?P=stars)(?![{_WORD}*])",
            rf"(?<![{_WORD}_/\\])_(?! )[^_\n]+?(?<! )_(?![{_WORD}_/\\])",
            r"(?<!~)~~(?![~ ])[^~\n]+?(?<! )~~(?!~)",
            rf"(?P<address>https?://{_REST}+)",
            rf"(?<![{_WORD}._%+:/\\@-])(?P<site>www\.{_REST}+|{_NAME})",
            rf"(?<![{_WORD}._%+/@-])[A-Za-z0-9._%+-]{{1,64}}@(?:[A-Za-z0-9-]{{1,63}}\.){{1,8}}[A-Za-z]{{2,24}}",
        )
    ),
    re.DOTALL,
)
_SITE: Final = re.compile(r"www\.[^./]+\.[^./]")
_SAFE: Final = "%/:@!$&'()*+,;=~-._"
_MAX_LINKS: Final = 5
"""The most links of a message that are tried, until one of them can have a
preview."""
_SENTENCE_END: Final = ".,:;!?'\"*"
_ANSWER_BYTES: Final = 65_536
"""The longest answer of the process that reads pages, in bytes."""
_READ_SECONDS: Final = 10.0
"""Time limit for reading one page, without the time in which the page waits for
its turn."""
_TYPE_CHARACTERS: Final = 200
_ENCODING_CHARACTERS: Final = 20
_LOCATION_CHARACTERS: Final = 2000
"""The most characters of a header that are read."""
_MAX_REQUESTS: Final = 5
"""The most requests for a page: the first one, and its redirections."""
_SHORTEST_WAIT_SECONDS: Final = 0.001
"""The shortest time limit: 0 would mean no limit."""
_REDIRECTIONS: Final = frozenset(
    (
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    )
)


def first_link(text: str) -> str | None:
    """The URL of the first link in a message, in ASCII letters.

    Returns None if the message has no link that can have a preview.
    """
    for url in islice(_links_in(text[:TEXT_CHARACTERS]), _MAX_LINKS):
        link = normalised(url)
        if link:
            return link
    return None


def _links_in(text: str) -> Iterator[str]:
    """Yield the links in a text, as they are written. Links in code are left
    out.

    A link without a scheme, such as ``www.example.com``, gets ``https://``.
    """
    for match in _MARKS.finditer(text):
        # A match without an address is other markup, such as code or bold text.
        address = _without_end(match["address"] or match["site"] or "")
        if not address:
            continue
        # "www." alone is not enough: two names must follow it.
        if address.startswith("www.") and not _SITE.match(address):
            continue
        if match["address"]:
            yield address
        else:
            yield f"https://{address}"


def _without_end(address: str) -> str:
    """An address without the punctuation at the end of its sentence."""
    text = address.rstrip(_SENTENCE_END)
    # A bracket that the address has not opened belongs to the sentence.
    if text.endswith(")") and "(" not in text:
        return text[:-1].rstrip(_SENTENCE_END)
    return text


def normalised(url: str) -> str | None:
    """A URL in the form that is requested: in ASCII letters, and without its
    fragment.

    Returns None if it is no URL of a page, or if it is too long or contains a
    login.
    """
    url = url.partition("#")[0]
    if len(url) > PublicRequests.URL_CHARACTERS:
        return None

    try:
        parts = urlsplit(url)
        host = _host_of(parts)
    except (ValueError, BadUrl):
        return None

    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not host:
        return None

    link = f"{parts.scheme}://{host}{_target_of(parts)}"
    if len(link) <= PublicRequests.URL_CHARACTERS and re.fullmatch(r"[!-~]*", link):
        return link
    return None


def _target_of(parts: SplitResult) -> str:
    """The path and the query of a URL in ASCII letters, for example
    ``/caf%C3%A9?page=2``."""
    # Letters that are not ASCII are escaped. Existing escapes stay as they are.
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target = f"{target}?{quote(parts.query, safe=_SAFE + '?')}"
    return target


def _host_of(parts: SplitResult) -> str:
    """The host of a URL in ASCII letters, with its port if it names one.
    Returns ``""`` for a URL without a host. Raises ValueError and BadUrl."""
    host = parts.hostname or ""
    port = parts.port
    if ":" in host:  # an address of IPv6
        host = f"[{host}]"
    elif not host.isascii():
        host = PublicRequests.ascii_host(host)
    if host and port is not None:
        return f"{host}:{port}"
    return host


class Fetching:
    """Fetches the pages of links, and their pictures.

    The object owns the process that reads pages. ``admit`` is called with each
    host before a request, and may raise an error if the host got too many
    requests. ``seconds``: the time limit for a page with its redirections.
    """

    def __init__(
        self, requests: PublicRequests, admit: Callable[[str], object], seconds: float
    ) -> None:
        self._requests = requests
        self._admit = admit
        self._seconds = seconds
        program = str(Path(__file__).with_name("pages.py"))
        self._worker = Worker(program, _ANSWER_BYTES)
        self.bytes = 0
        """The number of bytes of pages and pictures that were received."""

    def page(self, app: str, sender: str, url: str, most: int) -> LinkedPage | None:
        """Fetch the page of a URL, and return its title and description.

        Returns None if the content is not a page with a title. ``most``: the
        most bytes that are read. ``app``, ``sender``: the sender of the link;
        the pages of several senders are read in turn. Switches greenlets.
        Raises Unreachable, and the errors of ``admit``.
        """
        # The module is loaded with the first page, because it takes 0.6 MB.
        from imserver.media.previews.pages import LinkedPage, PageTask

        accept = {
            "Accept": "text/html,application/xhtml+xml;q=0.9",
            "Accept-Encoding": "gzip",
        }
        url, content, headers = self._get(url, accept, most)
        content_type = headers.get("content-type", "")
        if not _is_page(content_type):
            return None

        task = PageTask(
            content,
            type=content_type[:_TYPE_CHARACTERS],
            encoding=headers.get("content-encoding", "")[:_ENCODING_CHARACTERS],
            url=url,
        )
        line = msgspec.json.encode(task)
        try:
            answer = self._worker.run(line, app, sender, _READ_SECONDS)
        except TooCostly:
            return None
        if answer:
            return msgspec.json.decode(answer, type=LinkedPage | None)
        return None

    def picture(self, url: str, most: int) -> bytes:
        """Fetch a picture, and return its bytes.

        Returns ``b""`` if it is larger than ``most`` bytes, or if the URL
        cannot be fetched. Switches greenlets. Raises Unreachable, and the
        errors of ``admit``.
        """
        link = normalised(url)
        if link is None or not most:
            return b""
        # One more byte tells whether the picture is too large.
        _, content, _ = self._get(link, {"Accept": "image/*"}, most + 1)
        if len(content) > most:
            return b""
        return content

    def _get(
        self, url: str, accept: Mapping[str, str], most: int
    ) -> tuple[str, bytes, Mapping[str, str]]:
        """Request a URL, and follow its redirections.

        Returns the last URL, the first ``most`` bytes of the body there, and
        the headers. Raises Unreachable, and the errors of ``admit``.
        """
        deadline = monotonic() + self._seconds
        headers = {**accept, "Connection": "close"}
        for _ in range(_MAX_REQUESTS):
            # Each step is checked anew, because a redirection may lead to any
            # host.
            self._admit(urlsplit(url).hostname or "")
            status, body, answer_headers = self._get_once(url, headers, deadline, most)
            if status == HTTPStatus.OK:
                return url, body, answer_headers
            if status not in _REDIRECTIONS:
                raise Unreachable(f"the status is {status}")
            next_url = _redirected(url, answer_headers.get("location", ""))
            if next_url is None:
                break
            url = next_url
        raise Unreachable("the redirections lead to no page")

    def _get_once(
        self, url: str, headers: Mapping[str, str], deadline: float, most: int
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Request a URL without following a redirection, and count the bytes.
        Raises Unreachable."""
        seconds = max(deadline - monotonic(), _SHORTEST_WAIT_SECONDS)
        status, body, answer_headers = self._requests.exchange(
            "GET", url, None, headers, seconds, most
        )
        self.bytes += len(body)
        return status, body, answer_headers

    def close(self) -> None:
        """End the process, and close the connections."""
        self._worker.close()
        self._requests.close()


def _is_page(content_type: str) -> bool:
    """Whether a header ``Content-Type`` names HTML, for example ``text/html;
    charset=utf-8``."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("text/html", "application/xhtml+xml")


def _redirected(url: str, location: str) -> str | None:
    """The URL to which a header ``Location`` leads, or None if it is no URL of
    a page. The header may be relative to ``url``."""
    beginning = location[:_LOCATION_CHARACTERS]
    with suppress(ValueError):
        # Servers send UTF-8, but headers are decoded as Latin-1.
        text = beginning.encode("latin-1").decode("utf-8", "replace")
        return normalised(urljoin(url, text))
    return None
