"""Pages are fetched from public addresses only, whatever names, look-ups and
redirections say.

Loopback, which a setting allows, stands for the public internet: it is the only
host of the tests.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from time import process_time

import msgspec
import pytest

from imserver.gateway.transport.proxies import is_loopback
from imserver.media.previews import pages
from imserver.media.previews.fetching import Fetching, first_link, normalised
from imserver.media.previews.pages import (
    PAGE_BYTES,
    LinkedPage,
    PageTask,
    clean,
    read,
    unpacked,
)
from imserver.media.uploads.worker import TooCostly, Worker
from imserver.plugin.runtime import PublicRequests, Unreachable
from tests.gateway.transport.test_public_requests import NOT_PUBLIC
from tests.media.previews.site import Site, html, picture, redirect
from tests.support import ROOT

INSIDE = [each for each in NOT_PUBLIC if not is_loopback(each.partition("%")[0])]
REFUSED = r"not public|not valid|no page|expected an https"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as one:
        one.pages["/page"] = html("<title>a page</title>")
        yield one


Make = Callable[..., Fetching]


@pytest.fixture
def make() -> Iterator[Make]:
    started: list[Fetching] = []

    def start(
        resolve: Callable[[str, int], Sequence[str]],
        is_allowed: bool = True,
        seconds: float = 10.0,
    ) -> Fetching:
        started.append(
            Fetching(
                PublicRequests(is_allowed, resolve, pages=True),
                lambda host: None,
                seconds,
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.close()


def by_name(host: str, _port: int) -> list[str]:
    """``10.0.0.1.inside.example`` has this address, others are on loopback."""
    address, _, rest = host.partition(".inside.")
    return [address.replace("-", ":")] if rest else ["127.0.0.1"]


def literal_of(address: str) -> str:
    return f"[{address.partition('%')[0]}]" if ":" in address else address


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_inside_address_is_reached(make: Make, address: str) -> None:
    """As a name, or as itself, with http and https; a loopback address without
    the setting."""
    literal = literal_of(address)
    for host in ("a.example", literal):
        for scheme in ("http", "https"):
            with pytest.raises(Unreachable, match=REFUSED):
                make(lambda _host, _port: [address], False).page(
                    "app", "ann", f"{scheme}://{host}/", 1000
                )


def test_no_inside_server_is_connected_to_and_what_is_no_redirection_leads_nowhere(
    make: Make, site: Site
) -> None:
    """Without the setting loopback is inside."""
    for host in (
        "127.0.0.1",
        "localhost",
        "[::1]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "a.example",
    ):
        with pytest.raises(Unreachable):
            make(lambda _host, _port: ["127.0.0.1"], False).page(
                "app", "ann", f"http://{host}:{site.port}/page", 1000
            )
    assert site.connections == 0
    for target in (
        "",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://a:b@c.example/",
        "//",
        "http://[",
        "\x80",
    ):
        site.pages["/x"] = redirect(target)
        with pytest.raises(Unreachable):
            make(by_name).page("app", "ann", f"{site.url}/x", 1000)


@pytest.mark.parametrize("address", INSIDE)
def test_no_redirection_leads_inside(make: Make, site: Site, address: str) -> None:
    literal = literal_of(address)
    for number, target in enumerate(
        (f"http://{literal}/", f"http://{address.replace(':', '-')}.inside.example/")
    ):
        site.pages[f"/{number}"] = redirect(target)
        with pytest.raises(Unreachable, match=REFUSED):
            make(by_name).page("app", "ann", f"{site.url}/{number}", 1000)
        with pytest.raises(Unreachable, match=REFUSED):
            make(by_name).picture(f"{site.url}/{number}", 1000)
    assert len(site.requests) == 4


def test_a_name_that_changes_between_look_ups_gains_nothing(
    make: Make, site: Site
) -> None:
    """What is connected to is the address that was checked; the next request
    looks the name up anew."""
    answers = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "169.254.169.254"]]
    names: list[str] = []

    def change(host: str, _port: int) -> list[str]:
        names.append(host)
        return answers[len(names) - 1]

    fetching = make(change)
    url = f"http://rebinds.example:{site.port}"
    site.pages["/again"] = redirect("/page")
    with pytest.raises(Unreachable, match="not public"):
        fetching.page("app", "ann", f"{url}/again", 1000)
    with pytest.raises(Unreachable, match="not public"):
        fetching.page("app", "ann", f"{url}/page", 1000)
    assert names == ["rebinds.example"] * 3
    assert site.requests == ["/again"]


def test_each_step_of_a_redirection_is_counted_and_they_end(
    make: Make, site: Site
) -> None:
    hosts: list[str] = []
    fetching = Fetching(PublicRequests(True, by_name, pages=True), hosts.append, 10.0)
    site.pages |= {
        "/loop": redirect("/loop"),
        "/one": redirect(f"http://other.example:{site.port}/two"),
        "/two": redirect("page"),
    }
    found = fetching.page("app", "ann", f"http://a.example:{site.port}/one", 1000)
    assert found.title == "a page"
    assert hosts == ["a.example", "other.example", "other.example"]
    with pytest.raises(Unreachable, match="redirections"):
        fetching.page("app", "ann", f"{site.url}/loop", 1000)
    assert site.requests.count("/loop") == 5
    fetching.close()


def test_sizes_and_times_are_bounded(make: Make, site: Site) -> None:
    site.pages["/long"] = html("<title>long</title>" + "x" * 3_000_000)
    fetching = make(by_name)
    found = fetching.page("app", "ann", f"{site.url}/long", 1000)
    assert found.title == "long"
    assert fetching.bytes == 1000
    site.pages["/cup"] = picture(10, 10)
    size = len(picture(10, 10)[1])
    assert len(fetching.picture(f"{site.url}/cup", size)) == size
    assert fetching.picture(f"{site.url}/cup", size - 1) == b""


HAN = "".join(map(chr, range(0x4E00, 0x9E00, 3)))
LONG_NAMES = [
    "https://" + HAN,
    "https://" + "\ufdfa" * 7_990,
    ("https://" + "\ufdfa" * 240 + " ") * 32,
]


def test_long_names_of_hosts_cost_nothing(make: Make, site: Site) -> None:
    """In a message, as the address of a picture, and in a redirection. They
    took up to eight seconds."""
    fetching = make(by_name)
    site.pages["/away"] = redirect(f"https://{HAN}/".encode().decode("latin-1"))
    began = process_time()
    for text in LONG_NAMES:
        assert first_link(text) is None
        assert fetching.picture(text, 1000) == b""
    with pytest.raises(Unreachable, match="no page"):
        fetching.page("app", "ann", f"{site.url}/away", 1000)
    assert process_time() - began < 0.5
    assert first_link("https://\u4e2d\u6587.example/") == "https://xn--fiq228c.example/"


# --- what a page says about itself, read as the process does, and by the
# process

URL = "https://a.example/b/c?d"


def page_of(
    text: str | bytes, kind: str = "text/html", encoding: str = ""
) -> LinkedPage | None:
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
        (
            '<title>a</title><meta property=og:site_name content="S">',
            LinkedPage("a", "", "S"),
        ),
        (
            '<title>a</title><meta property="og:image" content="p.png">',
            LinkedPage("a", picture="https://a.example/b/p.png"),
        ),
        (
            '<base href="//c.example/x/"><title>a</title><meta name=twitter:image content="p.png">',
            LinkedPage("a", picture="https://c.example/x/p.png"),
        ),
        (
            '<title>a</title><meta property=og:image content="data:image/png;base64,xx">',
            LinkedPage("a"),
        ),
        (
            '<title>a</title><meta property=og:image content="https://x/'
            + "y" * 1000
            + '">',
            LinkedPage("a"),
        ),
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
        (
            b'<meta charset="gbk">' + "<title>Grüße 茶</title>".encode("gb18030"),
            "text/html",
        ),
        (b"<meta charset=utf-16>" + "<title>Grüße 茶</title>".encode(), "text/html"),
    ],
)
def test_encodings(content: bytes, kind: str) -> None:
    assert page_of(content, kind) == LinkedPage("Grüße 茶")


def test_encodings_that_nobody_has_named() -> None:
    assert page_of("<title>Grüße</title> …".encode("windows-1252")) == LinkedPage(
        "Grüße"
    )
    assert page_of(
        "<title>Straße</title>".encode("shift_jis", "ignore"), "text/html; charset=zip"
    ) == LinkedPage("Strae")
    assert page_of("<title>茶</title>茶".encode()[:-1]) == LinkedPage("茶")
    for name in ("zlib", "rot13", "unicode_escape", "idna", "utf-7", "hex"):
        assert page_of(
            b"<title>a</title>    ", f"text/html; charset={name}"
        ) == LinkedPage("a")


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
    assert page_of(
        zlib.compress(b"<title>a</title>"), encoding="deflate"
    ) == LinkedPage("a")
    assert page_of(
        gzip.compress(b"<title>a</title>" + bytes(range(256)) * 40)[:300],
        encoding="gzip",
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
            return msgspec.json.decode(
                worker.run(task, "app", "", 60.0), type=LinkedPage | None
            )
        except TooCostly:
            return None

    longest = (
        f'<title>{"茶" * 9999}</title><meta name=description content="{"茶" * 9999}">'
    )
    shown = run(longest.encode())
    assert (len(shown.title), len(shown.description)) == (200, 300)
    assert run(b"\xff\x00", "br") is None
    for piece in (b"<", b"<a b='", b"<![CDATA["):  # some end it by SIGPROF
        run(piece * (524_288 // len(piece)))
    assert run(b"<title>after</title>") == LinkedPage("after")


def test_links_are_those_of_the_page_of_messages() -> None:
    file = ROOT / "tests/vectors/links.json"
    for text, links in json.loads(file.read_text(encoding="utf-8")):
        assert first_link(text) == (normalised(links[0]) if links else None), text
    for piece in (
        "com.",
        "a@",
        "a.a@",
        "*a",
        "`",
        "_a ",
        "~~a",
        "https://",
        "www.",
        "```",
    ):
        first_link(piece * 50_000)  # takes no long


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://A.example", "https://a.example/"),
        (
            "https://a.example/x y/é?q=ü&r=%20#top",
            "https://a.example/x%20y/%C3%A9?q=%C3%BC&r=%20",
        ),
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
    assert normalised(url) == link
