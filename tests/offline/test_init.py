"""`imserver init`: one file, with which a server starts, a user logs in and a
back end pushes."""

import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.config.values import MIN_KEY_CHARACTERS
from imserver.gateway.node.feature_list import load_config
from imserver.gateway.storage.store import Store
from imserver.messenger.log.message_log import MessageLog
from imserver.pages.declared import ChatSettings
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import AccountSettings
from imserver.people.accounts.rows import AccountStore
from imserver.people.invitations.rows import InvitationShown, InvitationStore
from imserver.plugin.settings import settings_of
from tests.processes import spawn
from tests.support import ROOT, clean_environment, run_cli


def run_init(folder: Path, *arguments: str) -> str:
    done = run_cli("init", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_file_has_an_app_a_key_and_a_secret(tmp_path: Path) -> None:
    output = run_init(tmp_path)
    file = tmp_path / "imserver.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    config = load_with_locations(str(file), {})[0]
    assert not config.demo
    key, admin_key = config.api.keys
    assert (key.scopes, key.apps) == (("push", "read"), ("default",))
    assert (admin_key.scopes, admin_key.apps) == (("admin", "push", "read"), ())
    assert admin_key.key not in output
    assert len(key.key) > MIN_KEY_CHARACTERS
    assert key.key in output
    (secret,) = config.apps["default"].jwt
    assert secret.key not in output
    assert run_init(tmp_path, "two") != output, "another file has other keys"
    assert (
        len(
            [
                line
                for line in output.splitlines()
                if re.match(r"  (imserver|curl) ", line)
            ]
        )
        == 3
    )


def test_the_file_is_ready_for_production_but_for_tls(tmp_path: Path) -> None:
    run_init(tmp_path)
    done = run_cli("check-config", "--production", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no insecure settings\n")
    file = tmp_path / "imserver.yaml"
    file.write_text(file.read_text().replace("host: 127.0.0.1", "host: 0.0.0.0", 1))
    done = run_cli("check-config", "--production", folder=tmp_path)
    assert done.returncode == 1
    (finding,) = done.stdout.splitlines()
    assert finding.startswith(
        "server.trusted_proxies: 0.0.0.0 accepts unencrypted connections"
    )


def test_commands_of_the_folder_use_it(tmp_path: Path) -> None:
    run_init(tmp_path, "--app", "shop")
    done = run_cli("token", "create", "shop/ann", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".") == 2
    assert f"created the data folder {tmp_path / 'data'}" not in done.stderr
    app = run_cli("app", "create", "other", folder=tmp_path)
    assert app.returncode == 0, app.stderr
    assert f"created the data folder {tmp_path / 'data'}" in app.stderr


def test_the_environment_names_another_file(tmp_path: Path) -> None:
    run_init(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("app: {http_port: 4711}\n")
    done = run_cli("check-config", folder=tmp_path, IMSERVER_CONFIG=str(other))
    assert "http_port: 4711" in done.stdout
    assert "http_port: 4711" not in run_cli("check-config", folder=tmp_path).stdout


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "imserver.yaml").write_text("app: {}\n")
    done = run_cli("init", folder=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr == "imserver: imserver.yaml exists already; nothing was changed\n"
    )
    assert (tmp_path / "imserver.yaml").read_text() == "app: {}\n"


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, 0));"
    code = f"{limit} from imserver.cli import main; main(['init'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "imserver: imserver.yaml cannot be written: File too large\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--app", name) for name in ("a b", "", "x: y", "ü")),
        ("--url", "unix:/run/im.sock"),
        ("--url", "chat.example.org:8443"),
        ("--chat", "--name", "x" * 41),
        ("--no-chat", "--name", "Tea"),
        ("--app", "gochat"),
    ],
)
def test_what_the_file_could_not_hold_is_refused(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert run_cli("init", *arguments, folder=tmp_path).returncode == 1
    assert not (tmp_path / "imserver.yaml").exists()


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("chat.example.org", "https://chat.example.org"),
        ("192.168.1.7:8089", "http://192.168.1.7:8089"),
        ("localhost:8089", "http://localhost:8089"),
    ],
)
def test_a_name_without_a_scheme_has_tls_and_a_machine_of_ones_own_has_not(
    tmp_path: Path, written: str, url: str
) -> None:
    run_init(tmp_path, "--url", written)
    assert (
        load_with_locations(str(tmp_path / "imserver.yaml"), {})[0].app.http_url == url
    )


@pytest.mark.parametrize(
    "name", ["105", "0x10", "1_000", "true", "null", "2024-01-01", "2024-13-45"]
)
def test_an_app_may_have_a_name_that_yaml_reads_as_something_else(
    tmp_path: Path, name: str
) -> None:
    run_init(tmp_path, "--app", name)
    config = load_with_locations(str(tmp_path / "imserver.yaml"), {})[0]
    assert config.apps[name].jwt
    assert config.api.keys[0].apps == (name,)


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("http://192.168.1.7:8089", (8089, 8098)),
        ("http://192.168.1.7:65530", (65530, 65521)),
        ("http://chat.example.org", (80, 89)),
        ("https://chat.example.org", (8080, 8089)),
        ("https://chat.example.org:8443", (8080, 8089)),
    ],
)
def test_the_ports_follow_the_address(
    tmp_path: Path, url: str, ports: tuple[int, int]
) -> None:
    output = run_init(tmp_path, "--url", url)
    app = load_with_locations(str(tmp_path / "imserver.yaml"), {})[0].app
    assert (app.http_port, app.websocket_port, app.http_url) == (*ports, url)
    assert f"http://127.0.0.1:{ports[0]}/api/v1/push" in output


# --- a chat -------------------------------------------------------------------


def links(folder: Path, *arguments: str) -> dict[str, str]:
    """What is printed: owner → name, code and group; invite → code."""
    done = run_cli(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return dict(
        re.findall(r"http://127\.0\.0\.1:8080/home/messages#(\w+)=(\S+)", done.stdout)
    )


class Stored:
    """What a folder has stored."""

    def __init__(self, folder: Path) -> None:
        config = load_config(str(folder / "imserver.yaml"))
        self.store = Store(config.storage, str(folder / "data"), threaded=False)
        self.store.start()

    def __enter__(self) -> "Stored":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    @property
    def accounts(self) -> list[Account]:
        return AccountStore(self.store).by_ids("gochat", range(99))

    @property
    def invitations(self) -> list[InvitationShown]:
        return InvitationStore(self.store).page("gochat", None, None, 0, "", 10)


def test_init_makes_a_chat_with_an_owner_a_group_and_an_invitation_for_guests(
    tmp_path: Path,
) -> None:
    printed = links(tmp_path, "init", "--chat")
    assert printed.keys() == {"owner", "invite"}
    name, code, group = printed["owner"].split(".")
    config = load_config(str(tmp_path / "imserver.yaml"))
    assert [key.apps for key in config.api.keys] == [("default", "gochat"), ()]
    assert settings_of(config, AccountSettings).guests_per_address > 200, (
        "an office behind one address"
    )
    with Stored(tmp_path) as stored:
        (owner,) = stored.accounts
        assert (owner.name, owner.guest, name) == ("owner", False, "owner")
        (invitation,) = stored.invitations
        found = (
            invitation.code,
            invitation.user,
            invitation.guests,
            invitation.max_uses,
        )
        assert found == (printed["invite"], owner.user, True, 0)
        assert invitation.expires_at - invitation.created == 7 * 86400
        assert invitation.group == group
        member = stored.store.part(MessageLog).conversations.member(
            "gochat", int(group), owner.user
        )
        assert member.role == "owner"
        (row,) = stored.store.rows(
            "SELECT code, expires_at, account FROM password_reset", ()
        )
        assert row[0] != code, "only its hash is stored"
        assert row[1] - invitation.created == 86400
        assert row[2] == owner.id
    shown = run_cli("app", "show", "gochat", folder=tmp_path).stdout
    assert "gochat" not in config.apps, "its owner changes it at run time"
    assert all(
        each in shown for each in ("guests: true", "search: true", "previews: true")
    )
    production = run_cli("check-config", "--production", folder=tmp_path)
    assert (production.returncode, production.stdout) == (0, "no insecure settings\n")


def test_a_second_call_prints_a_new_link_for_the_owner_and_the_same_for_others(
    tmp_path: Path,
) -> None:
    first = links(tmp_path, "init", "--chat")
    second = links(tmp_path, "chat")
    assert first["invite"] == second["invite"]
    assert first["owner"] != second["owner"]
    with Stored(tmp_path) as stored:
        assert len(stored.store.rows("SELECT code FROM password_reset", ())) == 1
        assert len(stored.accounts) == len(stored.invitations) == 1
        AccountStore(stored.store).set_password(stored.accounts[0].id, "", "a hash")
    assert links(tmp_path, "chat").keys() == {"invite"}
    assert links(tmp_path, "chat", "--owner").keys() == {"owner", "invite"}


def test_a_server_without_a_chat_gets_one(tmp_path: Path) -> None:
    assert run_cli("init", folder=tmp_path).returncode == 0
    assert links(tmp_path, "chat").keys() == {"owner", "invite"}
    shown = run_cli("app", "show", "gochat", folder=tmp_path).stdout
    assert "guests: true" in shown
    assert "search: true" in shown
    assert "ask_strangers: true" not in shown
    assert "account_tokens: required" in shown


def test_a_chat_whose_settings_take_no_guests_invites_people_with_accounts(
    tmp_path: Path,
) -> None:
    (tmp_path / "imserver.yaml").write_text("apps: {gochat: {}}\n")
    done = run_cli("chat", folder=tmp_path)
    assert "logs in and joins the chat" in done.stdout
    assert "set apps.gochat.accounts.guests to true" in done.stdout
    with Stored(tmp_path) as stored:
        assert [each.guests for each in stored.invitations] == [False]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://192.168.1.7:8081", "0.0.0.0", 8081),
        ("http://127.0.0.1:8082", "127.0.0.1", 8082),
        ("https://chat.example.org", "127.0.0.1", 8080),
    ],
)
def test_links_name_the_address_where_people_open_the_chat(
    tmp_path: Path, url: str, host: str, port: int
) -> None:
    done = run_cli(
        "init", "--chat", "--url", url, "--name", 'Tea: "green"', folder=tmp_path
    )
    assert f"  {url}/home/messages#owner=owner." in done.stdout
    config = load_config(str(tmp_path / "imserver.yaml"))
    assert (config.server.host, config.app.http_port, config.app.http_url) == (
        host,
        port,
        url,
    )
    assert settings_of(config, ChatSettings).name == 'Tea: "green"'


@pytest.mark.parametrize(("answer", "wanted"), [("y", True), ("n", False), ("", False)])
def test_in_a_terminal_init_asks_for_a_chat_and_draws_a_code(
    tmp_path: Path, answer: str, wanted: bool
) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-P", "-m", "imserver", "init"]
    environment: dict[str, Any] = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    process = spawn(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        close_fds=True,
    )
    os.close(inner)
    os.write(outer, f"{answer}\nTea\n".encode())
    printed = b""
    try:
        while part := os.read(outer, 65536):
            printed += part
    except OSError:
        pass  # the process has ended
    os.close(outer)
    assert process.wait() == 0, printed
    assert b"chat in the browser" in printed
    config = load_config(str(tmp_path / "imserver.yaml"))
    assert settings_of(config, ChatSettings).name == ("Tea" if wanted else "")
    assert ("▀".encode() in printed) is wanted
