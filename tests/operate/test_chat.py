"""`imserver chat` and `imserver init --chat`: the app, its owner, a group, and two links."""

import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.node.feature_list import load_config
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.pages.declared import ChatSettings
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import AccountSettings
from imserver.people.accounts.rows import AccountStore
from imserver.people.invitations.rows import InvitationShown, InvitationStore
from imserver.plugin.settings import settings_of
from tests.processes import spawn
from tests.support import ROOT, clean_environment, run_cli

_LINK = re.compile(r"http://127\.0\.0\.1:8080/home/messages#(\w+)=(\S+)")


def links(folder: Path, *arguments: str) -> dict[str, str]:
    """What is printed: owner → name, code and group; invite → code."""
    done = run_cli(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return dict(_LINK.findall(done.stdout))


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


def test_init_makes_a_chat_with_an_owner_a_group_and_an_invitation_for_guests(tmp_path: Path) -> None:
    printed = links(tmp_path, "init", "--chat")
    assert printed.keys() == {"owner", "invite"}
    name, code, group = printed["owner"].split(".")
    config = load_config(str(tmp_path / "imserver.yaml"))
    assert [key.apps for key in config.api.keys] == [("default", "gochat"), ()]
    assert settings_of(config, AccountSettings).guests_per_address > 200, "an office behind one address"
    with Stored(tmp_path) as stored:
        (owner,) = stored.accounts
        assert (owner.name, owner.guest, name) == ("owner", False, "owner")
        (invitation,) = stored.invitations
        found = (invitation.code, invitation.user, invitation.guests, invitation.max_uses)
        assert found == (printed["invite"], owner.user, True, 0)
        assert invitation.expires_at - invitation.created == 7 * 86400
        assert invitation.group == group
        member = stored.store.part(MessageLog).conversations.member("gochat", int(group), owner.user)
        assert member.role == "owner"
        (row,) = stored.store.rows("SELECT code, expires_at, account FROM password_reset", ())
        assert row[0] != code, "only its hash is stored"
        assert row[1] - invitation.created == 86400
        assert row[2] == owner.id
    production = run_cli("check-config", "--production", folder=tmp_path)
    assert (production.returncode, production.stdout) == (0, "nothing is open\n")


def test_a_second_call_prints_a_new_link_for_the_owner_and_the_same_for_others(tmp_path: Path) -> None:
    first, second = links(tmp_path, "init", "--chat"), links(tmp_path, "chat")
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


def test_a_chat_whose_settings_take_no_guests_invites_people_with_accounts(tmp_path: Path) -> None:
    (tmp_path / "imserver.yaml").write_text("apps: {gochat: {}}\n")
    done = run_cli("chat", folder=tmp_path)
    assert "logs in and is in" in done.stdout
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
    done = run_cli("init", "--chat", "--url", url, "--name", 'Tea: "green"', folder=tmp_path)
    assert f"  {url}/home/messages#owner=owner." in done.stdout
    config = load_config(str(tmp_path / "imserver.yaml"))
    assert (config.server.host, config.app.http_port, config.app.http_url) == (host, port, url)
    assert settings_of(config, ChatSettings).name == 'Tea: "green"'


@pytest.mark.parametrize(("answer", "wanted"), [("y", True), ("n", False), ("", False)])
def test_in_a_terminal_init_asks_for_a_chat_and_draws_a_code(
    tmp_path: Path, answer: str, wanted: bool
) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-P", "-m", "imserver", "init"]
    environment: dict[str, Any] = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    process = spawn(
        command, cwd=tmp_path, env=environment, stdin=inner, stdout=inner, stderr=inner, close_fds=True
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
    assert ("gochat" in config.apps) is wanted
    assert settings_of(config, ChatSettings).name == ("Tea" if wanted else "")
    assert ("▀".encode() in printed) is wanted
