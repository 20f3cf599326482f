"""Whose pages are strangers here, and which of them are let in."""

import pytest

from imserver.gateway.errors import Problems
from imserver.gateway.transport.gate import OPAQUE, GatePolicy, Origins
from imserver.gateway.transport.proxies import TrustedProxies

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


def test_a_trusted_proxy_says_what_host_it_was_asked_for() -> None:
    headers = {"host": "10.0.0.5:8080", "origin": "https://im.example", "x-forwarded-host": "im.example, x"}
    assert origins().stranger("10.0.0.1", headers) == ""
    assert origins().stranger("192.0.2.1", headers) == "im.example"


def test_the_node_allows_its_own_those_it_names_or_all() -> None:
    for dialect, expected in (("cmd", False), ("client", True), ("sse", False), ("unknown", False)):
        assert origins().allows("shop.example", dialect) is expected, dialect
    assert origins().allows("", "cmd")
    assert origins(False, "https://shop.example:9").allows("shop.example", "cmd")
    assert origins(True).allows("shop.example", "cmd")


def test_the_gate_lets_in_whom_the_node_or_any_app_allows() -> None:
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
def test_demo_mode_accepts_plain_names_and_addresses_of_this_machine_only(
    host: str, is_refused: bool
) -> None:
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
