"""Libraries of others, unmodified, prove that the fakes are as the services: aioapns and firebase-admin."""

import json
import subprocess
import sys
import uuid
import venv
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import EMAIL, KEY_ID, PROJECT, TEAM_ID, TOPIC, Keys
from fakes import FORMS, STATUSES, Apns, Do, Fcm

from tests.support import clean_environment

FIREBASE = "firebase-admin==7.7.0"
"""It needs 100 MB: so it is installed by the test that uses it, and only there."""
HOSTS = {
    "aioapns": ("api.push.apple.com", "api.development.push.apple.com"),
    "firebase": ("fcm.googleapis.com", "oauth2.googleapis.com"),
}
ERRORS = {
    "UNREGISTERED": "UnregisteredError NOT_FOUND",
    "SENDER_ID_MISMATCH": "SenderIdMismatchError PERMISSION_DENIED",
    "QUOTA_EXCEEDED": "QuotaExceededError RESOURCE_EXHAUSTED",
    "THIRD_PARTY_AUTH_ERROR": "ThirdPartyAuthError UNAUTHENTICATED",
    "INVALID_ARGUMENT": "InvalidArgumentError INVALID_ARGUMENT",
    "INTERNAL": "InternalError INTERNAL",
    "PERMISSION_DENIED": "PermissionDeniedError PERMISSION_DENIED",
}


def judge(library: str, python: Path | str, keys: Keys, given: dict[str, Any]) -> Any:
    trust = {"SSL_CERT_FILE": str(keys.certificate), "REQUESTS_CA_BUNDLE": str(keys.certificate)}
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("judge.py")), library],
        input=json.dumps({**given, "hosts": HOSTS[library]}),
        env=clean_environment(PYTHONPATH="", **trust),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_aioapns_finds_apple_in_the_fake(keys: Keys) -> None:
    with closing(Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC, keys.context("h2"), streams=20)) as fake:
        device, message = FORMS["apns"].format(1), {"aps": {"alert": "hello", "badge": 1}}
        options = {"time_to_live": 600, "priority": 10, "collapse_key": "topic-1"}
        full = {"device_token": device, "message": message, "notification_id": str(uuid.uuid4()), **options}
        silent = {"message": {"aps": {"content-available": 1}}, "push_type": "background", "priority": 5}
        wrong = [
            ({"device_token": "abc"}, "BadDeviceToken"),
            ({"collapse_key": "x" * 65}, "BadCollapseId"),
            ({"priority": 7}, "BadPriority"),
            ({"apns_topic": "com.example.other"}, "DeviceTokenNotForTopic"),
            ({"message": {"aps": {"alert": "x" * 4096}}}, "PayloadTooLarge"),
        ]
        reasons = [reason for reason in STATUSES["APNs"] if reason != "IdleTimeout"]
        devices = [FORMS["apns"].format(1000 + number) for number in range(len(reasons))]
        for each, reason in zip(devices, reasons, strict=True):
            fake.behave(each, Do(reason))
        base = {"device_token": device, "message": message}
        requests = [full, {**base, **silent}, *({**base, **change} for change, _ in wrong)]
        requests += [{"device_token": each, "message": message} for each in devices]
        given = {"key": keys.apple, "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC, "many": 50}
        results = judge("aioapns", sys.executable, keys, {**given, "port": fake.port, "requests": requests})
        assert [(row["status"], row["description"]) for row in results] == [
            ("200", None),
            ("200", None),
            *((str(STATUSES["APNs"][reason]), reason) for _, reason in wrong),
            *((str(STATUSES["APNs"][reason]), reason) for reason in reasons),
        ]
        assert results[0]["id"] == full["notification_id"]
        assert len(fake.taken) == 52
        assert len(fake.connections) == 1
        assert [text.partition(":")[0] for text in fake.problems] == [reason for _, reason in wrong]


@pytest.mark.parametrize("change", [{"key_id": "XXXXXXXXXX"}, {"team_id": "XXXXXXXXXX"}])
def test_aioapns_with_another_key_is_refused(keys: Keys, change: dict[str, str]) -> None:
    with closing(Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC, keys.context("h2"))) as fake:
        requests = [{"device_token": FORMS["apns"].format(1), "message": {"aps": {"alert": "x"}}}]
        given = {"key": keys.apple, "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC, **change}
        more = {"port": fake.port, "requests": requests, "many": 0}
        (result,) = judge("aioapns", sys.executable, keys, {**given, **more})
        assert (result["status"], result["description"]) == ("403", "InvalidProviderToken")


@pytest.fixture(scope="module")
def firebase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("firebase") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", FIREBASE]
    subprocess.run(pip, env=clean_environment(PYTHONPATH=""), check=True)
    return python


@pytest.mark.full("programs")
@pytest.mark.slow
def test_firebase_admin_finds_google_in_the_fake(keys: Keys, firebase: Path) -> None:
    with closing(Fcm(keys.google, EMAIL, PROJECT, keys.context("http/1.1"))) as fake:
        tokens = {code: FORMS["fcm"].format(number) for number, code in enumerate(ERRORS)}
        for code, token in tokens.items():
            fake.behave(token, *[Do(code)] * 5)  # it tries some again
        good, bad = FORMS["fcm"].format(100), "short"
        given = {"account": keys.account, "port": fake.port, "tokens": [good, bad, *tokens.values()]}
        results = judge("firebase", firebase, keys, given)
        assert results.pop(good).startswith(f"projects/{PROJECT}/messages/")
        assert results.pop(bad) == ERRORS["INVALID_ARGUMENT"]
        assert results == {token: ERRORS[code] for code, token in tokens.items()}
        (taken,) = fake.taken
        assert (taken.token, taken.collapse, taken.id) == (good, "topic-1", "n1")
        assert fake.token_requests >= 1  # after the status 401 it asks again
        assert [text.partition(":")[0] for text in fake.problems] == ["INVALID_ARGUMENT"]
