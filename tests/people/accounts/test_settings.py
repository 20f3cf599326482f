"""Settings of apps about accounts that cannot be."""

from typing import Any

import pytest

from tests.gateway.auth.test_tenants import Make, check_refusal
from tests.gateway.auth.test_tenants import node as node


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"accounts": {"identifiers": []}}, "app own: accounts: expected at least one of phone, email"),
        ({"accounts": {"reset_url": "im"}}, "app own: accounts.reset_url: expected an http:// or https://"),
    ],
)
def test_settings_that_cannot_be_are_refused(node: Make, fields: dict[str, Any], output: str) -> None:
    check_refusal(node, fields, output)
