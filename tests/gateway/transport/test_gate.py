"""Who is let in, row by row: handshakes, limits, pages of strangers, clients
behind a proxy."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.errors import Problems
from imserver.gateway.node.http_servers import echo
from imserver.gateway.protocol.dialect import EchoDialect
from imserver.gateway.transport.gate import (
    OPAQUE,
    Admission,
    DialectPath,
    Gate,
    GatePolicy,
    Head,
    Origins,
    Refusal,
    accept_token,
)
from imserver.gateway.transport.http1 import pattern_of, row_of, wants_upgrade
from imserver.gateway.transport.proxies import TrustedProxies, is_loopback
from tests.gateway.transport.harness import ignore

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = "permessage-deflate"
TAKEN = f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"


def make(
    deflate: bool = False, proxies: TrustedProxies | None = None, **policy: Any
) -> Gate:
    paths = {
        "/acc": DialectPath(CmdDialect(), ignore, 65536),
        "/echo": DialectPath(EchoDialect("/echo"), echo, 1 << 20),
    }
    proxies = proxies or TrustedProxies(("127.0.0.0/8", "::1/128"))
    own = GatePolicy(**policy)
    gate = Gate(proxies, Origins(proxies, own), deflate, own)
    gate.paths.update(paths)
    return gate


def head(
    path: str = "/acc",
    *,
    method: str = "GET",
    version: str = "1.1",
    address: str = "192.0.2.7",
    port: int = 4000,
    **headers: str | None,
) -> Head:
    """An upgrade request as it should be, but for what is given; a header that
    is None is left out."""
    lines = {
        "host": "chat.example:8089",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": KEY,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    present: Mapping[str, str] = {
        name: value for name, value in lines.items() if value is not None
    }
    return Head(method, path, version, address, port, present)


def admit(gate: Gate, request: Head) -> Admission:
    decision = gate.decide(request)
    assert isinstance(decision, Admission), decision
    return decision


# --- what is no handshake -----------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        *((head(path), 404) for path in ("/ws", "/", "/acc/", "/ACC")),
        *((head(method=method), 400) for method in ("POST", "HEAD")),
        (head(version="1.0"), 400),
        *(
            (head(sec_websocket_version=version), 426)
            for version in (None, "8", "13,8", "13.0")
        ),
        *(
            (head(sec_websocket_key=key), 400)
            for key in (None, "", "short", f"{KEY},{KEY}", "é" * 24)
        ),
        *(
            (head(sec_websocket_key=base64.b64encode(bytes(size)).decode()), 400)
            for size in (15, 17)
        ),
        (head(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=?"), 400),
    ],
)
def test_what_is_no_handshake_is_refused_with_its_status(
    request_head: Head, status: int
) -> None:
    decision = make().decide(request_head)
    assert isinstance(decision, Refusal)
    assert decision.problem.status == status
    assert (("Sec-WebSocket-Version", "13") in decision.headers) is (status == 426)


def test_the_handshake_of_the_rfc_is_answered_as_in_the_rfc() -> None:
    decision = admit(make(), head())
    assert decision.accept == accept_token(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (decision.peer, decision.extension, decision.close_code) == (
        "192.0.2.7:4000",
        "",
        0,
    )
    encoding = decision.encoding
    assert (encoding.dialect.name, encoding.limit_bytes, encoding.serve) == (
        "cmd",
        65536,
        ignore,
    )
    gate = make(deflate=True)
    plain = head()
    packed = head(sec_websocket_extensions=DEFLATE)
    assert admit(gate, plain).encoding is admit(gate, plain).encoding
    assert admit(gate, packed).encoding is admit(gate, packed).encoding
    assert admit(gate, plain).encoding is not admit(gate, packed).encoding


@pytest.mark.parametrize(
    ("upgrade", "connection", "wanted"),
    [
        *(
            ("websocket", connection, True)
            for connection in ("Upgrade", "keep-alive, upgrade", "UPGRADE ,x")
        ),
        *(("websocket", connection, False) for connection in ("keep-alive", "")),
        *((upgrade, "Upgrade", True) for upgrade in ("WebSocket", "h2c, websocket")),
        *((upgrade, "Upgrade", False) for upgrade in ("h2c", "xwebsocketx", "")),
    ],
)
def test_a_request_wants_an_upgrade_if_both_headers_do(
    upgrade: str, connection: str, wanted: bool
) -> None:
    assert wants_upgrade({"upgrade": upgrade, "connection": connection}) is wanted
    assert not wants_upgrade({})


# --- who may not stay ---------------------------------------------------------


def enter(gate: Gate, request: Head) -> tuple[int, str]:
    """Decide, and count the connection in as a server does; the close code and
    the peer."""
    decision = admit(gate, request)
    if not decision.close_code:
        gate.entered(decision.peer)
    return decision.close_code, decision.peer


BEHIND_A_PROXY = [
    head(address="127.0.0.1", x_forwarded_for=f"203.0.113.{number}")
    for number in (1, 2, 1)
]


@pytest.mark.parametrize(
    ("limits", "heads", "codes"),
    [
        ({"limit": 2}, [head()] * 3, [0, 0, 4005]),
        (
            {"limit_per_address": 2},
            [*[head()] * 3, head(address="198.51.100.1")],
            [0, 0, 4005, 0],
        ),
        (
            {"limit_per_address": 2},  # a network of IPv6 counts as one address
            [
                head(address=f"2001:db8:0:{net}::{end}")
                for net, end in ((0, 1), (0, 2), (0, 3), (1, 8))
            ],
            [0, 0, 4005, 0],
        ),
        ({"limit_per_address": 1}, BEHIND_A_PROXY, [0, 0, 4005]),
        *(
            ({"limit_per_address": 1}, [head(address=address)] * 3, [0, 0, 0])
            for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")
        ),
    ],
)
def test_a_limit_holds_until_one_leaves(
    limits: dict[str, int], heads: list[Head], codes: list[int]
) -> None:
    gate = make(**limits)
    entered = [enter(gate, request) for request in heads]
    assert [code for code, _ in entered] == codes
    for code, peer in entered:
        if not code:
            gate.left(peer)
    assert (gate.connections, dict(gate.per_address)) == (0, {}), (
        "whoever has left is forgotten"
    )
    assert enter(gate, heads[0])[0] == 0


def test_the_peer_is_whom_a_trusted_proxy_names() -> None:
    assert enter(make(), BEHIND_A_PROXY[0]) == (0, "203.0.113.1:4000")
    assert enter(make(), head(address="127.0.0.1", x_forwarded_for="2001:db8::1")) == (
        0,
        "[2001:db8::1]:4000",
    )
    assert enter(make(), head(x_forwarded_for="203.0.113.9")) == (0, "192.0.2.7:4000")


def test_a_limit_that_begins_while_connections_live_counts_the_new_ones() -> None:
    gate = make()
    enter(gate, head())
    gate.set_policy(GatePolicy(limit_per_address=1, any_origin=True))
    assert [enter(gate, head())[0] for _ in range(2)] == [0, 4005]
    for _ in range(2):
        gate.left("192.0.2.7:4000")
    assert (gate.connections, dict(gate.per_address)) == (0, {})
    gate.recount(["192.0.2.7"])
    assert enter(gate, head())[0] == 4005
    gate = make()
    gate.full = True
    assert enter(gate, head())[0] == 1001


def test_a_page_of_a_stranger_is_let_in_by_the_policy_or_the_dialect_only() -> None:
    request, of_echo = (
        head(path, origin="http://evil.example") for path in ("/acc", "/echo")
    )
    gate = make()
    assert [enter(gate, each)[0] for each in (request, of_echo, head())] == [4505, 0, 0]
    gate.set_policy(GatePolicy(origins=("evil.example",)))
    assert enter(gate, request)[0] == 0
    assert enter(make(any_origin=True), request)[0] == 0


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/connection/shop/websocket", "/connection/*/websocket"),
        ("/app/key/", "/app/*/"),
        ("/apps/7/channels/news/users", "/apps/*/channels/*/users"),
        *((path, path) for path in ("/app/", "/app", "/", "")),
        ("//websocket", "//*"),
    ],
)
def test_a_pattern_stands_for_each_second_segment(path: str, pattern: str) -> None:
    assert pattern_of(path) == pattern


def test_a_path_may_be_a_pattern_and_an_exact_path_comes_first() -> None:
    rows = {("GET", "/oauth/callback/*"): "browser", ("GET", "/apps/*/users"): "users"}
    found = [
        row_of(rows, "GET", path)
        for path in ("/oauth/callback/a/b/c", "/apps/7/users", "/apps/7/x")
    ]
    assert found == ["browser", "users", None]
    gate = make()
    gate.paths.update(
        {
            "/talk/*": DialectPath(CmdDialect(), ignore, 5),
            "/talk/small": DialectPath(CmdDialect(), ignore, 6, subprotocol="chat.v2"),
        }
    )
    found = [admit(gate, head(path)) for path in ("/talk/small", "/talk/shop")]
    assert [(each.encoding.limit_bytes, each.subprotocol) for each in found] == [
        (6, "chat.v2"),
        (5, ""),
    ]
    for path in ("/talk", "/talk/", "/talk/shop/more", "/other/shop"):
        assert isinstance(gate.decide(head(path)), Refusal)


REFUSED_WISHES = (
    *(f"server_max_window_bits{bits}" for bits in ("=8", "=16", "=010", "=x", "")),
    "server_max_window_bits=10; server_max_window_bits=11",
    "client_max_window_bits=7",
    "unknown=1",
    "server_no_context_takeover; server_no_context_takeover",
    "server_no_context_takeover=1",
)


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        *(
            (offer, "", 0)
            for offer in (
                None,
                "",
                "x-webkit-deflate-frame",
                "permessage-bzip2",
                f"{DEFLATE};;",
            )
        ),
        *((f"{DEFLATE}; {wish}", "", 0) for wish in REFUSED_WISHES),
        (DEFLATE, TAKEN, 15),
        (f"{DEFLATE}; client_max_window_bits", TAKEN, 15),
        (
            f"{DEFLATE}; client_max_window_bits=10",
            f"{TAKEN}; client_max_window_bits=10",
            15,
        ),
        (
            f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover",
            TAKEN,
            15,
        ),
        (
            f"{DEFLATE}; server_max_window_bits=9",
            f"{TAKEN}; server_max_window_bits=9",
            9,
        ),
        (
            f"{DEFLATE}; server_max_window_bits=15",
            f"{TAKEN}; server_max_window_bits=15",
            15,
        ),
        (f"{DEFLATE}; server_max_window_bits=8, {DEFLATE}", TAKEN, 15),
        (
            f"x-other; a=1, {DEFLATE}; server_max_window_bits=12, {DEFLATE}",
            f"{TAKEN}; server_max_window_bits=12",
            12,
        ),
        (
            f'{DEFLATE}; server_max_window_bits="10"',
            f"{TAKEN}; server_max_window_bits=10",
            10,
        ),
    ],
)
def test_the_first_offer_that_can_be_kept_is_taken(
    offer: str | None, answer: str, bits: int
) -> None:
    decision = admit(make(deflate=True), head(sec_websocket_extensions=offer))
    assert decision.extension == answer
    assert decision.encoding.deflate_bits == bits
    assert admit(make(), head(sec_websocket_extensions=offer)).extension == "", (
        "off: nothing is taken"
    )


names = st.sampled_from(
    [
        "origin",
        "host",
        "sec-websocket-key",
        "sec-websocket-extensions",
        "x-forwarded-for",
        "x-forwarded-host",
    ]
)


@settings(deadline=None)
@given(
    headers=st.dictionaries(
        names, st.text(max_size=30) | st.sampled_from(["http://[", "[::1]:x", DEFLATE])
    ),
    host=st.sampled_from(["127.0.0.1", "192.0.2.7", "::1", "fe80::1%eth0"]),
)
def test_no_header_makes_the_gate_raise(headers: dict[str, str], host: str) -> None:
    request = head(address=host)
    decision = make(deflate=True).decide(
        Head(
            request.method,
            request.path,
            request.version,
            host,
            1,
            {**request.headers, **headers},
        )
    )
    assert isinstance(decision, Admission | Refusal)


# --- whose pages are strangers ------------------------------------------------


PROXIES = TrustedProxies(("10.0.0.0/8",))


def origins_of(any_origin: bool = False, *own: str) -> Origins:
    found = Origins(PROXIES, GatePolicy(any_origin=any_origin, origins=own))
    found.open_dialects.add("client")
    return found


OWN_PAGES = ("https://im.example", "https://IM.example.:8443")
STRANGE = {
    "https://shop.example": "shop.example",
    "https://im.example.evil.example": "im.example.evil.example",
    **dict.fromkeys(
        ("null", "", "file://", "https://[", "https://" + "x" * 300), OPAQUE
    ),
    **dict.fromkeys(
        ("http://im.example@shop.example", "http://shop.example/im.example"), OPAQUE
    ),
}


@pytest.mark.parametrize(
    ("origin", "host", "site", "expected"),
    [
        *((origin, "im.example:8089", None, "") for origin in (None, *OWN_PAGES)),
        *(
            (f"http://{host}:8080", f"{host}:8089", None, "")
            for host in ("127.0.0.1", "[::1]")
        ),
        *(
            (origin, "im.example", None, expected)
            for origin, expected in STRANGE.items()
        ),
        ("", "", None, OPAQUE),
        *((None, "im.example", site, "") for site in ("same-origin", "none")),
        *(
            (None, "im.example", site, OPAQUE)
            for site in ("same-site", "cross-site", "")
        ),
        ("https://shop.example", "im.example", "cross-site", "shop.example"),
        ("https://im.example:8443", "im.example", "same-site", ""),
    ],
)
def test_a_stranger_is_a_page_of_another_host_and_one_that_only_embeds_an_address(
    origin: str | None, host: str, site: str | None, expected: str
) -> None:
    headers = {"host": host, "origin": origin, "sec-fetch-site": site}
    present = {name: value for name, value in headers.items() if value is not None}
    assert origins_of().page_host("192.0.2.1", present) == expected


def test_the_node_allows_its_own_those_it_names_and_those_of_any_app() -> None:
    headers = {
        "host": "10.0.0.5:8080",
        "origin": "https://im.example",
        "x-forwarded-host": "im.example, x",
    }
    assert origins_of().page_host("10.0.0.1", headers) == ""
    assert origins_of().page_host("192.0.2.1", headers) == "im.example"
    for dialect, expected in (
        ("cmd", False),
        ("client", True),
        ("sse", False),
        ("unknown", False),
    ):
        assert origins_of().allows("shop.example", dialect) is expected, dialect
    assert origins_of().allows("", "cmd")
    assert origins_of(False, "https://shop.example:9").allows("shop.example", "cmd")
    assert origins_of(True).allows("shop.example", "cmd")
    one = origins_of(False, "friend.example")
    assert one.passes("", False)
    assert one.passes("friend.example", False)
    assert not one.passes("shop.example", False)
    assert one.passes("shop.example", True), "the dialect allows it"
    listed = origins_of(
        False, "https://shop.example/", "partner.example:8443/chat", "[2001:db8::1]/"
    )
    assert all(map(listed.lists, ("shop.example", "partner.example", "2001:db8::1"))), (
        "also with a path"
    )
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
    "evil.example",
    "evil.example//127.0.0.1",
    "http://evil.example@localhost",
    "localhost.evil.example",
    r"evil.example\@127.0.0.1",
    "evil.example@127.0.0.1",
    "evil.example:80@127.0.0.1",
    "127.0.0.1%evil.example",
    "[::1%evil.example]",
    "[::1].evil.example",
    "[::1]evil.example",
    "[::1",
    "127.0.0.1:80:evil",
    "127.0.0.1:evil.example",
    "127.0.0.1/evil",
    "127.0.0.1?evil",
    "127.0.0.1#evil",
    "127.0.0.1, evil.example",
    "127.0.0.1 evil.example",
    "127.0.0.1..",
    "\t127.0.0.1",
    ":80",
    ".",
)
THIS_MACHINE = (
    "127.0.0.1",
    "127.0.0.1:",
    "127.1.2.3:8080",
    "127.0.0.1.",
    "LocalHost.:80",
    "[::1]",
    "[::1]:80",
    "192.0.2.7",
)


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        *((host, True) for host in MORE_THAN_THIS_MACHINE),
        *((host, False) for host in THIS_MACHINE),
    ],
)
def test_demo_mode_accepts_names_and_addresses_of_this_machine_only(
    host: str, is_refused: bool
) -> None:
    demo = Origins(TrustedProxies(()), GatePolicy(demo=True, hosts=("0.0.0.0",)))
    origin = host if "://" in host else f"http://{host}"
    found = [
        demo.objection({"host": host}, "/"),
        demo.objection({"host": "127.0.0.1", "origin": origin}, "/"),
    ]
    assert (
        found == [Problems.HOST_REFUSED, Problems.ORIGIN_REFUSED]
        if is_refused
        else [None, None]
    )


def test_refused_pages_of_strangers_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    one = Origins(TrustedProxies(()), GatePolicy())
    for number in range(200):
        for _ in range(2):
            one.log_refused(
                "connection", f"{number}.example", "server.origins", "192.0.2.1:1"
            )
    assert len(caplog.records) == 100


# --- who the client is behind trusted proxies ---------------------------------


TRUSTED = TrustedProxies(("127.0.0.0/8", "::1/128", "10.0.0.0/8", "2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("host", "forwarded", "client"),
    [
        *(("192.0.2.7", forwarded, "192.0.2.7") for forwarded in ("", "203.0.113.9")),
        *(
            ("127.0.0.1", f"{before}203.0.113.9", "203.0.113.9")
            for before in ("", "6.6.6.6, ")
        ),
        *(
            ("127.0.0.1", f"203.0.113.9{after}", "203.0.113.9")
            for after in (
                ", 10.1.2.3",
                " , 10.1.2.3,127.0.0.1",
                ":4711",
                ":4711, 10.1.2.3:80",
            )
        ),
        *(
            (proxy, "203.0.113.9", "203.0.113.9")
            for proxy in ("2001:db8:1::5", "::ffff:10.0.0.1")
        ),
        *(
            ("::1", forwarded, "2001:db8::9")
            for forwarded in ("[2001:db8::9]", "2001:db8::9", "[2001:db8::9]:4711")
        ),
        *(
            ("127.0.0.1", forwarded, "127.0.0.1")
            for forwarded in (
                "",
                ",",
                "203.0.113.9,",
                "nonsense",
                "203.0.113.9, unknown",
                "fe80::1%eth0",
            )
        ),
        ("127.0.0.1", "10.1.2.3, 10.3.2.1", "10.1.2.3"),
        ("127.0.0.1", "203.0.113.9, <b>, 10.1.2.3", "10.1.2.3"),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_is(
    host: str, forwarded: str, client: str
) -> None:
    assert TRUSTED.client(host, forwarded) == client
    assert TrustedProxies(()).client(host, forwarded) == host, (
        "nobody is trusted when no proxy is"
    )
    assert TrustedProxies(("127.0.0.1/8", "::1")).trusts("127.9.9.9"), (
        "a network may have bits of its hosts"
    )


@pytest.mark.parametrize(
    "host", ["", "nonsense", "127.0.0", "127.0.0.1:80", "fe80::1%eth0", "1" * 500]
)
def test_what_is_no_trusted_address_is_not_trusted(host: str) -> None:
    assert not TRUSTED.trusts(host)


def test_loopback_is_loopback_in_either_family() -> None:
    hosts = ("127.0.0.1", "127.200.0.1", "::1", "::ffff:127.0.0.1")
    others = ("::ffff:192.0.2.7", "10.0.0.1", "fe80::1%lo", "", "localhost")
    assert [host for host in (*hosts, *others) if is_loopback(host)] == [*hosts]
