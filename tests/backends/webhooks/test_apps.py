"""What the settings of apps come to: who hears events, reviews messages,
decides about logins."""

import json
from pathlib import Path

import pytest

from imserver.backends.webhooks.declared import objection, secret_of
from imserver.backends.webhooks.parts import EVENTS, receiver_of
from imserver.gateway.config.settings import (
    BackEndSettings,
    TenantSettings,
    WebhookSettings,
)
from tests.backends.login_harness import WebhookHarness
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.auth.test_tenants import (
    test_settings_that_cannot_be_are_refused as check_refusal,
)
from tests.gateway.core.login_harness import HOOK
from tests.gateway.test_config import read, refusal_of_app, shown_of
from tests.messenger.node import Accounts
from tests.rows import ROUTES
from tests.security.node_harness import ALL, SECRET, Harness, config

PLACEHOLDER = "replace-me: openssl rand -hex 32"


def test_a_back_end_that_selects_no_events_receives_those_of_connections_and_messages() -> (
    None
):
    receiver = receiver_of("101", TenantSettings(webhook=HOOK), b"s")
    assert receiver is not None
    assert receiver.events == EVENTS
    assert {
        "connect",
        "disconnect",
        "login",
        "message",
        "group",
        "account",
        "absent",
    } == EVENTS


def test_without_a_secret_nothing_is_sent_but_a_back_end_may_read_its_events() -> None:
    assert receiver_of("101", TenantSettings(webhook=HOOK), b"") is None
    receiver = receiver_of(
        "101", TenantSettings(webhook=WebhookSettings(events=("absent",))), b""
    )
    assert receiver is not None
    assert receiver.events == {"absent"}
    assert receiver_of("101", TenantSettings(), b"") is None


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" the secret\n")
    hook = WebhookSettings("http://x/", secret_file=str(file))
    assert secret_of(TenantSettings(webhook=hook)) == b"the secret"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TenantSettings(), ""),
        (TenantSettings(webhook=HOOK), ""),
        (
            TenantSettings(webhook=WebhookSettings("http://x/", PLACEHOLDER)),
            "webhook.secret: this is a",
        ),
        (TenantSettings(webhook=WebhookSettings("http://x/")), "webhook.secret: "),
        (TenantSettings(webhook=WebhookSettings(secret_file="/no/file")), ""),
        (
            TenantSettings(
                webhook=WebhookSettings("http://x/", secret_file="/no/file")
            ),
            "webhook: /no/file",
        ),
        (TenantSettings(webhook=WebhookSettings("http://x/", "a", "b")), "webhook: "),
        (
            TenantSettings(back_ends=BackEndSettings(rpc="http://x/")),
            "webhook.secret: ",
        ),
    ],
)
def test_what_cannot_be_is_reported(settings: TenantSettings, why: str) -> None:
    found = objection("101", settings)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_changed_app_keeps_its_secret_if_the_new_one_cannot_be_used() -> None:
    with WebhookHarness({"101": TenantSettings(webhook=HOOK)}) as harness:
        assert harness.webhooks.back_ends.is_ready("101")
        harness.change(
            "101",
            TenantSettings(
                webhook=WebhookSettings("http://x/", secret_file="/no/file")
            ),
        )
        assert harness.webhooks.back_ends.is_ready("101")
        harness.webhook_apps.deleted("101")
        assert not harness.webhooks.back_ends.is_ready("101")
        harness.change(
            "101",
            TenantSettings(
                webhook=WebhookSettings("http://x/", secret_file="/no/file")
            ),
        )
        assert not harness.webhooks.back_ends.is_ready("101")
        assert not harness.webhooks.has_receiver("101")


RPC = "rpc: 'http://e.org'"
HEADERS = "expected headers of clients such as Cookie"


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ("webhook: a-secret", "apps.shop.webhook: expected object, got str"),
        (
            "webhook: {urls: x}",
            "unknown key 'apps.shop.webhook.urls'; the nearest known key is ",
        ),
        (
            "webhook: {url: x, secret: s}",
            "apps.shop.webhook.url: expected an http:// or https:// address",
        ),
        (
            "webhook: {url: 'http://e.org'}",
            "apps.shop.webhook: expected either secret or secret_file",
        ),
        *(
            (
                f"back_ends: {{{fields}}}\n    webhook: {{secret: s}}",
                f"apps.shop.back_ends.{output}",
            )
            for fields, output in (
                ("connect: e.org", "connect: expected an http:// or https:// address"),
                (f"{RPC}, headers: [Host]", f"headers: {HEADERS}, got 'Host'"),
                (
                    f"{RPC}, emulated_headers: ['a b']",
                    f"emulated_headers: {HEADERS}, got 'a b'",
                ),
                (
                    f"{RPC}, headers: [X-A], emulated_headers: [x-a]",
                    "emulated_headers: x-a is in headers, so",
                ),
            )
        ),
        (
            "channels: {a: {publish: back_end}}",
            "apps.shop.channels.a.publish: back_end needs the address",
        ),
        (
            "webhook: {authorise_url: x, secret: s}",
            "apps.shop.webhook.authorise_url: expected an http",
        ),
        (
            "webhook: {review_url: 'http://x/'}",
            "apps.shop.webhook: expected either secret or secret_file",
        ),
        ("webhook: {review_seconds: 31}", "apps.shop.webhook.review_seconds: "),
        (
            "webhook: {events: [logon]}",
            "apps.shop.webhook.events[0]: expected one of absent, ",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named(
    tmp_path: Path, settings: str, output: str
) -> None:
    assert refusal_of_app(tmp_path, settings).startswith(output)


def test_a_dump_hides_the_secrets_in_urls(tmp_path: Path) -> None:
    url = "https://me:{}@example.org/hook?access_token={}"
    row = f"{{url: '{url.format('pa55', 't0ken')}', secret: {'s' * 40}}}"
    text = shown_of(read(tmp_path, f"apps: {{shop: {{webhook: {row}}}}}"))
    assert "pa55" not in text
    assert "t0ken" not in text
    assert url.format("(hidden)", "(hidden)") in text


def test_settings_that_cannot_be_are_refused(node: Make) -> None:
    for fields, output in (
        (
            {"url": "https://example.org", "secret_file": "/etc/passwd"},
            "only the configuration file",
        ),
        ({"url": "ftp://e.org", "secret": "a secret"}, "webhook.url: expected an http"),
    ):
        check_refusal(node, {"webhook": fields}, output)


JWT = [{"algorithm": "HS256", "key": SECRET}]
WEBHOOK = {"secret": "x" * 20, "review_url": "http://127.0.0.1:9/"}


def test_without_the_feature_messages_of_apps_with_a_reviewer_are_refused(
    tmp_path: Path,
) -> None:
    first = Harness(config(tmp_path))
    for app, webhook in (("reviewed", WEBHOOK), ("free", {})):
        given = {"app": app, "settings": {"jwt": JWT, "webhook": webhook}}
        assert first.call("POST", "/api/v1/apps/create", given, ALL.key)[0] == 201
    first.close()
    node = Harness(config(tmp_path, features=("messages",)))
    node.node.core.authority.accounts = Accounts()
    push = next(row for row in ROUTES if row.path == "/user/sendMessage")
    for app, status, code in (("reviewed", 503, 1008), ("free", 200, 200)):
        message = {"app": app, "to": "2", "text": "rude"}
        assert (
            node.call("POST", "/api/v1/messages/send", message, f"eyJ.{app}.1")[0]
            == status
        )
        form = {"appID": app, "userID": "2", "message": "rude"}
        answer = node.ask(
            push, {"authorization": f"Bearer {node.session(app)}"}, body=form
        )
        assert json.loads(answer.body)["code"] == code, answer.body
    node.close()
