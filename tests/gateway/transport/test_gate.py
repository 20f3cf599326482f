"""The gate's decisions, row by row."""

import base64
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
        *((head(path), 404) for path in ("/ws", "/", "/acc/", "/ACC")),
        *((head(method=method), 400) for method in ("POST", "HEAD")),
        (head(version="1.0"), 400),
        *((head(sec_websocket_version=version), 426) for version in (None, "8", "13,8", "13.0")),
        *((head(sec_websocket_key=key), 400) for key in (None, "", "short", f"{KEY},{KEY}", "é" * 24)),
        *((head(sec_websocket_key=base64.b64encode(bytes(size)).decode()), 400) for size in (15, 17)),
        (head(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=?"), 400),
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
    encoding = decision.encoding
    assert (encoding.dialect.name, encoding.limit_bytes, encoding.serve) == ("cmd", 65536, ignore)
    gate = make(deflate=True)
    plain, packed = head(), head(sec_websocket_extensions=DEFLATE)
    assert admit(gate, plain).encoding is admit(gate, plain).encoding
    assert admit(gate, packed).encoding is admit(gate, packed).encoding
    assert admit(gate, plain).encoding is not admit(gate, packed).encoding


@pytest.mark.parametrize(
    ("upgrade", "connection", "wanted"),
    [
        *(("websocket", connection, True) for connection in ("Upgrade", "keep-alive, upgrade", "UPGRADE ,x")),
        *(("websocket", connection, False) for connection in ("keep-alive", "")),
        *((upgrade, "Upgrade", True) for upgrade in ("WebSocket", "h2c, websocket")),
        *((upgrade, "Upgrade", False) for upgrade in ("h2c", "xwebsocketx", "")),
    ],
)
def test_a_request_wants_an_upgrade_if_both_headers_do(upgrade: str, connection: str, wanted: bool) -> None:
    assert wants_upgrade({"upgrade": upgrade, "connection": connection}) is wanted
    assert not wants_upgrade({})


# --- who may not stay ---------------------------------------------------------------------------------------


def enter(gate: Gate, request: Head) -> tuple[int, str]:
    """Decide, and count the connection in as a server does; the close code and the peer."""
    decision = admit(gate, request)
    if not decision.close_code:
        gate.entered(decision.peer)
    return decision.close_code, decision.peer


BEHIND_A_PROXY = [head(address="127.0.0.1", x_forwarded_for=f"203.0.113.{number}") for number in (1, 2, 1)]


@pytest.mark.parametrize(
    ("limits", "heads", "codes"),
    [
        ({"limit": 2}, [head()] * 3, [0, 0, 4005]),
        ({"limit_per_address": 2}, [*[head()] * 3, head(address="198.51.100.1")], [0, 0, 4005, 0]),
        (
            {"limit_per_address": 2},  # a network of IPv6 counts as one address
            [head(address=f"2001:db8:0:{net}::{end}") for net, end in ((0, 1), (0, 2), (0, 3), (1, 8))],
            [0, 0, 4005, 0],
        ),
        ({"limit_per_address": 1}, BEHIND_A_PROXY, [0, 0, 4005]),
        *(
            ({"limit_per_address": 1}, [head(address=address)] * 3, [0, 0, 0])
            for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")
        ),
    ],
)
def test_above_a_limit_clients_get_an_error_until_one_leaves(
    limits: dict[str, int], heads: list[Head], codes: list[int]
) -> None:
    gate = make(**limits)
    entered = [enter(gate, request) for request in heads]
    assert [code for code, _ in entered] == codes
    for code, peer in entered:
        if not code:
            gate.left(peer)
    assert (gate.connections, dict(gate.per_address)) == (0, {}), "whoever has left is forgotten"
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
    """Who is a stranger: ``test_origins.py``."""
    request, of_echo = (head(path, origin="http://evil.example") for path in ("/acc", "/echo"))
    gate = make()
    assert [enter(gate, each)[0] for each in (request, of_echo, head())] == [4505, 0, 0]
    gate.set_policy(GatePolicy(origins=("evil.example",)))
    assert enter(gate, request)[0] == 0
    assert enter(make(any_origin=True), request)[0] == 0


# --- paths and subprotocols ---------------------------------------------------------------------------------


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
    found = [row_of(rows, "GET", path) for path in ("/oauth/callback/a/b/c", "/apps/7/users", "/apps/7/x")]
    assert found == ["browser", "users", None]
    gate = make()
    gate.paths.update(
        {
            "/talk/*": DialectPath(CmdDialect(), ignore, 5),
            "/talk/small": DialectPath(CmdDialect(), ignore, 6, subprotocol="chat.v2"),
        }
    )
    found = [admit(gate, head(path)) for path in ("/talk/small", "/talk/shop")]
    assert [(each.encoding.limit_bytes, each.subprotocol) for each in found] == [(6, "chat.v2"), (5, "")]
    for path in ("/talk", "/talk/", "/talk/shop/more", "/other/shop"):
        assert isinstance(gate.decide(head(path)), Refusal)


# --- compression --------------------------------------------------------------------------------------------

REFUSED_WISHES = (
    *(f"server_max_window_bits{bits}" for bits in ("=8", "=16", "=010", "=x", "")),
    *("server_max_window_bits=10; server_max_window_bits=11", "client_max_window_bits=7", "unknown=1"),
    *("server_no_context_takeover; server_no_context_takeover", "server_no_context_takeover=1"),
)


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        *(
            (offer, "", 0)
            for offer in (None, "", "x-webkit-deflate-frame", "permessage-bzip2", f"{DEFLATE};;")
        ),
        *((f"{DEFLATE}; {wish}", "", 0) for wish in REFUSED_WISHES),
        (DEFLATE, TAKEN, 15),
        (f"{DEFLATE}; client_max_window_bits", TAKEN, 15),
        (f"{DEFLATE}; client_max_window_bits=10", f"{TAKEN}; client_max_window_bits=10", 15),
        (f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover", TAKEN, 15),
        (f"{DEFLATE}; server_max_window_bits=9", f"{TAKEN}; server_max_window_bits=9", 9),
        (f"{DEFLATE}; server_max_window_bits=15", f"{TAKEN}; server_max_window_bits=15", 15),
        (f"{DEFLATE}; server_max_window_bits=8, {DEFLATE}", TAKEN, 15),
        (
            f"x-other; a=1, {DEFLATE}; server_max_window_bits=12, {DEFLATE}",
            f"{TAKEN}; server_max_window_bits=12",
            12,
        ),
        (f'{DEFLATE}; server_max_window_bits="10"', f"{TAKEN}; server_max_window_bits=10", 10),
    ],
)
def test_the_first_offer_that_can_be_kept_is_taken(offer: str | None, answer: str, bits: int) -> None:
    decision = admit(make(deflate=True), head(sec_websocket_extensions=offer))
    assert decision.extension == answer
    assert decision.encoding.deflate_bits == bits
    assert admit(make(), head(sec_websocket_extensions=offer)).extension == "", "off: nothing is taken"


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
