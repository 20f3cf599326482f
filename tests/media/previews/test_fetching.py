"""Pages are fetched from public addresses only, whatever names, look-ups and redirections say.

Loopback, which a setting allows, stands for the public internet: it is the only host of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import process_time

import pytest

from imserver.gateway.transport.proxies import is_loopback
from imserver.media.previews.fetching import Fetching, first_link
from imserver.plugin.runtime import PublicRequests, Unreachable
from tests.gateway.transport.test_public_requests import NOT_PUBLIC
from tests.media.previews.site import Site, html, picture, redirect

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
        resolve: Callable[[str, int], Sequence[str]], is_allowed: bool = True, seconds: float = 10.0
    ) -> Fetching:
        started.append(Fetching(PublicRequests(is_allowed, resolve, pages=True), lambda host: None, seconds))
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
    """As a name, or as itself, with http and https; a loopback address without the setting."""
    literal = literal_of(address)
    for host in ("a.example", literal):
        for scheme in ("http", "https"):
            with pytest.raises(Unreachable, match=REFUSED):
                make(lambda _host, _port: [address], False).page("app", "ann", f"{scheme}://{host}/", 1000)


def test_no_inside_server_is_connected_to_and_what_is_no_redirection_leads_nowhere(
    make: Make, site: Site
) -> None:
    """Without the setting loopback is inside."""
    for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "a.example"):
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


def test_a_name_that_changes_between_look_ups_gains_nothing(make: Make, site: Site) -> None:
    """What is connected to is the address that was checked; the next request looks the name up anew."""
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


def test_each_step_of_a_redirection_is_counted_and_they_end(make: Make, site: Site) -> None:
    hosts: list[str] = []
    fetching = Fetching(PublicRequests(True, by_name, pages=True), hosts.append, 10.0)
    site.pages |= {
        "/loop": redirect("/loop"),
        "/one": redirect(f"http://other.example:{site.port}/two"),
        "/two": redirect("page"),
    }
    found = fetching.page("app", "ann", f"http://a.example:{site.port}/one", 1000)
    assert found is not None
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
    assert found is not None
    assert found.title == "long"
    assert fetching.bytes == 1000
    site.pages["/cup"] = picture(10, 10)
    size = len(picture(10, 10)[1])
    assert len(fetching.picture(f"{site.url}/cup", size)) == size
    assert fetching.picture(f"{site.url}/cup", size - 1) == b""


HAN = "".join(map(chr, range(0x4E00, 0x9E00, 3)))
LONG_NAMES = ["https://" + HAN, "https://" + "\ufdfa" * 7_990, ("https://" + "\ufdfa" * 240 + " ") * 32]


def test_long_names_of_hosts_cost_nothing(make: Make, site: Site) -> None:
    """In a message, as the address of a picture, and in a redirection. They took up to eight seconds."""
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
