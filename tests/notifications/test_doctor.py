"""What `imserver doctor` tries out: a notification to the devices of a user, and a mail."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.notifications.rows import NotificationRows
from tests.notifications.devices import Device
from tests.security.mail import Sink
from tests.support import run_cli


class _Service(BaseHTTPRequestHandler):
    """A push service. The path says with which status it answers."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(int(self.path.removeprefix("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def push_service() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Service)
    server.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(folder: Path, **more: Any) -> str:
    """A file of settings."""
    file = folder / "imserver.yaml"
    content = {
        "server": {"data_dir": str(folder / "data")},
        "app": {"http_url": "http://127.0.0.1:8080"},
        "notifications": {"allow_loopback": True},
        "apps": {"shop": {"open": True}},
        **more,
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def subscribe(folder: Path, *urls: str) -> None:
    store = Store(StorageSettings(), str(folder / "data"), threaded=False)
    store.start()
    rows = NotificationRows(store)
    for url in urls:
        rows.add_endpoint(Device().endpoint(url, 0), 5)
    store.close()


def test_each_endpoint_of_a_user_gets_a_test(tmp_path: Path) -> None:
    with push_service() as service:
        url = f"http://127.0.0.1:{service.server_port}"
        subscribe(tmp_path, f"{url}/201", f"{url}/410", f"{url}/403", "http://127.0.0.1:1/201")
        done = run_cli("doctor", "-c", settings(tmp_path), "--notify", "shop/ann")
    found = [line for line in done.stdout.splitlines() if "notification to" in line]
    assert [line.split()[0] for line in found] == ["ok", "fail", "fail", "fail"]
    assert "taken with status 201" in found[0]
    assert "gone (status 410)" in found[1]
    assert "status 403" in found[2]
    assert "127.0.0.1:1" in found[3]
    assert done.returncode == 1
    path, headers = service.requests[0]  # type: ignore[attr-defined]
    assert (path, headers["Content-Encoding"]) == ("/201", "aes128gcm")
    assert headers["Authorization"].startswith("vapid t=")


@pytest.mark.parametrize("user", ["shop/nobody", "nothing/ann", "ann"])
def test_a_user_without_endpoints_is_named(tmp_path: Path, user: str) -> None:
    subscribe(tmp_path, "https://push.example/1")
    done = run_cli("doctor", "-c", settings(tmp_path), "--notify", user)
    assert f"notification to {user}: the user has no endpoint" in done.stdout
    assert done.returncode == 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_mail_is_sent_by_the_server_of_the_settings(tmp_path: Path) -> None:
    sink = Sink()
    try:
        smtp = {
            "host": "127.0.0.1",
            "port": sink.port,
            "tls": "none",
            "user": "im",
            "password": "secret",
            "sender": "im@example.com",
        }
        file = settings(tmp_path, smtp=smtp)
        done = run_cli("doctor", "-c", file, "--mail", "ann@example.com")
        assert "mail to ann@example.com by 127.0.0.1" in done.stdout
        assert "taken; the sender is im@example.com" in done.stdout
        ((sender, receivers, text),) = sink.mails
        assert (sender, receivers) == ("im@example.com", ["ann@example.com"])
        assert "can send mail" in text
        sink.answers.append("550 no such user")
        assert "550" in run_cli("doctor", "-c", file, "--mail", "eve@example.com").stdout
    finally:
        sink.stop()


def test_without_a_mail_server_none_is_sent(tmp_path: Path) -> None:
    done = run_cli("doctor", "-c", settings(tmp_path), "--mail", "ann@example.com")
    assert "smtp.host is not set" in done.stdout


def test_a_server_without_notifications_does_not_try(tmp_path: Path) -> None:
    file = settings(tmp_path, features=["webhooks", "accounts"], notifications={})
    text = Path(file).read_text(encoding="utf-8").replace("notifications: {}\n", "")
    Path(file).write_text(text, encoding="utf-8")
    done = run_cli("doctor", "-c", file, "--notify", "shop/ann")
    assert "notify: the feature is not among features of the settings" in done.stdout
