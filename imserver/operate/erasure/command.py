"""``imserver erase``: erase a user, or take what was erased out of the files of
the database; and ``imserver app delete``."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from time import monotonic
from typing import Final

import click
from msgspec.structs import asdict

from imserver.operate.erasure.declared import MOST_SECONDS, NotWaiting
from imserver.operate.erasure.deletion import AppDeletion
from imserver.operate.erasure.waiting import DUE, due_runner, facts_of
from imserver.plugin.commands import (
    CommandLine,
    ServerApi,
    fail,
    offline_parts,
    opened,
    record_act,
    settings_options,
)
from imserver.plugin.errors import Unavailable
from imserver.plugin.progress import long_work
from imserver.plugin.storage import Erasure, Store

_GOES_ON: Final = "the server tries again until the erasure succeeds; its log names the error (erasure_due)"
_UNDONE: Final = "the app is not deleted, and its users may log in again"
_AFTER: Final = CommandLine.duration(
    "--after",
    "after",
    "How long to wait before the beginning. Default: 60s at a terminal, else 0.",
    least=0,
    most=MOST_SECONDS,
    unit=1,
)


_USUAL_SECONDS: Final = 60
_MOST_WAIT_SECONDS: Final = 120
_SAY_SECONDS: Final = 15
"""How often a waiting person is told the progress."""
_LOOK_SECONDS: Final = 0.5


def _seconds(after: int | None) -> int:
    """After how many seconds the erasure begins.

    ``after`` is the option; None means that the option was left out. Then a
    person at a terminal gets time to take the erasure back, but a script gets
    no time.
    """
    if after is not None:
        return after
    if sys.stdin.isatty():
        return _USUAL_SECONDS
    return 0


@click.command(short_help="Erase a user, or compact the database.")
@ServerApi.options
@settings_options
@click.option(
    "--compact",
    "compacts",
    is_flag=True,
    help="Rewrite the files of the database without the deleted data. No server may run.",
)
@_AFTER
@click.option(
    "--undo", "undoes", is_flag=True, help="Cancel an erasure that has not begun."
)
@click.option("--reason", default="", help="The reason, for the audit log.")
@click.argument("target", metavar="APP/USER", required=False)
def erase(
    path: str | None,
    data_dir: str | None,
    url: str,
    key_file: str | None,
    compacts: bool,
    after: int | None,
    undoes: bool,
    reason: str,
    target: str | None,
) -> None:
    """Erase a user of any kind: the account, everything that the user wrote,
    and the name.

    Until the erasure begins, the user is locked out, and Ctrl-C or --undo
    cancels the erasure. The server must run. If the server requires an API key,
    set the environment variable IMSERVER_KEY or use --key-file.

    Stop all servers before you use --compact, and name no user.
    """
    if compacts:
        if target is not None:
            raise click.UsageError("--compact does not take a user")
        _compact(path, data_dir)
        return

    app, user = _app_and_user(target or "")
    server = ServerApi(url, key_file)
    user, name = server.whom(app, user)
    person = {"app": app, "user": user}
    if undoes:
        server.post("users/erase/undo", person)
        click.echo(
            f"the erasure of {name} is cancelled, and no longer locks the user out"
        )
    else:
        _erase(server, person, name, _seconds(after), reason)


def _app_and_user(target: str) -> tuple[str, str]:
    """Split ``APP/USER``. Raises UsageError."""
    app, _, user = target.partition("/")
    if not (app and user):
        raise click.UsageError("expected APP/USER, or --compact")
    return app, user


def _erase(
    server: ServerApi, person: dict[str, str], name: str, seconds: int, reason: str
) -> None:
    """Erase a user, and wait until the erasure has ended.

    ``person`` has the app and the id of the user. ``name`` is for messages. The
    erasure begins after some seconds; 0 means at once. Ends the command if
    nothing was stored of the user.
    """
    is_stored = server.get("users/erase/show", person).get("stored", True)
    request: dict[str, object] = {**person}
    if seconds:
        request["seconds"] = seconds
    request |= facts_of(reason)
    answer = server.post("users/erase", request)
    if not answer["erased"]:
        text = _progress_text(name, seconds, is_planned="ends" in answer)
        _wait_until_erased(server, person, text)
    # The erasure was requested anyway, because a node may have had something
    # of the user in its memory.
    if not is_stored:
        fail(f"the database had no data of {name}: check whether app and id are right")
    click.echo(f"{name} is erased")


def _progress_text(name: str, seconds: int, is_planned: bool) -> str:
    """The words for a person who waits for an erasure.

    ``is_planned`` says that the erasure has not begun.
    """
    if is_planned:
        return f"{name} is locked out, and will be erased in {seconds} s. Ctrl-C cancels the erasure"
    return (
        f"the erasure of {name} has begun, but a part of the server does not answer; the "
        "server continues by itself"
    )


def _compact(path: str | None, data_dir: str | None) -> None:
    """Write the files of the database again, without the erased data.

    A database does not overwrite deleted rows. Without this call, the deleted
    rows could still be read from the files.
    """
    with (
        opened(path, data_dir) as (settings, store, _),
        long_work("rewriting the database"),
    ):
        if not store.has_database:
            fail(f"{store.address.shown}: there is no such database")
        store.compact()
        record_act(settings, store, "database.compact")
        click.echo(f"{store.address.shown} has no deleted data any more")


def _wait_until_erased(server: ServerApi, person: dict[str, str], text: str) -> None:
    """Print this text, and wait until a user is erased.

    Ctrl-C takes the erasure back. Ends the command if the erasure was taken
    back, or if the erasure takes too long after its beginning. ``person`` has
    the app and the id of the user.
    """
    begun_at = 0.0  # 0: it has not begun
    last_reported = 0.0
    with _ctrl_c() as pressed:
        click.echo(text, err=True)
        while True:
            state = server.get("users/erase/show", person)["state"]
            if state not in ("waiting", "under way"):
                break
            if state == "under way":
                begun_at = begun_at or monotonic()
                last_reported = _report_delay(begun_at, last_reported)
            # After Ctrl-C the loop goes on, to see whether it came in time.
            if pressed.wait(_LOOK_SECONDS):
                server.post("users/erase/undo", person)
    if state == "none":
        fail("the erasure was cancelled, and no longer locks the user out")


def _report_delay(begun_at: float, last_reported: float) -> float:
    """Tell a waiting person from time to time that an erasure takes long.

    ``begun_at`` is the monotonic time at which the erasure began.
    ``last_reported`` is the number of seconds after which the person was told
    last. Returns the new value of ``last_reported``. Ends the command after
    :data:`_MOST_WAIT_SECONDS`.
    """
    seconds = monotonic() - begun_at
    words = f"not erased after {seconds:.0f} s"
    if seconds > _MOST_WAIT_SECONDS:
        fail(f"{words}: {_GOES_ON}")
    if seconds > last_reported + _SAY_SECONDS:
        click.echo(f"{words}; {_GOES_ON}", err=True)
        return seconds
    return last_reported


@contextmanager
def _ctrl_c() -> Iterator[Event]:
    """Yield an event that Ctrl-C sets. Ctrl-C then does not end the command.

    A command looks at it between its steps, because an interrupted query makes
    its database connection unusable. A second Ctrl-C interrupts the command as
    usual.
    """
    pressed = Event()

    def handle(_number: int, _frame: object) -> None:
        """Note the first Ctrl-C."""
        pressed.set()
        signal.signal(signal.SIGINT, before)  # for a second Ctrl-C

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@click.command(short_help="Delete an app with all its data.")
@settings_options
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_AFTER
@click.option(
    "--undo", "undoes", is_flag=True, help="Cancel a deletion that has not begun."
)
@click.option("--reason", default="", help="The reason, for the audit log.")
@click.argument("name")
def delete_app(
    path: str | None,
    data_dir: str | None,
    yes: bool,
    after: int | None,
    undoes: bool,
    reason: str,
    name: str,
) -> None:
    """Delete an app with all its data.

    The command deletes the accounts, groups, messages and files of the app, and
    revokes keys that are limited to the app. Running servers close sessions of
    the app with the close code 4506. Until the deletion begins, the app is
    locked, and Ctrl-C or --undo cancels the deletion. If the configuration file
    defines the app, delete the app there. An app with aliases cannot be
    deleted.
    """
    with opened(path, data_dir) as (settings, store, tenants):
        deletion = AppDeletion(store, tenants, settings.storage.look_seconds)
        record = partial(record_act, settings, store)
        try:
            if undoes:
                _undo(deletion, record, name)
                click.echo(_UNDONE)
                return
            _announce(deletion, name)
            if not yes:
                _confirm(name)
            # Each feature deletes the data of the app that it has stored.
            with offline_parts(settings, store, Erasure) as parts:
                erasures = [erasure for _, erasure in parts]
                seconds = _seconds(after)
                if seconds:
                    _delete_later(
                        store, deletion, erasures, record, name, seconds, reason
                    )
                else:
                    deletion.delete(name, erasures)
                    record("apps.delete", name, **facts_of(reason))
        except Unavailable as error:
            fail(f"{error}: a part of the data is not deleted yet; try again later")
        except NotWaiting as error:
            fail(error.problem.message)
    click.echo(f"app {name} deleted")


def _announce(deletion: AppDeletion, name: str) -> None:
    """Print how much is deleted with an app. Raises ServiceRefused."""
    counts = asdict(deletion.contents(name))
    contents = ", ".join(f"{number} {unit}" for unit, number in counts.items())
    click.echo(f"Deleting the app {name} also deletes {contents}.", err=True)


def _delete_later(
    store: Store,
    deletion: AppDeletion,
    erasures: list[Erasure],
    record: Callable[..., None],
    name: str,
    seconds: int,
    reason: str,
) -> None:
    """Lock an app, and wait until it is deleted.

    This command deletes it after some seconds, or a node does so first. Ctrl-C
    takes the deletion back, which ends the command. ``record`` stores an act in
    the audit log. Raises Unavailable and NotWaiting.
    """
    with _ctrl_c() as pressed:
        deletion.plan(name, seconds, reason)
        record("apps.delete", name, seconds=seconds, **facts_of(reason))
        click.echo(
            f"{name} is locked, and will be deleted in {seconds} seconds. Ctrl-C cancels the deletion",
            err=True,
        )
        _wait_until_deleted(store, deletion, erasures, record, name, pressed)
    # Without a row, the app is deleted, or somebody has taken it back.
    if not store.is_deleted(name):
        fail(f"the deletion was cancelled: {_UNDONE}")


def _wait_until_deleted(
    store: Store,
    deletion: AppDeletion,
    erasures: list[Erasure],
    record: Callable[..., None],
    name: str,
    pressed: Event,
) -> None:
    """Wait for the planned deletion of an app, or delete the app when it is
    due.

    ``pressed`` is set by Ctrl-C, which takes the deletion back. Raises
    Unavailable and NotWaiting.
    """
    problems: list[Unavailable] = []

    def begin(app: str, _: str) -> None:
        """Delete the app.

        The runner calls this, and only logs an error. So the error is also
        added to ``problems``.
        """
        facts = _facts_due(deletion, app)
        try:
            if deletion.begin(app, erasures):
                record("apps.delete.end", app, **facts)
        except Unavailable as error:
            problems.append(error)
            raise

    # The row of the planned deletion exists until the deletion has ended.
    runner = due_runner(store, f"id = '' AND {DUE}", begin)
    while deletion.waiting.get(name) is not None:
        runner.look()
        if problems:
            raise problems[0]
        if pressed.wait(_LOOK_SECONDS) and deletion.waiting.get(name) is not None:
            _undo(deletion, record, name)


def _facts_due(deletion: AppDeletion, app: str) -> dict[str, str]:
    """The facts of a planned deletion for the audit log."""
    due = deletion.waiting.get(app)
    if due is None:
        return {}
    return facts_of(due.reason)


def _undo(deletion: AppDeletion, record: Callable[..., None], name: str) -> None:
    """Take back a deletion, and store this act in the audit log."""
    deletion.undo(name)
    record("apps.delete.undo", name)


def _confirm(name: str) -> None:
    """Let the operator type the name of the app.

    Ends the command if the operator types another name, or if there is no
    terminal.
    """
    try:
        question = "Type the name of the app to delete it"
        typed = click.prompt(question, default="", show_default=False, err=True)
    except click.Abort:
        typed = ""
    if typed != name:
        fail("nothing was deleted; confirm with the name of the app, or use --yes")
