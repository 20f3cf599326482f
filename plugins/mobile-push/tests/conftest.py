"""Keys, fakes and senders of the tests.

The senders run in this process. gevent does not change its sockets: each
request over HTTP/1.1 is answered before the next. `many.py` has many at a time.
"""

import json
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from imserver.plugin.identity import Tenant
from imserver.plugin.settings import Config

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))  # as it is here; `installed` has the distribution

from fakes import Apns, Fcm, Hms  # noqa: E402
from imserver_mobile_push import services_of  # noqa: E402
from imserver_mobile_push.service import MobileService  # noqa: E402
from imserver_mobile_push.settings import (  # noqa: E402
    ApnsSettings,
    FcmSettings,
    HmsSettings,
    MobilePush,
    MobilePushOfApp,
    MobilePushSettings,
)

from tests.integration.plug_ins import install  # noqa: E402
from tests.integration.test_webhooks import certificate_of_loopback  # noqa: E402

APP = "shop"
PROJECT = "chat-12345"
EMAIL = "push@chat-12345.iam.gserviceaccount.com"
KEY_ID = "ABC123DEFG"
TEAM_ID = "DEF123GHIJ"
TOPIC = "com.example.chat"
HMS_APP = "102345678"
HMS_SECRET = "the-client-secret-that-nobody-may-see"
HOSTS = (
    "localhost",
    "fcm.googleapis.com",
    "oauth2.googleapis.com",
    "api.push.apple.com",
    "api.sandbox.push.apple.com",
    "push-api.cloud.huawei.com",
    "oauth-login.cloud.huawei.com",
)


class Keys(NamedTuple):
    """The keys of all tests, and what trusts the certificate of the fakes."""

    account: str
    google: Any
    apple: str
    apple_public: Any
    certificate: Path

    def context(self, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        context.set_alpn_protocols([protocol])
        return context


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = certificate_of_loopback(folder, *HOSTS)
    with certificate.open("a") as file:  # both in one file
        file.write(key.read_text())
    google = rsa.generate_private_key(65537, 2048)
    apple = ec.generate_private_key(ec.SECP256R1())
    account = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123456789abcdef",
        "private_key": pem(google),
        "client_email": EMAIL,
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return Keys(
        json.dumps(account),
        google.public_key(),
        pem(apple),
        apple.public_key(),
        certificate,
    )


class Site(NamedTuple):
    """The three fakes, and the services of an app that send to them."""

    fcm: Fcm
    apns: Apns
    hms: Hms
    tenants: dict[str, Tenant]
    services: dict[str, MobileService]


def addresses_of(fcm: Fcm, apns: Apns, hms: Hms) -> dict[str, str]:
    tokens = {
        "google_oauth_url": f"{fcm.url}/token",
        "hms_oauth_url": f"{hms.url}/token",
    }
    return {"fcm_url": fcm.url, "apns_url": apns.url, "hms_url": hms.url, **tokens}


Start = Callable[..., Site]


def tenant(settings: MobilePush) -> Tenant:
    return Tenant(name=APP, of_features=(MobilePushOfApp(settings),))


def settings_of_app(keys: Keys, **more: Any) -> MobilePush:
    fcm = FcmSettings(keys.account)
    apns = ApnsSettings(keys.apple, key_id=KEY_ID, team_id=TEAM_ID, topic=TOPIC)
    return MobilePush(
        **{"fcm": fcm, "apns": apns, "hms": HmsSettings(HMS_APP, HMS_SECRET), **more}
    )


@pytest.fixture
def start(keys: Keys) -> Iterator[Start]:
    """``start(app=…, node=…, **of_apns)``: fakes and senders, with settings of
    the app and the node."""
    with ExitStack() as stack:

        def start(
            app: dict[str, Any] | None = None,
            node: dict[str, Any] | None = None,
            **of_apns: Any,
        ) -> Site:
            fakes = (
                Fcm(keys.google, EMAIL, PROJECT),
                Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC, **of_apns),
                Hms(HMS_APP, HMS_SECRET),
            )
            for fake in fakes:
                stack.callback(fake.close)
            config = Config(
                of_features=(
                    (
                        "mobile_push",
                        MobilePushSettings(**{**addresses_of(*fakes), **(node or {})}),
                    ),
                )
            )
            tenants = {APP: tenant(settings_of_app(keys, **(app or {})))}
            services = services_of(config, SimpleNamespace(get=tenants.get))
            for service in services:
                stack.callback(service.close)
            return Site(
                *fakes, tenants, {service.name: service for service in services}
            )

        yield start


@pytest.fixture
def site(start: Start) -> Site:
    return start()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install(tmp_path_factory.mktemp("mobile-push"), PLUGIN)
