"""Requests to URLs of users: which addresses are public, and what lies between
look-up and answer."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, Self

import gevent
import pytest
from gevent.resolver.ares import Resolver
from gevent.server import DatagramServer

from imserver.gateway.transport.outgoing import (
    USER_AGENT,
    BadUrl,
    Outgoing,
    PublicRequests,
    Unreachable,
    check_url,
    is_public,
    look_up,
)
from tests.integration.receiver import Receiver
from tests.integration.test_webhooks import certificate_of_loopback
from tests.support import ROOT

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
    "::ffff:127.0.0.1",
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
def test_nothing_is_connected_to_an_address_that_is_not_public(address: str) -> None:
    """Whatever a name says, with http, too."""
    assert not is_public(address)
    for scheme in ("http", "https"):
        for names in (Names(address), Names("1.1.1.1", address)):
            with pytest.raises(Unreachable, match="not public"):
                PublicRequests(False, names, pages=True).get(
                    f"{scheme}://a.example/", 5.0
                )


def is_url(url: str, allow_loopback: bool = False, pages: bool = False) -> bool:
    try:
        check_url(url, allow_loopback, pages=pages)
    except BadUrl:
        return False
    return True


URLS = (
    "https://a.example",
    "https://a.example:8443/x?y=1",
    "https://1.1.1.1/",
    "https://[2606:2800::1]/",
)
NO_URLS = (
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
    "https://a.example/" + "x" * 1000,
    "https://127.0.0.1/",
    "https://10.1.1.1:443",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[1.2]/",
    f"https://{'a' * 254}/",
    f"https://{'a' * 900}",
)
PAGES = (
    "http://a.example/",
    "https://a.example/",
    "http://a.example:80/x",
    "https://1.1.1.1:443/?q",
)
NO_PAGES = (
    "http://a.example:443/",
    "https://a.example:80/",
    "http://a.example:22/",
    "http://a.example:8080/",
    "http://127.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "https://[::ffff:10.0.0.1]/",
    "ftp://a.example/",
    "file:///etc/passwd",
)


@pytest.mark.parametrize(
    ("urls", "pages", "may_be"),
    [
        (URLS, False, True),
        (NO_URLS, False, False),
        (PAGES, True, True),
        (NO_PAGES, True, False),
    ],
    ids=["urls", "no urls", "pages", "no pages"],
)
def test_a_url_of_a_user(urls: tuple[str, ...], pages: bool, may_be: bool) -> None:
    assert [is_url(url, pages=pages) for url in urls] == [may_be] * len(urls)


def test_loopback_and_http_are_allowed_by_the_setting_only() -> None:
    for url in (
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "https://127.0.0.1/",
        "http://localhost/",
    ):
        assert is_url(url, True)
        assert not is_url(url)
    assert not any(
        is_url(url, True) for url in ("http://1.1.1.1/", "https://192.168.0.1/")
    )
    with Receiver() as plain:
        url = plain.url
        assert post(PublicRequests(True, Names("127.0.0.1")), url)[0] == 200
        with pytest.raises(Unreachable, match="https"):
            post(PublicRequests(False, Names("127.0.0.1")), url)
        with pytest.raises(Unreachable, match="this machine only"):
            post(PublicRequests(True, Names("1.1.1.1")), url_of(plain))
        assert len(plain.posts) == 1


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An https server on loopback with a certificate of :data:`NAME`, which is
    trusted."""
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


def post(
    outbound: PublicRequests, url: str, answer_bytes: int = 1000
) -> tuple[int, bytes]:
    try:
        return outbound.post(url, b"secret", b"{}", 1, "delivery", 20.0, answer_bytes)
    finally:
        outbound.close()


def test_the_connection_goes_to_the_checked_address_and_tls_verifies_the_name(
    receiver: Receiver,
) -> None:
    names = Names("127.0.0.1")
    receiver.reply = lambda _: (200, b'{"text":"hi"}')
    assert post(PublicRequests(True, names), url_of(receiver)) == (
        200,
        b'{"text":"hi"}',
    )
    assert names.names == [NAME]
    (one,) = receiver.posts
    assert one.headers["host"].partition(":")[0] == NAME
    assert one.headers["imserver-signature"].startswith("t=1,v1=")
    with pytest.raises(Unreachable, match="certificate"):
        post(PublicRequests(True, names), url_of(receiver, "other.example"))
    assert len(receiver.posts) == 1


def test_a_name_that_is_public_at_first_gains_nothing(receiver: Receiver) -> None:
    """What was checked is what is connected to: the name is resolved once for
    each connection."""
    names = Names("127.0.0.1")
    outbound = PublicRequests(True, names)
    receiver.reply = lambda _: (200, b"", {"Connection": "close"})
    assert outbound.post(url_of(receiver), b"", b"{}", 1, "x", 20.0)[0] == 200
    names.addresses = ("10.0.0.1",)
    with pytest.raises(Unreachable, match="not public"):
        post(outbound, url_of(receiver))
    assert names.names == [NAME, NAME]


def test_of_a_long_page_the_beginning_is_read() -> None:
    pages = PublicRequests(True, Names("127.0.0.1"), pages=True)
    long = HEAD + b"Content-Length: 99999\r\n\r\n" + b"x" * 2000
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000
    for answer in (long, chunked, HEAD + b"\r\n" + b"x" * 2000):
        with RawServer(answer, None) as server:
            assert ask(pages, server)[:2] == (200, b"x" * 1000)
    pages.close()


def test_redirections_are_not_followed_and_answers_are_bounded(
    receiver: Receiver,
) -> None:
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


class RawServer(ThreadingTCPServer):
    """Answers each request of a connection with the next bytes of ``answers``
    up to those that end an answer (:data:`END`), and closes it after None. In a
    thread of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *answers: bytes | None) -> None:
        super().__init__(("127.0.0.1", 0), BaseRequestHandler)
        self.server_port = self.server_address[1]
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.meeting = threading.Barrier(1)
        """Requests are answered when so many have come."""

    def finish_request(self, sock: Any, _address: Any) -> None:
        self.connections += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                self.requests.append(data)
                self.meeting.wait(60)
                while True:
                    answer = self.answers.pop(0) if self.answers else None
                    if answer is None:
                        return
                    sock.sendall(answer)
                    if answer.endswith(b"END"):
                        break

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


HEAD = b"HTTP/1.1 200 OK\r\n"
END = b"Content-Length: 3\r\n\r\nEND"


def ask(
    requests: PublicRequests, server: RawServer, target: str = "/", size: int = 1000
) -> Any:
    headers = {"X-Own": "own"}
    url = f"http://127.0.0.1:{server.server_port}{target}"
    return requests.exchange("POST", url, b"body", headers, 20.0, size)


@pytest.fixture
def requests() -> Iterator[PublicRequests]:
    one = PublicRequests(True, Names("127.0.0.1"), connections=2)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (HEAD + END, b"END"),
        (HEAD + b"Content-Length: 2\r\n\r\nOK", b"OK"),
        (
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n3\r\nEND\r\n0\r\n\r\n",
            b"OKEND",
        ),
        (HEAD + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + END, b"END"),
    ],
)
def test_forms_of_answers(requests: PublicRequests, answer: bytes, body: bytes) -> None:
    """However they are cut into pieces."""
    pieces = [answer[at : at + 1] for at in range(len(answer))]
    for form in ([answer], pieces, [answer[:20], answer[20:]]):
        with RawServer(*form, None) as server:
            assert ask(requests, server)[:2] == (200, body)


def test_what_is_sent_and_read(requests: PublicRequests) -> None:
    with RawServer(
        b"HTTP/1.1 429 Slow\r\nRETRY-After: 7\r\n" + END, HEAD + END, HEAD + END
    ) as server:
        status, content, headers = ask(requests, server)
        assert (status, content, headers["retry-after"]) == (429, b"END", "7")
        ask(requests, server, "?a=b#c")
        ask(requests, server, "/a?b")
    assert server.connections == 1
    for request, target in zip(server.requests, ("/", "/?a=b", "/a?b"), strict=True):
        assert request.decode() == (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
            f"User-Agent: {USER_AGENT}\r\nX-Own: own\r\nContent-Length: 4\r\n\r\nbody"
        )


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed"),
        (b"HTTP/1.1", "no end"),
        (HEAD + b"Content-Length: 9\r\n\r\nshort", "no end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nshort", "no end"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (HEAD + b"X: " + b"x" * 100_000, "too long"),
        (HEAD + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (HEAD + b"\r\n" + b"x" * 1001, "more than 1000 bytes"),
    ],
)
def test_answers_that_are_none(
    requests: PublicRequests, answer: bytes, problem: str
) -> None:
    with RawServer(answer, None) as server, pytest.raises(Unreachable, match=problem):
        ask(requests, server)
    assert server.connections == 1


def test_connections_are_used_again_and_idle_ones_bounded(
    requests: PublicRequests,
) -> None:
    """One that the other side has closed meanwhile is replaced, once."""
    with RawServer(*[HEAD + END] * 3) as server:
        for _ in range(3):
            ask(requests, server)
        assert server.connections == 1
        # It is closed with this answer, then while it is idle.
        server.answers = [
            HEAD + b"Connection: Close\r\n" + END,
            HEAD + END,
            None,
            HEAD + END,
        ]
        ask(requests, server)
        ask(requests, server)
        assert server.connections == 2
        ask(requests, server)
        assert server.connections == 3
        with pytest.raises(Unreachable, match="closed"):
            ask(requests, server)
        assert server.connections == 4
    assert len(server.requests) == 9
    with RawServer(*[HEAD + END] * 6) as server:
        server.meeting = threading.Barrier(3)
        for connections in (3, 4):
            with ThreadPoolExecutor(3) as threads:
                assert [*threads.map(lambda _: ask(requests, server)[0], range(3))] == [
                    200
                ] * 3
            assert server.connections == connections, "two of them are used again"


def test_the_idle_hosts_are_bounded() -> None:
    class Few(PublicRequests):
        HOSTS = 2

    requests = Few(True, Names("127.0.0.1"))
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(RawServer(HEAD + END, HEAD + END)) for _ in range(4)
        ]
        for server in (*servers, *reversed(servers)):
            ask(requests, server)
        assert [server.connections for server in servers] == [2, 2, 1, 1]
        requests.close()


class NameServer(DatagramServer):
    """Answers with the address 1.1.1.1 for ``ok.example``, that there is no
    such name for ``none.example``, and not at all for any other name."""

    def handle(self, question: bytes, client: tuple[str, int]) -> None:
        head = question[:2]
        name = question[12:].partition(b"\0")[0]
        asking_for = question[12 : 12 + len(name) + 5]
        if name.endswith(b"\x04none\x07example"):
            self.socket.sendto(
                head + bytes.fromhex("8183 0001 0000 0000 0000") + asking_for, client
            )
        elif name.endswith(b"\x02ok\x07example"):
            is_v4 = asking_for[-4:-2] == b"\0\1"
            answer = (
                bytes.fromhex("c00c 0001 0001 0000003c 0004 01010101") if is_v4 else b""
            )
            counts = bytes.fromhex(
                "8180 0001 0001" if is_v4 else "8180 0001 0000"
            ) + bytes(4)
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
def test_names_are_looked_up_and_servers_that_hang_delay_nobody() -> None:
    assert look_up("ok.example", 443) == ["1.1.1.1"]
    assert look_up("127.0.0.1", 80) == ["127.0.0.1"]
    assert look_up("::1", 80) == ["::1"]
    assert "127.0.0.1" in look_up("localhost", 80)
    for name, problem in (("none.example", "not known"), ("x" * 64, "label")):
        with pytest.raises(OSError, match=problem):
            look_up(name, 80)
    slow = [
        gevent.spawn(look_up, f"{number}.hangs.example", 443) for number in range(100)
    ]
    gevent.sleep(0)
    assert look_up("ok.example", 443) == ["1.1.1.1"]
    assert not any(each.ready() for each in slow)
    gevent.killall(slow)
    assert look_up("ok.example", 443) == ["1.1.1.1"]


def test_one_place_reads_names_and_bounds_them() -> None:
    sources = [
        path
        for folder in ("imserver", "plugins")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path.name for path in sources if 'encode("idna")' in path.read_text()] == [
        "outgoing.py"
    ]
    for name in ("\u4e2d" * 64, "\ufdfa" * 20, "a." * 127, "\u4e2d..\u6587"):
        with pytest.raises(BadUrl):
            PublicRequests.ascii_host(name)
    with pytest.raises(Unreachable, match="too long"):
        Outgoing().get(f"https://{chr(0x4E2D) * 400}/", 1.0)
