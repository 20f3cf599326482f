"""`imserver doctor --webhook`: a real event to a back end, and what is wrong if
it is not taken."""

import json
import ssl
from pathlib import Path

import pytest

from tests.integration.receiver import SECRET, Receiver
from tests.integration.test_webhooks import certificate_of_loopback, is_signed
from tests.support import run_cli


def settings(folder: Path, url: str) -> str:
    file = folder / "im.yaml"
    webhook = f"{{url: '{url}', secret: '{SECRET}'}}" if url else "{}"
    file.write_text(
        f"server: {{data_dir: {folder}/data}}\napp: {{http_port: 0, websocket_port: 0}}\n"
        f"apps: {{shop: {{webhook: {webhook}}}}}\n"
    )
    return str(file)


def tried(folder: Path, url: str, app: str = "shop") -> tuple[int, str]:
    done = run_cli("doctor", "-c", settings(folder, url), "--webhook", app)
    lines = done.stdout.splitlines()
    (at,) = [
        number for number, line in enumerate(lines) if f"webhook of {app}: " in line
    ]
    return done.returncode, "\n".join(lines[at : at + 3])


def test_a_signed_event_arrives(tmp_path: Path) -> None:
    with Receiver() as receiver:
        status, shown = tried(tmp_path, f"{receiver.url}/events")
        (post,) = receiver.posts
    assert (status, shown[:4]) == (0, "ok  ")
    assert "accepted a test with status 200 in " in shown
    assert is_signed(post)
    (event,) = json.loads(post.body)["events"]
    assert (event["event"], event["app"], event["node"]) == ("test", "shop", "doctor")


def test_another_answer_is_shown(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.reply = lambda _: (401, b"bad\x1b[31m signature")
        status, shown = tried(tmp_path, f"{receiver.url}/events")
    assert (status, shown[:4]) == (1, "fail")
    assert "answered with status 401" in shown
    assert "bad\\x1b[31m signature" in shown, "what a terminal obeys is not printed"


def test_the_certificate_is_not_trusted(tmp_path: Path) -> None:
    certificate, key = certificate_of_loopback(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver(tls) as receiver:
        status, shown = tried(tmp_path, f"{receiver.url}/events")
    assert status == 1
    assert (
        f"{receiver.url}/events: its certificate is not trusted, or it does not speak TLS\n"
        in shown
    )


@pytest.mark.parametrize(
    ("url", "app", "why", "mend"),
    [
        (
            "http://127.0.0.1:1/events",
            "shop",
            "refuses connections",
            "to mend: curl -v http://127.0.0.1",
        ),
        (
            "http://no.invalid/events",
            "shop",
            "no name server knows the host",
            "getent ahosts no.invalid",
        ),
        ("", "nobody", "there is no such app", ""),
        ("", "shop", "webhook.url is not set", ""),
    ],
)
def test_nobody_is_there(
    tmp_path: Path, url: str, app: str, why: str, mend: str
) -> None:
    status, shown = tried(tmp_path, url, app)
    assert status == 1
    assert why in shown
    assert mend in shown
    assert "Error" not in shown, "no words of a library"
