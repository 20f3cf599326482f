"""The gate's decisions, row by row."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.node.http_servers import echo
from imserver.gateway.protocol.dialect import EchoDialect
from imserver.gateway.transport.gate import (
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
from imserver.gateway.transport.proxies import TrustedProxies
from tests.gateway.transport.harness import ignore

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = "permessage-deflate"
TAKEN = f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"


def make(deflate: bool = False, proxies: TrustedProxies | None = None, **policy: Any) -> Gate:
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
    """An upgrade request as it should be, but for what is given; a header that is None is left out."""
    lines = {
        "host": "chat.example:8089",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": KEY,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    present: Mapping[str, str] = {name: value for name, value in lines.items() if value is not None}
    return Head(method, path, version, address, port, present)


def admit(gate: Gate, request: Head) -> Admission:
    decision = gate.decide(request)
    assert isinstance(decision, Admission), decision
    return decision


# --- what is no handshake -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("/ws"), 404),
        (head("/"), 404),
        (head("/acc/"), 404),
        (head("/ACC"), 404),
        (head(method="POST"), 400),
        (head(method="HEAD"), 400),
        (head(version="1.0"), 400),
        (head(sec_websocket_version=None), 426),
        (head(sec_websocket_version="8"), 426),
        (head(sec_websocket_version="13,8"), 426),
        (head(sec_websocket_version="13.0"), 426),
        (head(sec_websocket_key=None), 400),
        (head(sec_websocket_key=""), 400),
        (head(sec_websocket_key="short"), 400),
        (head(sec_websocket_key=f"{KEY},{KEY}"), 400),
        (head(sec_websocket_key=base64.b64encode(bytes(15)).decode()), 400),
        (head(sec_websocket_key=base64.b64encode(bytes(17)).decode()), 400),
        (head(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=?"), 400),
        (head(sec_websocket_key="é" * 24), 400),
    ],
)
def test_what_is_no_handshake_is_refused_with_its_status(request_head: Head, status: int) -> None:
    decision = make().decide(request_head)
    assert isinstance(decision, Refusal)
    assert decision.problem.status == status
    assert (("Sec-WebSocket-Version", "13") in decision.headers) is (status == 426)


def test_the_handshake_of_the_rfc_is_answered_as_in_the_rfc() -> None:
    decision = admit(make(), head())
    assert decision.accept == accept_token(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (decision.peer, decision.extension, decision.close_code) == ("192.0.2.7:4000", "", 0)
    assert decision.encoding.dialect.name == "cmd"


@pytest.mark.parametrize(
    ("upgrade", "connection", "wanted"),
    [
        ("websocket", "Upgrade", True),
        ("WebSocket", "keep-alive, upgrade", True),
        ("websocket", "UPGRADE ,x", True),
        ("websocket", "keep-alive", False),
        ("websocket", "", False),
        ("h2c", "Upgrade", False),
        ("h2c, websocket", "Upgrade", True),
        ("xwebsocketx", "Upgrade", False),
        ("", "Upgrade", False),
    ],
)
def test_a_request_wants_an_upgrade_when_both_headers_say_so(
    upgrade: str, connection: str, wanted: bool
) -> None:
    assert wants_upgrade({"upgrade": upgrade, "connection": connection}) is wanted
    assert not wants_upgrade({})


def test_each_path_has_its_own_dialect_limit_and_way_to_be_served() -> None:
    gate = make()
    acc, other = admit(gate, head()).encoding, admit(gate, head("/echo")).encoding
    assert (acc.dialect.name, acc.limit_bytes, acc.serve) == ("cmd", 65536, ignore)
    assert (other.dialect.name, other.limit_bytes, other.serve) == ("echo", 1 << 20, echo)


def test_all_connections_alike_share_one_encoding() -> None:
    gate = make(deflate=True)
    plain, packed = head(), head(sec_websocket_extensions=DEFLATE)
    assert admit(gate, plain).encoding is admit(gate, plain).encoding
    assert admit(gate, packed).encoding is admit(gate, packed).encoding
    assert admit(gate, plain).encoding is not admit(gate, packed).encoding


# --- who it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "forwarded", "peer"),
    [
        ("192.0.2.7", None, "192.0.2.7:4000"),
        ("192.0.2.7", "203.0.113.9", "192.0.2.7:4000"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9:4000"),
        ("127.0.0.1", "2001:db8::1", "[2001:db8::1]:4000"),
        ("2001:db8::7", None, "[2001:db8::7]:4000"),
    ],
)
def test_the_peer_is_whom_the_trusted_proxies_name(host: str, forwarded: str | None, peer: str) -> None:
    assert admit(make(), head(address=host, x_forwarded_for=forwarded)).peer == peer


# --- who may not stay ---------------------------------------------------------------------------------------


def enter(gate: Gate, request: Head) -> int:
    """Decide, and count the connection in as a server does; the close code."""
    decision = admit(gate, request)
    if not decision.close_code:
        gate.entered(decision.peer)
    return decision.close_code


def test_above_the_nodes_limit_a_client_learns_that_it_is_full_until_one_leaves() -> None:
    gate = make(limit=2)
    assert [enter(gate, head()) for _ in range(3)] == [0, 0, 4005]
    gate.left("192.0.2.7:4000")
    assert enter(gate, head()) == 0
    assert gate.connections == 2


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_above_the_limit_of_an_address_its_clients_get_an_error_and_no_others(host: str) -> None:
    gate = make(limit_per_address=2)
    assert [enter(gate, head(address=host)) for _ in range(3)] == [0, 0, 4005]
    assert enter(gate, head(address="198.51.100.1")) == 0
    assert enter(gate, head(address="2001:db8:0:1::8")) == 0
    gate.left(f"[{host}]:4000" if ":" in host else f"{host}:4000")
    assert enter(gate, head(address=host)) == 0


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    gate = make(limit_per_address=2)
    networks = [head(address=f"2001:db8::{number}") for number in (1, 2, 3)]
    assert [enter(gate, request) for request in networks] == [0, 0, 4005]
    gate.recount(f"2001:db8::{number}" for number in (1, 2))
    assert enter(gate, networks[2]) == 4005
    for number in (1, 2):
        gate.left(f"[2001:db8::{number}]:4000")
    assert dict(gate.per_address) == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_the_limit_of_an_address_never_holds_for_loopback(host: str) -> None:
    gate = make(limit_per_address=1)
    assert [enter(gate, head(address=host)) for _ in range(5)] == [0] * 5


def test_the_limit_of_an_address_counts_the_clients_behind_a_proxy_apart() -> None:
    gate = make(limit_per_address=1)
    behind = [head(address="127.0.0.1", x_forwarded_for=f"203.0.113.{number}") for number in (1, 2, 1)]
    assert [enter(gate, request) for request in behind] == [0, 0, 4005]


def test_addresses_that_left_are_forgotten() -> None:
    gate = make(limit_per_address=3)
    for number in range(100):
        enter(gate, head(address=f"192.0.2.{number}"))
    for number in range(100):
        gate.left(f"192.0.2.{number}:4000")
    assert (dict(gate.per_address), gate.connections) == ({}, 0)


def test_a_limit_that_begins_while_connections_live_counts_the_new_ones() -> None:
    gate = make()
    assert enter(gate, head()) == 0
    gate.set_policy(GatePolicy(limit_per_address=1, any_origin=True))
    assert [enter(gate, head()) for _ in range(2)] == [0, 4005]
    for _ in range(2):
        gate.left("192.0.2.7:4000")
    assert (gate.connections, dict(gate.per_address)) == (0, {})


def test_a_node_that_drains_asks_everybody_to_come_back_elsewhere() -> None:
    gate = make()
    gate.full = True
    assert enter(gate, head()) == 1001


# --- origins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"origin": "http://chat.example"}, True),
        ({"origin": "https://chat.example:8080"}, True),
        ({"origin": "https://CHAT.example."}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://chat.example.evil.example"}, False),
        ({"origin": "http://evil.example/chat.example"}, False),
        ({"origin": "http://chat.example@evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://[::1"}, False),
        ({"origin": "", "host": ""}, False),
        ({"origin": "http://partner.example:99"}, True),
        ({"origin": "http://other.partner.example"}, False),
        ({"origin": "http://[2001:db8::1]:80", "host": "[2001:db8::1]:8089"}, True),
        ({"origin": "http://public.example", "x_forwarded_host": "public.example"}, False),
    ],
)
def test_a_browser_is_welcome_from_the_same_host_or_a_listed_one(
    headers: dict[str, str], welcome: bool
) -> None:
    gate = make(origins=("https://partner.example",))
    assert admit(gate, head(**headers)).close_code == (0 if welcome else 4505)


def test_a_trusted_proxy_may_say_which_host_the_browser_asked_for() -> None:
    request = head(
        address="127.0.0.1", origin="https://public.example", x_forwarded_host="public.example, inner"
    )
    assert admit(make(), request).close_code == 0


def test_with_any_origin_everybody_is_welcome() -> None:
    request = head(origin="http://evil.example")
    assert admit(make(any_origin=True), request).close_code == 0
    gate = make()
    assert admit(gate, request).close_code == 4505
    gate.set_policy(GatePolicy(origins=("evil.example",)))
    assert admit(gate, request).close_code == 0


def test_a_dialect_may_welcome_any_origin() -> None:
    assert admit(make(), head("/echo", origin="http://evil.example")).close_code == 0


# --- paths and subprotocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/connection/shop/websocket", "/connection/*/websocket"),
        ("/app/key", "/app/*"),
        ("/app/key/", "/app/*/"),
        ("/apps/7/channels/news/users", "/apps/*/channels/*/users"),
        ("/app/", "/app/"),
        ("/app", "/app"),
        ("/", "/"),
        ("", ""),
        ("//websocket", "//*"),
    ],
)
def test_a_pattern_stands_for_each_second_segment(path: str, pattern: str) -> None:
    assert pattern_of(path) == pattern


def test_one_star_may_stand_for_all_that_follows_the_second_segment() -> None:
    rows = {("GET", "/oauth/callback/*"): "browser", ("GET", "/apps/*/users"): "users"}
    found = [row_of(rows, "GET", path) for path in ("/oauth/callback/a/b/c", "/apps/7/users", "/apps/7/x")]
    assert found == ["browser", "users", None]


def test_a_path_may_be_a_pattern_and_an_exact_path_comes_first() -> None:
    gate = Gate(TrustedProxies(()), Origins(TrustedProxies(()), GatePolicy()), False, GatePolicy())
    gate.paths.update(
        {"/talk/*": DialectPath(CmdDialect(), ignore, 5), "/talk/small": DialectPath(CmdDialect(), ignore, 6)}
    )
    limits = [admit(gate, head(path)).encoding.limit_bytes for path in ("/talk/small", "/talk/shop")]
    assert limits == [6, 5]
    for path in ("/talk", "/talk/", "/talk/shop/more", "/other/shop"):
        assert isinstance(gate.decide(head(path)), Refusal)


def test_a_confirmed_subprotocol_is_in_the_answer() -> None:
    gate = Gate(TrustedProxies(()), Origins(TrustedProxies(()), GatePolicy()), False, GatePolicy())
    gate.paths.update({"/acc": DialectPath(CmdDialect(), ignore, 5, subprotocol="chat.v2")})
    assert admit(gate, head()).subprotocol == "chat.v2"
    assert admit(make(), head()).subprotocol == ""


# --- compression --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        (None, "", 0),
        ("", "", 0),
        ("x-webkit-deflate-frame", "", 0),
        (DEFLATE, TAKEN, 15),
        (f"{DEFLATE}; client_max_window_bits", TAKEN, 15),
        (f"{DEFLATE}; client_max_window_bits=10", f"{TAKEN}; client_max_window_bits=10", 15),
        (f"{DEFLATE}; client_max_window_bits=7", "", 0),
        (f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover", TAKEN, 15),
        (f"{DEFLATE}; server_max_window_bits=9", f"{TAKEN}; server_max_window_bits=9", 9),
        (f"{DEFLATE}; server_max_window_bits=15", f"{TAKEN}; server_max_window_bits=15", 15),
        (f"{DEFLATE}; server_max_window_bits=8", "", 0),
        (f"{DEFLATE}; server_max_window_bits=16", "", 0),
        (f"{DEFLATE}; server_max_window_bits=010", "", 0),
        (f"{DEFLATE}; server_max_window_bits=x", "", 0),
        (f"{DEFLATE}; server_max_window_bits", "", 0),
        (f"{DEFLATE}; server_max_window_bits=10; server_max_window_bits=11", "", 0),
        (f"{DEFLATE}; unknown=1", "", 0),
        (f"{DEFLATE}; server_no_context_takeover; server_no_context_takeover", "", 0),
        ("permessage-bzip2", "", 0),
        (f"{DEFLATE}; server_no_context_takeover=1", "", 0),
        (f"{DEFLATE}; server_max_window_bits=8, {DEFLATE}", TAKEN, 15),
        (
            f"x-other; a=1, {DEFLATE}; server_max_window_bits=12, {DEFLATE}",
            f"{TAKEN}; server_max_window_bits=12",
            12,
        ),
        (f"{DEFLATE};;", "", 0),
        (f'{DEFLATE}; server_max_window_bits="10"', f"{TAKEN}; server_max_window_bits=10", 10),
    ],
)
def test_the_first_offer_that_can_be_kept_is_taken(offer: str | None, answer: str, bits: int) -> None:
    decision = admit(make(deflate=True), head(sec_websocket_extensions=offer))
    assert decision.extension == answer
    assert decision.encoding.deflate_bits == bits
    assert admit(make(), head(sec_websocket_extensions=offer)).extension == "", "off: nothing is taken"


@pytest.mark.parametrize("bits", range(9, 16))
def test_what_is_compressed_fits_the_window_that_was_agreed(bits: int) -> None:
    offer = f"{DEFLATE}; server_max_window_bits={bits}"
    encoding = admit(make(deflate=True), head(sec_websocket_extensions=offer)).encoding
    payload = b"".join(b"%d," % number for number in range(3000))
    frame = encoding.frame(payload)
    assert frame[0] == 0xC1
    inflate = zlib.decompressobj(wbits=-bits)
    assert inflate.decompress(frame[4:] + b"\x00\x00\xff\xff") == payload


# --- anything -----------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["origin", "host", "sec-websocket-key", "sec-websocket-extensions", "x-forwarded-for", "x-forwarded-host"]
)


@settings(deadline=None)
@given(
    headers=st.dictionaries(names, st.text(max_size=30) | st.sampled_from(["http://[", "[::1]:x", DEFLATE])),
    host=st.sampled_from(["127.0.0.1", "192.0.2.7", "::1", "fe80::1%eth0"]),
)
def test_no_header_makes_the_gate_raise(headers: dict[str, str], host: str) -> None:
    request = head(address=host)
    decision = make(deflate=True).decide(
        Head(request.method, request.path, request.version, host, 1, {**request.headers, **headers})
    )
    assert isinstance(decision, Admission | Refusal)
