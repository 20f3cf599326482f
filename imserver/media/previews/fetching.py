"""From the text of a message to what a page says about itself: which link is
meant, and how it is fetched.

Each step of a redirection is a request of its own to :class:`PublicRequests`,
so its address is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from imserver.media.uploads.worker import TooCostly, Worker
from imserver.plugin.runtime import BadUrl, PublicRequests, Unreachable

if TYPE_CHECKING:
    from imserver.media.previews.pages import LinkedPage

TEXT_CHARACTERS: Final = 8_000
"""Characters of a message in which a link is looked for."""

# As in static/messages/parts/format.js. Word characters are those of Latin,
# Greek and Cyrillic.
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
_SAFE: Final = "%/:@!$&'()*+,;=~-._"


def first_link(text: str) -> str | None:
    """The URL of the first link in a message, in ASCII letters; None: there is
    none that has a preview."""
    links = (
        normal(raw if match["address"] else f"https://{raw}")
        for match in _MARKS.finditer(text[:TEXT_CHARACTERS])
        if (raw := _without_end(match["address"] or match["site"] or ""))
        and (not raw.startswith("www.") or re.match(r"www\.[^./]+\.[^./]", raw))
    )
    return next(filter(None, islice(links, 5)), None)  # tried until one has a preview


def _without_end(address: str) -> str:
    """Without the end of the sentence around it."""
    text = address.rstrip(".,:;!?'\"*")
    if text.endswith(")") and "(" not in text:
        return text[:-1].rstrip(".,:;!?'\"*")
    return text


def normal(url: str) -> str | None:
    """A URL in ASCII letters, without its fragment, as it is requested; None:
    it is none of a page."""
    url = url.partition("#")[0]
    if len(url) > PublicRequests.URL_CHARACTERS:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
        if ":" in host:
            host = f"[{host}]"
        elif not host.isascii():
            host = PublicRequests.ascii_host(host)
    except (ValueError, BadUrl):
        return None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not host:
        return None
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target = f"{target}?{quote(parts.query, safe=_SAFE + '?')}"
    link = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{target}"
    if len(link) <= PublicRequests.URL_CHARACTERS and re.fullmatch(r"[!-~]*", link):
        return link
    return None


class Fetching:
    """Fetches pages and pictures. Owner of the connections to them, and of the
    process that reads pages.

    ``admit``: called with each host before a request; it may raise.
    """

    def __init__(
        self, requests: PublicRequests, admit: Callable[[str], object], seconds: float
    ) -> None:
        self._requests = requests
        self._admit = admit
        self._seconds = seconds
        self._worker = Worker(
            str(Path(__file__).with_name("pages.py")), answer_bytes=65_536
        )
        self.bytes = 0
        """Bytes of the pages and pictures that have come."""

    def page(self, app: str, sender: str, url: str, most: int) -> LinkedPage | None:
        """What the page of a URL says about itself; None: nothing. ``most``:
        bytes that are read. ``app``, ``sender``: whose link it is; the pages of
        many are read in turn.

        Switches. Raises Unreachable, and what ``admit`` raises.
        """
        # Loaded for the first page: the module of the process takes 0.6 MB.
        from imserver.media.previews.pages import LinkedPage, PageTask

        accept = {
            "Accept": "text/html,application/xhtml+xml;q=0.9",
            "Accept-Encoding": "gzip",
        }
        url, content, headers = self._get(url, accept, most)
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() not in (
            "text/html",
            "application/xhtml+xml",
        ):
            return None
        task = PageTask(
            content, kind[:200], headers.get("content-encoding", "")[:20], url
        )
        try:
            answer = self._worker.run(msgspec.json.encode(task), app, sender, 10.0)
        except TooCostly:
            return None
        if answer:
            return msgspec.json.decode(answer, type=LinkedPage | None)
        return None

    def picture(self, url: str, most: int) -> bytes:
        """The bytes of a picture; empty: it has too many. Switches. Raises like
        :meth:`page`."""
        link = normal(url)
        if link is None or not most:
            return b""
        content = self._get(link, {"Accept": "image/*"}, most + 1)[1]
        return content if len(content) <= most else b""

    def _get(
        self, url: str, accept: Mapping[str, str], most: int
    ) -> tuple[str, bytes, Mapping[str, str]]:
        """The URL behind all redirections, the beginning of the body there, and
        the headers."""
        deadline = monotonic() + self._seconds
        headers = {**accept, "Connection": "close"}
        for _ in range(5):
            self._admit(urlsplit(url).hostname or "")
            seconds = max(deadline - monotonic(), 0.001)
            status, body, answered = self._requests.exchange(
                "GET", url, None, headers, seconds, most
            )
            self.bytes += len(body)
            if status not in (301, 302, 303, 307, 308):
                if status != 200:
                    raise Unreachable(f"the status is {status}")
                return url, body, answered
            following = None
            with suppress(ValueError):
                # Servers send UTF-8, which a header has as Latin-1.
                location = (
                    answered.get("location", "")[:2000]
                    .encode("latin-1")
                    .decode("utf-8", "replace")
                )
                following = normal(urljoin(url, location))
            if following is None:
                break
            url = following
        raise Unreachable("the redirections lead to no page")

    def close(self) -> None:
        """End the process and the connections."""
        self._worker.close()
        self._requests.close()
