"""Settings of accounts and providers: in ``imserver app``, secrets among them,
and mistakes in a file."""

import sqlite3
from pathlib import Path

import pytest

from tests.gateway.test_config import refusal
from tests.support import run_cli

HOOK = ("webhook.url=https://e.org/hook", "webhook.secret=@-")


class App:
    """The app 105 of a data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, command: str, *settings: str, stdin: str = "", fails: bool = False
    ) -> str:
        """What the command prints."""
        done = run_cli(
            "app",
            command,
            "105",
            *settings,
            stdin=stdin,
            IMSERVER_SERVER_DATA_DIR=str(self.folder),
        )
        assert done.returncode == fails, done
        return done.stderr if fails else done.stdout

    def stored(self) -> str:
        """Its settings in the database."""
        with sqlite3.connect(self.folder / "imserver.db") as connection:
            (text,) = connection.execute("SELECT settings FROM app").fetchone()
        connection.close()
        return text.replace(": ", ":")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "data")


def test_a_secret_is_read_from_a_file_and_one_field_is_changed(
    app: App, tmp_path: Path
) -> None:
    app.run("create", *HOOK, stdin="quite a secret\n")
    shown = app.run("set", "WebHook.events=[login]")
    assert "url: https://e.org/hook\n" in shown
    assert "quite a secret" not in shown
    assert '"secret":"quite a secret"' in app.stored()
    (tmp_path / "secret").write_text("replace-me: openssl rand -hex 32")
    output = app.run("set", f"webhook.secret=@{tmp_path / 'secret'}", fails=True)
    assert "this is a placeholder of the documentation" in output


def test_one_field_of_a_provider_is_changed_or_reset(app: App) -> None:
    row = (
        "kind=github",
        "client_id=c",
        "client_secret=@-",
        "scopes=[user]",
        "title=Git",
    )
    app.run(
        "create",
        *(f"oauth.git.{field}" for field in row),
        "webhook.events=[login]",
        stdin="0123\n",
    )
    changed = app.run(
        "set",
        "oauth.git.register=true",
        "--unset",
        "oauth.git.title",
        "--unset",
        "webhook.events",
    )
    for line in (
        "client_id: c",
        "register: true",
        "- user",
        "title: ''",
        "client_secret: (hidden)",
    ):
        assert line in changed
    assert '"client_secret":"0123"' in app.stored()
    assert "login" not in app.stored()
    assert "oauth.hub is not set" in app.run("set", "--unset", "oauth.hub", fails=True)
    assert "git:" not in app.run("set", "--unset", "oauth.git")


@pytest.mark.parametrize(
    "setting",
    [
        "webhook.secret=12345678901234567890",
        "web-hook.Secret=x",
        "webhook={secret: x}",
        "oauth={c: {client_secret: x}}",
        "oauth.c={client_secret: x}",
        "oauth.c.clientSecret=x",
    ],
)
def test_a_secret_among_the_arguments_is_refused(app: App, setting: str) -> None:
    name = setting.partition("=")[0]
    output = app.run("set", setting, fails=True)
    assert f"give {name}=@FILE, or use {name}=@- for standard input" in output


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (
            "apps: {a: {oauth: {g: {kind: github, client_id: c, client_secret: s}}}}",
            "line 1: apps.a.oauth needs account_tokens: required",
        ),
        (
            "app: {http_url: im.example.com}\n"
            "apps: {gochat: {oauth: {g: {kind: github, client_id: c, client_secret: s}}}}",
            "line 2: apps.gochat.oauth needs app.http_url with http:// or https://: providers send ",
        ),
        (
            "apps: {a: {accounts: {identifiers: []}}}",
            "line 1: apps.a.accounts: expected at least one of phone, email and name",
        ),
        (
            "apps:\n  a:\n    accounts:\n      reset_url: shop.example.com",
            "line 4: apps.a.accounts.reset_url: expected an http:// or https:// address",
        ),
        (
            "smtp: {host: smtp.example.com, sender: nobody}",
            "line 1: smtp.sender: expected the e-mail address of the sender",
        ),
        (
            "app: {http_url: im.example.com}\nsmtp: {host: smtp.example.com, sender: im@example.com}",
            "line 2: smtp.host needs app.http_url with http:// or https://: links in mails ",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, text: str, output: str
) -> None:
    assert refusal(tmp_path, text).startswith(output)
