"""``imserver audit``: who has changed what."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import click
import msgspec

from imserver.operate.audit.chain import ActMaker, ActShown, AuditRow, Name, shown
from imserver.operate.audit.rows import NO_ACTS, AuditQuery, after, one, page_of
from imserver.operate.audit.verification import Verification, verify
from imserver.plugin.commands import (
    CommandLine,
    ServerApi,
    fail,
    opened,
    settings_options,
)
from imserver.plugin.identity import Tenants
from imserver.plugin.progress import long_work
from imserver.plugin.storage import Store

_PAGE_ACTS: Final = 500
"""How many acts one read of the database fetches."""
_SECOND_MS: Final = 1000
_is_head: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})").fullmatch
"""The form of a head: number and hash."""


@click.group(short_help="List, verify and export the audit log.")
def audit() -> None:
    """Search, verify and export the audit log. Servers may run meanwhile."""


class _Moment(click.ParamType):  # type: ignore[type-arg]
    """The type of options with a time in UTC; the value is in Unix
    milliseconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read a time in the form of ISO 8601.

        A time without a time zone is in UTC. Click also passes the default
        value, which is a number already.
        """
        if isinstance(value, int):  # the default
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value}: expected a time such as 2026-11-26 or 2026-11-26T09:30",
                param,
                ctx,
            )

        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * _SECOND_MS)


@audit.command("list")
@settings_options
@CommandLine.prints_data
@click.option("--app", default="", metavar="NAME", help="The same as the argument APP.")
@click.option("--user", default="", hidden=True)
@click.option(
    "--by",
    default="",
    metavar="WHO",
    help="Who acted: a kind (key), or a kind with an id (key:1f2e, staff:APP/ID).",
)
@click.option(
    "--message",
    default="",
    metavar="ID",
    help="Acts on this message, such as its removal.",
)
@click.option(
    "--about",
    default="",
    metavar="WHAT",
    help="The object of the act, such as message:7, key:1f2e or group:12.",
)
@click.option(
    "--name",
    default="",
    metavar="ACT",
    help="The name of the act, such as accounts.login.",
)
@click.option(
    "--request",
    default="",
    metavar="ID",
    help="Only acts of the request with this id.",
)
@click.option(
    "--since",
    type=_Moment(),
    default=0,
    metavar="TIME",
    help="The earliest time of an act, in UTC.",
)
@click.option(
    "--until",
    type=_Moment(),
    default=0,
    metavar="TIME",
    help="The latest time of an act, in UTC.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="The maximum number of acts.",
)
@click.argument("whom", metavar="[APP[/USER]]", default="")
def list_acts(
    path: str | None,
    data_dir: str | None,
    limit: int,
    message: str,
    whom: str,
    **wanted: Any,
) -> None:
    """List acts, the newest first: of all apps, in APP, or by and on USER.

    USER is a user id or a login.
    """
    # ``wanted`` has the options by name. They are the fields of AuditQuery.
    wanted |= _persons(whom, app=wanted["app"], user=wanted["user"])
    # ``--message 7`` is a shorter form of ``--about message:7``.
    if message:
        wanted["about"] = f"message:{message}"
    with opened(path, data_dir) as (_, store, tenants):
        if wanted["app"]:
            wanted["app"] = tenants.resolve(wanted["app"])
        if wanted["user"]:
            wanted["user"] = _user_of(store, tenants, wanted["app"], wanted["user"])
        acts = _read_acts(store, wanted, limit)
    _print_acts(acts)


def _print_acts(acts: Sequence[ActShown]) -> None:
    """Print acts as a table or as JSON."""
    if not acts:
        CommandLine.data(
            [],
            "no act matches; acts of users on their own messages are not in the audit log",
        )
        return
    CommandLine.rows(
        "number, time, act: name, by, app, user, address, facts",
        acts,
        time=_second_of,
        by=_maker_as_text,
        user=_name_as_text,
        address=_name_as_text,
        facts=_facts_as_text,
    )


def _persons(whom: str, app: str, user: str) -> dict[str, str]:
    """The app and the user whose acts are wanted; ``""`` means any.

    ``whom`` is the argument: ``APP``, ``APP/USER`` or empty. ``app`` and
    ``user`` are older options, which mean the same as the parts of ``whom``.
    Raises UsageError if both forms are given, or a user without an app.
    """
    if whom and (app or user):
        raise click.UsageError("APP/USER takes the place of --app and --user")
    if whom:
        app, _, user = whom.partition("/")
    elif user:
        # This raises if the app of the user is missing.
        ServerApi.person((app, user))
    return {"app": app, "user": user}


def _user_of(store: Store, tenants: Tenants, app: str, name: str) -> str:
    """The id of a user. ``name`` is the id, or the login of an account."""
    tenant = tenants.find(app)
    # Such an app has users without accounts, so without logins.
    if tenant is None or not tenant.wants_accounts(app):
        return name
    # Imported here: a server may have no accounts.
    from imserver.people.accounts import AccountStore

    row = AccountStore(store).by_id_or_login(app, name)
    if row is None:
        return name  # it may be the id of a deleted account
    account, *_ = row
    return account.user


def _read_acts(store: Store, wanted: Mapping[str, Any], limit: int) -> list[ActShown]:
    """The newest acts that match, at most ``limit`` of them.

    ``wanted`` are the fields of an :class:`AuditQuery`. A search may end early,
    so several pages are read.
    """
    acts: list[ActShown] = []
    following = 0  # begins with the newest act
    while len(acts) < limit:
        size = min(_PAGE_ACTS, limit - len(acts))
        query = AuditQuery(**wanted, after=following, limit=size)
        rows, following = page_of(store, query)
        acts += [shown(row, names) for row, names in rows]
        if not following:
            break
    return acts


def _second_of(milliseconds: int) -> str:
    """A time as text, such as ``2026-11-26 09:30:00``."""
    moment = datetime.fromtimestamp(milliseconds / _SECOND_MS, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _facts_as_text(facts: Any) -> str:
    """The facts of an act as JSON; ``""`` if there are no facts."""
    if facts is None:
        return _name_as_text(None)
    if facts:
        return msgspec.json.encode(facts).decode()
    return ""


def _name_as_text(name: str | None) -> str:
    """A name, or ``(erased)`` in the place of a name that was erased."""
    if name is None:
        return "(erased)"
    return name


def _maker_as_text(by: ActMaker) -> str:
    """Who has done an act, such as ``staff:shop/7``, ``key:1f2e`` or
    ``nobody``."""
    id = _name_as_text(by.id)
    if by.app:
        return f"{by.kind}:{by.app}/{id}"
    if id:
        return f"{by.kind}:{id}"
    return by.kind


@audit.command()
@settings_options
@click.argument("number", type=click.IntRange(1))
def show(path: str | None, data_dir: str | None, number: int) -> None:
    """Print one act as JSON, with its hashes."""
    with opened(path, data_dir) as (_, store, _):
        acts = store.read_or(NO_ACTS, partial(one, number))
    if not acts:
        fail(f"there is no act {number}")
    click.echo(msgspec.json.format(_line(*acts[0])).decode())


@audit.command()
@settings_options
@click.option("--app", default="", metavar="NAME", help="Only acts in this app.")
@click.option(
    "--hashes",
    is_flag=True,
    help="Print the acts as they are hashed, without names, so that the chain can be verified.",
)
def export(path: str | None, data_dir: str | None, app: str, hashes: bool) -> None:
    """Print all acts as JSON lines, the oldest first, with their hashes."""
    with opened(path, data_dir) as (_, store, _):
        for row, names in _all_acts(store):
            if app not in ("", row.entry.app):
                continue
            if hashes:
                line = row.hashed()
            else:
                line = _line(row, names)
            click.echo(line)


def _all_acts(store: Store) -> Iterator[tuple[AuditRow, list[Name]]]:
    """All acts with their names, the oldest first.

    They are read page by page, because the memory may be too small for all of
    them.
    """
    # -1 begins before the first row, also one that somebody has inserted.
    number = -1
    while True:
        page = store.read_or(NO_ACTS, partial(after, number, _PAGE_ACTS))
        if not page:
            return
        yield from page
        last, _ = page[-1]
        number = last.number


def _line(row: AuditRow, names: list[Name]) -> bytes:
    """An act with its names and hashes, as a line of JSON."""
    fields = msgspec.to_builtins(shown(row, names))
    fields["previous"] = row.previous
    fields["hash"] = row.hash
    return msgspec.json.encode(fields)


@audit.command("verify")
@settings_options
@CommandLine.prints_data
@click.option(
    "--head",
    "given_head",
    metavar="NUMBER:HASH",
    help="A head that an earlier run has printed. The chain must still have this head.",
)
def verify_chain(
    path: str | None, data_dir: str | None, given_head: str | None
) -> None:
    """Verify the chain of hashes, and print its head.

    The command names each row that was changed, removed or inserted. In that
    case the exit status is 1. Save the head where nobody who writes to the
    database can write. With --head, a later run finds out whether somebody has
    rewritten the rows up to that head.
    """
    wanted = None
    if given_head is not None:
        wanted = _parse_head(given_head)
    with opened(path, data_dir) as (_, store, _):
        if not store.has_database:
            fail("there is no database, so there is no audit log")
        with long_work("verifying") as say:
            result = verify(store.read, wanted, say)

    _print_problems(result)
    _print_result(result)
    if result.wrong:
        fail("somebody other than the server has changed the audit log")


def _print_problems(result: Verification) -> None:
    """Print what is wrong with the chain, one problem in a line."""
    for text in result.wrong:
        click.echo(text, err=True)
    if result.more:
        click.echo(f"… and {result.more} more", err=True)


def _parse_head(given_head: str) -> tuple[int, str]:
    """The number and hash in the value of ``--head``, such as ``17:9f86d0…``.

    Ends the command if the value has another form.
    """
    match = _is_head(given_head)
    if match is None:
        fail(
            f"--head {given_head}: expected NUMBER:HASH, as this command prints the head"
        )
    number, digest = match.groups()
    return int(number), digest


def _print_result(result: Verification) -> None:
    """Print the numbers of rows and names, and last the head of the chain.

    With ``--json``, print an object with these values.
    """
    number, digest = result.head
    head = f"{number}:{digest}"
    removed, _ = result.anchor  # all acts up to this number
    answer = {
        "ok": not result.wrong,
        "acts": result.rows,
        "names": result.names,
        "erased": result.erased,
        "removed": removed,
        "head": head,
        "wrong": result.wrong,
    }
    CommandLine.data(answer, "\n".join(_result_lines(result, removed, head)))


def _result_lines(result: Verification, removed: int, head: str) -> Iterator[str]:
    """The lines about a verification; ``removed`` is 0 if no act was removed."""
    if removed:
        yield f"acts removed for their age: {removed}"
    yield f"acts {result.rows}, names {result.names}, erased {result.erased}"
    if not result.wrong:
        yield "ok: no row was changed, removed or inserted"
    yield f"head {head}"  # scripts take the last word
