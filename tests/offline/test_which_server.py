"""A command that asks a server asks that of the settings, or the one that is
named, and never another."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from imserver.cli import main
from tests.support import run_cli

ADDRESS = ("127.0.0.5", 9971)
SETTINGS = f"server: {{host: {ADDRESS[0]}}}\napp: {{http_port: {ADDRESS[1]}}}\n"

WORDS = {
    "bot add": "--app 7 helper",
    "bot delete": "--app 7 3",
    "bot hook": "--app 7 3 --remove",
    "bot list": "--app 7",
    "bot rotate": "--app 7 3",
    "drain": "",
    "erase": "7/ann",
    "key deprecated": "",
    "log": "",
    "moderate ban": "7/ann",
    "moderate clear": "7/ann",
    "moderate close": "7 3 --outcome dismissed",
    "moderate delete": "7 3",
    "moderate hide": "7 3",
    "moderate holds": "7",
    "moderate mute": "7/ann",
    "moderate remove": "7/ann 3",
    "moderate report": "7 3",
    "moderate reports": "7",
    "moderate unban": "7/ann",
    "moderate undo": "7 3",
    "moderate unmute": "7/ann",
    "moderate warn": "7/ann --reason so",
    "slow": "",
    "status": "",
    "why": "",
}
"""Command → arguments with which it asks a server."""


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main)
    for each in group.list_commands(context):
        whole = f"{name} {each}".strip()
        command = group.get_command(context, each)
        if isinstance(command, click.Group):
            yield from commands(command, whole)
        elif command is not None:
            yield whole, command


def asks_a_server(command: click.Command) -> bool:
    options = {option for parameter in command.params for option in parameter.opts}
    return {"--url", "--key-file"} <= options


WATCHED: list[list[Any]] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note a connection instead of making it. An audit hook stays, and does
    nothing between tests."""
    if event == "socket.connect" and WATCHED:
        _, address = arguments
        WATCHED[-1].append(address)
        raise ConnectionRefusedError(111, "Connection refused")


sys.addaudithook(watch)


@pytest.fixture
def connections() -> Iterator[list[Any]]:
    """The addresses to which this process connects. Nobody listens there."""
    WATCHED.append([])
    yield WATCHED[-1]
    WATCHED.clear()


def run(folder: Path, command: str, *more: str, **environment: str) -> str:
    """What a command says that fails."""
    done = run_cli(
        *command.split(), *more, *WORDS[command].split(), folder=folder, **environment
    )
    assert done.returncode in (1, 2), done
    assert done.stdout == "", done
    return done.stderr


def test_each_command_that_asks_a_server_is_here() -> None:
    found = {name for name, command in commands(main) if asks_a_server(command)}
    assert found - {"outbox"} == WORDS.keys(), "outbox asks a database first"


@pytest.mark.parametrize("command", WORDS)
def test_it_asks_the_server_of_the_settings(
    tmp_path: Path, connections: list[Any], command: str
) -> None:
    (tmp_path / "imserver.yaml").write_text(SETTINGS, encoding="utf-8")
    assert "{}:{}".format(*ADDRESS) in run(tmp_path, command)
    assert set(connections) == {ADDRESS}


@pytest.mark.parametrize("command", WORDS)
def test_with_broken_settings_it_asks_nobody(
    tmp_path: Path, connections: list[Any], command: str
) -> None:
    (tmp_path / "imserver.yaml").write_text(
        f"{SETTINGS}nonsense: 1\n", encoding="utf-8"
    )
    assert "imserver.yaml, line 3: unknown key 'nonsense'" in run(tmp_path, command)
    words = run(tmp_path, command, IMSERVER_CONFIG="/nowhere.yaml")
    assert "/nowhere.yaml: cannot be read: No such file or directory" in words
    (tmp_path / "imserver.yaml").unlink()
    assert "IMSERVER_APP_HTTP_PORT" in run(
        tmp_path, command, IMSERVER_APP_HTTP_PORT="many"
    )
    assert connections == []


@pytest.mark.parametrize("command", WORDS)
def test_it_asks_the_server_that_is_named(
    tmp_path: Path, connections: list[Any], command: str
) -> None:
    (tmp_path / "imserver.yaml").write_text(SETTINGS, encoding="utf-8")
    assert "http://192.0.2.1:99" in run(
        tmp_path, command, "--url", "http://192.0.2.1:99"
    )
    assert set(connections) == {("192.0.2.1", 99)}
