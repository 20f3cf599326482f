"""The declarations of the feature: settings, problems and tables."""

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import about
from imserver.plugin.identity import Issuer
from imserver.plugin.settings import (
    HTTP_URL,
    Config,
    Locations,
    Secret,
    TenantSettings,
    app_settings_of,
)
from imserver.plugin.storage import Reason, Table

Text = Annotated[str, Meta(min_length=1)]


class ProviderSettings(Struct, frozen=True):
    """A provider with which accounts log in.

    ``issuer``: address of an OpenID Connect provider, or of a GitHub Enterprise
    Server. ``scopes``: in place of the default scopes, which show who the user
    is. ``register``: whether the first login makes an account.
    """

    kind: Annotated[
        Literal["oidc", "github", "wechat", "wechat_official"],
        about(
            "`oidc`: any OpenID Connect provider. `wechat`: the QR code for websites. "
            "`wechat_official`: the page of an official account."
        ),
    ]
    client_id: Annotated[
        Text, about("The id that the provider has assigned to the app.")
    ]
    client_secret: Annotated[Secret, about("The secret of the `client_id`.")] = ""
    issuer: Annotated[
        str,
        about(
            "The address of an `oidc` provider, or of a GitHub Enterprise Server.",
            url=True,
        ),
    ] = ""
    scopes: Annotated[
        tuple[Text, ...],
        about("The scopes to request; an empty list: the scopes that show the user."),
    ] = ()
    register: Annotated[bool, about("Whether the first login creates an account.")] = (
        False
    )
    title: Annotated[str, about("The name to show; empty: that of the entry.")] = ""


class OAuthOfApp(Struct, frozen=True):
    """The keys of an app."""

    oauth: Annotated[
        dict[
            Annotated[
                Text, Meta(extra={"api": {"pattern": "^[a-z0-9][a-z0-9_-]{0,31}$"}})
            ],
            ProviderSettings,
        ],
        about("Name → provider with which accounts log in.", by_key=True),
    ] = field(default_factory=dict)


def providers_of(tenant: TenantSettings) -> dict[str, ProviderSettings]:
    """The providers of an app by name."""
    return app_settings_of(tenant, OAuthOfApp).oauth


def objection(_name: str, settings: TenantSettings) -> str:
    """The error in the providers of an app; ``""`` if they are valid."""
    for name, row in providers_of(settings).items():
        error = _objection_to(name, row)
        if error:
            return error
    return ""


def _objection_to(name: str, row: ProviderSettings) -> str:
    """The error in the settings of one provider; ``""`` if they are valid."""
    setting = f"oauth.{name}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
        return (
            f"{setting}: expected a name of 1 to 32 lower-case letters, digits, _ or -"
        )
    # An issuer names the addresses of a provider. Other kinds have fixed ones.
    if row.kind == "oidc" and not row.issuer:
        return f"{setting}: kind oidc needs an issuer"
    if row.kind != "oidc" and not row.client_secret:
        return f"{setting}: kind {row.kind} needs a client_secret"
    if row.issuer and not Issuer.accepts(row.issuer):
        expected = "an https:// address (http:// only to this machine)"
        return f"{setting}.issuer: expected {expected}, got {row.issuer!r}"
    return ""


def check(config: Config, locations: Locations) -> None:
    """Check that apps with providers have accounts, and an address for
    browsers.

    Raises ConfigError.
    """
    for name, tenant in config.apps.items():
        if not providers_of(tenant):
            continue
        setting = f"apps.{name}.oauth"
        if not tenant.wants_accounts(name):
            raise locations.lacks(setting, "account_tokens: required")
        if not HTTP_URL.match(config.app.http_url):
            needs = (
                "app.http_url with http:// or https://: providers send browsers back "
                "to it"
            )
            raise locations.lacks(setting, needs)


SETTINGS: Final = SettingsRow({"apps.*": OAuthOfApp}, objection, check)

HTTP_LINK_TAKEN: Final = HttpProblem(
    409,
    "link_taken",
    "This identity is already linked with another account, or the account is linked "
    "with another identity of this provider.",
)
HTTP_LAST_LOGIN: Final = HttpProblem(
    409, "last_login", "Without this link, nobody could log in to the account."
)

TABLES: Final = (
    Table(
        name="oauth_link",
        types=(
            "app name500*, provider name32* out, subject name255* out, "
            "account big out user, since big out"
        ),
        erase_user=Reason("the deletion of the account erases it, in one transaction"),
        parents=("account",),
    ),
)
