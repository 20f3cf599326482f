"""The settings of mobile push: settings of a node, and the keys of an app, with
their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.identity import BadKey
from imserver.plugin.settings import (
    Config,
    Locations,
    Secret,
    SecretFile,
    TenantSettings,
    app_settings_of,
    settings_of,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_ADDRESS: Final = re.compile(
    r"https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[^?#\s]*)?"
)


class MobilePushSettings(Struct, frozen=True):
    """Section ``mobile_push``: the addresses of the services, for proxies and
    tests. Apps have the keys."""

    fcm_url: str = "https://fcm.googleapis.com"
    google_oauth_url: str = "https://oauth2.googleapis.com/token"
    apns_url: str = "https://api.push.apple.com"
    apns_sandbox_url: str = "https://api.sandbox.push.apple.com"
    hms_url: str = "https://push-api.cloud.huawei.com"
    hms_oauth_url: str = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
    seconds: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """How long a service may take to answer."""


class FcmSettings(Struct, frozen=True):
    """Google's Firebase Cloud Messaging."""

    service_account: Annotated[
        Secret,
        about(
            "The key of a service account of the Firebase project, as JSON.",
            by_key=True,
        ),
    ] = ""
    service_account_file: SecretFile = ""
    data_only: Annotated[
        bool,
        about(
            "Whether the application shows notifications itself, also with buttons. If "
            "not, Android shows them."
        ),
    ] = False


class ApnsSettings(Struct, frozen=True):
    """Apple's push service."""

    key: Annotated[
        Secret,
        about(
            "The key for token-based requests (`AuthKey_….p8`), as text.", by_key=True
        ),
    ] = ""
    key_file: SecretFile = ""
    key_id: Annotated[
        str,
        Meta(extra={"secret": False}),
        about("The id of the key: ten characters.", by_key=True),
    ] = ""
    team_id: Annotated[
        str, about("The id of the team: ten characters.", by_key=True)
    ] = ""
    topic: Annotated[str, about("The bundle id of the application.")] = ""
    sandbox: Annotated[
        bool,
        about(
            "Whether the devices run development builds. Their tokens are valid only "
            "in Apple's sandbox."
        ),
    ] = False


class HmsSettings(Struct, frozen=True):
    """Huawei's Push Kit."""

    app_id: Annotated[
        str, about("The id of the application in AppGallery Connect.", number=True)
    ] = ""
    app_secret: Annotated[
        Secret, about("The OAuth 2.0 client secret of the application.", by_key=True)
    ] = ""
    app_secret_file: SecretFile = ""
    category: Annotated[
        str,
        about(
            "The message category that Huawei has granted to the application, such as "
            "`IM`."
        ),
    ] = ""
    badge_class: Annotated[
        str,
        about("The class of the activity whose icon has the badge; empty: no badge."),
    ] = ""


class MobilePush(Struct, frozen=True):
    """The push services of an app."""

    fcm: FcmSettings = FcmSettings()
    apns: ApnsSettings = ApnsSettings()
    hms: HmsSettings = HmsSettings()
    per_second: Annotated[
        int,
        Meta(ge=0),
        about(
            "The maximum number of notifications per second to each service; 0: no "
            "limit.",
            api={"le": 100_000},
        ),
    ] = 0


class MobilePushOfApp(Struct, frozen=True):
    """The keys of an app."""

    mobile_push: MobilePush = MobilePush()


class FcmKey(Struct, frozen=True):
    """The key of a service account at Google. ``audience``: who takes the
    tokens that it signs."""

    project: str
    email: str
    key_id: str
    key: RSAPrivateKey
    audience: str


def _content(setting: str, name: str, text: str, file: str) -> str:
    """A secret, which is in a setting or in a file.

    ``text`` and ``file`` are the values of the settings ``<name>`` and
    ``<name>_file``. Returns ``""`` if neither is given. Raises BadKey, which
    never shows the secret.
    """
    # Nobody could know which of them counts.
    if text and file:
        raise BadKey(f"{setting}: {name} and {name}_file are both given")
    if not file:
        return text
    try:
        return Path(file).read_text("utf-8")
    except OSError as error:
        raise BadKey(f"{setting}.{name}_file: {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadKey(f"{setting}.{name}_file: {file}: expected text") from None


def _private_key(setting: str, pem: str, kind: type[Any], what: str) -> Any:
    """A private key in PEM, which must be of this ``kind``.

    ``what`` describes the expected key for people. Raises BadKey.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, kind):
        raise BadKey(f"{setting}: expected {what} in PEM (-----BEGIN PRIVATE KEY-----)")
    return key


def fcm_key(settings: FcmSettings) -> FcmKey | None:
    """The service account of an app, or None if the app has no key for FCM.

    Reads its file, if the key is in one. Raises BadKey.
    """
    setting = "mobile_push.fcm"
    text = _content(
        setting,
        "service_account",
        settings.service_account,
        settings.service_account_file,
    )
    if not text:
        return None
    # Loaded here, because a node whose apps have no keys does not need it.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    name = f"{setting}.service_account"
    account = _service_account(name, text)
    key = _private_key(
        f"{name}: private_key", account["private_key"], RSAPrivateKey, "an RSA key"
    )
    return FcmKey(
        project=account["project_id"],
        email=account["client_email"],
        key_id=account.get("private_key_id", ""),
        key=key,
        audience=account.get("token_uri") or MobilePushSettings().google_oauth_url,
    )


def _service_account(name: str, text: str) -> dict[str, str]:
    """The fields of a service account, from the JSON that Google's console has
    made. ``name``: the setting, for errors. Raises BadKey."""
    try:
        account = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError):
        raise BadKey(
            f"{name}: expected the JSON that the Firebase console has made"
        ) from None
    if account.get("type") != "service_account":
        raise BadKey(
            f'{name}: expected the key of a service account, with "type": "service_account"'
        )
    _check_fields(name, account)
    return account


def _check_fields(name: str, account: Mapping[str, str]) -> None:
    """Raise BadKey if a field of a service account is missing or wrong."""
    for field in ("project_id", "client_email", "private_key"):
        if not account.get(field):
            raise BadKey(f"{name}: {field} is missing")
    # It becomes a part of a URL.
    if not re.fullmatch(r"[a-z0-9.:-]{1,100}", account["project_id"]):
        raise BadKey(f"{name}: project_id: expected small letters, digits and dashes")


def apns_key(settings: ApnsSettings) -> EllipticCurvePrivateKey | None:
    """The key of an app for Apple, or None if the app has no key.

    Reads its file, if the key is in one. Raises BadKey.
    """
    setting = "mobile_push.apns"
    text = _content(setting, "key", settings.key, settings.key_file)
    if not text:
        # Other settings without a key are a mistake, but for the sandbox.
        if settings not in (ApnsSettings(), ApnsSettings(sandbox=True)):
            raise BadKey(f"{setting}: expected key or key_file")
        return None
    from cryptography.hazmat.primitives.asymmetric.ec import (
        SECP256R1,
        EllipticCurvePrivateKey,
    )

    expected = "a key of P-256 (AuthKey_….p8)"
    key = _private_key(f"{setting}.key", text, EllipticCurvePrivateKey, expected)
    if not isinstance(key.curve, SECP256R1):
        raise BadKey(f"{setting}.key: expected {expected}")
    _check_apns_names(setting, settings)
    return key  # type: ignore[no-any-return]  # its type was checked


def _check_apns_names(setting: str, settings: ApnsSettings) -> None:
    """Raise BadKey if the names that belong to a key of Apple are not valid.
    ``setting``: the section, for errors."""
    for name, value in (("key_id", settings.key_id), ("team_id", settings.team_id)):
        if not re.fullmatch(r"[A-Z0-9]{10}", value):
            raise BadKey(
                f"{setting}.{name}: expected ten capital letters and digits, got {value!r}"
            )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}", settings.topic):
        raise BadKey(
            f"{setting}.topic: expected a bundle id such as com.example.chat, got {settings.topic!r}"
        )


def hms_secret(settings: HmsSettings) -> str:
    """The client secret of an app for Huawei; ``""`` if the app has no secret.

    Reads its file, if the secret is in one. Raises BadKey.
    """
    setting = "mobile_push.hms"
    secret = _content(
        setting, "app_secret", settings.app_secret, settings.app_secret_file
    ).strip()
    # Both are given, or none.
    if bool(secret) != bool(settings.app_id):
        raise BadKey(f"{setting}: expected app_id, and app_secret or app_secret_file")
    if secret and not re.fullmatch(r"[0-9]{1,20}", settings.app_id):
        raise BadKey(f"{setting}.app_id: expected digits, got {settings.app_id!r}")
    return secret


def of_app(tenant: TenantSettings) -> MobilePush:
    """The push services of an app."""
    return app_settings_of(tenant, MobilePushOfApp).mobile_push


def objection(_name: str, tenant: TenantSettings) -> str:
    """The error in the keys of an app; ``""`` if the keys are right. Reads
    their files."""
    settings = of_app(tenant)
    try:
        fcm_key(settings.fcm)
        apns_key(settings.apns)
        hms_secret(settings.hms)
    except BadKey as bad:
        return str(bad)
    return ""


def check(config: Config, locations: Locations) -> None:
    """Check the addresses of the services. Raises ConfigError."""
    for name, address in msgspec.structs.asdict(
        settings_of(config, MobilePushSettings)
    ).items():
        if isinstance(address, str) and not _ADDRESS.fullmatch(address):
            raise locations.wrong(f"mobile_push.{name}", "expected an https:// address")


SETTINGS: Final = SettingsRow(
    {"mobile_push": MobilePushSettings, "apps.*": MobilePushOfApp}, objection, check
)
