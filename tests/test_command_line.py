"""One grammar for all commands: JSON for programs, time spans, hints,
colours."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imserver.cli import COMMANDS, main
from imserver.gateway.command_rows import DOCTOR, CommandOf
from imserver.gateway.config.yaml import read_yaml
from imserver.gateway.node.feature_list import offered_rows
from imserver.gateway.terminal import CommandLine
from tests.support import ROOT, run_cli

SILENT = {
    "account import",
    "account lock",
    "account password",
    "account remove-factor",
    "account role",
    "account unlock",
    "app create",
    "app delete",
    "audit export",
    "audit show",
    "backup",
    "bench",
    "bot add",
    "bot delete",
    "bot hook",
    "bot rotate",
    "chat",
    "drain",
    "erase",
    "export",
    "from-centrifugo",
    "import",
    "init",
    "key create",
    "key revoke",
    "key rotate",
    "moderate ban",
    "moderate close",
    "moderate delete",
    "moderate hide",
    "moderate mute",
    "moderate remove",
    "moderate unban",
    "moderate undo",
    "moderate unmute",
    "moderate warn",
    "move",
    "outbox",
    "restore",
    "search rebuild",
    "serve",
    "support",
    "token create",
    "token secret",
    "uploads move",
}
"""Commands that do something, and print a word, a secret, a file or lines of
JSON."""


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main)
    for each in group.list_commands(context):
        whole = f"{name} {each}".strip()
        command = group.get_command(context, each)
        if isinstance(command, click.Group) and each != "bench":
            yield from commands(command, whole)
        elif command is not None:
            yield whole, command


def test_each_command_that_prints_data_has_json() -> None:
    lacking = {
        name
        for name, command in commands(main)
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert lacking == SILENT


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "version",
        "codes",
        "check-config",
        "app list",
        "app show 101",
        "app usage 101",
        "app events 101",
        "key list",
        "audit list",
        "account list",
    ],
)
def test_the_data_are_one_json_document(tmp_path: Path, command: str) -> None:
    (tmp_path / "imserver.yaml").write_text(
        "apps: {101: {}, gochat: {}}", encoding="utf-8"
    )
    run_cli("key", "create", "push", folder=tmp_path)
    done = run_cli(*command.split(), "--json", folder=tmp_path)
    assert done.returncode == 0, done
    assert isinstance(json.loads(done.stdout), list | dict)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("docter", "Did you mean doctor?"),
        ("key lst", "Did you mean list?"),
        ("moderate bann 7/ann", "'ban'"),
        ("audit verfy", "Did you mean 'verify'?"),
        ("arrive --app chat archive.zip", "The package imserver-arrivals brings it"),
    ],
)
def test_a_command_that_is_not_there_is_explained(arguments: str, hint: str) -> None:
    done = run_cli(*arguments.split())
    assert (done.returncode, hint in done.stderr) == (2, True), done


def test_each_row_leads_to_its_command() -> None:
    """The list has the words of a feature's command; the server's own are
    shorter in it."""
    assert all(isinstance(row.load(), click.Command) for row in COMMANDS)
    for row in offered_rows():
        assert isinstance(row, CommandOf)
        function = row.load()
        if isinstance(function, click.Command):
            assert row.help == function.get_short_help_str(80)
        else:
            assert row.parent == DOCTOR
            assert row.help in ("", function.__doc__.partition("\n")[0])


def test_the_packages_that_bring_commands_have_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = ROOT / "config" / "packages.yaml"
    for package, names in read_yaml(file.read_text(encoding="utf-8"), "").items():
        folder = ROOT / "plugins" / package.removeprefix("imserver-")
        monkeypatch.syspath_prepend(folder)
        rows = import_module(package.replace("-", "_")).FEATURE.commands
        assert {row.name for row in rows} >= {*names}


@click.command()
@CommandLine.duration(
    "--for", "seconds", "", "1h", least=60, most=86_400, old="--minutes", unit=60
)
@CommandLine.duration("--after", "after", "", least=0, unit=1)
def span(seconds: int, after: int | None) -> None:
    """A command with time spans."""
    click.echo(f"{seconds} {after}")


@pytest.mark.parametrize(
    ("arguments", "shown", "words"),
    [
        ("", "3600 None", ""),
        ("--for 10m --after 1h", "600 3600", ""),
        (
            "--minutes 10",
            "600 None",
            "--minutes is deprecated until 2.0: use --for 10m",
        ),
        (
            "--after 90",
            "3600 90",
            "90 without a letter is deprecated until 2.0: use 90s",
        ),
        ("--after 0", "3600 0", ""),
        ("--for 10", "", "expected a number with s, m, h, d or w"),
        ("--for 2d", "", "expected at most 1d"),
        ("--for 1s", "", "expected at least 1m"),
    ],
)
def test_a_time_span_has_a_letter(arguments: str, shown: str, words: str) -> None:
    done = CliRunner().invoke(span, arguments.split())
    assert (done.stdout.strip(), words in done.stderr) == (shown, True), done.output


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_those_who_want_them(
    environment: dict[str, str], is_coloured: bool
) -> None:
    plain = {"NO_COLOR": None, "TERM": "xterm"}
    done = CliRunner().invoke(
        main, ["doctor"], env={**plain, **environment}, color=True
    )
    assert ("\x1b[" in done.output) == is_coloured
