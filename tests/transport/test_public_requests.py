"""Requests to URLs of users: which addresses are public, and what lies between look-up and answer."""

import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gevent
import pytest
from gevent.resolver.ares import Resolver
from gevent.server import DatagramServer

from imserver.transport.outgoing import Unreachable
from imserver.transport.public_requests import BadUrl, PublicRequests, check_url, is_public, look_up
from tests.integration.receiver import Receiver
from tests.integration.test_webhooks import certificate_of_loopback

NAME = "bot.example"

PUBLIC = (
    "1.1.1.1",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "223.255.255.255",
    "2606:2800:220:1::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2002:0101:0101::1",
)
NOT_PUBLIC = (
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:0:7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1.1.1.1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:0a00:0001::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    ["https://a.example", "https://a.example:8443/x?y=1", "https://1.1.1.1/", "https://[2606:2800::1]/"],
)
def test_a_url_may_be(url: str) -> None:
    check_url(url, False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a.example/",
        "ftp://a.example/",
        "https:///x",
        "https://user:secret@a.example/",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example\\@127.0.0.1/",
        "https://a.example/\r\nx",
        "https://a.example/ä",
        "https://127.0.0.1/",
        "https://10.1.1.1:443",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[1.2]/",
        "https://a.example/" + "x" * 1000,
    ],
)
def test_a_url_may_not_be(url: str) -> None:
    with pytest.raises(BadUrl):
        check_url(url, False)


def test_loopback_is_allowed_by_the_setting_only() -> None:
    for url in ("http://127.0.0.1:1/", "http://[::1]/", "https://127.0.0.1/", "http://localhost/"):
        check_url(url, True)
        if "localhost" not in url:
            with pytest.raises(BadUrl):
                check_url(url, False)
    for url in ("http://1.1.1.1/", "https://192.168.0.1/"):
        with pytest.raises(BadUrl):
            check_url(url, True)


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An https server on loopback with a certificate of :data:`NAME`, which is trusted."""
    certificate, key = certificate_of_loopback(tmp_path, NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver(tls) as result:
        yield result


class Names:
    """Resolves names to ``addresses``."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.names: list[str] = []

    def __call__(self, host: str, _port: int) -> list[str]:
        self.names.append(host)
        return list(self.addresses)


def url_of(receiver: Receiver, host: str = NAME) -> str:
    return receiver.url.replace("127.0.0.1", host) + "/hook"


def post(outbound: PublicRequests, url: str, answer_bytes: int = 1000) -> tuple[int, bytes]:
    try:
        return outbound.post(url, b"secret", b"{}", 1, "delivery", 20.0, answer_bytes)
    finally:
        outbound.close()


def test_the_connection_goes_to_the_checked_address_and_tls_verifies_the_name(receiver: Receiver) -> None:
    names = Names("127.0.0.1")
    receiver.reply = lambda _: (200, b'{"text":"hi"}')
    assert post(PublicRequests(True, names), url_of(receiver)) == (200, b'{"text":"hi"}')
    assert names.names == [NAME]
    (one,) = receiver.posts
    assert one.headers["host"].partition(":")[0] == NAME
    assert one.headers["imserver-signature"].startswith("t=1,v1=")
    with pytest.raises(Unreachable, match="certificate"):
        post(PublicRequests(True, names), url_of(receiver, "other.example"))
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("1.1.1.1", "127.0.0.1"), ("::ffff:127.0.0.1",)])
def test_a_name_with_an_address_that_is_not_public_is_refused(
    receiver: Receiver, addresses: tuple[str, ...]
) -> None:
    with pytest.raises(Unreachable, match="not public"):
        post(PublicRequests(False, Names(*addresses)), url_of(receiver))
    assert receiver.connections == 0


def test_a_name_that_is_public_at_first_gains_nothing(receiver: Receiver) -> None:
    """What was checked is what is connected to: the name is resolved once for each connection."""
    names = Names("127.0.0.1")
    outbound = PublicRequests(True, names)
    receiver.reply = lambda _: (200, b"", {"Connection": "close"})
    assert outbound.post(url_of(receiver), b"", b"{}", 1, "x", 20.0)[0] == 200
    names.addresses = ("10.0.0.1",)
    with pytest.raises(Unreachable, match="not public"):
        post(outbound, url_of(receiver))
    assert names.names == [NAME, NAME]


def test_http_is_for_loopback_with_the_setting() -> None:
    with Receiver() as plain:
        url = plain.url
        assert post(PublicRequests(True, Names("127.0.0.1")), url)[0] == 200
        with pytest.raises(Unreachable, match="https"):
            post(PublicRequests(False, Names("127.0.0.1")), url)
        with pytest.raises(Unreachable, match="this machine only"):
            post(PublicRequests(True, Names("1.1.1.1")), url_of(plain))
        assert len(plain.posts) == 1


def test_redirections_are_not_followed_and_answers_are_bounded(receiver: Receiver) -> None:
    names = Names("127.0.0.1")
    receiver.reply = lambda _: (302, b"", {"Location": "https://127.0.0.1/"})
    assert post(PublicRequests(True, names), url_of(receiver))[0] == 302
    receiver.reply = lambda _: (200, b"x" * 1001)
    with pytest.raises(Unreachable, match="more than 1000 bytes"):
        post(PublicRequests(True, names), url_of(receiver))
    assert len(receiver.posts) == 2


def test_a_look_up_that_hangs_ends_with_the_time_of_the_request() -> None:
    def hang(_host: str, _port: int) -> list[str]:
        gevent.sleep(60)
        return []

    outbound = PublicRequests(False, hang)
    with pytest.raises(Unreachable, match="no answer within"):
        outbound.post("https://bot.example/", b"", b"{}", 1, "x", 0.05)


class NameServer(DatagramServer):
    """Answers with the address 1.1.1.1 for ``ok.example``, that there is no such name for ``none.example``,
    and not at all for any other name."""

    def handle(self, question: bytes, client: tuple[str, int]) -> None:
        head, name = question[:2], question[12:].partition(b"\0")[0]
        asking_for = question[12 : 12 + len(name) + 5]
        if name.endswith(b"\x04none\x07example"):
            self.socket.sendto(head + bytes.fromhex("8183 0001 0000 0000 0000") + asking_for, client)
        elif name.endswith(b"\x02ok\x07example"):
            is_v4 = asking_for[-4:-2] == b"\0\1"
            answer = bytes.fromhex("c00c 0001 0001 0000003c 0004 01010101") if is_v4 else b""
            counts = bytes.fromhex("8180 0001 0001" if is_v4 else "8180 0001 0000") + bytes(4)
            self.socket.sendto(head + counts + asking_for + answer, client)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look-ups ask a :class:`NameServer`."""
    server = NameServer("127.0.0.1:0")
    server.start()
    resolver = partial(Resolver, servers=["127.0.0.1"], udp_port=server.server_port)
    monkeypatch.setattr("gevent.resolver.ares.Resolver", resolver)
    yield
    server.stop()


@pytest.mark.usefixtures("name_server")
def test_names_are_looked_up() -> None:
    assert look_up("ok.example", 443) == ["1.1.1.1"]
    assert look_up("127.0.0.1", 80) == ["127.0.0.1"]
    assert look_up("::1", 80) == ["::1"]
    assert "127.0.0.1" in look_up("localhost", 80)
    for name, problem in (("none.example", "not known"), ("x" * 64, "label")):
        with pytest.raises(OSError, match=problem):
            look_up(name, 80)


@pytest.mark.usefixtures("name_server")
def test_name_servers_that_hang_delay_nobody_else() -> None:
    slow = [gevent.spawn(look_up, f"{number}.hangs.example", 443) for number in range(100)]
    gevent.sleep(0)
    assert look_up("ok.example", 443) == ["1.1.1.1"]
    assert not any(each.ready() for each in slow)
    gevent.killall(slow)
    assert look_up("ok.example", 443) == ["1.1.1.1"]
