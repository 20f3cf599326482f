"""``imserver status``: whether a server is well, and its state."""

import json
import sys
from datetime import UTC, datetime
from http.client import OK
from time import time
from typing import Any, Final

import click

from imserver.gateway.errors import ReplyCode
from imserver.gateway.terminal import fail, given_once
from imserver.plugin.commands import CommandLine, ServerApi

_ANSWER_SECONDS: Final = 10


@click.command()
@ServerApi.options
@CommandLine.prints_data
@click.option("--debug", is_flag=True, help="Also list connections and users.")
@click.argument("address", metavar="[URL]", required=False)
def status(url: str, key_file: str | None, debug: bool, address: str | None) -> None:
    """Show /health and /system/state of a running server.

    URL is the address of the server's HTTP port, or a Unix socket such as
    unix:/run/imserver/im.sock. The default is the port in the settings.

    If the server requires an API key, the command uses the key of the settings
    file of this folder, of the environment variable IMSERVER_KEY, or of
    --key-file. No option takes the key itself, because other users of the
    machine can see the arguments of a command.
    """
    server = ServerApi(given_once("URL", address, url or None) or "", key_file)
    health, _ = server.ask("GET", "/health", seconds=_ANSWER_SECONDS)
    _, ready = server.ask("GET", "/ready", seconds=_ANSWER_SECONDS)
    path = "/system/state?detail=true"
    if debug:
        path += "&isDebug=true"
    state_status, state = server.ask("GET", path, seconds=_ANSWER_SECONDS)
    _drop_meaningless(state)

    is_healthy = health == OK
    answers = {"health": health, "ready": ready, "state": state}
    CommandLine.data(answers, _in_words(health, ready, state))
    code = state.get("code")
    if code == ReplyCode.UNAUTHORIZED:
        fail(
            "this server requires an API key with the scope admin: set IMSERVER_KEY, or use --key-file"
        )
    if not is_healthy or state_status != OK or code != ReplyCode.OK:
        sys.exit(1)


def _drop_meaningless(state: Any) -> None:
    """Remove a field that the route has only for compatibility.

    It says nothing about this server.
    """
    data = state.get("data")
    if isinstance(data, dict):
        data.pop("numGoroutine", None)


def _in_words(health: int, ready: Any, state: Any) -> str:
    """Return the answers of a server as text.

    ``health``: the HTTP status of ``/health``. ``ready`` and ``state``: the
    answers of ``/ready`` and ``/system/state``.
    """
    # A status other than 200 says more than a word.
    health_words = f"HTTP {health}"
    if health == OK:
        health_words = "ok"
    lines = (
        f"health  {health_words}",
        f"ready   {_readiness(ready)}",
        json.dumps(state, ensure_ascii=False, indent=2),
    )
    return "\n".join(lines)


def _readiness(answer: Any) -> str:
    """Return the answer of ``/ready`` in words.

    For example "no: the database does not answer, since 14:05:00 UTC (20 s)".
    """
    if not isinstance(answer, dict) or "reason" not in answer:
        return "yes"
    words = f"no: {answer['reason']}"
    # What the server does while it starts, such as opening the database.
    stage = answer.get("stage")
    if stage:
        words += f" ({stage})"
    since = answer.get("since")
    if since:
        clock = datetime.fromtimestamp(since, UTC)
        words += f", since {clock:%H:%M:%S} UTC ({int(time() - since)} s)"
    return words
