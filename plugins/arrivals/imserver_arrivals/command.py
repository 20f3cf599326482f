"""``imserver arrive``: imports an archive of another server into an app."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import click
from msgspec import Struct

from imserver.people.accounts import SmtpSettings, rules_of
from imserver.plugin.commands import fail, opened, record_act, settings_options
from imserver.plugin.errors import ImserverError
from imserver.plugin.identity import Tenant
from imserver.plugin.progress import long_work
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import Limit

from .destination import Destination, tenant_of
from .formats import FOLLOWED, FORMATS, archive_of
from .people import send_links
from .position import PositionFile
from .problems import Problems
from .records import Archive
from .spool import Spool
from .survey import Survey, survey
from .uploads import FileIndex
from .writing import open_private

_KINDS: Final = (
    ("open", "groups that anybody may join"),
    ("closed", "groups of those who are invited"),
    ("several", "direct conversations of several people"),
    ("direct", "direct conversations of two"),
    ("message", "messages"),
    ("reply", "replies in threads"),
    ("reaction", "reactions"),
    ("change", "joins, leaves, renames and descriptions"),
    ("file", "files"),
    ("bytes", "  of these with bytes"),
)


class Wish(Struct, frozen=True, kw_only=True):
    """How an archive is imported: the options of the command."""

    path: str | None
    """Of the settings."""
    data_dir: str | None
    app: str
    files: Path | None = None
    links: Path | None = None
    mail: bool = False
    days: int = 14
    unread: bool = False
    dry_run: bool = False
    report: Path | None = None


@click.command(
    short_help="Import an archive of another server: people, groups, messages."
)
@settings_options
@click.argument("archive", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--app", required=True, help="The app that gets everything. Its users are accounts."
)
@click.option(
    "--from",
    "name",
    type=click.Choice(list(FORMATS)),
    help="The format of the archive, if it is not recognized.",
)
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with files by their id there: ID.png, ID-name or ID/name; pictures of people by theirs.",
)
@click.option(
    "--links",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file: a link for each person, with which they claim their account.",
)
@click.option(
    "--mail",
    is_flag=True,
    help="Mail each person their link, by the smtp server of the settings.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 90),
    default=14,
    show_default=True,
    help="For how long the links are valid.",
)
@click.option("--unread", is_flag=True, help="Leave the messages unread.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would come. Nothing is opened or stored."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file: what comes of each person and group, what does not, and why.",
)
@click.option(
    "--follow", metavar="ADDRESS", help="Go on with what happens on the running server."
)
@click.option(
    "--token",
    type=click.File(encoding="utf-8"),
    help="File with the token for it; - is standard input.",
)
@click.option(
    "--back",
    multiple=True,
    metavar="[GROUP=]ADDRESS",
    help="Post messages of ours there, too: those of a group there, or of all others.",
)
def arrive(
    archive: Path | None,
    name: str | None,
    follow: str | None,
    token: IO[str] | None,
    back: tuple[str, ...],
    **options: Any,
) -> None:
    """Import ARCHIVE, which another server has made: a file or a folder.

    Channels, rooms and direct messages of several people become groups, people
    become accounts to be claimed, threads replies. Call it again after an
    interruption, or with a later archive: nothing is stored twice. Servers may
    run during the first import. Stop them for later ones: they may notify
    people of messages before these are marked as read. The status is 1 if a
    part of the archive is broken, or if a message does not come.

    With --follow, the command goes on until SIGTERM or Ctrl-C: it stores what
    happens on their server while both run. ARCHIVE is needed once, here or
    before.
    """
    wish = Wish(**options)
    if follow is None and (token is not None or back):
        raise click.UsageError("--token and --back go with --follow")
    if follow is None and archive is None:
        raise click.UsageError("Missing argument 'ARCHIVE', or --follow.")
    if follow is not None and (
        token is None or wish.dry_run or (name is None and archive is None)
    ):
        raise click.UsageError(
            "--follow takes --token, --from if there is no ARCHIVE, and no --dry-run"
        )
    try:
        source = archive_of(archive, name) if archive is not None else None
        if follow is None or token is None:
            if source is not None:
                bring(source, wish)
            return
        # they load what no other command needs
        from .follow import follow_server, live_of

        format = source.name if source is not None else name or ""
        with closing(live_of(format, follow, token.read().strip(), back)) as live:
            if source is not None:
                bring(source, wish)
            follow_server(live, follow, bool(back), wish)
    except (ImserverError, OSError, UnicodeDecodeError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted: call it again, and it goes on")


def bring(archive: Archive, wish: Wish) -> None:
    """Import an archive, say what has come and what has not, and end the
    process with 1 if a part is broken or a message does not come.

    Raises OSError.
    """
    for path in filter(None, (wish.links, wish.report)):
        if not path.parent.is_dir():
            fail(f"{path.parent} is no folder")
        if path.is_symlink() and path.is_file():
            fail(f"{path} is a link to a file: name the file itself")
    index, problems = FileIndex(archive, wish.files), archive.problems
    with closing(Spool()) as spool:
        is_dry = wish.dry_run
        contents = (
            _read(archive, spool, index)
            if is_dry
            else _import(archive, spool, index, wish)
        )
    if wish.report is not None:
        _write_csv(wish.report, _report(contents, problems))
    print_problems(problems, "what does not come, or differs:")


def _read(archive: Archive, spool: Spool, index: FileIndex) -> Survey:
    with long_work("reading") as say:
        contents = survey(
            archive, index.__contains__, spool, lambda n: say(f"reading: {n} messages")
        )
    _print_survey(archive, contents)
    return contents


def _import(archive: Archive, spool: Spool, index: FileIndex, wish: Wish) -> Survey:
    problems = archive.problems
    with opened(wish.path, wish.data_dir) as (config, store, tenants):
        tenant, smtp = tenant_of(tenants, wish.app), settings_of(config, SmtpSettings)
        if wish.mail and not smtp.host:
            fail("--mail: the settings name no mail server (smtp.host)")
        file = PositionFile(config.server.data_dir, archive.name, tenant.name)
        with (
            closing(
                Destination(config, store, tenant, archive.name, problems)
            ) as target,
            file.held() as position,
        ):
            page = (
                _links_page(tenant, target.page)
                if wish.links is not None or wish.mail
                else ""
            )
            for warning in _warnings(config.server.data_dir, target.page):
                click.echo(f"imserver: {warning}", err=True)
            contents, began = _read(archive, spool, index), perf_counter()
            total = contents.counts["message"]
            with long_work("importing people") as say:
                importer = target.add(
                    archive,
                    contents,
                    spool,
                    index,
                    lambda count: say("importing messages", count, total),
                )
                if not wish.unread:
                    say("marking as read")
                    importer.mark_read()
                seconds = perf_counter() - began
                rows = (
                    list(target.people.links(contents.people, page, wish.days))
                    if page
                    else []
                )
                if wish.links is not None:
                    _write_csv(wish.links, [("login", "email", "link"), *rows])
                if wish.mail:
                    say("sending mails")
                    mails = send_links(smtp, rows, archive.title, wish.days, problems)
            if archive.name in FOLLOWED:
                file.note_archive(position, contents.last_ms, importer.groups())
        new = target.added
        added = {
            "accounts": new["account"],
            "groups": new["group"],
            "messages": new["message"],
        }
        record_act(
            config,
            store,
            f"{archive.name}.import",
            tenant.name,
            **added,
            files=new["file"],
        )
    click.echo(
        f"new: accounts {new['account']:,}, groups {new['begin']:,}, messages {new['message']:,}, "
        f"reactions {new['reaction']:,}, files {new['file']:,}, emoji {new['emoji']:,}"
    )
    if wish.mail:
        click.echo(f"sent: {mails:,} mails with links")
    click.echo(f"{seconds:.1f} s, {total / max(seconds, 0.001):,.0f} messages a second")
    return contents


def _warnings(folder: str, page: str) -> Iterator[str]:
    """What an operator may want to change before anything comes. ``folder``:
    the data directory."""
    if page.startswith("http://127.0.0.1:"):
        yield f"links lead to {page}: set app.http_url to where people open it"
    owner = os.stat(folder).st_uid
    if owner and os.geteuid() == 0:
        yield f"the server cannot open what root stores: run this as user {owner}, who owns {folder}"


def _links_page(tenant: Tenant, own_page: str) -> str:
    """The page on which a link gives an account a password."""
    if not rules_of(tenant).passwords:
        fail("--links, --mail: accounts of this app have no passwords")
    page = rules_of(tenant).reset_url or own_page
    if not page:
        fail(
            f"--links, --mail: set accounts.reset_url of app {tenant.name}, the page that the links open"
        )
    return str(page)


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a file for this user only: it has links or names. One that is there
    is replaced. A pipe or a terminal is no file: it gets the rows as it is.
    Raises OSError."""
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as target:
            csv.writer(target).writerows(rows)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with TextIOWrapper(open_private(part), encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _report(contents: Survey, problems: Problems) -> Iterator[Sequence[object]]:
    """A row for each person and each group."""
    counted = ("message", "reply", "reaction", "file", "bytes")
    yield ("kind", "id", "name", "becomes", *counted, "what does not come, or differs")
    for person in contents.people.values():
        becomes = (
            "account"
            if person.is_member
            else f"account that nobody claims: {person.why or 'no login'}"
        )
        counts, lost = (
            contents.of_people.get(person.id, Counter()),
            problems.of_people.get(person.id),
        )
        yield _row(
            "person",
            person.id,
            person.nickname,
            becomes,
            (counts[each] for each in counted),
            lost,
        )
    for group in contents.groups.values():
        activity = contents.of_groups[group.id]
        becomes = "group" if activity.owner else "nothing"
        if group.kind == "direct":
            becomes = "conversation of two"
        elif activity.owner and activity.lacks_members:
            becomes = "group of whoever wrote there"
        own = (activity.counts[each] for each in counted)
        people = (
            contents.people[each].nickname
            for each in activity.members
            if each in contents.people
        )
        name = group.name or ", ".join(people)
        yield _row(
            "group", group.id, name, becomes, own, problems.of_groups.get(group.id)
        )


def _row(
    kind: str,
    id: str,
    name: str,
    becomes: str,
    counts: Iterable[int],
    lost: Counter[str] | None,
) -> Sequence[object]:
    texts = (
        f"{reason}: {count}" for reason, count in sorted((lost or Counter()).items())
    )
    # A spreadsheet would take the name of somebody for a formula.
    names = (
        f"'{each}" if each[:1] in tuple("=+-@\t\r") else each for each in (id, name)
    )
    return (kind, *names, becomes, *counts, "; ".join(texts))


def _day(moment_ms: int) -> str:
    return datetime.fromtimestamp(min(moment_ms, Limit.TIME_MS) / 1000, UTC).strftime(
        "%Y-%m-%d"
    )


def _print_survey(archive: Archive, contents: Survey) -> None:
    members = sum(person.is_member for person in contents.people.values())
    rows = [
        ("people", members),
        ("bots, apps and those who have left", len(contents.people) - members),
    ]
    rows += [(words, contents.counts[kind]) for kind, words in _KINDS]
    click.echo(f"an archive of {archive.title}:")
    for words, count in rows:
        click.echo(f"{count:>10,}  {words}")
    if contents.last_ms:
        click.echo(
            f"            from {_day(contents.first_ms)} to {_day(contents.last_ms)}"
        )


def print_problems(problems: Problems, head: str) -> None:
    """Say under a headline what is not understood or not kept. Ends the command
    with 1 if something of the archive is broken or lost."""
    print_counts(problems, head)
    for line in problems.broken:
        click.echo(f"  {line}", err=True)
    if problems.lost_messages:
        click.echo(
            f"imserver: {problems.lost_messages:,} messages of the archive do not come",
            err=True,
        )
    if problems.broken or problems.has_lost_fields:
        fail("parts of the archive are broken; the rest was read")
    if problems.lost_messages:
        fail("the archive has messages that do not come; the rest was read")


def print_counts(problems: Problems, head: str) -> None:
    """Say under a headline what is not understood or not kept."""
    if problems.counts:
        click.echo(head)
    for kind, count in sorted(
        problems.counts.items(), key=lambda row: (-row[1], row[0])
    ):
        click.echo(f"{count:>10,}  {kind}")
