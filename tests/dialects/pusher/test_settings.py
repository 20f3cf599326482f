"""Settings of apps for the pusher dialect, on a node that has it and on one
that does not."""

from typing import Any

import pytest

from imserver.dialects.pusher.declared import pusher_of
from imserver.gateway.auth.tenants import BadTenant
from imserver.gateway.config.settings import Config, TenantSettings
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.auth.test_tenants import (
    test_settings_that_cannot_be_are_refused as check_refusal,
)

PUSHER = {"app_id": "7", "key": "shopkey", "secret": "a long enough secret"}


@pytest.mark.parametrize(
    ("secret", "output"),
    [
        ({"secret": "short"}, "pusher.secret: expected at least 16 bytes, got 5"),
        ({"secret": "replace-me-with-a-secret"}, "placeholder"),
        (
            {"secret": "", "secret_file": "/etc/passwd"},
            "only the configuration file may name files",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    node: Make, secret: dict[str, Any], output: str
) -> None:
    check_refusal(node, {"pusher": PUSHER | secret}, output)


def test_names_in_pushers_protocol_belong_to_one_app(node: Make) -> None:
    tenants = node().tenants
    assert tenants.register("one", pusher=PUSHER)
    for same, output in (
        ("key", "pusher.key: another app has this key"),
        ("app_id", "has this id"),
    ):
        other = {**PUSHER, "key": "other", "app_id": "8", same: PUSHER[same]}
        with pytest.raises(BadTenant, match=output):
            tenants.register("two", pusher=other)
    tenants.change("one", {"pusher": {**PUSHER, "secret": "another long secret"}})
    assert tenants.register("two", pusher={**PUSHER, "key": "other", "app_id": "8"})


def test_settings_of_an_absent_feature_are_passed_over_and_stay_stored(
    node: Make,
) -> None:
    apps = {"demo": TenantSettings()}
    one = node(Config(apps=apps))
    assert one.tenants.register("own", pusher=PUSHER)
    two = node(Config(apps=apps, features=()))
    tenant = two.tenants.find("own")
    assert tenant is not None
    assert not tenant.ends_demo
    assert two.tenants.change("own", {"max_channels": 3}).max_channels == 3
    with pytest.raises(
        BadTenant, match="pusher: the setting features leaves this feature out"
    ):
        two.tenants.change("own", {"pusher": PUSHER})
    three = node(Config(apps=apps)).tenants.find("own")
    assert three is not None
    assert pusher_of(three).key == PUSHER["key"]
    assert three.max_channels == 3
