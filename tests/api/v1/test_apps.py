"""The shapes of apps have every setting of an app."""

import pytest
from msgspec import Struct

from imserver.api.v1 import apps
from imserver.config import settings

FILES = {"key_file", "secret_file"}
"""Files of the server are named in its configuration only."""
SECRETS = {"key", "secret", "client_secret"}


@pytest.mark.parametrize(
    ("declared", "given", "shown", "left_out"),
    [
        (settings.TenantSettings, apps.AppSettingsGiven, apps.AppShown, set()),
        (settings.JwtSettings, apps.TokenKey, apps.TokenKeyShown, SECRETS),
        (settings.AppAccountSettings, apps.AccountRules, apps.AccountRulesShown, set()),
        (settings.ProviderSettings, apps.LoginProvider, apps.LoginProviderShown, SECRETS),
        (settings.WebhookSettings, apps.Webhook, apps.WebhookShown, SECRETS),
        (settings.BackEndSettings, apps.BackEndAddresses, apps.BackEndsShown, set()),
        (settings.PusherSettings, apps.PusherNames, apps.PusherShown, {"secret"}),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_every_setting_of_an_app_can_be_given_and_is_shown(
    declared: type[Struct], given: type[Struct], shown: type[Struct], left_out: set[str]
) -> None:
    names = set(declared.__struct_fields__) - FILES
    assert set(given.__struct_fields__) == names
    assert set(shown.__struct_fields__) - {"app", "configured", "signed"} == names - left_out
