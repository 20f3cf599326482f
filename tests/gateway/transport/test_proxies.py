"""Who the client is behind trusted proxies."""

import pytest

from imserver.gateway.transport.proxies import TrustedProxies, is_loopback

PROXIES = TrustedProxies(("127.0.0.0/8", "::1/128", "10.0.0.0/8", "2001:db8:1::/48"))


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
    assert PROXIES.client(host, forwarded) == client
    assert TrustedProxies(()).client(host, forwarded) == host, "nobody is trusted when no proxy is"
    assert TrustedProxies(("127.0.0.1/8", "::1")).trusts("127.9.9.9"), "a network may have bits of its hosts"


@pytest.mark.parametrize("host", ["", "nonsense", "127.0.0", "127.0.0.1:80", "fe80::1%eth0", "1" * 500])
def test_what_is_no_trusted_address_is_not_trusted(host: str) -> None:
    assert not PROXIES.trusts(host)


def test_loopback_is_loopback_in_either_family() -> None:
    hosts = ("127.0.0.1", "127.200.0.1", "::1", "::ffff:127.0.0.1")
    others = ("::ffff:192.0.2.7", "10.0.0.1", "fe80::1%lo", "", "localhost")
    assert [host for host in (*hosts, *others) if is_loopback(host)] == [*hosts]
