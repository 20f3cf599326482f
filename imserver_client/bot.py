"""``imserver-client bot``: bots and their webhooks, by the API of a running
server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click

from imserver_client.api import Api
from imserver_client.errors import ClientError, RequestRefused
from imserver_client.terminal import Command, fail, read_key, server_address, url_option

ANSWER_SECONDS: Final = 120.0
"""Time limit for an answer. The first answer of a new server on a busy machine
takes seconds."""


@click.group()
def bot() -> None:
    """Create, list and delete bots, replace their tokens, and set their
    webhooks.

    The server must run. If the server requires an API key, set the environment
    variable IMSERVER_KEY or use --key-file. The key needs the scope admin. With
    the token of an account instead of an API key, you manage the bots of that
    account.
    """


def _options(command: Command) -> Command:
    """Add the options by which a command reaches the server."""
    command = click.option(
        "--key-file",
        metavar="FILE",
        help="File with an API key or an account token, or - for standard input.",
    )(command)
    command = click.option(
        "--app", required=True, metavar="NAME", help="The app of the bot."
    )(command)
    return url_option(command)


@contextmanager
def _server(url: str, key_file: str | None) -> Iterator[Api]:
    """A context with the API of the server. An error inside ends the command
    with one line and status 1."""
    key = read_key(key_file)
    try:
        with Api(server_address(url), key, timeout_seconds=ANSWER_SECONDS) as api:
            yield api
    except RequestRefused as refused:
        fail(f"{refused.code}: {refused.message}")
    except (ClientError, ValueError) as error:
        fail(f"{url}: {error}")


@bot.command()
@_options
@click.option(
    "--nickname",
    default="",
    metavar="TEXT",
    help="The name that people see. Default: NAME.",
)
@click.option(
    "--owner",
    default="",
    metavar="ID",
    help="The account that manages the bot. Default: the back end.",
)
@click.argument("name")
def add(
    url: str, app: str, key_file: str | None, nickname: str, owner: str, name: str
) -> None:
    """Create a bot with the user name NAME and print its token once."""
    body = {"app": app, "name": name, "nickname": nickname or name}
    if owner:
        body["user"] = owner
    with _server(url, key_file) as api:
        bot = api.call("POST", "bots", body)
    click.echo(
        f"The id of this bot is {bot['id']}. Save the token: it is not shown again.",
        err=True,
    )
    click.echo(bot["token"])


@bot.command("list")
@_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def list_bots(url: str, app: str, key_file: str | None, as_json: bool) -> None:
    """List the bots of an app. With an account token, list the bots of this
    account."""
    with _server(url, key_file) as api:
        rows = _bots_of(api, app)
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return

    heads = ("id", "name", "nickname", "owner", "created", "webhook")
    _print_table([heads, *map(_cells_of, rows)])


def _bots_of(api: Api, app: str) -> list[dict[str, Any]]:
    """All bots of an app, read page by page."""
    rows: list[dict[str, Any]] = []
    query = {"app": app}
    while True:
        page = api.call("GET", "bots", query=query)
        rows += page["bots"]
        if not page["next"]:
            return rows
        query["cursor"] = page["next"]


def _cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a bot in the table. Its creation is in Unix seconds."""
    created = datetime.fromtimestamp(row["created"], UTC).strftime("%Y-%m-%d %H:%M")
    return (
        row["id"],
        row["name"],
        row["nickname"],
        row["owner"],
        created,
        row["hook_url"],
    )


def _print_table(lines: list[tuple[str, ...]]) -> None:
    """Print lines of cells, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@bot.command()
@_options
@click.argument("id")
def rotate(url: str, app: str, key_file: str | None, id: str) -> None:
    """Replace the token of the bot with this ID. The command ends the sessions
    of the bot, and prints the new token once."""
    with _server(url, key_file) as api:
        bot = api.call("POST", "bots/rotate", {"app": app, "bot": id})
    click.echo(bot["token"])


@bot.command()
@_options
@click.argument("id")
def delete(url: str, app: str, key_file: str | None, id: str) -> None:
    """Delete the bot with this ID and its account. This cannot be undone."""
    with _server(url, key_file) as api:
        api.call("POST", "bots/delete", {"app": app, "bot": id})
    click.echo("deleted")


@bot.command()
@_options
@click.option("--remove", is_flag=True, help="Remove the webhook.")
@click.argument("id")
@click.argument("hook", metavar="[HOOK]", default="")
def hook(
    url: str, app: str, key_file: str | None, remove: bool, id: str, hook: str
) -> None:
    """Send the messages of the bot with this ID to the URL HOOK. The command
    prints the signing secret once."""
    if remove == bool(hook):
        raise click.UsageError("Give either HOOK or --remove.")
    with _server(url, key_file) as api:
        changed = api.call(
            "POST", "bots/update", {"app": app, "bot": id, "hook_url": hook}
        )
    if remove:
        click.echo("removed")
    else:
        click.echo(changed["hook_secret"])
