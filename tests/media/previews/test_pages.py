"""What a page says about itself, read as the process does, and by the process."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

import msgspec
import pytest

from imserver.media.previews import pages
from imserver.media.previews.fetching import first_link, normal
from imserver.media.previews.pages import PAGE_BYTES, LinkedPage, PageTask, clean, read, unpacked
from imserver.media.uploads.worker import TooCostly, Worker
from tests.support import ROOT

URL = "https://a.example/b/c?d"


def page_of(text: str | bytes, kind: str = "text/html", encoding: str = "") -> LinkedPage | None:
    content = text.encode() if isinstance(text, str) else text
    return read(PageTask(content, kind, encoding, URL))


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("<title> Tea\n &amp; cake </title>", LinkedPage("Tea & cake")),
        ("<TITLE>a</TITLE><title>b</title>", LinkedPage("a")),
        ('<title>a</title><meta property="og:title" content="b">', LinkedPage("b")),
        ("<title>a</title><meta name=twitter:title content=b>", LinkedPage("b")),
        ('<title>a</title><meta name="Description" content="d">', LinkedPage("a", "d")),
        ('<title>a</title><meta property=og:site_name content="S">', LinkedPage("a", "", "S")),
        (
            '<title>a</title><meta property="og:image" content="p.png">',
            LinkedPage("a", picture="https://a.example/b/p.png"),
        ),
        (
            '<base href="//c.example/x/"><title>a</title><meta name=twitter:image content="p.png">',
            LinkedPage("a", picture="https://c.example/x/p.png"),
        ),
        ('<title>a</title><meta property=og:image content="data:image/png;base64,xx">', LinkedPage("a")),
        ('<title>a</title><meta property=og:image content="https://x/' + "y" * 1000 + '">', LinkedPage("a")),
        ("<title>a</title><body><meta property=og:title content=b>", LinkedPage("a")),
        ("<script>'<title>b</title>'</script><title>a</title>", LinkedPage("a")),
        ("<!-- <title>b</title> --><title>a</title>", LinkedPage("a")),
        ("<title> \u200e\u202e </title>", None),
        ("", None),
    ],
)
def test_what_a_page_says(text: str, page: LinkedPage | None) -> None:
    assert page_of(text) == page


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("<title>Grüße 茶</title>".encode(), "text/html"),
        ("<title>Grüße 茶</title>".encode("utf-16"), "text/html"),
        ("<title>Grüße 茶</title>".encode("utf-8-sig"), "text/html; charset=latin1"),
        ("<title>Grüße 茶</title>".encode("gb18030"), "text/html; charset=GB2312"),
        (b'<meta charset="gbk">' + "<title>Grüße 茶</title>".encode("gb18030"), "text/html"),
        (b"<meta charset=utf-16>" + "<title>Grüße 茶</title>".encode(), "text/html"),
    ],
)
def test_encodings(content: bytes, kind: str) -> None:
    assert page_of(content, kind) == LinkedPage("Grüße 茶")


def test_encodings_that_nobody_has_named() -> None:
    assert page_of("<title>Grüße</title> …".encode("windows-1252")) == LinkedPage("Grüße")
    assert page_of(
        "<title>Straße</title>".encode("shift_jis", "ignore"), "text/html; charset=zip"
    ) == LinkedPage("Strae")
    assert page_of("<title>茶</title>茶".encode()[:-1]) == LinkedPage("茶")
    for name in ("zlib", "rot13", "unicode_escape", "idna", "utf-7", "hex"):
        assert page_of(b"<title>a</title>    ", f"text/html; charset={name}") == LinkedPage("a")


def test_texts_are_clean() -> None:
    assert clean("a\u202eb\u2066c\x00\x1b[0m\ufeff\u200bd", 50) == "abc[0md"
    assert clean("\r\n a \u2028 b\t\u00a0c ", 50) == "a b c"
    assert clean("👨\u200d👩 مي\u200cخ", 50) == "👨\u200d👩 مي\u200cخ"
    assert clean("x" * 500, 200) == "x" * 199 + "…"
    assert clean("\ud800a\U000e0041", 50) == "a"
    assert len(clean("e\u0301" * 100_000, 60)) == 60


def test_bombs_are_cut() -> None:
    bomb = gzip.compress(b"<title>a</title>" + b" " * 50_000_000)
    assert len(unpacked(bomb, "gzip")) == PAGE_BYTES
    assert page_of(bomb, encoding="gzip") == LinkedPage("a")
    assert page_of(zlib.compress(b"<title>a</title>"), encoding="deflate") == LinkedPage("a")
    assert page_of(
        gzip.compress(b"<title>a</title>" + bytes(range(256)) * 40)[:300], encoding="gzip"
    ) == LinkedPage("a")
    with pytest.raises(ValueError, match="not known"):
        unpacked(b"", "br")
    with pytest.raises(zlib.error):
        unpacked(b"no gzip", "gzip")


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker(pages.__file__, 65536)
    yield one
    one.close()


def test_the_process_reads_pages_and_survives_them(worker: Worker) -> None:
    def run(content: bytes, encoding: str = "") -> LinkedPage | None:
        task = msgspec.json.encode(PageTask(content, "text/html", encoding, URL))
        try:
            return msgspec.json.decode(worker.run(task, "app", "", 60.0), type=LinkedPage | None)
        except TooCostly:
            return None

    longest = f'<title>{"茶" * 9999}</title><meta name=description content="{"茶" * 9999}">'
    shown = run(longest.encode())
    assert shown is not None
    assert (len(shown.title), len(shown.description)) == (200, 300)
    assert run(b"\xff\x00", "br") is None
    for piece in (b"<", b"<a b='", b"<![CDATA["):  # some end it by SIGPROF
        run(piece * (524_288 // len(piece)))
    assert run(b"<title>after</title>") == LinkedPage("after")


def test_links_are_those_of_the_page_of_messages() -> None:
    file = ROOT / "tests/vectors/links.json"
    for text, links in json.loads(file.read_text(encoding="utf-8")):
        assert first_link(text) == (normal(links[0]) if links else None), text
    for piece in ("com.", "a@", "a.a@", "*a", "`", "_a ", "~~a", "https://", "www.", "```"):
        first_link(piece * 50_000)  # takes no long


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://A.example", "https://a.example/"),
        ("https://a.example/x y/é?q=ü&r=%20#top", "https://a.example/x%20y/%C3%A9?q=%C3%BC&r=%20"),
        ("https://münchen.example:8443/", "https://xn--mnchen-3ya.example:8443/"),
        ("http://[::1]/x", "http://[::1]/x"),
        ("https://user@a.example/", None),
        ("https://a.example\\@b.example/", None),
        ("https:///x", None),
        ("https://a.example:x/", None),
        ("https://" + "ä" * 70 + ".example/", None),
        ("https://a.example/" + "x" * 1000, None),
        ("https://a\u2100b.example/", None),
    ],
)
def test_urls_are_requested_in_ascii(url: str, link: str | None) -> None:
    assert normal(url) == link
