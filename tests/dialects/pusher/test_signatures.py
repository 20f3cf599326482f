"""Signatures of Pusher's HTTP API: what they cover, and for how long."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from imserver.dialects.pusher.apps import (
    PusherApp,
    PusherApps,
    body_matches,
    read_query,
)
from imserver.dialects.pusher.declared import PusherOfApp, PusherSettings, pusher_of
from imserver.dialects.pusher.service import connection_id_of, socket_id_of
from imserver.gateway.auth.principal import BadSignature
from imserver.gateway.config.declared import marked
from imserver.gateway.config.settings import TenantSettings
from tests.dialects.pusher.harness import apps_of
from tests.gateway.test_config import read, refusal, refusal_of_app, shown_of

NOW = 1_800_000_000
SHOP = PusherApp("shop", b"the secret of the shop", PusherSettings("7", "shopkey"))
CLUB = PusherApp("club", b"the secret of the club", PusherSettings("8", "clubkey"))
PATH = "/apps/7/channels"


@pytest.fixture
def apps() -> PusherApps:
    return apps_of(SHOP, CLUB)


def query(
    path: str = PATH, method: str = "GET", app: PusherApp = SHOP, **params: str
) -> bytes:
    """A signed query."""
    params = {
        "auth_key": "shopkey",
        "auth_version": "1.0",
        "auth_timestamp": str(NOW),
        **params,
    }
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    signature = app.sign(f"{method}\n{path}\n{text}")
    return urlencode({**params, "auth_signature": signature}).encode()


def test_who_signs_is_the_back_end_of_the_app_of_the_key(apps: PusherApps) -> None:
    principal = apps.signer(
        "GET", PATH, query(info="user_count,subscription_count"), NOW
    )
    assert (principal.kind, principal.apps, principal.scopes) == (
        "signature",
        {"shop"},
        frozenset(),
    )


WRONG: list[tuple[str, Callable[[], tuple[str, str, bytes]]]] = [
    ("of another method", lambda: ("POST", PATH, query())),
    ("of another path", lambda: ("GET", "/apps/7/channels/x", query())),
    ("with another parameter", lambda: ("GET", PATH, query() + b"&info=x")),
    ("by the secret of another app", lambda: ("GET", PATH, query(app=CLUB))),
    ("with an unknown key", lambda: ("GET", PATH, query(auth_key="nokey"))),
    ("with another version", lambda: ("GET", PATH, query(auth_version="2.0"))),
    ("too old", lambda: ("GET", PATH, query(auth_timestamp=str(NOW - 601)))),
    ("of the future", lambda: ("GET", PATH, query(auth_timestamp=str(NOW + 601)))),
    ("without a time", lambda: ("GET", PATH, query(auth_timestamp="soon"))),
    (
        "without a signature",
        lambda: ("GET", PATH, query().partition(b"&auth_signature")[0]),
    ),
    ("with a parameter twice", lambda: ("GET", PATH, query() + b"&auth_key=clubkey")),
    ("that is no text", lambda: ("GET", PATH, b"\xff")),
    ("with many parameters", lambda: ("GET", PATH, query() + b"&a=1" * 100)),
]


@pytest.mark.parametrize(("why", "request_of"), WRONG, ids=[why for why, _ in WRONG])
def test_requests_that_prove_nothing(
    apps: PusherApps, why: str, request_of: Callable[[], tuple[str, str, bytes]]
) -> None:
    with pytest.raises(BadSignature):
        apps.signer(*request_of(), NOW)


@pytest.mark.parametrize("at", [NOW - 600, NOW + 600])
def test_the_window_has_ten_minutes_to_both_sides(apps: PusherApps, at: int) -> None:
    assert apps.signer("GET", PATH, query(), at).kind == "signature"


@pytest.mark.parametrize(
    "signed", ["/apps/7/users/a b@c/x", "/apps/7/users/a%20b%40c/x"]
)
@pytest.mark.parametrize(
    "sent", ["/apps/7/users/a b@c/x", quote("/apps/7/users/a b@c/x")]
)
def test_a_path_may_be_signed_before_or_after_it_is_encoded(
    apps: PusherApps, signed: str, sent: str
) -> None:
    assert apps.signer("GET", sent, query(signed), NOW).kind == "signature"


def test_the_body_is_that_of_the_signed_query() -> None:
    params = {"body_md5": hashlib.md5(b"{}").hexdigest()}
    assert body_matches(params, b"{}")
    assert not body_matches(params, b"{ }")
    assert not body_matches({}, b"{}")
    assert body_matches({}, b"")
    assert body_matches({"body_md5": hashlib.md5(b"").hexdigest()}, b"")


def test_names_of_parameters_are_compared_in_lower_case() -> None:
    assert read_query(b"Info=a%2Cb") == {"info": "a,b"}


def test_a_signature_permits_one_thing_by_one_key() -> None:
    signature = SHOP.sign("1.2:private-a")
    assert SHOP.allows("1.2:private-a", f"shopkey:{signature}")
    for text, auth in (
        ("1.3:private-a", f"shopkey:{signature}"),
        ("1.2:private-b", f"shopkey:{signature}"),
        ("1.2:private-a", f"clubkey:{signature}"),
        ("1.2:private-a", signature),
        ("1.2:private-a", ""),
        ("1.2:private-a", f"shopkey:{signature}0"),
        ("1.2:private-a", "shopkey:é"),
    ):
        assert not SHOP.allows(text, auth)


def test_an_app_that_stops_speaking_the_protocol_is_forgotten(apps: PusherApps) -> None:
    apps.set("shop", None)
    assert apps.by_key.get("shopkey") is None
    assert apps.by_id.get("7") is None
    assert apps.by_name.get("shop") is None
    assert apps.by_key.get("clubkey") == CLUB


def test_of_two_apps_with_one_key_the_first_by_name_keeps_it(apps: PusherApps) -> None:
    apps.set("arc", PusherApp("arc", b"x" * 16, PusherSettings("9", "clubkey")))
    assert apps.by_key.get("clubkey") == apps.by_name.get("arc")
    apps.set("arc", None)
    assert apps.by_key.get("clubkey") == CLUB


def test_a_socket_id_is_the_connection_id_in_numbers() -> None:
    for connection_id in ("A" * 38, "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-A"):
        socket_id = socket_id_of(connection_id)
        assert all(each.isdecimal() for each in socket_id.split("."))
        assert connection_id_of(socket_id) == connection_id


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "1",
        "1.",
        ".1",
        "a.b",
        "1.2.3",
        "-1.2",
        "٣.1",
        f"{1 << 112}.1",
        "9" * 5000 + ".1",
    ],
)
def test_what_is_no_socket_id(wrong: str) -> None:
    assert connection_id_of(wrong) == ""


def test_checks_of_settings_know_the_secret_and_the_url() -> None:
    settings = PusherSettings("7", "key", "s" * 20, webhook_url="https://shop.example/")
    app = TenantSettings(of_features=(PusherOfApp(settings),))
    assert app.ends_demo
    assert list(marked(app, "url")) == [("pusher.webhook_url", "https://shop.example/")]


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        (
            "pusher: {app_id: 7, secret: s}",
            "apps.shop.pusher: expected app_id, key, and secret",
        ),
        (
            "pusher: {key: k, secret: s}",
            "apps.shop.pusher.app_id: expected 1 to 100 letters",
        ),
        (
            "pusher: {app_id: 7, key: a/b, secret: s}",
            "apps.shop.pusher.key: expected 1 to 100 letters",
        ),
        (
            "pusher: {app_id: 7, key: k}",
            "apps.shop.pusher: expected either secret or secret_file",
        ),
        (
            "pusher: {app_id: 7, key: k, secret: s, webhook_url: e.org}",
            "apps.shop.pusher.webhook_url: expected an http:// or https:// address",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named(
    tmp_path: Path, settings: str, output: str
) -> None:
    assert refusal_of_app(tmp_path, settings).startswith(output)


@pytest.mark.parametrize(("name", "other"), [("key", "app_id"), ("app_id", "key")])
def test_two_apps_have_two_names_in_pushers_protocol(
    tmp_path: Path, name: str, other: str
) -> None:
    row = f"secret: ssssssssssssssss, {name}: '7'"
    shop, club = (f"{{pusher: {{{row}, {other}: {each}}}}}" for each in "ab")
    output = refusal(tmp_path, f"apps:\n  shop: {shop}\n  club: {club}\n")
    assert (
        output
        == f"line 3: apps.club.pusher.{name}: '7' is already used by the app shop"
    )


def test_the_secret_of_pushers_protocol_ends_demo_mode_and_is_not_printed(
    tmp_path: Path,
) -> None:
    settings = read(
        tmp_path,
        "apps: {shop: {pusher: {app_id: 7, key: k, secret: ssssssssssssssss}}}",
    )
    assert not settings.demo
    assert pusher_of(settings.apps["shop"]).app_id == "7"
    assert "ssss" not in shown_of(settings)
