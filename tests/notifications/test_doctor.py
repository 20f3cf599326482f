"""What `imserver doctor` tries out: a notification to the devices of a user,
and a mail."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.notifications import FEATURE
from imserver.notifications.rows import NotificationRows
from imserver.plugin.commands import Finding, opened
from tests.integration.receiver import Receiver
from tests.notifications.devices import Device
from tests.security.mail import Sink


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


def tried(name: str, given: str, file: str) -> list[Finding]:
    """What ``imserver doctor`` gets from an option of the feature."""
    (row,) = (row for row in FEATURE.commands if row.name == f"--{name}")
    with opened(file, None) as parts:
        return list(row.load()(*parts, given))


def test_each_endpoint_of_a_user_gets_a_test(tmp_path: Path) -> None:
    with Receiver() as service:
        url = service.url
        service.reply = lambda post: (int(post.path.removeprefix("/")), b"")
        subscribe(
            tmp_path, f"{url}/201", f"{url}/410", f"{url}/403", "http://127.0.0.1:1/201"
        )
        found = tried("notify", "shop/ann", settings(tmp_path))
    assert [finding.level for finding in found] == ["ok", "fail", "fail", "fail"]
    assert all(finding.name.startswith("notification to ") for finding in found)
    assert "accepted with status 201" in found[0].found
    assert "gone (status 410)" in found[1].found
    assert "status 403" in found[2].found
    assert (found[3].name, "refused" in found[3].found) == (
        "notification to 127.0.0.1:1",
        True,
    )
    post = service.posts[0]
    assert (post.path, post.headers["content-encoding"]) == ("/201", "aes128gcm")
    assert post.headers["authorization"].startswith("vapid t=")


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("shop/nobody", "the user has no endpoint"),
        ("nothing/ann", "there is no such app"),
        ("ann", "there is no such app"),
    ],
)
def test_a_user_without_endpoints_is_named(
    tmp_path: Path, user: str, reason: str
) -> None:
    subscribe(tmp_path, "https://push.example/1")
    file = settings(tmp_path)
    (finding,) = tried("notify", user, file)
    assert (finding.level, finding.name) == ("fail", f"notification to {user}")
    assert finding.found == reason


def test_a_name_that_is_no_account_is_said(tmp_path: Path) -> None:
    file = settings(tmp_path, apps={"gochat": {}})
    (finding,) = tried("notify", "gochat/nobody", file)
    assert (finding.level, finding.found) == ("fail", "there is no such account")


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_mail_is_sent_by_the_server_of_the_settings(
    tmp_path: Path, sink: Sink
) -> None:
    file = settings(tmp_path, smtp=sink.settings)
    (finding,) = tried("mail", "ann@example.com", file)
    assert (finding.level, finding.name) == (
        "ok",
        f"mail to ann@example.com by 127.0.0.1:{sink.port}",
    )
    assert finding.found == "accepted; the sender is im@example.com"
    ((sender, receivers, text),) = sink.mails
    assert (sender, receivers) == ("im@example.com", ["ann@example.com"])
    assert "can send mail" in text
    sink.answers.append("550 no such user")
    (finding,) = tried("mail", "eve@example.com", file)
    assert finding.level == "fail"
    assert "550" in finding.found
