"""Whose pages are strangers here, and which of them are let in."""

import pytest

from imserver.gateway.errors import Problems
from imserver.gateway.transport.gate import OPAQUE, GatePolicy, Origins
from imserver.gateway.transport.proxies import TrustedProxies, is_loopback

PROXIES = TrustedProxies(("10.0.0.0/8",))


def origins(any_origin: bool = False, *own: str) -> Origins:
    found = Origins(PROXIES, GatePolicy(any_origin=any_origin, origins=own))
    found.open_dialects.add("client")
    return found


OWN = ("https://im.example", "https://IM.example.:8443")
STRANGE = {
    "https://shop.example": "shop.example",
    "https://im.example.evil.example": "im.example.evil.example",
    **dict.fromkeys(("null", "", "file://", "https://[", "https://" + "x" * 300), OPAQUE),
    **dict.fromkeys(("http://im.example@shop.example", "http://shop.example/im.example"), OPAQUE),
}


@pytest.mark.parametrize(
    ("origin", "host", "site", "expected"),
    [
        *((origin, "im.example:8089", None, "") for origin in (None, *OWN)),
        *((f"http://{host}:8080", f"{host}:8089", None, "") for host in ("127.0.0.1", "[::1]")),
        *((origin, "im.example", None, expected) for origin, expected in STRANGE.items()),
        ("", "", None, OPAQUE),
        *((None, "im.example", site, "") for site in ("same-origin", "none")),
        *((None, "im.example", site, OPAQUE) for site in ("same-site", "cross-site", "")),
        ("https://shop.example", "im.example", "cross-site", "shop.example"),
        ("https://im.example:8443", "im.example", "same-site", ""),
    ],
)
def test_a_stranger_is_a_page_of_another_host_and_one_that_only_embeds_an_address(
    origin: str | None, host: str, site: str | None, expected: str
) -> None:
    headers = {"host": host, "origin": origin, "sec-fetch-site": site}
    present = {name: value for name, value in headers.items() if value is not None}
    assert origins().stranger("192.0.2.1", present) == expected


def test_the_node_allows_its_own_those_it_names_and_those_of_any_app() -> None:
    headers = {"host": "10.0.0.5:8080", "origin": "https://im.example", "x-forwarded-host": "im.example, x"}
    assert origins().stranger("10.0.0.1", headers) == ""
    assert origins().stranger("192.0.2.1", headers) == "im.example"
    for dialect, expected in (("cmd", False), ("client", True), ("sse", False), ("unknown", False)):
        assert origins().allows("shop.example", dialect) is expected, dialect
    assert origins().allows("", "cmd")
    assert origins(False, "https://shop.example:9").allows("shop.example", "cmd")
    assert origins(True).allows("shop.example", "cmd")
    one = origins(False, "friend.example")
    assert one.passes("", False)
    assert one.passes("friend.example", False)
    assert not one.passes("shop.example", False)
    assert one.passes("shop.example", True), "the dialect allows it"
    listed = origins(False, "https://shop.example/", "partner.example:8443/chat", "[2001:db8::1]/")
    assert all(map(listed.lists, ("shop.example", "partner.example", "2001:db8::1"))), "also with a path"
    one.set_apps({"shop.example"}, False)
    assert one.passes("shop.example", False)
    assert not one.allows("shop.example", "cmd"), "the login still asks the app"
    assert not one.passes("other.example", False)
    one.set_apps(set(), True)
    assert one.passes("other.example", False)
    one.set_apps(set(), False)
    one.set_policy(GatePolicy(any_origin=True))
    assert one.passes("other.example", False)


MORE_THAN_THIS_MACHINE = (
    *("evil.example", "evil.example//127.0.0.1", "http://evil.example@localhost", "localhost.evil.example"),
    *(r"evil.example\@127.0.0.1", "evil.example@127.0.0.1", "evil.example:80@127.0.0.1"),
    *("127.0.0.1%evil.example", "[::1%evil.example]", "[::1].evil.example", "[::1]evil.example", "[::1"),
    *("127.0.0.1:80:evil", "127.0.0.1:evil.example", "127.0.0.1/evil", "127.0.0.1?evil", "127.0.0.1#evil"),
    *("127.0.0.1, evil.example", "127.0.0.1 evil.example", "127.0.0.1..", "\t127.0.0.1", ":80", "."),
)
THIS_MACHINE = (
    *("127.0.0.1", "127.0.0.1:", "127.1.2.3:8080", "127.0.0.1.", "LocalHost.:80", "[::1]", "[::1]:80"),
    "192.0.2.7",
)


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [*((host, True) for host in MORE_THAN_THIS_MACHINE), *((host, False) for host in THIS_MACHINE)],
)
def test_demo_mode_accepts_names_and_addresses_of_this_machine_only(host: str, is_refused: bool) -> None:
    demo = Origins(TrustedProxies(()), GatePolicy(demo=True, hosts=("0.0.0.0",)))
    origin = host if "://" in host else f"http://{host}"
    found = [
        demo.objection({"host": host}, "/"),
        demo.objection({"host": "127.0.0.1", "origin": origin}, "/"),
    ]
    assert found == [Problems.HOST_REFUSED, Problems.ORIGIN_REFUSED] if is_refused else [None, None]


def test_refused_pages_of_strangers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    origins = Origins(TrustedProxies(()), GatePolicy())
    for number in range(200):
        for _ in range(2):
            origins.log_refused("connection", f"{number}.example", "server.origins", "192.0.2.1:1")
    assert len(caplog.records) == 100


# --- who the client is behind trusted proxies ---------------------------------------------------------------


TRUSTED = TrustedProxies(("127.0.0.0/8", "::1/128", "10.0.0.0/8", "2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("host", "forwarded", "client"),
    [
        *(("192.0.2.7", forwarded, "192.0.2.7") for forwarded in ("", "203.0.113.9")),
        *(("127.0.0.1", f"{before}203.0.113.9", "203.0.113.9") for before in ("", "6.6.6.6, ")),
        *(
            ("127.0.0.1", f"203.0.113.9{after}", "203.0.113.9")
            for after in (", 10.1.2.3", " , 10.1.2.3,127.0.0.1", ":4711", ":4711, 10.1.2.3:80")
        ),
        *((proxy, "203.0.113.9", "203.0.113.9") for proxy in ("2001:db8:1::5", "::ffff:10.0.0.1")),
        *(
            ("::1", forwarded, "2001:db8::9")
            for forwarded in ("[2001:db8::9]", "2001:db8::9", "[2001:db8::9]:4711")
        ),
        *(
            ("127.0.0.1", forwarded, "127.0.0.1")
            for forwarded in ("", ",", "203.0.113.9,", "nonsense", "203.0.113.9, unknown", "fe80::1%eth0")
        ),
        ("127.0.0.1", "10.1.2.3, 10.3.2.1", "10.1.2.3"),
        ("127.0.0.1", "203.0.113.9, <b>, 10.1.2.3", "10.1.2.3"),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_is(host: str, forwarded: str, client: str) -> None:
    assert TRUSTED.client(host, forwarded) == client
    assert TrustedProxies(()).client(host, forwarded) == host, "nobody is trusted when no proxy is"
    assert TrustedProxies(("127.0.0.1/8", "::1")).trusts("127.9.9.9"), "a network may have bits of its hosts"


@pytest.mark.parametrize("host", ["", "nonsense", "127.0.0", "127.0.0.1:80", "fe80::1%eth0", "1" * 500])
def test_what_is_no_trusted_address_is_not_trusted(host: str) -> None:
    assert not TRUSTED.trusts(host)


def test_loopback_is_loopback_in_either_family() -> None:
    hosts = ("127.0.0.1", "127.200.0.1", "::1", "::ffff:127.0.0.1")
    others = ("::ffff:192.0.2.7", "10.0.0.1", "fe80::1%lo", "", "localhost")
    assert [host for host in (*hosts, *others) if is_loopback(host)] == [*hosts]
