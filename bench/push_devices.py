"""The push services of applications, for scenarios: those with which the plug-in ``mobile-push`` is tested.

They are in the source tree, in a process of their own, and check what the real ones check.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.generator import Generator
from bench.loop import BenchError, Json
from bench.workers import SOURCE

KINDS: Final = ("fcm", "apns", "hms")
PLUGIN: Final = SOURCE / "plugins" / "mobile-push"
FORMS: Final = {"fcm": "f:{:060d}", "apns": "{:064x}", "hms": "h{:060d}"}
"""Service → tokens of devices by number."""
_PROJECT: Final = "chat-12345"
_EMAIL: Final = f"push@{_PROJECT}.iam.gserviceaccount.com"
_KEY, _TEAM, _TOPIC = "ABC123DEFG", "DEF123GHIJ", "com.example.chat"
_HMS_APP, _HMS_SECRET = "102345678", "a-secret-for-measuring-only"
_THROTTLED: Final = {"fcm": "QUOTA_EXCEEDED", "apns": "TooManyRequests", "hms": "503"}
_BUSY: Final = {"fcm": "UNAVAILABLE", "apns": "ServiceUnavailable", "hms": "81000001"}
_GONE: Final = {"fcm": "UNREGISTERED", "apns": "Unregistered", "hms": "80300007"}
_TIMES: Final = 1000
"""How often a device of a service that fails does so."""
_EACH: Final = 50
"""Of so many of its devices, the first request of one is reset, and that of one is refused for now."""


def plug_in(folder: Path) -> dict[str, str]:
    """The variables with which a node finds the plug-in. Writes into ``folder``. Raises BenchError."""
    if not (PLUGIN / "tests" / "fakes.py").is_file():
        raise BenchError(f"{PLUGIN}: this kind needs the source tree of imserver, with its plug-ins")
    metadata = folder / "imserver_mobile_push-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: imserver-mobile-push\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[imserver.features]\nmobile_push = imserver_mobile_push:FEATURE\n"
    )
    features = json.dumps(["all", "mobile_push"])
    return {"PYTHONPATH": f"{SOURCE}:{PLUGIN}:{folder}", "IMSERVER_FEATURES": features}


def listen(generator: Generator) -> Json:
    """Task: start the services. Returns the settings of a node and of an app that uses them."""
    generator.state["devices"], settings = start()
    return settings


def start() -> tuple[Devices, Json]:
    """Start the services in threads of this process; see :func:`listen`. Raises BenchError."""
    sys.path.insert(0, str(PLUGIN / "tests"))
    try:
        fakes: Any = importlib.import_module("fakes")
    except ImportError as error:
        raise BenchError(f"{PLUGIN}: {error}") from error
    google, apple = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    services = {
        "fcm": fakes.Fcm(google.public_key(), _EMAIL, _PROJECT),
        "apns": fakes.Apns(apple.public_key(), _KEY, _TEAM, _TOPIC),
        "hms": fakes.Hms(_HMS_APP, _HMS_SECRET),
    }
    for service in services.values():
        service.taken = Taken()
    account = {
        "type": "service_account",
        "project_id": _PROJECT,
        "private_key": _pem(google),
        "client_email": _EMAIL,
    }
    settings = {
        "node": {
            "fcm_url": services["fcm"].url,
            "google_oauth_url": f"{services['fcm'].url}/token",
            "apns_url": services["apns"].url,
            "hms_url": services["hms"].url,
            "hms_oauth_url": f"{services['hms'].url}/token",
        },
        "app": {
            "fcm": {"service_account": json.dumps(account)},
            "apns": {"key": _pem(apple), "key_id": _KEY, "team_id": _TEAM, "topic": _TOPIC},
            "hms": {"app_id": _HMS_APP, "app_secret": _HMS_SECRET},
        },
    }
    return Devices(fakes.Do, services), settings


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Taken(list[Any]):
    """What a service has taken, without contents: there may be a million."""

    def append(self, one: Any) -> None:
        super().append(one._replace(content={}, headers={}))


class Devices:
    """The services, by name, with what their devices got. ``do`` makes what happens to a request."""

    def __init__(self, do: Any, services: Mapping[str, Any]) -> None:
        self.do = do
        self.services = services

    def close(self) -> None:
        """End the services."""
        for service in self.services.values():
            service.close()

    def disturb(self, kind: str, most: int) -> None:
        """The service that works fails for some of its first ``most`` devices, once each. One of the others
        hangs; the last one throttles and resets."""
        hanging, failing = (name for name in KINDS if name != kind)
        self.services[hanging].always = self.do(what="hang")
        refused, reset = self.do(_THROTTLED[failing]), self.do(what="reset")
        busy = self.do(_BUSY[kind])
        for number in range(most):
            token = FORMS[failing].format(number)
            self.services[failing].behave(token, *[reset if number % 2 else refused] * _TIMES)
            if number % _EACH < 2:
                self.services[kind].behave(FORMS[kind].format(number), reset if number % _EACH else busy)


def disturb(generator: Generator, kind: str, most: int) -> Json:
    """Task: see :meth:`Devices.disturb`."""
    generator.state["devices"].disturb(kind, most)
    return {}


def take(generator: Generator, kind: str, devices: int, seconds: float) -> Json:
    """Task: wait until a service has taken so many more notifications, or until it is stopped."""
    services = generator.state["devices"].services
    others = [services[name].requests for name in KINDS if name != kind]
    before, others_before = len(services[kind].taken), sum(each.total() for each in others)
    generator.state["before"] = before
    generator.loop.until(lambda: len(services[kind].taken) - before >= devices, seconds)
    last = time.monotonic()
    return {"last": last, "others": sum(each.total() for each in others) - others_before, "body_bytes": 0}


def count(generator: Generator, kind: str) -> Json:
    """Task: which devices have got a notification since :func:`take` began; ``requests`` counts also those
    that came again with the same collapse id."""
    service = generator.state["devices"].services[kind]
    if service.problems:
        raise BenchError(f"{kind} refuses what the server sends: {service.problems[:3]}")
    counts = Counter((each.token, each.collapse) for each in service.taken[generator.state["before"] :])
    return {"devices": len({token for token, _ in counts}), "requests": counts.total()}


def take_dead(generator: Generator, kind: str, devices: int, seconds: float) -> Json:
    """Task: a service knows none of its devices any more; wait until so many were asked for."""
    service = generator.state["devices"].services[kind]
    service.always = generator.state["devices"].do(_GONE[kind])
    service.requests.clear()
    generator.loop.until(lambda: len(service.requests) >= devices, seconds)
    return {}


def count_dead(generator: Generator, kind: str) -> Json:
    """Task: the devices for which there were requests since :func:`take_dead` began, and the requests."""
    requests = generator.state["devices"].services[kind].requests
    return {"devices": len(requests), "requests": requests.total()}
