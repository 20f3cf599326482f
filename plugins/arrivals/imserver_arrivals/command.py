"""``imserver arrive``: imports an archive of another server into an app."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final, NamedTuple

import click
from msgspec import Struct

from imserver.people.accounts import SmtpSettings, rules_of
from imserver.plugin.commands import (
    CommandLine,
    fail,
    opened,
    record_act,
    settings_options,
)
from imserver.plugin.errors import ImserverError
from imserver.plugin.identity import Tenant
from imserver.plugin.progress import long_work
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

from .destination import Destination, tenant_of
from .follow import follow_server, live_of
from .formats import FOLLOWED, FORMATS, archive_of
from .importer import Importer
from .people import send_links
from .position import PositionFile
from .records import Archive
from .report import print_problems, print_survey, report_rows, write_csv
from .spool import Spool
from .survey import Survey, survey
from .uploads import FileIndex
from .wish import DAY_SECONDS, Wish

Say = Callable[..., None]
"""Shows the progress: a text, the number that is done, and that of all."""
_MOST_VALID_DAYS: Final = 90
_LEAST_SECONDS: Final = 0.001


@click.command(
    short_help="Import an archive of another server: people, groups, messages."
)
@settings_options
@click.argument("archive", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--app",
    required=True,
    help="The app into which the archive is imported. Its users must be accounts.",
)
@click.option(
    "--from",
    "name",
    type=click.Choice(list(FORMATS)),
    help="The format of the archive, if the command does not recognize it.",
)
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with files, named by their id on the other server: ID.png, ID-name or "
    "ID/name. Pictures have the ids of people.",
)
@click.option(
    "--links",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file with a link for each person, who claims the account with this link.",
)
@click.option(
    "--mail",
    is_flag=True,
    help="Send each person this link by e-mail, with the smtp server of the settings.",
)
@CommandLine.duration(
    "--valid",
    "valid_seconds",
    "How long the links are valid.",
    "14d",
    least=DAY_SECONDS,
    most=_MOST_VALID_DAYS * DAY_SECONDS,
    old="--days",
    unit=DAY_SECONDS,
)
@click.option("--unread", is_flag=True, help="Leave the messages unread.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be imported. Nothing is opened or stored.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file with the imported and missing items of each person and group, and the reasons.",
)
@click.option(
    "--follow",
    metavar="ADDRESS",
    help="Continue with new events of the running server at ADDRESS.",
)
@click.option(
    "--token",
    type=click.File(encoding="utf-8"),
    help="File with the token for this server, or - for standard input.",
)
@click.option(
    "--back",
    multiple=True,
    metavar="[GROUP=]ADDRESS",
    help="Also post our messages to ADDRESS: messages of GROUP on that server, or of all other groups.",
)
def arrive(
    archive: Path | None,
    name: str | None,
    follow: str | None,
    token: IO[str] | None,
    back: tuple[str, ...],
    **options: Any,
) -> None:
    """Import ARCHIVE, a file or a folder that another server has made.

    Channels, rooms and direct messages of several people become groups. People
    become accounts, which they can claim. Threads become replies. After an
    interruption, or with a later archive, run the command again: nothing is
    stored twice. Servers may run during the first import. Stop them for later
    imports, because they may notify people of messages before these are marked
    as read. The exit status is 1 if a part of the archive is broken, or if a
    message is not imported.

    With --follow, the command continues until SIGTERM or Ctrl-C. It stores new
    events of the other server while both servers run. ARCHIVE is needed once,
    in this run or in an earlier one.
    """
    wish = Wish(**options)
    _check_usage(archive, name, follow, token, back, wish)
    try:
        source = None
        if archive is not None:
            source = archive_of(archive, name)
        if follow is None or token is None:
            if source is not None:
                import_archive(source, wish)
            return

        format = name or ""
        if source is not None:
            format = source.name  # the format that has accepted the archive
        with closing(live_of(format, follow, token.read().strip(), back)) as live:
            if source is not None:
                import_archive(source, wish)
            follow_server(live, follow, bool(back), wish)
    except (ImserverError, OSError, UnicodeDecodeError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted: run the same command again to continue")


def _check_usage(
    archive: Path | None,
    name: str | None,
    follow: str | None,
    token: IO[str] | None,
    back: tuple[str, ...],
    wish: Wish,
) -> None:
    """Refuse options that exclude each other, or that need another option.

    The command has two jobs: to import an archive, and to follow a server.
    Raises UsageError, which ends the command with its usage.
    """
    if follow is None:
        if token is not None or back:
            raise click.UsageError("--token and --back need --follow")
        if archive is None:
            raise click.UsageError("Missing argument 'ARCHIVE', or --follow.")
    elif token is None or wish.dry_run or (name is None and archive is None):
        raise click.UsageError(
            "--follow needs --token, and --from if there is no ARCHIVE; --dry-run is not possible"
        )


def import_archive(archive: Archive, wish: Wish) -> None:
    """Import an archive, and print what was imported and what was not.

    In a dry run the archive is only read. Ends the process with 1 if a part is
    broken or a message is missing. Raises OSError.
    """
    # A long import must not fail at its end because of these files.
    for path in filter(None, (wish.links, wish.report)):
        _require_writable(path)
    index = FileIndex(archive, wish.files)
    problems = archive.problems
    with closing(Spool()) as spool:
        arrival = _Arrival(archive, spool, index, wish)
        if wish.dry_run:
            contents = arrival.survey()
        else:
            contents = arrival.store()
    if wish.report is not None:
        write_csv(wish.report, report_rows(contents, problems))
    print_problems(problems, "not imported, or different:")


def _require_writable(path: Path) -> None:
    """End the command with an error if a file cannot be written to this
    path."""
    if not path.parent.is_dir():
        fail(f"{path.parent} is not a folder")
    if path.is_symlink() and path.is_file():
        fail(f"{path} is a link to a file: name the file itself")


class _Result(NamedTuple):
    """The result of an import."""

    importer: Importer
    seconds: float
    """How long it took, without links and mails."""
    mails: int
    """How many mails with links were sent."""


class _Arrival(Struct, frozen=True):
    """One import of an archive by the command."""

    archive: Archive
    spool: Spool
    """Sorts the records of the archive."""
    index: FileIndex
    wish: Wish

    def survey(self) -> Survey:
        """Read the archive once, and print its contents."""
        with long_work("reading") as say:
            contents = survey(
                self.archive,
                self.index.__contains__,
                self.spool,
                lambda n: say(f"reading: {n} messages"),
            )
        print_survey(self.archive, contents)
        return contents

    def store(self) -> Survey:
        """Store the archive in the app, and print what is new.

        Makes links for people if the operator wants them. Raises OSError.
        """
        archive = self.archive
        with opened(self.wish.path, self.wish.data_dir) as (config, store, tenants):
            tenant = tenant_of(tenants, self.wish.app)
            smtp = settings_of(config, SmtpSettings)
            if self.wish.mail and not smtp.host:
                fail("--mail needs a mail server in the settings (smtp.host)")
            destination = Destination(
                config, store, tenant, archive.name, archive.problems
            )
            folder = config.server.data_dir
            file = PositionFile(folder, archive.name, tenant.name)
            with closing(destination) as target, file.locked() as position:
                page = self._page_of_links(tenant, target)
                _print_warnings(folder, target.page)
                contents = self.survey()
                result = self._import(target, contents, page, smtp)
                if archive.name in FOLLOWED:
                    groups = result.importer.groups()
                    file.note_archive(position, contents.last_ms, groups)
            self._record(config, store, tenant.name, target.added)
        self._print_result(target.added, contents, result)
        return contents

    def _page_of_links(self, tenant: Tenant, target: Destination) -> str:
        """Return the page that the links for people open; ``""`` if nobody gets
        a link."""
        if self.wish.links is not None or self.wish.mail:
            return _links_page(tenant, target.page)
        return ""

    def _import(
        self, target: Destination, contents: Survey, page: str, smtp: SmtpSettings
    ) -> _Result:
        """Store everything, and hand out the links, with a progress for people.

        ``page``: the page that the links open; ``""`` if nobody gets a link.
        """
        started_at = perf_counter()
        with long_work("importing people") as say:
            importer = self._store_contents(target, contents, say)
            seconds = perf_counter() - started_at
            mails = self._hand_out_links(target, contents, page, smtp, say)
        return _Result(importer, seconds, mails)

    def _store_contents(
        self, target: Destination, contents: Survey, say: Say
    ) -> Importer:
        """Store everything, and mark messages as read unless that is unwanted.

        ``say`` shows the progress.
        """
        total = contents.counts["message"]
        importer = target.add(
            self.archive,
            contents,
            self.spool,
            self.index,
            lambda count: say("importing messages", count, total),
        )
        if not self.wish.unread:
            say("marking as read")
            importer.mark_read()
        return importer

    def _print_result(
        self, added: Mapping[str, int], contents: Survey, result: _Result
    ) -> None:
        """Print what is new, and how long it took."""
        _print_added(added)
        if self.wish.mail:
            click.echo(f"sent: {result.mails:,} mails with links")
        per_second = contents.counts["message"] / max(result.seconds, _LEAST_SECONDS)
        click.echo(f"{result.seconds:.1f} s, {per_second:,.0f} messages a second")

    def _hand_out_links(
        self,
        target: Destination,
        contents: Survey,
        page: str,
        smtp: SmtpSettings,
        say: Say,
    ) -> int:
        """Write and mail the links with which people claim their accounts.

        ``page``: the page that the links open; ``""`` if nobody gets a link.
        Returns how many mails were sent. Raises OSError.
        """
        rows = []
        days = self.wish.days
        if page:
            rows = list(target.people.links(contents.people, page, days))
        if self.wish.links is not None:
            write_csv(self.wish.links, [("login", "email", "link"), *rows])
        if not self.wish.mail:
            return 0
        say("sending mails")
        return send_links(smtp, rows, self.archive.title, days, self.archive.problems)

    def _record(
        self, config: Config, store: Store, app: str, added: Mapping[str, int]
    ) -> None:
        """Record the import as an act of the operator."""
        record_act(
            config,
            store,
            f"{self.archive.name}.import",
            app,
            accounts=added["account"],
            groups=added["group"],
            messages=added["message"],
            files=added["file"],
        )


def _print_added(new: Mapping[str, int]) -> None:
    """Print how many accounts, groups, messages and so on are new."""
    click.echo(
        f"new: accounts {new['account']:,}, groups {new['group']:,}, messages {new['message']:,}, "
        f"reactions {new['reaction']:,}, files {new['file']:,}, emoji {new['emoji']:,}"
    )


def _print_warnings(folder: str, page: str) -> None:
    """Print what :func:`_warnings` yields."""
    for warning in _warnings(folder, page):
        click.echo(f"imserver: {warning}", err=True)


def _warnings(folder: str, page: str) -> Iterator[str]:
    """Yield warnings for the operator before the import begins.

    ``folder``: the data directory. ``page``: the messages page, to which links
    in messages lead.
    """
    if page.startswith("http://127.0.0.1:"):
        yield f"links lead to {page}: set app.http_url to the address at which people open the server"
    owner = os.stat(folder).st_uid
    if owner and os.geteuid() == 0:
        yield f"the server cannot open files of root: run this command as user {owner}, who owns {folder}"


def _links_page(tenant: Tenant, own_page: str) -> str:
    """Return the page on which a link sets the password of an account.

    The app may name a page of its own. ``own_page``: the messages page of this
    server, or ``""``. Ends the command if there is no such page.
    """
    if not rules_of(tenant).passwords:
        fail("--links, --mail: accounts of this app have no passwords")
    page = rules_of(tenant).reset_url or own_page
    if not page:
        fail(
            f"--links, --mail: set accounts.reset_url of app {tenant.name}, the page that the links open"
        )
    return str(page)
