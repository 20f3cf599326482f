"""Apple's connection, its limits and each way in which it can end; libraries of
others prove the fakes."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
import venv
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import APP, EMAIL, KEY_ID, PROJECT, TEAM_ID, TOPIC, Keys, Site, Start
from fakes import FORMS, STATUSES, Apns, Do, Fcm
from imserver_mobile_push import http2

from imserver.plugin.wire import PushNotice, PushResult
from tests.support import clean_environment

SECONDS = {"seconds": 20.0}
"""How long a fake may take on a busy machine."""


def device(number: int) -> str:
    return f"{number:064x}"


def send(site: Site, number: int) -> PushResult:
    notice = PushNotice(
        f"n{number}", "push", "t", f"topic-{number}", body="x" * 1000, ttl=60
    )
    return site.services["apns"].send(APP, device(number), notice)


def send_many(site: Site, numbers: range) -> list[PushResult]:
    jobs = [gevent.spawn(send, site, number) for number in numbers]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]


def outcomes(results: list[PushResult]) -> set[str]:
    return {result.outcome for result in results}


@pytest.mark.parametrize(("window", "table"), [(65535, 4096), (700, 0)])
@pytest.mark.parametrize("streams", [1, 5, 100])
def test_requests_share_a_connection_within_the_limits_of_the_server(
    start: Start, streams: int, window: int, table: int
) -> None:
    site = start(node=SECONDS, streams=streams, window=window, table=table)
    site.apns.always = Do(seconds=0.02)
    assert outcomes(send_many(site, range(60))) == {"taken"}
    assert (site.apns.problems, len(site.apns.connections)) == ([], 1)
    assert 1 <= site.apns.most_streams <= streams
    assert streams == 1 or site.apns.most_streams > 1
    assert len(site.apns.taken) == 60
    assert site.apns.twice() == []


def test_a_late_answer_delays_no_other(start: Start) -> None:
    site = start(node=SECONDS)
    send(site, 0)
    site.apns.behave(device(1), Do(seconds=3.0))
    late = gevent.spawn(send, site, 1)
    assert outcomes(send_many(site, range(2, 30))) == {"taken"}
    assert not late.ready()
    assert late.get().outcome == "taken"
    assert len(site.apns.connections) == 1


def test_a_request_without_an_answer_is_left_alone(start: Start) -> None:
    site = start(node={"seconds": 1.0})
    send(site, 0)
    site.apns.behave(device(1), Do(what="hang"))
    hanging = gevent.spawn(send, site, 1)
    while not hanging.ready():
        assert send(site, 2).outcome == "taken"
    assert (hanging.value.outcome, hanging.value.problem) == (
        "later",
        "no answer within 1 s",
    )
    assert len(site.apns.connections) == 1, "the connection has answered others"


def test_a_silent_connection_is_given_up(start: Start) -> None:
    site = start(node={"seconds": 1.0})
    assert send(site, 0).outcome == "taken"
    site.apns.behave(device(1), Do(what="hang"))
    assert send(site, 1).outcome == "later"
    assert send(site, 1).outcome == "taken"
    assert len(site.apns.connections) == 2


def test_a_request_that_was_not_begun_is_sent_again_at_once(start: Start) -> None:
    site = start(node=SECONDS)
    site.apns.behave(device(1), Do(what="goaway-before"))
    assert send(site, 1).outcome == "taken"
    assert (site.apns.requests[device(1)], len(site.apns.connections)) == (2, 2)
    site.apns.behave(device(2), *[Do(what="goaway-before")] * 3)
    result = send(site, 2)
    assert result.outcome == "later"
    assert "Shutdown" in result.problem


@pytest.mark.parametrize("what", ["refuse", "reset", "close", "reset-connection"])
def test_a_reset_or_lost_request_comes_later(start: Start, what: str) -> None:
    site = start(node=SECONDS)
    send(site, 0)
    site.apns.behave(device(1), Do(what=what))
    assert send(site, 1).outcome == "later"
    assert send(site, 1).outcome == "taken"
    assert len(site.apns.connections) == (1 if what in ("refuse", "reset") else 2)


def test_requests_before_goaway_are_answered_and_those_after_it_go_elsewhere(
    start: Start,
) -> None:
    site = start(node=SECONDS)
    send(site, 0)
    site.apns.behave(device(20), Do(what="goaway"))
    for number in range(1, 20, 3):
        site.apns.behave(device(number), Do(seconds=0.3))
    assert outcomes(send_many(site, range(1, 60))) == {"taken"}
    assert (site.apns.problems, len(site.apns.connections)) == ([], 2)
    assert len(site.apns.taken) == 60
    assert site.apns.twice() == []


def test_an_idle_goaway_opens_a_new_connection(start: Start) -> None:
    site = start(node=SECONDS)
    for number in range(3):
        site.apns.behave(
            device(number), Do(what="goaway", more={"reason": "IdleTimeout"})
        )
        assert send(site, number).outcome == "taken"
    assert len(site.apns.connections) == 3


# --- connections that do not come about ---------------------------------------

Serve = Callable[[socket.socket], object]


def listening(serve: Serve | None) -> int:
    """The port of a server that does only this with each connection; None:
    nobody listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    if serve is None:
        listener.close()
        return port

    def run() -> None:
        while True:
            sock, _ = listener.accept()
            kept.append(sock)
            serve(sock)

    kept: list[socket.socket] = []
    threading.Thread(target=run, daemon=True).start()
    return port


def settings_frame() -> bytes:
    return struct.pack(">I", 0)[1:] + b"\x04\x00" + bytes(4)


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(None, id="nobody"),
        pytest.param(lambda _: None, id="silent"),
        pytest.param(lambda sock: sock.close(), id="closes"),
        pytest.param(
            lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9),
            id="http1",
        ),
        pytest.param(lambda sock: sock.sendall(settings_frame()), id="only-settings"),
        pytest.param(
            lambda sock: sock.sendall(settings_frame() + b"\xff" * 40), id="nonsense"
        ),
        pytest.param(
            lambda sock: sock.sendall(b"\x00\x00\x08\x07\x00" + bytes(12)), id="goaway"
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_push_service_is_a_reason_to_wait(
    start: Start, serve: Serve | None, scheme: str
) -> None:
    site = start(
        node={"apns_url": f"{scheme}://127.0.0.1:{listening(serve)}", "seconds": 0.5}
    )
    began = time.monotonic()
    results = send_many(site, range(5))
    assert outcomes(results) == {"later"}
    assert all(result.problem for result in results)
    assert time.monotonic() - began < 10


def test_tls_agrees_on_http2_and_verifies_the_name(
    start: Start, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start(node=SECONDS, context=keys.context("h2"))
    result = send(site, 1)
    assert result.outcome == "later"
    assert "CERTIFICATE_VERIFY_FAILED" in result.problem
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.certificate))
    http2.tls_context.cache_clear()
    gevent.sleep(1.1)  # it is not tried more than once a second
    assert outcomes(send_many(site, range(20))) == {"taken"}
    assert site.apns.problems == []
    other = start(node=SECONDS, context=keys.context("http/1.1"))
    assert send(other, 1).problem == "127.0.0.1 does not speak HTTP/2"


def soon(condition: Callable[[], object]) -> None:
    """Wait, while other greenlets run."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        gevent.sleep(0.05)
    assert condition()


def test_a_connection_is_asked_whether_it_is_there(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str) -> http2.Http2Connection:
        return http2.Http2Connection(
            http2.open_socket(url, 20), "localhost", "http", 20
        )

    monkeypatch.setattr(http2, "PING_SECONDS", 0.1)
    silent = connect(
        f"http://127.0.0.1:{listening(lambda sock: sock.sendall(settings_frame()))}"
    )
    with closing(Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC)) as fake:
        connection = connect(fake.url)
        soon(lambda: fake.connections[0].pings > 2)
        assert connection.is_open
        soon(lambda: not silent.is_open)
        with pytest.raises(http2.StreamLost, match="it is silent"):
            silent.request("/", [], b"x", 1)
        monkeypatch.setattr(http2, "IDLE_SECONDS", 0.0)
        idle = connect(fake.url)
        soon(lambda: not idle.is_open)


FIREBASE = "firebase-admin==7.7.0"
"""It needs 100 MB: so it is installed by the test that uses it, and only
there."""
LIBRARY_HOSTS = {
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
    trust = {
        "SSL_CERT_FILE": str(keys.certificate),
        "REQUESTS_CA_BUNDLE": str(keys.certificate),
    }
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("judge.py")), library],
        input=json.dumps({**given, "hosts": LIBRARY_HOSTS[library]}),
        env=clean_environment(PYTHONPATH="", **trust),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_aioapns_finds_apple_in_the_fake(keys: Keys) -> None:
    with closing(
        Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC, keys.context("h2"), streams=20)
    ) as fake:
        device = FORMS["apns"].format(1)
        message = {"aps": {"alert": "hello", "badge": 1}}
        options = {"time_to_live": 600, "priority": 10, "collapse_key": "topic-1"}
        full = {
            "device_token": device,
            "message": message,
            "notification_id": str(uuid.uuid4()),
            **options,
        }
        silent = {
            "message": {"aps": {"content-available": 1}},
            "push_type": "background",
            "priority": 5,
        }
        wrong = [
            ({"device_token": "abc"}, "BadDeviceToken"),
            ({"collapse_key": "x" * 65}, "BadCollapseId"),
            ({"priority": 7}, "BadPriority"),
            ({"apns_topic": "com.example.other"}, "DeviceTokenNotForTopic"),
            ({"message": {"aps": {"alert": "x" * 4096}}}, "PayloadTooLarge"),
        ]
        reasons = [reason for reason in STATUSES["APNs"] if reason != "IdleTimeout"]
        devices = [
            FORMS["apns"].format(1000 + number) for number in range(len(reasons))
        ]
        for each, reason in zip(devices, reasons, strict=True):
            fake.behave(each, Do(reason))
        base = {"device_token": device, "message": message}
        requests = [
            full,
            {**base, **silent},
            *({**base, **change} for change, _ in wrong),
        ]
        requests += [{"device_token": each, "message": message} for each in devices]
        given = {
            "key": keys.apple,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
            "many": 50,
        }
        results = judge(
            "aioapns",
            sys.executable,
            keys,
            {**given, "port": fake.port, "requests": requests},
        )
        assert [(row["status"], row["description"]) for row in results] == [
            ("200", None),
            ("200", None),
            *((str(STATUSES["APNs"][reason]), reason) for _, reason in wrong),
            *((str(STATUSES["APNs"][reason]), reason) for reason in reasons),
        ]
        assert results[0]["id"] == full["notification_id"]
        assert len(fake.taken) == 52
        assert len(fake.connections) == 1
        assert [text.partition(":")[0] for text in fake.problems] == [
            reason for _, reason in wrong
        ]


@pytest.mark.parametrize(
    "change", [{"key_id": "XXXXXXXXXX"}, {"team_id": "XXXXXXXXXX"}]
)
def test_aioapns_with_another_key_is_refused(
    keys: Keys, change: dict[str, str]
) -> None:
    with closing(
        Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC, keys.context("h2"))
    ) as fake:
        requests = [
            {
                "device_token": FORMS["apns"].format(1),
                "message": {"aps": {"alert": "x"}},
            }
        ]
        given = {
            "key": keys.apple,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
            **change,
        }
        more = {"port": fake.port, "requests": requests, "many": 0}
        (result,) = judge("aioapns", sys.executable, keys, {**given, **more})
        assert (result["status"], result["description"]) == (
            "403",
            "InvalidProviderToken",
        )


@pytest.fixture(scope="module")
def firebase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("firebase") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        FIREBASE,
    ]
    subprocess.run(pip, env=clean_environment(PYTHONPATH=""), check=True)
    return python


@pytest.mark.full("programs")
@pytest.mark.slow
def test_firebase_admin_finds_google_in_the_fake(keys: Keys, firebase: Path) -> None:
    with closing(Fcm(keys.google, EMAIL, PROJECT, keys.context("http/1.1"))) as fake:
        tokens = {
            code: FORMS["fcm"].format(number) for number, code in enumerate(ERRORS)
        }
        for code, token in tokens.items():
            fake.behave(token, *[Do(code)] * 5)  # it tries some again
        good = FORMS["fcm"].format(100)
        bad = "short"
        given = {
            "account": keys.account,
            "port": fake.port,
            "tokens": [good, bad, *tokens.values()],
        }
        results = judge("firebase", firebase, keys, given)
        assert results.pop(good).startswith(f"projects/{PROJECT}/messages/")
        assert results.pop(bad) == ERRORS["INVALID_ARGUMENT"]
        assert results == {token: ERRORS[code] for code, token in tokens.items()}
        (taken,) = fake.taken
        assert (taken.token, taken.collapse, taken.id) == (good, "topic-1", "n1")
        assert fake.token_requests >= 1  # after the status 401 it asks again
        assert [text.partition(":")[0] for text in fake.problems] == [
            "INVALID_ARGUMENT"
        ]
